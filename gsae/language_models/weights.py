"""From the tensors in a checkpoint's files to the parameters of a model, each straight into its place on the devices.

A parameter is read piece by piece (`layout.py`) into the very memory that the device takes, in its final dtype; a
process reads the parts that its own devices hold. What the host holds beside them is one tensor's mapped pages.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from gsae.errors import SettingError
from gsae.language_models.families import SETTING, Family, Tensor, refused
from gsae.language_models.pickled import SUFFIXES as PICKLED
from gsae.language_models.pickled import PickledFile
from gsae.language_models.settings import Settings
from gsae.language_models.transformer import Transformer
from gsae.mesh import FEATURE

DTYPE = "config.language_model.dtype"
AS_STORED = "file"
# What parameters may be, and what safetensors calls it.
CODES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
DTYPES = (*CODES, AS_STORED)
READABLE = {code: jnp.dtype(name) for name, code in CODES.items()} | {"F64": np.dtype(np.float64)}
BAR_FROM = 2**28  # bytes; a model that is read in a second or so needs no progress bar


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: where it is, and what the file's header says about it."""

    path: Path
    name: str
    shape: tuple[int, ...]
    code: str  # safetensors' name of its dtype

    def dtype(self, wanted: str) -> Any:
        """The dtype of a parameter that is read from it."""
        if wanted == AS_STORED and self.code not in CODES.values():
            allowed = f"tensor {self.name} is stored as {self.code}; choose one of {', '.join(CODES)}"
            raise SettingError(DTYPE, wanted, allowed)
        return READABLE[self.code] if wanted == AS_STORED else jnp.dtype(wanted)


def load_weights(
    family: Family, settings: Settings, files: Sequence[Path], dtype: str, mesh: Mesh | None = None
) -> Transformer:
    """The model with every parameter of its family's table read from the files, no other tensor being there.

    Args:
        family: whose table it is.
        settings: of the model.
        files: in the format of safetensors, or as torch saves them.
        dtype: of the parameters, one of `DTYPES`; `file` keeps each tensor's own.
        mesh: what the parameters are laid over, with automatic axes; None for the default device.

    Raises:
        SettingError: naming the file that cannot be read, or the tensor that is missing, extra, there twice,
            misshapen, or of a dtype that is not supported.
    """
    graph, abstract = nnx.split(nnx.eval_shape(lambda: Transformer(settings, nnx.Rngs(0))))
    parameters = dict(nnx.to_flat_state(abstract))
    table = family.tensors(settings)
    stored = _checked(family, settings, table, _headers(files))
    dtypes = {tensor.path: stored[tensor.name].dtype(dtype) for tensor in table}  # refuses before anything is read
    total = sum(_numbers(tensor, mesh) * READABLE[stored[tensor.name].code].itemsize for tensor in table)
    with tqdm(
        total=total, desc="loading", unit="B", unit_scale=True, unit_divisor=1024, disable=total < BAR_FROM
    ) as bar:
        for tensor in table:
            array = _parameter(tensor, stored[tensor.name], dtypes[tensor.path], mesh, bar)
            parameters[tensor.path] = parameters[tensor.path].replace(array)
    return nnx.merge(graph, nnx.from_flat_state(parameters))


def sharding(tensor: Tensor, mesh: Mesh) -> NamedSharding:
    """Where a parameter's parts are: heads, neurons, vocabulary over `feature` if they divide, the rest everywhere."""
    axes: list[str | None] = [None] * len(tensor.shape)
    devices = mesh.shape.get(FEATURE, 1)
    for i, (shared, blocks) in enumerate(zip(tensor.partition, tensor.blocks, strict=True)):
        if shared and blocks % devices == 0:
            axes[i] = FEATURE if devices > 1 else None
            break
    return NamedSharding(mesh, PartitionSpec(*axes))


def _parameter(tensor: Tensor, stored: Stored, dtype: Any, mesh: Mesh | None, bar: tqdm) -> jax.Array:
    """One parameter on its devices. The file is opened for it alone: pages read for others are given back."""
    parts: dict[tuple[tuple[int, int], ...], np.ndarray] = {}
    with _opened(stored.path) as file:
        tensor_slice = file.get_slice(stored.name)

        def get(index: tuple[slice, ...]) -> np.ndarray:
            array = tensor_slice[index]
            bar.update(array.nbytes)
            return array

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            index = index or (slice(None),) * len(tensor.shape)
            key = _bounds(index, tensor.shape)
            if key not in parts:  # devices that hold the same are given the same
                parts[key] = tensor.layout.read(get, index, dtype)
            return parts[key]

        if mesh is None:
            array = jax.device_put(part(None))
        else:
            array = jax.make_array_from_callback(tensor.shape, sharding(tensor, mesh), part)
        return array.block_until_ready()  # the host's copy is free before the next one is made


def _numbers(tensor: Tensor, mesh: Mesh | None) -> int:
    """How many numbers of a parameter this process reads."""
    if mesh is None:
        return math.prod(tensor.shape)
    indices = sharding(tensor, mesh).addressable_devices_indices_map(tensor.shape).values()
    parts = {_bounds(index, tensor.shape) for index in indices if index is not None}
    return sum(math.prod(stop - start for start, stop in part) for part in parts)


def _bounds(index: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple(wanted.indices(size)[:2] for wanted, size in zip(index, shape, strict=True))


def _opened(path: Path) -> Any:
    """A file of tensors by name, of which parts can be read."""
    if path.suffix in PICKLED:
        return PickledFile(path)
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise SettingError(SETTING, str(path), f"is no readable safetensors file ({error})") from error


def _headers(files: Sequence[Path]) -> list[Stored]:
    """Every tensor of the files; nothing but their headers is read."""
    found = []
    for path in files:
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118 - a safetensors handle is no mapping
                header = file.get_slice(name)
                found.append(Stored(path, name, tuple(header.get_shape()), header.get_dtype()))
    return found


def _checked(
    family: Family, settings: Settings, table: Sequence[Tensor], found: Sequence[Stored]
) -> Mapping[str, Stored]:
    """Of each tensor that the table wants, where it is; and no other tensor is there."""
    wanted = {tensor.name: tensor for tensor in table}
    stored: dict[str, Stored] = {}
    for entry in found:
        name = family.known_as(entry.name, settings)
        if name is None:
            continue
        if name not in wanted:
            raise refused("tensor", entry.name, f"is in {entry.path} but in no model of this configuration")
        if name in stored:
            raise refused("tensor", entry.name, f"is twice in the files, the last time in {entry.path}")
        shape = wanted[name].file_shape
        if entry.shape != shape:
            allowed = f"must have the shape {list(shape)} ({entry.path})"
            raise refused(f"tensor {entry.name}", list(entry.shape), allowed)
        if entry.code not in READABLE:
            allowed = f"is a dtype that is not supported ({entry.path}); {', '.join(READABLE)} are"
            raise refused(f"tensor {entry.name}", entry.code, allowed)
        stored[name] = entry
    for name in wanted:
        if name not in stored:
            raise refused("tensor", name, f"is missing from {', '.join(sorted({str(e.path) for e in found}))}")
    return stored
