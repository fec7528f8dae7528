"""Digests of a checkpoint's array shards and files: taken at a save, compared at a restore onto any mesh."""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from gsae import artifacts
from gsae.errors import RunError
from gsae.places import Place

PEERS_TIMEOUT = 600.0  # seconds that process 0 waits for the digests of the others
Index = tuple[slice, ...]
HostShards = dict[str, dict[str, np.ndarray]]  # array name -> where the shard lies -> its values


def host_copies(arrays: Mapping[str, jax.Array]) -> HostShards:
    """This process's shards of every array, each once, copied: on CPU a view would change under a donated step."""
    for array in arrays.values():
        array.copy_to_host_async()
    return {
        name: {
            _index_text(shard.index, array.shape): np.array(shard.data, copy=True)
            for shard in array.addressable_shards
            if shard.replica_id == 0
        }
        for name, array in arrays.items()
    }


def digest(part: np.ndarray) -> str:
    """SHA-256 (64 hex digits) of the values in C order."""
    return hashlib.sha256(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data).hexdigest()


def verify(name: str, array: jax.Array, entry: Mapping[str, Any]) -> None:
    """Compares what was restored with the digests of the shards that were saved, whatever the sharding is now.

    Raises:
        RunError: naming the array.
    """
    placed = {_index_text(i, array.shape) for i in array.sharding.devices_indices_map(array.shape).values()}
    if set(entry["shards"]) <= placed:
        mine = {_index_text(shard.index, array.shape): shard.data for shard in array.addressable_shards}
        parts = {key: np.asarray(mine[key]) for key in entry["shards"] if key in mine}
    else:
        whole = np.asarray(
            array if array.is_fully_addressable else multihost_utils.process_allgather(array, tiled=True)
        )
        parts = {key: whole[_index_of(key)] for key in entry["shards"]}
    for key, part in parts.items():
        if digest(part) != entry["shards"][key]:
            raise RunError(f"the bytes of {name} are not those that were saved: SHA-256 differs")


def digests_of_all(aside: Place) -> list[dict[str, dict[str, str]]]:
    """The digests that every process wrote, waiting for those of the others."""
    files = [aside / f"digests-{process}.json" for process in range(jax.process_count())]
    deadline = time.monotonic() + PEERS_TIMEOUT
    while not all(file.exists() for file in files):
        if time.monotonic() > deadline:
            raise RunError(f"{aside}: the digests of another process did not appear within {PEERS_TIMEOUT:.0f} s")
        time.sleep(0.05 if isinstance(aside, Path) else 1.0)
    return [json.loads(file.read_text()) for file in files]


def flushed_files(path: Place) -> dict[str, dict[str, Any]]:
    """Length and SHA-256 of every file below `path`, flushed to the disk so that a rename publishes what lasts.

    Nothing for a bucket: its objects last, and would all have to be read back. The digests of the arrays, taken before
    they were written, tell every alteration that matters.
    """
    if not isinstance(path, Path):
        return {}
    entries = {}
    for file in sorted(path.rglob("*")):
        artifacts.sync_directory(file)  # opens read-only and flushes: as good for a file as for a directory
        if file.is_file():
            name = str(file.relative_to(path))
            entries[name] = {"bytes": file.stat().st_size, "sha256": artifacts.digest_file(file)}
    return entries


def verify_files(path: Place, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Compares this process's part of the files with the manifest: no file is read by two.

    Raises:
        RunError: naming the file.
    """
    for name in sorted(entries)[jax.process_index() :: jax.process_count()]:
        file, entry = path / name, entries[name]
        try:
            found = artifacts.described(file)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RunError(f"{name} is missing") from error
        if found["bytes"] != entry["bytes"] or found["sha256"] != entry["sha256"]:
            raise RunError(f"{name} is not what was written: SHA-256 differs")


def _index_text(index: Index, shape: tuple[int, ...]) -> str:
    """Where a shard lies in the whole array: "0:4,128:256"."""
    return ",".join("{}:{}".format(*part.indices(size)[:2]) for part, size in zip(index, shape, strict=True))


def _index_of(text: str) -> Index:
    return tuple(slice(*map(int, part.split(":"))) for part in text.split(",") if part)
