"""The places of a language model whose activations are read or replaced.

In the order in which a layer computes them, with the input h of the layer:

    resid_pre   h, the residual stream that enters the layer
    attn_z      the attention heads' outputs, concatenated, before the output projection W_O
    attn_out    what attention adds to the residual stream; where that is normalised first (Gemma 2, OLMo 2), after it
    resid_mid   h + attn_out. Where attention and MLP run in parallel (GPT-NeoX), the MLP does not read it, but the
                stream still passes through it: resid_post = resid_mid + mlp_out in both kinds of layer
    mlp_act     the MLP's neurons as the output projection reads them: after the nonlinearity, times the other branch
                where there is a gate (Llama), normalised where they are (SoLU)
    mlp_out     what the MLP adds to the residual stream; where that is normalised first, after it
    resid_post  the residual stream that leaves the layer

Models without MLP have no mlp_act and mlp_out; their resid_mid is resid_post.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from gsae.language_models.settings import Settings

NAMES = ("resid_pre", "resid_mid", "resid_post", "attn_z", "attn_out", "mlp_act", "mlp_out")


def names_of(settings: Settings) -> tuple[str, ...]:
    """The sites that each layer of a model has."""
    return NAMES if settings.mlp is not None else tuple(name for name in NAMES if not name.startswith("mlp"))


def site_width(settings: Settings, name: str) -> int:
    """How many numbers a site holds per token."""
    if name not in names_of(settings):
        raise ValueError(f"{name!r} is no site of this model; its sites are {', '.join(names_of(settings))}")
    if name == "attn_z":
        return settings.attention[0].heads * settings.attention[0].head_width
    return settings.mlp.width if settings.mlp is not None and name == "mlp_act" else settings.width


@dataclass(frozen=True, order=True)
class Site:
    """One named place in one layer (counted from 0). `str(site)` is `name.layer`, for example `mlp_out.2`."""

    layer: int
    name: str

    def __post_init__(self) -> None:
        if self.name not in NAMES or self.layer < 0:
            raise ValueError(f"{self.name}.{self.layer} is no site: write name.layer, with a name out of {NAMES}")

    def __str__(self) -> str:
        return f"{self.name}.{self.layer}"

    @classmethod
    def parse(cls, text: str) -> "Site":
        """Reads `name.layer`.

        Raises:
            ValueError: saying what is allowed, when the text is anything else.
        """
        name, dot, layer = text.rpartition(".")
        if not dot or name not in NAMES or not (layer.isascii() and layer.isdigit()):
            raise ValueError(
                f"{text!r} is no site: write name.layer (for example mlp_out.2), with a name out of {', '.join(NAMES)}"
            )
        return cls(int(layer), name)


def last_layer(sites: Iterable[Site]) -> int:
    """The last layer that must run to see all the sites (-1 for no sites): `blocks(h, 0, last_layer(sites) + 1)`."""
    return max((site.layer for site in sites), default=-1)
