"""What tells one language model from every other one: a digest over the contents of its files."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from gsae.artifacts import digest_file

THREADS = 2  # that read and digest files while the weights are loaded


class Digests:
    """SHA-256 of files, computed in the background from the moment that they are named."""

    def __init__(self, files: Sequence[Path]):
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="digest")
        self._digests: Mapping[Path, Future[str]] = {path: self._pool.submit(_digest, path) for path in files}

    def __enter__(self) -> "Digests":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def fingerprint(self) -> str:
        """SHA-256 (64 hex digits) over the names and digests of the files, in order."""
        lines = [f"{path.name}\0{digest.result()}\n" for path, digest in self._digests.items()]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def _digest(path: Path) -> str:
    """SHA-256 of a file. In the hub's cache a large one is called by it, checked when it was downloaded."""
    blob = path.resolve()
    if path.is_symlink() and blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", blob.name):
        return blob.name
    return digest_file(path)
