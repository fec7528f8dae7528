"""How many sequences one forward pass takes: as many as are worth it, and as fit."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from gsae.activations.capture import DTYPES, program
from gsae.capacity import device_memory, host_memory
from gsae.errors import SettingError
from gsae.language_models.placement import Placement
from gsae.language_models.sites import Site, names_of

SETTING = "config.activations.sequences_at_once"
# On a CPU more than these bytes of a layer's widest array leave the cache: the passes between products become slow.
CPU_BYTES = 16 << 20
TOKENS = 1 << 16  # elsewhere, tokens a device: the products are as large as they need to be
SHARE = 0.75  # of a memory: the rest is for fragments, for rows on their way, and for others


class Fit(NamedTuple):
    """B, and why, in words."""

    sequences: int
    because: str


def fit(
    model: Any,
    sites: Sequence[Site],
    placement: Placement,
    length: int,
    most: int,
    dtype: str,
    gradients: bool = False,
) -> Fit:
    """Chooses B, a multiple of the parts of a batch, by compiling the pass and asking the compiler what it needs.

    The choice depends on what the memory is, not on what happens to be free: a run that goes on chooses the same.

    Args:
        model: a transformer.
        sites: what is read.
        placement: of its parameters and batches.
        length: T.
        most: more sequences than this are of no use.
        dtype: of the rows.
        gradients: whether each site comes with its gradient.

    Raises:
        SettingError: when not even one sequence for each part fits.
    """
    capture = program(nnx.split(model)[0], tuple(sites), DTYPES[dtype], gradients)
    widest = max(model.site_width(name) for name in names_of(model.settings))
    devices = list(placement.batch.mesh.devices.flat)
    on_cpu = devices[0].platform == "cpu"
    tokens = CPU_BYTES // (4 * widest) if on_cpu else TOKENS
    each = max(1, min(tokens // length, -(-most // placement.parts)))
    there = host_memory() if on_cpu else device_memory(devices)
    sharing = len(devices) if on_cpu else 1  # devices that are made of the same memory
    while there is not None:
        needed = sharing * _bytes(capture, placement, (each * placement.parts, length))
        if needed <= SHARE * there:
            break
        if each == 1:
            allowed = f"not even one sequence at once fits: {_gb(needed)} are needed, of {_gb(there)}"
            raise SettingError(SETTING, 0, allowed)
        each = max(1, min(each // 2, int(each * SHARE * there / needed)))
    fits = "" if there is None else f"; {_gb(needed)} of {_gb(there)} are needed"
    worth = "a CPU's cache holds no more" if on_cpu else "more would gain nothing, or not fit"
    return Fit(each * placement.parts, f"{worth}{fits}")


def _bytes(capture: Any, placement: Placement, shape: tuple[int, int]) -> int:
    """Bytes on one device: parameters, the pass, and the results of one batch more, which are on their way."""
    batch = (jax.ShapeDtypeStruct(shape, kind, sharding=placement.batch) for kind in (np.int32, np.bool_))
    try:
        found = capture.lower(placement.parameters, *batch).compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return 1 << 62  # the compiler itself sees that it cannot fit
    return found.argument_size_in_bytes + found.temp_size_in_bytes + 2 * found.output_size_in_bytes


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
