"""Rows from elsewhere: the tables of each site as one long table, and a digest that tells them from other rows."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gsae import artifacts
from gsae.activations.row_files import SETTING, Table, find_tables
from gsae.activations.store import PROVENANCE
from gsae.activations.superblocks import GRADIENT
from gsae.errors import SettingError

SAFE = re.compile(r"[A-Za-z0-9_.+-]+")  # names of sites are names of directories
SAMPLED_ROWS = 256  # of each table, at most: what its digest is made of


@dataclass(frozen=True)
class Rows:
    """Rows of one or more sites, each site's tables one after the other; row r is the same token at every site."""

    tables: Mapping[str, tuple[Table, ...]]

    @classmethod
    def open(cls, paths: Sequence[str]) -> "Rows":
        """Finds the rows of all sites below the paths (`row_files`); none is read yet.

        Raises:
            SettingError: naming the path without rows, the file that is not readable or whose rows have another width
                than those before it, or the site whose name is not a safe one.
        """
        tables: dict[str, list[Table]] = {}
        for table in find_tables(paths):
            check_site_name(table.site, SETTING)
            known = tables.setdefault(table.site, [])
            if known and table.width != known[0].width:
                allowed = f"rows of {table.site!r} have width {table.width}, those of {known[0].file} {known[0].width}"
                raise SettingError(SETTING, str(table.file), allowed)
            known.append(table)
        return cls({site: tuple(some) for site, some in tables.items()})

    def of(self, sites: Sequence[str]) -> "Rows":
        """The rows of these sites alone.

        Raises:
            SettingError: for a site that has no rows, or has not as many as the first.
        """
        for site in sites:
            if site not in self.tables:
                raise SettingError("config.sweep", site, f"the rows have the sites {', '.join(self.tables)}")
        chosen = Rows({site: self.tables[site] for site in sites})
        counts = {site: sum(table.rows for table in chosen.tables[site]) for site in sites}
        if len(set(counts.values())) > 1:
            raise SettingError(SETTING, counts, "every site must have as many rows: row r is one token at all of them")
        return chosen

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites' names."""
        return tuple(self.tables)

    @property
    def rows(self) -> int:
        """How many rows every site has."""
        return int(self._starts[self.sites[0]][-1])

    @cached_property
    def sequence_length(self) -> int:
        """T, if all tables hold sequences of T rows; 0 otherwise."""
        lengths = {table.sequence_length for tables in self.tables.values() for table in tables}
        return lengths.pop() if len(lengths) == 1 else 0

    @cached_property
    def _starts(self) -> dict[str, np.ndarray]:
        return {site: np.cumsum([0, *(table.rows for table in tables)]) for site, tables in self.tables.items()}

    def width(self, site: str) -> int:
        """D of the site."""
        return self.tables[site][0].width

    def read(self, site: str, start: int, stop: int) -> np.ndarray:
        """Rows [n, D] in the files' own dtype."""
        parts = [table.read(first, last) for table, first, last in self._parts(site, start, stop)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def token_ids(self, start: int, stop: int) -> np.ndarray:
        """The token of every row, [n] int32; -1 where no file says it."""
        site = next((s for s, tables in self.tables.items() if tables[0].token_ids is not None), self.sites[0])
        parts = [table.read_token_ids(first, last) for table, first, last in self._parts(site, start, stop)]
        return np.concatenate(parts).astype(np.int32)

    def place(self, site: str, row: int) -> str:
        """The file of a row, and where in it."""
        [(table, first, _)] = self._parts(site, row, row + 1)
        return table.place(first)

    def _parts(self, site: str, start: int, stop: int) -> list[tuple[Table, int, int]]:
        """The tables that hold rows start to stop - 1, and which rows of theirs these are."""
        starts = self._starts[site]
        within = range(int(np.searchsorted(starts, start, "right")) - 1, int(np.searchsorted(starts, stop, "left")))
        bounds = [(i, max(start, int(starts[i])), min(stop, int(starts[i + 1]))) for i in within]
        return [(self.tables[site][i], a - int(starts[i]), b - int(starts[i])) for i, a, b in bounds if a < b]

    @cached_property
    def fingerprint(self) -> str:
        """Digest of shapes, dtypes and some rows of every table, evenly spaced: not of every byte, nor of names.

        The same rows in another format, or elsewhere, are the same.
        """
        content = {site: [_sampled(table) for table in tables] for site, tables in self.tables.items()}
        return artifacts.fingerprint({"sequence_length": self.sequence_length, "tables": content})


def _sampled(table: Table) -> list[object]:
    digest = hashlib.sha256()
    for row in np.unique(np.linspace(0, table.rows - 1, SAMPLED_ROWS).astype(np.int64)) if table.rows else ():
        digest.update(np.ascontiguousarray(table.read(int(row), int(row) + 1)).tobytes())
    return [list(table.array.shape), str(table.array.dtype), digest.hexdigest()]


def check_site_name(site: str, setting: str) -> None:
    """Refuses a name that cannot be a directory's, or that a store uses itself.

    Raises:
        SettingError: naming the setting.
    """
    if not SAFE.fullmatch(site) or site in (*PROVENANCE, ".", "..") or site.endswith(GRADIENT):
        allowed = (
            "names of sites are made of letters, digits and . _ + -, do not end in "
            f"{GRADIENT}, and are none of {', '.join(PROVENANCE)}"
        )
        raise SettingError(setting, site, allowed)
