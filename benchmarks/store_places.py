"""How fast a store is written to and read from a directory or a bucket, superblock by superblock.

    python benchmarks/store_places.py PLACE ... [--superblocks 4] [--superblock_megabytes 128]

Each place is a directory or an URL (gs://bucket/path, s3://bucket/path); what is written there is left there.
`python tests/bucket_servers.py python benchmarks/store_places.py /tmp/store gs://bucket/store s3://bucket/store`
compares the disk with the local servers of the tests (extra `test`), on which docs/buckets.md has the figures.
"""

import argparse
import time

import jax.numpy as jnp
import numpy as np

from gsae.activations.store import PROVENANCE, ActivationStore, Identity
from gsae.activations.writer import StoreWriter
from gsae.places import place

SITE = "resid_post.0"


def measure(where: str, superblocks: int, rows: int, width: int) -> tuple[float, float]:
    """MB/s of writing and of the first reading, SHA-256 compared; a superblock is written before the next is made."""
    identity = Identity({SITE: width}, "bfloat16", rows, superblocks, 0, "none", str(time.time()))
    writer, count = StoreWriter(place(where), identity), np.arange(rows, dtype=np.int32)
    generator, seconds = np.random.default_rng(0), 0.0
    for k in range(superblocks):
        x_RD = generator.random((rows, width), dtype=np.float32).astype(jnp.bfloat16)
        began = time.perf_counter()
        writer.write(k, {SITE: x_RD}, dict.fromkeys(PROVENANCE, count))
        seconds += time.perf_counter() - began
    writer.publish()
    store, began = ActivationStore.open(where), time.perf_counter()
    for k in range(superblocks):
        store.read(SITE, k)
    megabytes = superblocks * rows * width * 2 / 1e6
    return megabytes / seconds, megabytes / (time.perf_counter() - began)


def main() -> None:
    """Prints a line per place."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="+")
    parser.add_argument("--superblocks", type=int, default=4)
    parser.add_argument("--superblock_megabytes", type=float, default=128)
    parser.add_argument("--width", type=int, default=512)
    chosen = parser.parse_args()
    rows = int(chosen.superblock_megabytes * 1e6 / 2 / chosen.width)
    for where in chosen.places:
        written, read = measure(where, chosen.superblocks, rows, chosen.width)
        print(f"{where}: written at {written:,.0f} MB/s, read at {read:,.0f} MB/s", flush=True)


if __name__ == "__main__":
    main()
