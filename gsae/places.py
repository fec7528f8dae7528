"""Where a run keeps what it makes: a directory, or a place in a bucket of an object store, by its URL. A leaf.

A bucket has no directories and renames nothing, but an object appears whole or not at all, and is seen by all as soon
as it is written: what is written last (a manifest) publishes what was written before. Requests go through TensorStore,
which finds the credentials of the machine and repeats what a server could not answer.
"""

import contextlib
import dataclasses
import functools
import os
import re
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gsae.errors import RunError, SettingError

DRIVERS = {"gs": "gcs", "s3": "s3"}
URL = re.compile(r"(gs|s3)://([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])((?:/[A-Za-z0-9._=+@-]+)*)/?")
ALLOWED = "must be a directory, or gs://bucket/path or s3://bucket/path of plain letters, digits and ._=+@-"
PERMISSIONS = "; docs/buckets.md says which credentials and which permissions it takes"
RETRIES = 7  # of a request: about a minute and a half, each pause twice as long as the one before
ANSWER_RETRIES = 2  # of the first request to a bucket: seconds
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")  # where a server that is not Amazon's is: the AWS tools' names


@dataclasses.dataclass(frozen=True)
class BucketPath:
    """A place in a bucket: an object, or all objects below it. What it shares with `Path` means the same.

    Attributes:
        scheme: "gs" or "s3".
        bucket: its name.
        key: of the object, no slash at its ends; "" for the bucket itself.
    """

    scheme: str
    bucket: str
    key: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}" + (f"/{self.key}" if self.key else "")

    def __truediv__(self, name: str) -> "BucketPath":
        return dataclasses.replace(self, key=f"{self.key}/{name}" if self.key else name)

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    def read_bytes(self, retries: int = RETRIES) -> bytes:
        """The object.

        Raises:
            FileNotFoundError: when there is none.
            RunError: when the bucket does not answer or forbids it.
        """
        with _explained(f"{self}: cannot be read"):
            found = _store(self.scheme, self.bucket, retries).read(self.key).result()
        if found.state != "value":
            raise FileNotFoundError(f"there is no object {self}")
        return bytes(found.value)

    def read_text(self) -> str:
        """The object as UTF-8; errors as `read_bytes`."""
        return self.read_bytes().decode()

    def exists(self) -> bool:
        """Whether there is such an object; reads it, so for small ones. RunError as `read_bytes`."""
        try:
            self.read_bytes()
        except FileNotFoundError:
            return False
        return True

    def write_bytes(self, data: bytes) -> None:
        """The object becomes `data`, whole or not at all.

        Raises:
            RunError: when the bucket is not there, does not answer or forbids it.
        """
        with _explained(f"{self}: cannot be written"):
            _store(self.scheme, self.bucket, RETRIES).write(self.key, data).result()

    def unlink(self) -> None:
        """Removes the object, if it is there; RunError as `write_bytes`."""
        self.remove([self.key])

    def keys(self) -> list[str]:
        """The keys of all objects below, as they follow this place's own: "a/b" for its / "a" / "b".

        What it names is there. What it does not name may be there all the same: TensorStore takes a refusal to list
        (a request that Google's server finds forbidden) for an empty list. So nothing is concluded from an absence.

        Raises:
            RunError: when the bucket is not there, does not answer or forbids it.
        """
        import tensorstore

        first = f"{self.key}/" if self.key else ""
        # What begins with "a/" comes before "a0", the character after the slash; not every server keeps to a range.
        wanted = tensorstore.KvStore.KeyRange(first, first[:-1] + "0") if first else None
        with _explained(f"{self}: cannot be listed"):
            found = _store(self.scheme, self.bucket, RETRIES).list(wanted).result()
        return sorted(key.removeprefix(first) for key in map(bytes.decode, found) if key.startswith(first))

    def remove(self, keys: Iterable[str]) -> None:
        """Removes objects of the bucket by their whole keys, many at once; RunError as `write_bytes`."""
        store = _store(self.scheme, self.bucket, RETRIES)
        with _explained(f"{self}: cannot be removed"):
            for removing in [store.write(key, None) for key in keys]:
                removing.result()

    def remove_below(self) -> None:
        """Removes all objects below; RunError as `write_bytes`."""
        self.remove(f"{self.key}/{key}" if self.key else key for key in self.keys())


Place = Path | BucketPath


def place(where: "str | Path | BucketPath", setting: str = "path") -> Place:
    """A directory or an URL as it is written in a setting.

    Raises:
        SettingError: naming the setting, for an URL that is none of a bucket's.
    """
    if not isinstance(where, str):
        return where
    if "://" not in where:
        return Path(where)
    match = URL.fullmatch(where)
    if not match or {".", ".."} & set(match[3].split("/")):
        raise SettingError(setting, where, ALLOWED)
    return BucketPath(match[1], match[2], match[3].strip("/"))


def names(where: Place) -> set[str]:
    """What is directly in a place, by name; nothing if it is not there. For a bucket as reliable as `keys`."""
    if isinstance(where, BucketPath):
        return {key.partition("/")[0] for key in where.keys()}  # noqa: SIM118 - no mapping
    try:
        return {entry.name for entry in where.iterdir()}
    except FileNotFoundError:
        return set()


def try_out(where: Place, finished: str = "") -> None:
    """Uses a bucket as a run will, so that what is wrong with it is known in seconds, before there is work to lose.

    Args:
        where: a directory is not looked at.
        finished: the object whose presence says that nothing more will be written.

    Raises:
        RunError: when it is not there, does not answer, or does not let these credentials read, write, list or remove.
    """
    if not isinstance(where, BucketPath):
        return
    with contextlib.suppress(FileNotFoundError):
        (where / (finished or "tried")).read_bytes(ANSWER_RETRIES)
        if finished:
            return
    tried = where / f"tried-by-{socket.gethostname()}-{os.getpid()}"
    tried.write_bytes(b"to see whether this place can be written, listed and removed from\n")
    listed = tried.name in names(where)
    tried.unlink()
    if not listed:
        raise RunError(f"{where}: cannot be listed{PERMISSIONS}")


def kvstore(where: Place, retries: int = RETRIES) -> dict[str, Any]:
    """TensorStore's specification of a place, for what it stores below it."""
    if isinstance(where, Path):
        return {"driver": "file", "path": str(where.resolve()) + "/"}
    driver = DRIVERS[where.scheme]
    spec = {"driver": driver, "bucket": where.bucket, "path": f"{where.key}/" if where.key else ""}
    endpoint = next(filter(None, map(os.environ.get, ENDPOINTS)), None)  # TensorStore does not look there itself
    return {
        **spec,
        **({"endpoint": endpoint} if endpoint and where.scheme == "s3" else {}),
        f"{driver}_request_retries": {"max_retries": retries},
    }


@functools.cache
def _store(scheme: str, bucket: str, retries: int) -> Any:
    """The whole of a bucket."""
    import tensorstore

    return tensorstore.KvStore.open(kvstore(BucketPath(scheme, bucket), retries)).result()


def reason(error: Exception) -> str:
    """TensorStore's error without what it adds for its own developers."""
    return " ".join(re.split(r" \[(?:tensorstore_spec|http_|x-|curl_)", str(error))[0].split())


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """TensorStore's errors as one line that begins with what could not be done."""
    try:
        yield
    except (ValueError, NotImplementedError) as error:
        said, hint = reason(error), ""
        if said.startswith("NOT_FOUND"):
            hint = "; is there such a bucket?"
        elif said.startswith(("PERMISSION_DENIED", "UNAUTHENTICATED")):
            hint = PERMISSIONS
        raise RunError(f"{what}: {said}{hint}") from error
