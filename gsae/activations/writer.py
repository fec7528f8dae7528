"""Fills a store: superblock by superblock, each recorded when it is safe, and the manifest when all are."""

import dataclasses
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from gsae import artifacts
from gsae.activations.arrays import digest_rows
from gsae.activations.statistics import combined, finite_sums
from gsae.activations.store import (
    ARRAYS,
    FORMAT,
    IDENTITY,
    RECORDS,
    SETTINGS,
    Identity,
    read_sealed,
    read_sums,
    record_path,
    sealed,
)
from gsae.activations.superblocks import GRADIENT
from gsae.errors import RunError, SettingError
from gsae.places import Place, names

REQUESTS = 32  # records that are looked for at once


class StoreWriter:
    """Fills a store superblock by superblock, in any order, from any number of processes; continues a killed one."""

    def __init__(self, path: Place, identity: Identity, settings: Mapping[str, str] = SETTINGS):
        """Begins the store, or finds what is there.

        Args:
            path: directory of the store, or its place in a bucket.
            identity: what it is made from.
            settings: the setting to name when a field of the identity differs; the first that does.

        Raises:
            SettingError: when the directory holds a store of another identity, naming the setting and both values.
            RunError: when it cannot be written or read.
        """
        self.path, self.identity = path, identity
        wanted = json.loads(artifacts.canonical_json(dataclasses.asdict(identity)))
        if (path / IDENTITY).exists():
            begun = read_sealed(path / IDENTITY)
            for field, setting in settings.items():
                if begun.get(field) != wanted[field]:
                    if field == "sites" and _sites_alone(begun[field]) == _sites_alone(wanted[field]):
                        setting = "config.activations.gradients"
                    allowed = f"the store {path} was begun with {begun.get(field)!r}; delete it or use another workdir"
                    raise SettingError(setting, wanted[field], allowed)
        elif names(path / RECORDS):
            raise RunError(f"{path / IDENTITY}: is missing; delete {path} and start again")
        else:
            artifacts.write_json(path / IDENTITY, sealed(wanted))
        self._arrays = identity.arrays(path)

    @property
    def finished(self) -> bool:
        """Whether the manifest is there."""
        return artifacts.read_manifest(self.path) is not None

    def missing(self) -> list[int]:
        """The superblocks that are not finished."""
        listed = names(self.path / RECORDS)  # quick; a bucket's list may lack some
        others = [k for k in range(self.identity.num_superblocks) if record_path(self.path, k).name not in listed]
        with ThreadPoolExecutor(REQUESTS) as pool:
            there = pool.map(lambda k: record_path(self.path, k).exists(), others)
            return [k for k, exists in zip(others, there, strict=True) if not exists]

    def write(self, k: int, rows: Mapping[str, np.ndarray], provenance: Mapping[str, np.ndarray]) -> None:
        """Writes superblock k, whole, then its record. Writing it again gives the same bytes.

        Args:
            k: the number of the superblock.
            rows: by site, [R, D] in the store's dtype; finite.
            provenance: `token_id`, `sequence_id`, `position`, each [R] int32.

        Raises:
            RunError: naming the site and the row (`NotFinite`), or what cannot be written.
        """
        parts = finite_sums({site: rows[site] for site in self.identity.sites})
        columns = {**rows, **provenance}
        for name, array in self._arrays.items():
            array.create()
            array.write(k, columns[name])
        record = {
            "superblock": k,
            "digests": {name: digest_rows(columns[name]) for name in self._arrays},
            "sums": {site: {"total": p.total.tolist(), "squared_norm": p.squared_norm} for site, p in parts.items()},
        }
        artifacts.write_json(record_path(self.path, k), sealed(record))

    def publish(self) -> None:
        """Writes the manifest from the records: it is the same whoever wrote them, and when."""
        numbers, rows = range(self.identity.num_superblocks), self.identity.superblock_rows
        records = [read_sealed(record_path(self.path, k)) for k in numbers]
        sums = [read_sums(self.path, k, rows) for k in numbers]
        statistics = {}
        for site in self.identity.sites:
            total = combined(part[site] for part in sums)
            statistics[site] = {
                "mean": total["mean"].tolist(),
                "mean_squared_norm": total["mean_squared_norm"],
            }
        small = [IDENTITY, *(f"{ARRAYS}/{name}/zarr.json" for name in self._arrays)]
        manifest = {
            "format": FORMAT,
            **dataclasses.asdict(self.identity),
            "rows": len(records) * rows,
            "statistics": statistics,
            "digests": {name: [record["digests"][name] for record in records] for name in self._arrays},
            "files": {file: artifacts.described(self.path / file) for file in small},
        }
        artifacts.write_json(self.path / artifacts.MANIFEST, sealed(manifest))
        artifacts.sync_directory(self.path)


def _sites_alone(sites: Mapping[str, int]) -> list[str]:
    return [name for name in sites if not name.endswith(GRADIENT)]
