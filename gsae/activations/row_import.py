"""From rows that something else has written to two finished activation stores: to train on, and to judge by.

path/train/       superblocks of the rows that train
path/held_out/    those of a share that never trains, which every autoencoder is judged by
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from gsae.activations.order import HELD_OUT_ROWS, ROWS
from gsae.activations.row_runs import RunOrder, Segment, run_length, split_runs
from gsae.activations.rows import Rows
from gsae.activations.statistics import NotFinite
from gsae.activations.store import SETTINGS, Identity
from gsae.activations.writer import StoreWriter
from gsae.errors import RunError, SettingError
from gsae.places import Place

TRAIN, HELD_OUT = "train", "held_out"
NO_LANGUAGE_MODEL = "none: rows from elsewhere"
READERS = 8  # threads
SPARE_BYTES = 16 << 20  # room asked for beyond the rows
# The setting to name when a store was begun with other rows than these; see `store.SETTINGS`.
NAMED = {**SETTINGS, "language_model": "config.activations.source", "tokens": "config.activations.paths"}


def import_tables(
    rows: Rows,
    path: Place,
    *,
    superblock_rows: int,
    held_out_fraction: float,
    max_rows: int = 0,
    dtype: str = "bfloat16",
    seed: int = 0,
    fingerprint: str | None = None,
    progress: bool = True,
) -> None:
    """Writes rows as the stores `path/train` and `path/held_out`; what an earlier call has finished is kept.

    Runs of neighbouring rows (`row_runs`) are held out, or shuffled over all of the training rows, by the seed. Killed
    at any moment and called again, it ends with the same bytes as a call that was never interrupted.

    Args:
        rows: of all the sites, which have equally many.
        path: directory of the two stores, or their place in a bucket.
        superblock_rows: R, rows of a superblock of the training part; two are held in memory. The superblocks of the
            held-out part are as large as that, or as the part if it is smaller.
        held_out_fraction: share of the rows that never train.
        max_rows: at most so many rows to train on; 0 for all.
        dtype: of the stored rows, `bfloat16` or `float32`.
        seed: decides what is held out, and the order of the rows.
        fingerprint: what tells these rows from others; by default the digest of `rows`.
        progress: says what will be written, and draws a bar.

    Raises:
        SettingError: when there are too few rows, or a store was begun with other settings.
        RunError: when the disk has no room, or naming the file and the row that is not finite.
    """
    run = run_length(rows.rows, rows.sequence_length)
    held_out, train = split_runs(rows.rows, run, held_out_fraction, seed)
    held_out_rows = RunOrder(held_out, run, rows.rows, 1, seed, HELD_OUT_ROWS).rows_found
    superblocks = -(-held_out_rows // superblock_rows)
    parts = {
        HELD_OUT: RunOrder(held_out, run, rows.rows, held_out_rows // superblocks, seed, HELD_OUT_ROWS),
        TRAIN: RunOrder(train, run, rows.rows, superblock_rows, seed, ROWS, max_rows),
    }
    if not parts[TRAIN].num_superblocks:
        found = parts[TRAIN].rows_found
        allowed = f"must be at most the {found} rows to train on ({held_out_rows} of {rows.rows} are held out)"
        raise SettingError("config.activations.superblock_rows", superblock_rows, allowed)
    digest = fingerprint or rows.fingerprint
    for part, order in parts.items():
        identity = Identity(
            sites={site: rows.width(site) for site in rows.sites},
            dtype=dtype,
            superblock_rows=order.superblock_rows,
            num_superblocks=order.num_superblocks,
            seed=seed,
            language_model=NO_LANGUAGE_MODEL,
            tokens=f"{digest}, {part}, {held_out_fraction} held out",
        )
        _write_part(rows, order, StoreWriter(path / part, identity, NAMED), part, progress)


def _write_part(rows: Rows, order: RunOrder, writer: StoreWriter, part: str, progress: bool) -> None:
    if writer.finished:
        return
    identity, missing = writer.identity, writer.missing()
    _check_room(writer.path, len(missing) * identity.superblock_bytes())
    if progress:
        left_out = order.rows_found - order.num_superblocks * order.superblock_rows
        print(
            f"{part}: {', '.join(rows.sites)}; {order.num_superblocks} superblocks of {order.superblock_rows:,} rows, "
            f"{len(missing)} to make"
            + (f" (the last {left_out:,} rows fill none and are left out)" if left_out else ""),
            file=sys.stderr,
            flush=True,
        )
    total, initial = order.num_superblocks, order.num_superblocks - len(missing)
    bar = tqdm(total=total, initial=initial, desc=part, unit=" superblocks", disable=not progress)
    with ThreadPoolExecutor(READERS) as readers, ThreadPoolExecutor(1) as pool, bar:
        writing: Future[None] | None = None
        for k in missing:
            segments = order.superblock(k)
            read = {site: _read(rows, site, segments, identity, readers) for site in rows.sites}
            if writing is not None:
                writing.result()  # so that no more than two superblocks are in memory
            writing = pool.submit(_write, writer, k, read, rows, segments)
            bar.update()
        if writing is not None:
            writing.result()
    writer.publish()


def _read(
    rows: Rows, site: str, segments: Sequence[Segment], identity: Identity, readers: ThreadPoolExecutor
) -> np.ndarray:
    """A superblock of the site, [R, D] in the dtype of the store."""
    rows_RD = np.empty((identity.superblock_rows, rows.width(site)), jnp.dtype(identity.dtype))

    def place(segment: Segment) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is named when it is written
            rows_RD[segment.places] = rows.read(site, segment.start, segment.stop).astype(rows_RD.dtype, copy=False)

    list(readers.map(place, segments))  # raises what went wrong
    return rows_RD


def _write(
    writer: StoreWriter, k: int, read: Mapping[str, np.ndarray], rows: Rows, segments: Sequence[Segment]
) -> None:
    try:
        writer.write(k, read, provenance(rows, segments, writer.identity.superblock_rows))
    except NotFinite as error:
        for segment in segments:
            for row in np.flatnonzero(segment.places == error.row):
                where = rows.place(error.site, segment.start + int(row))
                raise RunError(f"{where} of {error.site} is not finite (in {writer.identity.dtype})") from error
        raise


def provenance(rows: Rows, segments: Sequence[Segment], superblock_rows: int) -> dict[str, np.ndarray]:
    """`token_id` (-1 where it is not known), `sequence_id` and `position` of every row of a superblock, each [R] int32.

    Where the files tell no sequences, a run of neighbouring rows is one.
    """
    length = rows.sequence_length or run_length(rows.rows, 0)
    columns = {name: np.empty(superblock_rows, np.int32) for name in ("token_id", "sequence_id", "position")}
    for segment in segments:
        sequence, position = np.divmod(np.arange(segment.start, segment.stop), length)
        columns["token_id"][segment.places] = rows.token_ids(segment.start, segment.stop)
        columns["sequence_id"][segment.places], columns["position"][segment.places] = sequence, position
    return columns


def _check_room(path: Place, needed: int) -> None:
    if not isinstance(path, Path):
        return
    free = shutil.disk_usage(path).free
    if needed and needed + SPARE_BYTES > free:
        raise RunError(f"{path}: the rows need {needed / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB left")
