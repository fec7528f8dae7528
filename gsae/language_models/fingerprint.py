"""What tells one language model from every other one: a digest over the contents of its files."""

import hashlib
import re
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jax.experimental import multihost_utils

from gsae.artifacts import digest_file

THREADS = 2  # that read and digest files while the weights are loaded


class Digests:
    """SHA-256 of files, computed in the background from the moment that they are named.

    Args:
        files: whose contents count, in this order.
        process: which of the processes that share the work this is; all of them ask for the fingerprint.
        processes: how many there are.
    """

    def __init__(self, files: Sequence[Path], process: int = 0, processes: int = 1):
        self._files, self._processes = files, processes
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="digest")
        self._own: dict[int, Future[bytes]] = {
            i: self._pool.submit(_digest, path) for i, path in enumerate(files) if i % processes == process
        }

    def __enter__(self) -> "Digests":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def fingerprint(self) -> str:
        """SHA-256 (64 hex digits) over the names and digests of the files, in order."""
        digests = np.zeros((len(self._files), 32), np.uint8)
        for i, digest in self._own.items():
            digests[i] = np.frombuffer(digest.result(), np.uint8)
        if self._processes > 1:
            digests = np.asarray(multihost_utils.process_allgather(digests)).max(axis=0)  # those of others are zeros
        lines = [f"{path.name}\0{digest.tobytes().hex()}\n" for path, digest in zip(self._files, digests, strict=True)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def _digest(path: Path) -> bytes:
    """SHA-256 of a file. In the hub's cache a large one is called by it, checked when it was downloaded."""
    blob = path.resolve()
    if path.is_symlink() and blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", blob.name):
        return bytes.fromhex(blob.name)
    return bytes.fromhex(digest_file(path))
