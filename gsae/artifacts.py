"""The one way in which anything is written: aside first, digested, then renamed into place.

Of a bucket's objects each appears whole anyway, so that they are written where they belong.

An artifact is a directory with a `manifest.json` that names each of its files with length and SHA-256, beside what
the maker says about it. A directory without a manifest is not an artifact: a killed writer leaves nothing that a
reader could take for finished work.
"""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gsae.errors import RunError
from gsae.places import BucketPath, Place

MANIFEST = "manifest.json"
PARTIAL = ".partial-"


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spare spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(value: Any) -> str:
    """SHA-256 (64 hex digits) of a plain value: numbers, strings, lists, dicts."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def digest_bytes(data: bytes | memoryview) -> str:
    """SHA-256 (64 hex digits) of a buffer."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Place) -> str:
    """SHA-256 (64 hex digits) of a file's bytes."""
    if isinstance(path, BucketPath):
        return digest_bytes(path.read_bytes())
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def explained(path: Place) -> Iterator[None]:
    """Turns the operating system's refusal to write below `path` into one line: a full disk, a forbidden directory."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise RunError(f"{path}: the disk is full; free some space and start the same command again") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise RunError(f"{path}: cannot be written ({error.strerror})") from error
        raise


def write_file(path: Place, data: str | bytes) -> None:
    """Writes a whole file or nothing: aside, flushed to the disk, renamed over `path`."""
    if isinstance(path, BucketPath):
        return path.write_bytes(data.encode() if isinstance(data, str) else data)
    aside = path.with_name(path.name + PARTIAL + secrets.token_hex(4))
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(aside, "wb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)


def write_json(path: Place, value: Any) -> None:
    """`write_file` of indented JSON."""
    write_file(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def publish(path: Path, manifest: Mapping[str, Any]) -> Iterator[Path]:
    """Yields an empty directory to fill; on a clean exit it becomes the artifact `path`, replacing an older one.

    Args:
        path: where the artifact appears, whole, or not at all.
        manifest: what the maker says about it (plain values); `files` is added. The dict may be filled until the exit.
    """
    with replacing(path) as aside:
        yield aside
        files = {str(file.relative_to(aside)): _entry(file) for file in sorted(aside.rglob("*")) if file.is_file()}
        write_json(aside / MANIFEST, {**manifest, "files": files})


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields an empty directory to fill; on a clean exit it takes the place of `path`, an older one's too.

    What is in it must be flushed to the disk by whoever fills it.
    """
    aside = path.with_name(path.name + PARTIAL + secrets.token_hex(4))
    with explained(path):
        remove_partial(path)
        aside.mkdir(parents=True)
        try:
            yield aside
            if path.exists():
                shutil.rmtree(path)
            os.replace(aside, path)
            sync_directory(path.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _entry(file: Path) -> dict[str, Any]:
    with open(file, "rb") as handle:
        os.fsync(handle.fileno())
    return described(file)


def sync_directory(path: Place) -> None:
    """Flushes a directory's own entries to the disk, so that a rename in it survives a power cut."""
    if isinstance(path, BucketPath):
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_partial(path: Path) -> None:
    """Removes what a killed writer of `path` left beside it."""
    for left in path.parent.glob(path.name + PARTIAL + "*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def read_manifest(path: Place) -> dict[str, Any] | None:
    """The artifact's manifest; None where there is no artifact.

    Raises:
        RunError: when the manifest is there but cannot be read.
    """
    try:
        return json.loads((path / MANIFEST).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path / MANIFEST}: is not readable ({error}); delete {path} and start again") from error


def verify(path: Place) -> dict[str, Any]:
    """Reads every byte of an artifact and compares it with the manifest, which it returns.

    Raises:
        RunError: naming the file that is missing, truncated or altered.
    """
    manifest = read_manifest(path)
    if manifest is None:
        raise RunError(f"{path}: is not a finished artifact ({MANIFEST} is missing)")
    for name, entry in manifest["files"].items():
        file = path / name
        try:
            found = described(file)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise RunError(f"{file}: is missing; delete {path} and start again") from error
        if found["bytes"] != entry["bytes"]:
            raise RunError(f"{file}: has {found['bytes']} bytes, the manifest says {entry['bytes']}")
        if found["sha256"] != entry["sha256"]:
            raise RunError(f"{file}: its bytes are not those that were written (SHA-256 differs)")
    return manifest


def described(file: Place) -> dict[str, Any]:
    """Length and SHA-256 of a file, as a manifest names them."""
    if isinstance(file, BucketPath):
        data = file.read_bytes()
        return {"bytes": len(data), "sha256": digest_bytes(data)}
    return {"bytes": file.stat().st_size, "sha256": digest_file(file)}
