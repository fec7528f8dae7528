"""How fast batches arrive from a store in the page cache, beside reading the same bytes from a plain file.

`python benchmarks/read_batches.py [--gigabytes 1] [--superblock_megabytes 256]`

CPU seconds a gigabyte are printed too: they depend less on what else the machine does. November 2026, 2 cores,
`--gigabytes 2`, batches of 4 MB: np.fromfile 2.8 to 3.6 GB/s (0.36 CPU s/GB), epoch 0 1.01 (1.73), later epochs 1.56
(1.08), grain 1.30 (1.04). Epoch 0 reads each superblock once with SHA-256 compared; hence its CPU time.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from gsae.activations.batches import Batches
from gsae.activations.store import PROVENANCE, ActivationStore, Identity
from gsae.activations.writer import StoreWriter

SITE = "resid_post.0"


def make_store(path: Path, superblocks: int, rows: int, width: int) -> tuple[ActivationStore, float]:
    """A store of random bfloat16 rows, and how many gigabytes a second were written."""
    identity = Identity({SITE: width}, "bfloat16", rows, superblocks, 0, "none", "none")
    writer, count = StoreWriter(path, identity), np.arange(rows, dtype=np.int32)
    generator, seconds = np.random.default_rng(0), 0.0
    for k in range(superblocks):
        x_RD = generator.random((rows, width), dtype=np.float32).astype(jnp.bfloat16)
        began = time.perf_counter()
        writer.write(k, {SITE: x_RD}, dict.fromkeys(PROVENANCE, count))
        seconds += time.perf_counter() - began
        with open(path / "plain", "ab") as plain:
            x_RD.tofile(plain)
    writer.publish()
    return ActivationStore.open(path), superblocks * identity.superblock_bytes() / seconds / 1e9


def seconds_of(batches: Iterator) -> tuple[float, float]:
    """How long it takes until every batch has arrived on the device: by the clock, and of all cores' time."""
    began, used = time.perf_counter(), time.process_time()
    for batch in batches:
        jax.block_until_ready(batch)
    return time.perf_counter() - began, time.process_time() - used


def plain_batches(path: Path, batch_size: int, width: int, superblock_rows: int) -> Iterator[jax.Array]:
    """The same bytes without a store: whole superblocks by `np.fromfile`, cut and put on the device."""
    with open(path / "plain", "rb") as file:
        while len(x_RD := np.fromfile(file, jnp.bfloat16, superblock_rows * width).reshape(-1, width)):
            for start in range(0, superblock_rows, batch_size):
                yield jax.device_put(x_RD[start : start + batch_size].copy())


def grain_batches(store: ActivationStore, batch_size: int) -> Iterator[jax.Array]:
    """The first epoch by grain: one element is one superblock, unbatched again in the consumer."""
    import grain

    superblocks = grain.MapDataset.range(store.num_superblocks).map(lambda k: store.read(SITE, int(k)))
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    for x_RD in superblocks.to_iter_dataset(options):
        for start in range(0, len(x_RD), batch_size):
            yield jax.device_put(x_RD[start : start + batch_size].copy())


def main() -> None:
    """Prints a line per way of reading."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--superblock_megabytes", type=float, default=256)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--batch_size", type=int, default=4096)
    chosen = parser.parse_args()
    rows = int(chosen.superblock_megabytes * 1e6 / 2 / chosen.width) // chosen.batch_size * chosen.batch_size
    superblocks = max(1, round(chosen.gigabytes * 1e9 / 2 / chosen.width / rows))
    with tempfile.TemporaryDirectory() as directory:
        store, written = make_store(Path(directory), superblocks, rows, chosen.width)
        size = store.rows * chosen.width * 2 / 1e9
        batches = Batches(store, [SITE], chosen.batch_size, seed=0)
        n = batches.steps_per_epoch
        ways: dict[str, Callable[[], Iterator]] = {
            "np.fromfile": lambda: plain_batches(Path(directory), chosen.batch_size, chosen.width, rows),
            "Batches, epoch 0 (SHA-256 compared)": lambda: batches.stream(0, n),
            "Batches, epoch 1 (rows permuted)": lambda: batches.stream(n, 2 * n),
            "grain": lambda: grain_batches(store, chosen.batch_size),
            "np.fromfile again": lambda: plain_batches(Path(directory), chosen.batch_size, chosen.width, rows),
        }
        print(f"{size:.2f} GB in {superblocks} superblocks of {rows:,} x {chosen.width}; written at {written:.2f} GB/s")
        plain = 0.0
        for name, make in ways.items():
            seconds, used = seconds_of(make())
            plain = plain or size / seconds
            speed = f"{size / seconds:6.2f} GB/s, {size / seconds / plain:5.2f} of np.fromfile"
            print(f"{name:36s} {speed}; {used / size:5.2f} CPU s/GB; {seconds / n * 1e3:6.2f} ms a batch", flush=True)


if __name__ == "__main__":
    main()
