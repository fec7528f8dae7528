"""Rows out of a Python iterator: copied to disk as they come, then shuffled over all of them as files are."""

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gsae import artifacts
from gsae.activations.row_files import DTYPES, Table
from gsae.activations.row_import import import_tables
from gsae.activations.rows import Rows, check_site_name
from gsae.errors import RunError, SettingError

SPOOL = "spool"
STORED = ("bfloat16", "float32")


def import_rows(
    batches: Iterable[Any],
    path: str | Path,
    *,
    site: str = "rows",
    superblock_rows: int = 131_072,
    held_out_fraction: float = 0.1,
    dtype: str = "bfloat16",
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Writes all rows that an iterator gives where a run finds them: `config.activations.store`, source "rows".

    Nothing needs to be known about how many come. They are written to disk once in their order, then once more shuffled
    over all of them, in superblocks, so twice the room is needed while this runs; memory holds one batch, and later
    two superblocks. The directory appears when it is finished: a killed call leaves nothing that looks like rows, and
    the next one begins anew.

    Args:
        batches: arrays [n, D] of rows, or [n, T, D] of sequences of T rows: float32, float16 or bfloat16, of numpy, jax
            or torch (on any device), or whatever has `__array__` or `__dlpack__`. Or mappings from sites to such
            arrays, for several sites at once: row r is the same token at all of them.
        path: the directory to make.
        site: the name of the rows where `batches` gives plain arrays.
        superblock_rows: rows that are shuffled together in the end; the run needs the same.
        held_out_fraction: share of the rows that never train; every autoencoder is judged by them.
        dtype: of the stored rows, `bfloat16` or `float32`; the run needs the same.
        seed: of the shuffling, and of what is held out.
        progress: draws a bar while shuffling.

    Returns:
        `path`.

    Raises:
        SettingError: when an argument is wrong, when an array is not what it should be or unlike those before it
            (naming which of the batches), or when there are fewer rows than a superblock.
        RunError: naming the batch and the row that is not finite; when the disk is full.
    """
    if "://" in str(path):
        allowed = "must be a directory, which appears by renaming when it is finished; copy it to a bucket afterwards"
        raise SettingError("path", str(path), allowed)
    path = Path(path)
    if path.exists():
        raise SettingError("path", str(path), "is there already; delete it or choose another directory")
    if dtype not in STORED:
        raise SettingError("dtype", dtype, f"must be one of {', '.join(STORED)}")
    if superblock_rows < 1:
        raise SettingError("superblock_rows", superblock_rows, "must be a positive number of rows")
    if not 0 < held_out_fraction < 1:
        raise SettingError("held_out_fraction", held_out_fraction, "must be between 0 and 1, both excluded")
    with artifacts.replacing(path) as aside:
        spool = _Spool(aside / SPOOL, jnp.dtype(dtype))
        for batch in batches:
            spool.add(batch if isinstance(batch, Mapping) else {site: batch})
        import_tables(
            spool.rows(),
            aside,
            superblock_rows=superblock_rows,
            held_out_fraction=held_out_fraction,
            dtype=dtype,
            seed=seed,
            fingerprint=spool.fingerprint(),
            progress=progress,
        )
        shutil.rmtree(aside / SPOOL)
    return path


class _Spool:
    """One file of plain numbers for each site, in the order of arrival."""

    def __init__(self, directory: Path, dtype: np.dtype):
        self.directory, self.dtype = directory, dtype
        self.count = 0  # batches
        self.total = 0  # rows
        self.widths: dict[str, int] = {}
        self.lengths: set[int] = set()  # of sequences; 0 for plain rows
        self.digests: dict[str, Any] = {}
        directory.mkdir()

    def add(self, batch: Mapping[str, Any]) -> None:
        """Appends a batch to the files."""
        arrays = {site: self._checked(site, given) for site, given in batch.items()}
        if not self.widths:
            for site, array in arrays.items():
                check_site_name(site, "site")
                self.widths[site], self.digests[site] = array.shape[-1], hashlib.sha256()
        shapes = {site: array.shape for site, array in arrays.items()}
        if {site: shape[-1] for site, shape in shapes.items()} != self.widths:
            raise SettingError(f"batch {self.count}", shapes, f"must have the widths of the others, {self.widths}")
        if len({shape[:-1] for shape in shapes.values()}) > 1:
            raise SettingError(f"batch {self.count}", shapes, "must have as many rows at every site")
        for site, array in arrays.items():
            self._append(site, array)
        leading = next(iter(shapes.values()))[:-1]
        self.lengths.add(leading[1] if len(leading) == 2 else 0)
        self.total += int(np.prod(leading))
        self.count += 1

    def _checked(self, site: str, given: Any) -> np.ndarray:
        array = to_numpy(given)
        if array.dtype not in DTYPES or array.ndim not in (2, 3) or not array.shape[-1]:
            allowed = "must be [rows, width] or [sequences, rows, width] of float32, float16 or bfloat16"
            raise SettingError(f"batch {self.count} of {site}", f"{list(array.shape)} {array.dtype}", allowed)
        return array

    def _append(self, site: str, array: np.ndarray) -> None:
        with np.errstate(over="ignore"):
            rows = np.ascontiguousarray(array.reshape(-1, array.shape[-1]).astype(self.dtype))
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            raise RunError(
                f"batch {self.count} of {site}: row {int(np.argmin(finite))} is not finite (in {self.dtype})"
            )
        content = rows.view(np.uint8)
        self.digests[site].update(content)
        with artifacts.explained(self.directory), open(self.directory / site, "ab") as file:
            file.write(content.data)

    def rows(self) -> Rows:
        """What has come, to be read in any order."""
        if not self.total:
            raise SettingError("batches", self.count, "must give at least one row")
        length = self.lengths.pop() if len(self.lengths) == 1 else 0
        tables = {}
        for site, width in self.widths.items():
            shape = (self.total // length, length, width) if length else (self.total, width)
            file = self.directory / site
            tables[site] = (Table(site, file, np.memmap(file, self.dtype, "r", shape=shape)),)
        return Rows(tables)

    def fingerprint(self) -> str:
        """Digest of every byte that has come."""
        return artifacts.fingerprint({site: digest.hexdigest() for site, digest in self.digests.items()})


def to_numpy(array: Any) -> np.ndarray:
    """An array of numpy, jax, torch or anything with `__array__` or `__dlpack__`, on the host."""
    if hasattr(array, "detach"):  # torch's: neither a gradient nor another device may be in the way
        array = array.detach().cpu().contiguous()
    try:
        return np.asarray(array)
    except TypeError:  # torch's bfloat16, which numpy does not know and jax does
        return np.asarray(jax.dlpack.from_dlpack(array))
