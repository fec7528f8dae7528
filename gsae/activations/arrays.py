"""The store's TensorStore arrays: layout on disk, and reads and writes of one superblock that fail by name."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gsae.errors import RunError
from gsae.places import Place, kvstore, reason

SHARDS_A_SUPERBLOCK = 8  # at most: enough for TensorStore to use several cores, few enough files for a large store
SHARD_BYTES = 1 << 22  # about, at least: each file costs a flush to the disk
CHUNK_BYTES = 1 << 16  # at most: what one CRC-32C covers; larger buffers come fresh from the system at each read
DIGEST_BYTES = 1 << 22  # pieces of a superblock that are hashed in parallel


def largest_divisor(n: int, limit: int) -> int:
    """The largest divisor of n that is not above the limit (at least 1)."""
    return next(divisor for divisor in range(max(1, min(n, limit)), 0, -1) if n % divisor == 0)


def digest_rows(rows: np.ndarray) -> str:
    """SHA-256 (64 hex digits) over the SHA-256 of each 4 MiB of the rows' bytes, so that all cores can take part."""
    content = np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
    pieces = [content[start : start + DIGEST_BYTES] for start in range(0, content.size, DIGEST_BYTES)]
    with ThreadPoolExecutor(min(len(pieces), os.cpu_count() or 1)) as pool:
        digests = pool.map(lambda piece: hashlib.sha256(piece).digest(), pieces)
    return hashlib.sha256(b"".join(digests)).hexdigest()


@dataclass(frozen=True)
class SuperblockArray:
    """One zarr3 array whose rows [k * R, (k + 1) * R) are superblock k, in whole shards.

    Attributes:
        path: directory of the array, or its place in a bucket.
        num_superblocks: how many superblocks there are.
        shape: of one superblock, (R,) or (R, D).
        dtype: of the rows.
    """

    path: Place
    num_superblocks: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def _spec(self) -> dict[str, Any]:
        rows, rest = self.shape[0], list(self.shape[1:])
        row_bytes = self.dtype.itemsize * int(np.prod(rest, dtype=np.int64))
        shard_rows = rows // largest_divisor(rows, min(SHARDS_A_SUPERBLOCK, rows * row_bytes // SHARD_BYTES))
        chunk_rows = largest_divisor(shard_rows, CHUNK_BYTES // row_bytes)
        little = {"name": "bytes", "configuration": {"endian": "little"}}
        sharding = {
            "chunk_shape": [chunk_rows, *rest],
            "codecs": [little, {"name": "crc32c"}],
            "index_codecs": [little, {"name": "crc32c"}],
            "index_location": "end",
        }
        grid = {"name": "regular", "configuration": {"chunk_shape": [shard_rows, *rest]}}
        return {
            "driver": "zarr3",
            "kvstore": kvstore(self.path),
            "metadata": {
                "shape": [self.num_superblocks * rows, *rest],
                "data_type": self.dtype.name,
                "fill_value": 0,
                "chunk_grid": grid,
                "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            },
            # Together: a chunk that is all zeros is written, so that one that is missing cannot be taken for zeros.
            "store_data_equal_to_fill_value": True,
            "fill_missing_data_reads": False,
        }

    def create(self) -> None:
        """Makes the array's directory and metadata, unless they are there."""
        import tensorstore

        with _named(f"{self.path}: cannot be made"):
            tensorstore.open(self._spec(), open=True, create=True).result()

    @cached_property
    def _array(self) -> Any:
        import tensorstore

        return tensorstore.open(self._spec(), open=True).result()

    def write(self, k: int, rows: np.ndarray) -> None:
        """Writes superblock k and waits until it is on the disk."""
        with _named(f"{self.path}: superblock {k} cannot be written"):
            self._array[self._slice(k)].write(rows).result()

    def read(self, k: int) -> np.ndarray:
        """Superblock k, checksums compared.

        Raises:
            RunError: when any byte of it is missing, truncated or altered.
        """
        if not 0 <= k < self.num_superblocks:
            raise IndexError(f"superblock {k}: there are {self.num_superblocks}")
        import tensorstore

        # Into numpy's memory (huge pages), not `.read()`, half of whose time is the system's, faulting pages in.
        rows = np.empty(self.shape, self.dtype)
        with _named(f"{self.path}: superblock {k} cannot be read"):
            tensorstore.array(rows).write(self._array[self._slice(k)]).result()
        return rows

    def _slice(self, k: int) -> slice:
        return slice(k * self.shape[0], (k + 1) * self.shape[0])


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """TensorStore's errors as one line that begins with what could not be done."""
    try:
        yield
    except ValueError as error:
        raise RunError(f"{what}: {reason(error)}") from error
