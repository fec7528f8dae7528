"""Llama 1 to 3 (Touvron et al. 2023, Grattafiori et al. 2024) and TinyLlama; and what later families share with it."""

from collections.abc import Mapping
from typing import Any

from gsae.language_models.families.family import Family
from gsae.language_models.families.positions import read_rotary
from gsae.language_models.families.reader import ACTIVATIONS, Reader, refused
from gsae.language_models.families.tensors import Source, linear, norm
from gsae.language_models.settings import AttentionSettings, MLPSettings, NormSettings, Settings

BUFFERS = r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq|model\.rotary_emb\.inv_freq"
LAYER = "model.layers.*"


def sources(names: Mapping[str, str]) -> dict[str, Source]:
    """Where the parameters of a model that is named as Llama stand.

    Args:
        names: of the norms of each layer: here -> in the file.
    """
    found = {"embedding": Source("model.embed_tokens.weight")}
    for here, name in names.items():
        found |= norm(f"layers.*.{here}", f"{LAYER}.{name}")
    for here, name in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("out", "o_proj")):
        found |= linear(f"layers.*.attention.{here}", f"{LAYER}.self_attn.{name}")
    for here, name in (("gate", "gate_proj"), ("up", "up_proj"), ("down", "down_proj")):
        found |= linear(f"layers.*.mlp.{here}", f"{LAYER}.mlp.{name}")
    return found | norm("final_norm", "model.norm") | linear("unembedding", "lm_head")


PRE_NORMS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
QUERY_KEY_NORMS = {"attention.q_norm": "self_attn.q_norm", "attention.k_norm": "self_attn.k_norm"}


def read_heads(reader: Reader, head_width: int | None = None) -> dict[str, Any]:
    """Heads, key heads and head width, and the scale of a plain dot product.

    Args:
        reader: of the configuration.
        head_width: the family's default; None: width / heads.
    """
    width, heads = reader.count("hidden_size"), reader.count("num_attention_heads")
    key_heads = reader.count("num_key_value_heads", heads)
    if heads % key_heads:
        raise refused("num_key_value_heads", key_heads, f"must divide num_attention_heads = {heads}")
    if reader.config.get("head_dim") is None and head_width is None and width % heads:
        raise refused("num_attention_heads", heads, f"must divide hidden_size = {width}")
    head_width = reader.count("head_dim", head_width or width // heads)
    return {"heads": heads, "key_heads": key_heads, "head_width": head_width, "scale": head_width**-0.5}


def read_bias(reader: Reader, default: bool = False) -> dict[str, Any]:
    """Biases of all linear maps of attention, or none."""
    bias = reader.flag("attention_bias", default)
    return {"qkv_bias": bias, "out_bias": bias}


def read_rms_norm(reader: Reader, epsilon: float = 1e-6) -> NormSettings:
    """The norm of Llama: RMS, with a factor and no shift."""
    return NormSettings("rms", float(reader.number("rms_norm_eps", epsilon)), bias=False)


def read_gated_mlp(reader: Reader, bias: bool = False) -> MLPSettings:
    """The gated MLP of Llama."""
    return MLPSettings(
        reader.count("intermediate_size"), reader.choice("hidden_act", "silu", ACTIVATIONS), gated=True, bias=bias
    )


def read_sizes(reader: Reader) -> dict[str, Any]:
    """What every family calls alike; dropout of attention is for training only."""
    reader.ignore("attention_dropout")
    return {
        "width": reader.count("hidden_size"),
        "vocabulary": reader.count("vocab_size"),
        "context_length": reader.count("max_position_embeddings"),
        "tied_embeddings": reader.flag("tie_word_embeddings", False),
    }


def _settings(config: Mapping[str, Any]) -> Settings:
    reader = Reader(config)
    reader.ignore("pretraining_tp")  # how the matrices were shared out: sums in another order
    heads = read_heads(reader)
    attention = AttentionSettings(
        **heads,
        **read_bias(reader),
        rotary=read_rotary(reader, heads["head_width"], reader.count("max_position_embeddings")),
    )
    settings = Settings(
        **read_sizes(reader),
        attention=(attention,) * reader.count("num_hidden_layers"),
        mlp=read_gated_mlp(reader, bias=reader.flag("mlp_bias", False)),
        norm=read_rms_norm(reader),
    )
    reader.finish()
    return settings


LLAMA = Family("llama", "LlamaForCausalLM", _settings, sources(PRE_NORMS), BUFFERS, prefix="model.")
