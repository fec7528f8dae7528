"""What a Hugging Face model directory of each family means: its configuration as `Settings`, its tensors by name.

A family is settings and a table of tensors; the transformer itself knows none of them. A configuration key that is
not in the family's table, or asks for something that is not implemented, is refused.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gsae.errors import SettingError
from gsae.language_models.transformer import Settings

SETTING = "config.language_model.name"

# Keys that every configuration of transformers may hold and that change nothing about logits or sites: names, ids,
# initialisation, and what only training, generation or classification reads.
HARMLESS = frozenset(
    [
        "architectures",
        "bos_token_id",
        "classifier_dropout",
        "dtype",
        "eos_token_id",
        "initializer_range",
        "is_decoder",
        "model_type",
        "pad_token_id",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "_name_or_path",
    ]
)

# Hugging Face's names of nonlinearities -> the transformer's.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of the file and the parameter that it becomes.

    `read` turns an array of the file's `shape` into the parameter at `path` of the model; `write` is its inverse.
    """

    name: str
    shape: tuple[int, ...]
    path: tuple[str | int, ...]
    read: Callable[[np.ndarray], np.ndarray]
    write: Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Family:
    """A `model_type` of Hugging Face."""

    model_type: str
    architecture: str
    settings: Callable[[Mapping[str, Any]], Settings]
    config: Callable[[Settings], dict[str, Any]]
    tensors: Callable[[Settings], list[Tensor]]
    buffers: re.Pattern[str]  # tensors that old files hold and that follow from the settings: known, not read


def refused(what: str, value: object, allowed: str) -> SettingError:
    """The error for a model that is there but cannot be used: `what` and `value` are the model's own words."""
    return SettingError(SETTING, f"{what} = {value}", allowed)


class Reader:
    """Reads a configuration key by key, and then refuses what nobody asked for."""

    def __init__(self, config: Mapping[str, Any]):
        self.config = config
        self.seen = set(HARMLESS)

    def number(self, key: str, default: float | None = None) -> Any:
        """A number; the default of the family when the key is absent."""
        self.seen.add(key)
        value = self.config.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise refused(key, value, "must be a number that is not negative, in the model's config.json")
        return value

    def count(self, key: str) -> int:
        """A positive whole number that must be there."""
        value = self.number(key)
        if not isinstance(value, int) or value < 1:
            raise refused(key, value, "must be a positive whole number, in the model's config.json")
        return value

    def choice(self, key: str, default: Any, allowed: Mapping[Any, Any]) -> Any:
        """What `allowed` has for the key's value."""
        self.seen.add(key)
        value = self.config.get(key, default)
        if not isinstance(value, str | bool | None) or value not in allowed:
            raise refused(key, value, f"is not implemented; one of {', '.join(map(str, allowed))} is")
        return allowed[value]

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        return self.choice(key, default, {True: True, False: False})

    def finish(self) -> None:
        """Refuses keys that nothing has read, unless they hold nothing."""
        for key in sorted(set(self.config) - self.seen):
            if self.config[key] not in (None, False, 0, {}, []):
                raise refused(key, self.config[key], "is not a setting that is implemented for this family")


def _same(array: np.ndarray) -> np.ndarray:
    return array


def _linear(
    name: str, inputs: int, outputs: int, path: tuple[str | int, ...], bias: bool, heads: int = 0
) -> list[Tensor]:
    """A torch Linear, [outputs, inputs] in the file, a kernel [inputs, outputs] here.

    With `heads`, its outputs are ordered (head, q/k/v, number) in the file and (q/k/v, head, number) here.
    """

    def reordered(array: np.ndarray, outer: int, inner: int) -> np.ndarray:
        blocks = array.reshape(outer, inner, outputs // (outer * inner), *array.shape[1:])
        return blocks.swapaxes(0, 1).reshape(array.shape)

    def read(array: np.ndarray) -> np.ndarray:
        return (reordered(array, heads, 3) if heads else array).T

    def write(array: np.ndarray) -> np.ndarray:
        return reordered(array.T, 3, heads) if heads else array.T

    tensors = [Tensor(f"{name}.weight", (outputs, inputs), (*path, "kernel"), read, write)]
    if bias:
        tensors.append(Tensor(f"{name}.bias", (outputs,), (*path, "bias"), read, write))
    return tensors


def _norm(name: str, width: int, path: tuple[str | int, ...]) -> list[Tensor]:
    return [
        Tensor(f"{name}.weight", (width,), (*path, "scale"), _same, _same),
        Tensor(f"{name}.bias", (width,), (*path, "bias"), _same, _same),
    ]


def _gpt_neox_settings(config: Mapping[str, Any]) -> Settings:
    reader = Reader(config)
    # transformers 5 puts the rotary settings into one dict; the files of Pythia hold them as keys of their own.
    reader.seen.add("rope_parameters")
    rotary = Reader(config.get("rope_parameters") or {})
    rotary.choice("rope_type", "default", {"default": None})
    fraction = rotary.number("partial_rotary_factor", reader.number("rotary_pct", 0.25))
    base = rotary.number("rope_theta", reader.number("rotary_emb_base", 10000))
    rotary.finish()
    width, heads = reader.count("hidden_size"), reader.count("num_attention_heads")
    if width % heads:
        raise refused("num_attention_heads", heads, f"must divide hidden_size = {width}")
    rotary_width = int(width // heads * fraction)
    if rotary_width % 2 or fraction > 1:
        raise refused("rotary_pct", fraction, f"must rotate an even part of a head's {width // heads} numbers")
    for dropout in ("attention_dropout", "hidden_dropout"):
        reader.number(dropout, 0.0)  # training only
    settings = Settings(
        num_layers=reader.count("num_hidden_layers"),
        width=width,
        num_heads=heads,
        head_width=width // heads,
        mlp_width=reader.count("intermediate_size"),
        vocabulary=reader.count("vocab_size"),
        context_length=reader.count("max_position_embeddings"),
        rotary_width=rotary_width,
        rotary_base=float(base),
        parallel_residual=reader.flag("use_parallel_residual", True),
        norm_epsilon=float(reader.number("layer_norm_eps", 1e-5)),
        activation=reader.choice("hidden_act", "gelu", ACTIVATIONS),
        attention_bias=reader.flag("attention_bias", True),
        tied_embeddings=reader.flag("tie_word_embeddings", False),
    )
    reader.finish()
    return settings


def _gpt_neox_config(settings: Settings) -> dict[str, Any]:
    return {
        "hidden_size": settings.width,
        "num_hidden_layers": settings.num_layers,
        "num_attention_heads": settings.num_heads,
        "intermediate_size": settings.mlp_width,
        "vocab_size": settings.vocabulary,
        "max_position_embeddings": settings.context_length,
        "rotary_pct": settings.rotary_width / settings.head_width,
        "rotary_emb_base": settings.rotary_base,
        "use_parallel_residual": settings.parallel_residual,
        "layer_norm_eps": settings.norm_epsilon,
        "hidden_act": next(theirs for theirs, ours in ACTIVATIONS.items() if ours == settings.activation),
        "attention_bias": settings.attention_bias,
        "tie_word_embeddings": settings.tied_embeddings,
    }


def _gpt_neox_tensors(settings: Settings) -> list[Tensor]:
    width, heads = settings.width, settings.num_heads * settings.head_width
    tensors = [Tensor("gpt_neox.embed_in.weight", (settings.vocabulary, width), ("embedding",), _same, _same)]
    for i in range(settings.num_layers):
        file, here, bias = f"gpt_neox.layers.{i}", ("layers", i), settings.attention_bias
        tensors += _norm(f"{file}.input_layernorm", width, (*here, "attention_norm"))
        tensors += _norm(f"{file}.post_attention_layernorm", width, (*here, "mlp_norm"))
        qkv = f"{file}.attention.query_key_value"
        tensors += _linear(qkv, width, 3 * heads, (*here, "attention", "qkv"), bias, settings.num_heads)
        tensors += _linear(f"{file}.attention.dense", heads, width, (*here, "attention", "out"), bias)
        tensors += _linear(f"{file}.mlp.dense_h_to_4h", width, settings.mlp_width, (*here, "mlp", "up"), True)
        tensors += _linear(f"{file}.mlp.dense_4h_to_h", settings.mlp_width, width, (*here, "mlp", "down"), True)
    tensors += _norm("gpt_neox.final_layer_norm", width, ("final_norm",))
    if not settings.tied_embeddings:
        tensors += _linear("embed_out", width, settings.vocabulary, ("unembedding",), False)
    return tensors


GPT_NEOX = Family(
    model_type="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    settings=_gpt_neox_settings,
    config=_gpt_neox_config,
    tensors=_gpt_neox_tensors,
    buffers=re.compile(r"gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)"),
)

FAMILIES: Mapping[str, Family] = {family.model_type: family for family in (GPT_NEOX,)}


def family_of(config: Mapping[str, Any]) -> Family:
    """The family that a configuration names.

    Raises:
        SettingError: naming the model type and the supported ones.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise refused("model_type", model_type, f"is not a supported family; supported are {', '.join(FAMILIES)}")
    return FAMILIES[model_type]
