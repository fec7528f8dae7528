"""Activations that something else has written, as tables of rows that are read where they are asked for.

    *.npy            [N, D], or [N, T, D] for sequences of T rows; the site is the name of the file's directory
    *.safetensors    the same, one tensor for each site, named after it
    a data set       saved by `datasets` (as SAELens' CacheActivationsRunner does): a column [T, D] for each site, named
                     after it, and perhaps `token_ids`

Values are float32, float16 or bfloat16 (which numpy saves as two bytes without a name). Nothing is copied into memory
but the rows that are read.
"""

import glob
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from gsae.errors import SettingError

SETTING = "config.activations.paths"
BFLOAT16 = np.dtype(jnp.bfloat16)
DTYPES = (np.dtype(np.float32), np.dtype(np.float16), BFLOAT16)
SAFETENSORS = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": BFLOAT16}
TOKEN_IDS = "token_ids"


@dataclass(frozen=True)
class Table:
    """The rows of one site in one file.

    Attributes:
        site: its name.
        file: where it is.
        array: [N, D] or [N, T, D]; has a shape and a dtype, and slices along N give numpy arrays.
        token_ids: [N, T], sliced in the same way; None where they are not known.
    """

    site: str
    file: Path
    array: Any
    token_ids: Any = None

    @property
    def sequence_length(self) -> int:
        """T; 0 where the file does not say which rows are one sequence."""
        return self.array.shape[1] if len(self.array.shape) == 3 else 0

    @property
    def rows(self) -> int:
        """How many rows there are, in all sequences."""
        return int(np.prod(self.array.shape[:-1], dtype=np.int64))

    @property
    def width(self) -> int:
        """D."""
        return self.array.shape[-1]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows [n, D] in the file's own dtype."""
        return _flat_slice(self.array, self.sequence_length, start, stop, (self.width,))

    def read_token_ids(self, start: int, stop: int) -> np.ndarray:
        """The token of each row, [n]; -1 where they are not known."""
        if self.token_ids is None:
            return np.full(stop - start, -1, np.int32)
        return _flat_slice(self.token_ids, self.sequence_length, start, stop, ())

    def place(self, row: int) -> str:
        """Where the row is, in words."""
        if not self.sequence_length:
            return f"{self.file}: row {row}"
        sequence, position = divmod(row, self.sequence_length)
        return f"{self.file}: row {row} (sequence {sequence}, position {position})"


def _flat_slice(array: Any, length: int, start: int, stop: int, rest: tuple[int, ...]) -> np.ndarray:
    if not length:
        return array[start:stop]
    first, last = start // length, -(-stop // length)
    return array[first:last].reshape(-1, *rest)[start - first * length : stop - first * length]


def find_tables(paths: Sequence[str]) -> Iterator[Table]:
    """The tables below the paths: files, directories with all that is below them, globs; each sorted by name.

    Raises:
        SettingError: when there is nothing, or naming the file that cannot be read as rows.
    """
    for path in paths:
        found = [Path(path)] if Path(path).exists() else [Path(match) for match in sorted(glob.glob(path))]
        tables = [table for place in found for file in _files(place) for table in _open(file)]
        if not tables:
            allowed = f"has no .npy or .safetensors file, and no saved data set, at or below {path}"
            raise SettingError(SETTING, tuple(paths), allowed)
        yield from tables


def _files(path: Path) -> Iterator[Path]:
    """The files and data sets at or below a path, hidden ones left out."""
    if (path / "state.json").is_file() or path.suffix in (".npy", ".safetensors"):
        yield path
    elif path.is_dir():
        for inside in sorted(path.iterdir()):
            if not inside.name.startswith("."):
                yield from _files(inside)


def _open(path: Path) -> list[Table]:
    if path.is_dir():
        tables = _open_data_set(path)
    else:
        tables = _open_npy(path) if path.suffix == ".npy" else _open_safetensors(path)
    for table in tables:
        shape = table.array.shape
        if len(shape) not in (2, 3) or 0 in shape[1:]:
            allowed = f"{table.site!r} has shape {list(shape)}; rows are [N, D], or [N, T, D] for sequences of T"
            raise SettingError(SETTING, str(path), allowed)
        if table.array.dtype not in DTYPES:
            allowed = f"{table.site!r} holds {table.array.dtype}; rows are float32, float16 or bfloat16"
            raise SettingError(SETTING, str(path), allowed)
    return tables


def _open_npy(path: Path) -> list[Table]:
    try:
        array = np.load(path, mmap_mode="r")
    except (ValueError, EOFError, OSError) as error:
        raise SettingError(SETTING, str(path), f"is not an array of numbers ({error})") from error
    if array.dtype == np.dtype("V2"):  # what numpy makes of ml_dtypes' bfloat16
        array = array.view(BFLOAT16)
    return [Table(path.absolute().parent.name, path, array)]


def _open_safetensors(path: Path) -> list[Table]:
    """Its tensors mapped into memory, bfloat16 ones included, which `safetensors.numpy` does not know."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):  # compares lengths and offsets
            pass
    except (SafetensorError, OSError) as error:
        raise SettingError(SETTING, str(path), f"is not a safetensors file ({error})") from error
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    tables = []
    for site, about in header.items():
        if site == "__metadata__":
            continue
        if about["dtype"] not in SAFETENSORS:
            allowed = f"{site!r} holds {about['dtype']}; rows are float32, float16 or bfloat16"
            raise SettingError(SETTING, str(path), allowed)
        dtype, start, shape = SAFETENSORS[about["dtype"]], 8 + length + about["data_offsets"][0], tuple(about["shape"])
        array = np.memmap(path, dtype, "r", start, shape) if np.prod(shape) else np.zeros(shape, dtype)
        tables.append(Table(site, path, array))
    return tables


def _open_data_set(path: Path) -> list[Table]:
    """The columns with the feature `Array2D`, and `token_ids` beside them."""
    from datasets import Array2D, load_from_disk

    try:
        saved: Any = load_from_disk(str(path)).with_format("arrow")
        features = dict(saved.features)
    except (ValueError, OSError, AttributeError) as error:
        raise SettingError(SETTING, str(path), f"is not a saved data set ({error})") from error
    sites = {name: feature for name, feature in features.items() if isinstance(feature, Array2D)}
    if not sites:
        allowed = f"has no column of the feature Array2D; its columns are {', '.join(features)}"
        raise SettingError(SETTING, str(path), allowed)
    tables = []
    for site, feature in sites.items():
        shape = tuple(feature.shape)
        if None in shape:
            raise SettingError(SETTING, str(path), f"column {site!r} has rows of differing shapes")
        token_ids = _Column(saved, TOKEN_IDS, (len(saved), shape[0]), np.dtype(np.int32))
        array = _Column(saved, site, (len(saved), *shape), np.dtype(feature.dtype))
        tables.append(Table(site, path, array, token_ids if TOKEN_IDS in features else None))
    return tables


@dataclass(frozen=True)
class _Column:
    """A column of fixed-size lists in a data set that gives Arrow tables, as an array that is read slice by slice."""

    data_set: Any
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        parts = [np.empty(0, self.dtype)]
        for chunk in self.data_set[rows].column(self.name).chunks:
            values = getattr(chunk, "storage", chunk)  # of an extension type
            while hasattr(values, "flatten") and hasattr(values.type, "value_type"):
                values = values.flatten()
            parts.append(values.to_numpy(zero_copy_only=False))
        return np.concatenate(parts).astype(self.dtype, copy=False).reshape(-1, *self.shape[1:])
