"""What a config.json says about rotary positions, in the words of transformers 4 and of transformers 5."""

import math
from collections.abc import Mapping
from typing import Any

from gsae.language_models.families.reader import Reader, refused
from gsae.language_models.settings import LinearScaling, Llama3Scaling, RotarySettings, YarnScaling

TYPES = {name: name for name in ("default", "linear", "llama3", "yarn")}


def read_rotary(
    reader: Reader,
    head_width: int,
    context_length: int,
    *,
    base_key: str = "rope_theta",
    base: float = 10000.0,
    fraction_key: str = "partial_rotary_factor",
    fraction: float | None = None,
) -> RotarySettings | None:
    """The rotary settings of a model whose layers all rotate alike; None when nothing is rotated.

    transformers 5 writes everything into `rope_parameters`; before, base and fraction were keys of their own and the
    rest stood in `rope_scaling`.

    Args:
        reader: of the configuration.
        head_width: how many numbers a head has.
        context_length: what the scaling of a family falls back on for the original length.
        base_key: the older key of the base.
        base: the family's default.
        fraction_key: the older key of the part of a head's numbers that is rotated.
        fraction: the family's default; None: it always rotates whole heads.
    """
    section = "rope_parameters" if reader.config.get("rope_parameters") else "rope_scaling"
    reader.ignore("rope_parameters")
    rope = reader.section(section)
    base = float(rope.number("rope_theta", reader.number(base_key, base)))
    rotated = rope.number("partial_rotary_factor", reader.number(fraction_key, 1.0 if fraction is None else fraction))
    if fraction is None and rotated != 1:
        raise refused(fraction_key, rotated, "is not implemented for this family, which rotates whole heads")
    scaling = read_scaling(rope, context_length)
    rope.finish()
    width = int(head_width * rotated)
    if width % 2 or rotated > 1:
        raise refused(fraction_key, rotated, f"must rotate an even part of a head's {head_width} numbers")
    return RotarySettings(width=width, base=base, scaling=scaling) if width else None


def read_rotary_by_kind(
    reader: Reader, head_width: int, context_length: int, older: Mapping[str, tuple[str, float]]
) -> dict[str, RotarySettings]:
    """The rotary settings of a model whose kinds of layers rotate differently, by kind.

    Args:
        reader: of the configuration.
        head_width: how many numbers a head has.
        context_length: what a scaling falls back on for the original length.
        older: by kind, the key of the base before transformers 5, and its default. What stood in `rope_scaling` was
            for the first kind.
    """
    newer = reader.section("rope_parameters")
    scaled = reader.section("rope_scaling")
    found = {}
    for kind, (key, base) in older.items():
        rope = newer.section(kind) if kind in newer.config else scaled
        base = float(rope.number("rope_theta", reader.number(key, base)))
        found[kind] = RotarySettings(width=head_width, base=base, scaling=read_scaling(rope, context_length))
        rope.finish()
        scaled = Reader({})
    newer.finish()
    return found


def read_scaling(rope: Reader, context_length: int) -> Any:
    """How the frequencies are stretched; None when they are not."""
    key = "rope_type" if "rope_type" in rope.config else "type"
    rope.ignore("rope_type", "type")
    kind = rope.choice(key, "default", TYPES)
    if kind == "default":
        return None
    factor = float(rope.number("factor"))
    if kind == "linear":
        return LinearScaling(factor)
    original = rope.count("original_max_position_embeddings", context_length)
    if kind == "llama3":
        low, high = float(rope.number("low_freq_factor")), float(rope.number("high_freq_factor"))
        if low >= high:
            raise refused("low_freq_factor", low, f"must be below high_freq_factor = {high}")
        return Llama3Scaling(factor, low, high, original)
    return YarnScaling(
        factor=factor,
        original_length=original,
        fast=rope.number_or_none("beta_fast", None) or 32.0,
        slow=rope.number_or_none("beta_slow", None) or 1.0,
        amplitude=_amplitude(rope, factor),
        whole=rope.flag("truncate", True),
    )


def _amplitude(rope: Reader, factor: float) -> float:
    """The factor of cosine and sine (Peng et al. 2023, equation 22, and its variants in transformers)."""

    def of(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0

    given = rope.number_or_none("attention_factor", None)
    one, all_dimensions = rope.number_or_none("mscale", None), rope.number_or_none("mscale_all_dim", None)
    if given is not None:
        return given
    return of(one) / of(all_dimensions) if one and all_dimensions else of(1.0)
