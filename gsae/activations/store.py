"""Superblocks on disk or in a bucket: one TensorStore array per site, beside the provenance of every row.

    path/identity.json           what the store is made from, written first: nothing else may continue it
    path/arrays/<name>/          zarr3, sharded; rows k * R to (k + 1) * R - 1 are superblock k, in whole shards
    path/superblocks/<k>.json    written when superblock k is safely on the disk: its digests and sums
    path/manifest.json           written last: without it the store is not finished

Every chunk carries a CRC-32C and every superblock of every array a SHA-256: what is missing, truncated, altered or
exchanged is named by a `RunError`, never read as data.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from gsae import artifacts
from gsae.activations.arrays import SuperblockArray, digest_rows
from gsae.activations.statistics import Sums, combined, sampled_superblocks
from gsae.activations.superblocks import GRADIENT, Statistics
from gsae.errors import RunError
from gsae.places import Place, place

FORMAT = "gsae activations 1"
IDENTITY, RECORDS, ARRAYS = "identity.json", "superblocks", "arrays"
PROVENANCE = ("token_id", "sequence_id", "position")
# The setting to name when a store was begun with another value of a field of `Identity`; the first that differs.
SETTINGS = {
    "sites": "config.sweep",
    "dtype": "config.activations.dtype",
    "superblock_rows": "config.activations.superblock_rows",
    "seed": "config.seed",
    "language_model": "config.language_model",
    "tokens": "config.text",
    "num_superblocks": "config.activations.rows",  # last: it follows from the text and the superblock's rows as well
}


@dataclasses.dataclass(frozen=True)
class Identity:
    """Everything that decides a store's rows and their order."""

    sites: Mapping[str, int]  # name -> width; the sites, then their gradients (name + GRADIENT) if there are any
    dtype: str
    superblock_rows: int
    num_superblocks: int
    seed: int
    language_model: str  # fingerprint, and the dtype that it computes in
    tokens: str  # fingerprint

    @property
    def without_gradients(self) -> tuple[str, ...]:
        """The sites alone."""
        return tuple(name for name in self.sites if not name.endswith(GRADIENT))

    @property
    def fingerprint(self) -> str:
        """Digest (64 hex digits) of all of it."""
        return artifacts.fingerprint(dataclasses.asdict(self))

    def fingerprint_of(self, site: str) -> str:
        """Digest of what decides the rows of one site: the same whichever others are made beside it."""
        return artifacts.fingerprint({**dataclasses.asdict(self), "sites": {site: self.sites[site]}})

    def arrays(self, path: Place) -> dict[str, SuperblockArray]:
        """The arrays of the store at `path`: the sites, then the provenance."""
        rows, dtype = self.superblock_rows, jnp.dtype(self.dtype)
        shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {s: ((rows, w), dtype) for s, w in self.sites.items()}
        shapes |= {name: ((rows,), jnp.dtype(np.int32)) for name in PROVENANCE}
        return {
            name: SuperblockArray(path / ARRAYS / name, self.num_superblocks, shape, dtype)
            for name, (shape, dtype) in shapes.items()
        }

    def superblock_bytes(self) -> int:
        """Bytes of one superblock in all arrays (checksums, a few parts in a million, left aside)."""
        return self.superblock_rows * (sum(self.sites.values()) * jnp.dtype(self.dtype).itemsize + 4 * len(PROVENANCE))


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """The value with its own fingerprint, so that `unsealed` notices any change."""
    return {**value, "fingerprint": artifacts.fingerprint(dict(value))}


def unsealed(path: Place, value: Any) -> dict[str, Any]:
    """What was sealed.

    Raises:
        RunError: naming the file `path`, when it is something else.
    """
    try:
        rest = {key: item for key, item in value.items() if key != "fingerprint"}
        if value["fingerprint"] == artifacts.fingerprint(rest):
            return rest
    except (AttributeError, KeyError, ValueError):  # not a dict, not sealed, or a number that JSON cannot hold
        pass
    raise RunError(f"{path}: is not what was written (its fingerprint differs); delete it and start again")


def read_sealed(path: Place) -> dict[str, Any]:
    """A sealed JSON file.

    Raises:
        RunError: when it is missing or altered.
    """
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: is not readable ({error}); delete it and start again") from error
    return unsealed(path, value)


def read_sums(path: Place, k: int, superblock_rows: int) -> dict[str, Sums]:
    """By site, the sums over superblock k that the record of the store at `path` holds; errors as `read_sealed`."""
    found = read_sealed(record_path(path, k))["sums"]
    return {
        site: Sums(superblock_rows, np.array(part["total"]), float(part["squared_norm"]))
        for site, part in found.items()
    }


def record_path(path: Place, k: int) -> Place:
    """Where the record of superblock k is kept."""
    return path / RECORDS / f"{k:08d}.json"


@dataclasses.dataclass(frozen=True)
class ActivationStore:
    """A finished store: the `Superblocks` on disk."""

    path: Place
    manifest: Mapping[str, Any]
    statistics_rows: int = 0
    _compared: set[tuple[str, int]] = dataclasses.field(default_factory=set, repr=False, compare=False)

    @classmethod
    def open(cls, path: str | Place, statistics_rows: int = 0) -> "ActivationStore":
        """Opens a finished store; no row is read yet.

        Args:
            path: directory of the store, or its URL.
            statistics_rows: how many of its rows, in whole superblocks from the first, `statistics` is about; 0: all.

        Raises:
            RunError: when it is not finished, or its manifest or an array's metadata is missing or altered.
        """
        path = place(path)
        manifest = artifacts.read_manifest(path)
        if manifest is not None:
            unsealed(path / artifacts.MANIFEST, manifest)
        manifest = artifacts.verify(path)
        if manifest["format"] != FORMAT:
            raise RunError(f"{path}: is not an activation store of this version ({manifest['format']!r})")
        return cls(path, manifest, statistics_rows)

    @functools.cached_property
    def identity(self) -> Identity:
        """What the store is made from."""
        return Identity(**{field.name: self.manifest[field.name] for field in dataclasses.fields(Identity)})

    @functools.cached_property
    def _arrays(self) -> dict[str, SuperblockArray]:
        return self.identity.arrays(self.path)

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites' names, in the order in which they were harvested."""
        return self.identity.without_gradients

    @property
    def gradients(self) -> bool:
        """Whether `read(site + GRADIENT, k)` gives the gradient of the language model's loss at each site."""
        return len(self.sites) < len(self.identity.sites)

    @property
    def rows(self) -> int:
        """All rows of all superblocks."""
        return self.manifest["rows"]

    @property
    def superblock_rows(self) -> int:
        """R."""
        return self.identity.superblock_rows

    @property
    def num_superblocks(self) -> int:
        """How many superblocks there are."""
        return self.identity.num_superblocks

    @property
    def fingerprint(self) -> str:
        """Digest of what decides the rows; that they are what was written is checked when they are read."""
        return self.identity.fingerprint

    def width(self, site: str) -> int:
        """D of the site."""
        return self.identity.sites[site]

    def statistics(self, site: str) -> Statistics:
        """Mean [D] float64 and mean squared norm over the first `statistics_rows` rows of the site."""
        count = sampled_superblocks(self.statistics_rows, self.superblock_rows, self.num_superblocks)
        if count < self.num_superblocks:
            return combined(read_sums(self.path, k, self.superblock_rows)[site] for k in range(count))
        found = self.manifest["statistics"][site]
        return {"mean": np.array(found["mean"]), "mean_squared_norm": found["mean_squared_norm"]}

    def read(self, site: str, k: int) -> np.ndarray:
        """Superblock k of a site, or of its gradients, [R, D] in the store's dtype.

        The SHA-256 is compared when a superblock is first read, the CRC-32C of its chunks every time.

        Raises:
            RunError: naming array and superblock, when any byte is missing, truncated or altered.
        """
        return self._read(site, k)

    def provenance(self, k: int) -> dict[str, np.ndarray]:
        """`token_id`, `sequence_id`, `position` of every row of superblock k, each [R] int32; errors as `read`."""
        return {name: self._read(name, k) for name in PROVENANCE}

    def _read(self, name: str, k: int) -> np.ndarray:
        rows = self._arrays[name].read(k)
        if (name, k) not in self._compared:
            if digest_rows(rows) != self.manifest["digests"][name][k]:
                raise RunError(f"{self._arrays[name].path}: superblock {k} is not what was written (SHA-256 differs)")
            self._compared.add((name, k))
        return rows
