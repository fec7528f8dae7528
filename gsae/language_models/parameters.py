"""Every parameter of a transformer with the names of its axes: the source of shapes and of how to share them out.

An axis is a product of named parts, the outermost first: `head number` is heads one after the other, each with
`number` numbers. A parameter's path is where it stands in the module: `("layers", 0, "attention", "q", "kernel")`.
"""

import math
from collections.abc import Iterator, Mapping

from gsae.language_models.settings import NormSettings, Settings

Path = tuple[str | int, ...]
Axes = tuple[str, ...]

# What devices can share: the outermost part of an axis -> what is shared.
SHARED = {"head": "heads", "key_head": "heads", "neuron": "mlp", "token": "vocabulary"}


def sizes(settings: Settings) -> Mapping[str, int]:
    """How large each named part is. `part` counts queries, keys and values in a fused tensor of a file."""
    attention = settings.attention[0]
    return {
        "width": settings.width,
        "token": settings.vocabulary,
        "position": settings.context_length,
        "head": attention.heads,
        "key_head": attention.key_heads,
        "number": attention.head_width,
        "neuron": settings.mlp.width if settings.mlp else 0,
        "part": 3,
    }


def parameters(settings: Settings) -> dict[Path, Axes]:
    """The axes of every parameter, in the order of the computation."""
    found: dict[Path, Axes] = {("embedding",): ("token", "width")}
    if settings.learned_positions:
        found[("positions",)] = ("position", "width")
    for layer in range(settings.num_layers):
        for path, axes in _of_layer(settings, layer):
            found[("layers", layer, *path)] = axes
    found |= {("final_norm", *path): axes for path, axes in _norm(settings.norm, "width")}
    if not settings.tied_embeddings:
        found[("unembedding", "kernel")] = ("width", "token")
    if settings.unembedding_bias:
        found[("unembedding_bias",)] = ("token",)
    return found


def count(settings: Settings) -> int:
    """How many numbers all parameters are."""
    length = sizes(settings)
    return sum(
        math.prod(length[part] for axis in axes for part in axis.split()) for axes in parameters(settings).values()
    )


def _norm(settings: NormSettings, axis: str) -> Iterator[tuple[Path, Axes]]:
    if settings.scale:
        yield ("scale",), (axis,)
    if settings.bias:
        yield ("bias",), (axis,)


def _linear(inputs: str, outputs: str, bias: bool) -> Iterator[tuple[Path, Axes]]:
    yield ("kernel",), (inputs, outputs)
    if bias:
        yield ("bias",), (outputs,)


def _of_layer(settings: Settings, layer: int) -> Iterator[tuple[Path, Axes]]:
    attention, mlp = settings.attention[layer], settings.mlp
    parts = {
        "attention.q": _linear("width", "head number", attention.qkv_bias),
        "attention.k": _linear("width", "key_head number", attention.qkv_bias),
        "attention.v": _linear("width", "key_head number", attention.qkv_bias),
        "attention.out": _linear("head number", "width", attention.out_bias),
    }
    if attention.query_key_norm is not None:
        together = attention.norm_over_heads
        parts["attention.q_norm"] = _norm(attention.query_key_norm, "head number" if together else "number")
        parts["attention.k_norm"] = _norm(attention.query_key_norm, "key_head number" if together else "number")
    if mlp is not None:
        if mlp.gated:
            parts["mlp.gate"] = _linear("width", "neuron", mlp.bias)
        parts["mlp.up"] = _linear("width", "neuron", mlp.bias)
        if mlp.norm is not None:
            parts["mlp.norm"] = _norm(mlp.norm, "neuron")
        parts["mlp.down"] = _linear("neuron", "width", mlp.bias)
    for name in norm_names(settings):
        parts[name] = _norm(settings.norm, "width")
    for name, leaves in parts.items():
        for path, axes in leaves:
            yield (*name.split("."), *path), axes


def norm_names(settings: Settings) -> list[str]:
    """The norms on the stream that a layer has."""
    names = []
    if settings.pre_norm:
        names += ["attention_norm"] if settings.shared_norm or settings.mlp is None else ["attention_norm", "mlp_norm"]
    if settings.post_norm:
        names += ["attention_post_norm"] if settings.mlp is None else ["attention_post_norm", "mlp_post_norm"]
    return names
