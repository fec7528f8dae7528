"""From a language model and tokens to a finished activation store."""

import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import jax

from gsae.activations.account import Account, size
from gsae.activations.forward import Forward
from gsae.activations.statistics import NotFinite
from gsae.activations.writer import StoreWriter
from gsae.errors import RunError
from gsae.language_models.loading import LanguageModel
from gsae.language_models.sites import Site
from gsae.places import Place, place
from gsae.processes.waiting import together, wait_for_all
from gsae.text.tokens import TokenStore

SPARE_BYTES = 16 << 20  # room asked for beyond the rows: metadata, records, file system blocks


def harvest(
    language_model: LanguageModel,
    token_store: TokenStore,
    sites: Sequence[Site],
    path: str | Place,
    *,
    superblock_rows: int,
    max_rows: int | None = None,
    dtype: str = "bfloat16",
    seed: int = 0,
    batch_size: int = 0,
    devices: Sequence[jax.Device] | None = None,
    gradients: bool = False,
    process_index: int = 0,
    process_count: int = 1,
    progress: bool = True,
) -> None:
    """Writes the activations of the sites as the store `path`; what an earlier call has finished is kept.

    The rows are those of `RowOrder`. Killed at any moment and called again, it ends with the same bytes as a call
    that was never interrupted. With several processes each writes superblocks of its own, and the last to end publishes
    the manifest; `ActivationStore.open` works from then on.

    Args:
        language_model: what is run, up to the last layer that a site needs.
        token_store: where its tokens come from.
        sites: layers and places to read.
        path: directory of the store, or its URL.
        superblock_rows: R, rows of a superblock. A batch is drawn from one superblock and a sequence's rows lie in one
            or two of them, so large ones shuffle better. Two are held in memory, one of them being written.
        max_rows: at most so many rows; None or 0 for all that the text gives.
        dtype: of the stored rows, `bfloat16` or `float32`.
        seed: decides the order of the rows.
        batch_size: sequences in one forward pass; 0 for as many as are worth it and fit.
        devices: those of this process that share every pass; None for its first. Split parameters bring their own.
        gradients: whether the gradient of the language model's loss at each site (`gradients.py`) is stored beside it.
        process_index: which of the processes this is; process k mod `process_count` writes superblock k.
        process_count: how many processes share the work.
        progress: says what will be done, how long it will take and how fast it was, and draws a bar.

    Raises:
        SettingError: for a wrong setting, more rows than the text has, or a store begun with other settings.
        RunError: when the disk has no room, or an activation is not finite (naming the document).
    """
    forward = Forward.of(
        language_model,
        token_store,
        sites,
        superblock_rows=superblock_rows,
        max_rows=max_rows,
        seed=seed,
        batch_size=batch_size,
        dtype=dtype,
        devices=devices,
        gradients=gradients,
    )
    if process_index != 0:
        wait_for_all("store")  # the first process begins it
    writer = StoreWriter(place(path), forward.identity)
    if process_index == 0:
        wait_for_all("store")
    if writer.finished:
        return
    missing = writer.missing()
    mine = [k for k in missing if k % process_count == process_index]
    _check_room(writer.path, len(missing) * forward.identity.superblock_bytes())
    speaks = progress and process_index == 0
    with ThreadPoolExecutor(1) as pool, Account(forward, missing, mine, speaks) as account:
        writing: Future[None] | None = None
        for k in mine:
            rows = forward.superblock(k, account.rows)
            if writing is not None:
                writing.result()  # so that no more than two superblocks are in memory
            writing = pool.submit(_write, writer, k, rows, forward)
        if writing is not None:
            writing.result()
    wait_for_all("superblocks")
    if not writer.missing() and (process_index == 0 or not together()):
        writer.publish()


def _write(writer: StoreWriter, k: int, rows: dict, forward: Forward) -> None:
    try:
        writer.write(k, rows, forward.order.provenance(k))
    except NotFinite as error:
        raise forward.blamed(error, k) from error


def _check_room(path: Place, needed: int) -> None:
    if not isinstance(path, Path):
        return
    free = shutil.disk_usage(path).free
    if needed and needed + SPARE_BYTES > free:
        raise RunError(f"{path}: the activations need {size(needed)} and the disk has {size(free)} left")
