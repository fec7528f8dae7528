"""One of two processes that harvest, and make the same rows live: python two_harvests.py PORT PROCESS TOKENS STORE."""

import os
import sys
from pathlib import Path

import jax
import numpy as np

port, process, tokens, path = sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)

from jax.experimental import multihost_utils  # noqa: E402 - the backend must not start before the processes have met
from rows_of_steps import MESHES_OF_TWO, STEPS, flattened, with_provenance  # noqa: E402
from tiny_harvest import HARVEST, SITES, make_language_model  # noqa: E402

from gsae.activations.batches import Batches  # noqa: E402
from gsae.activations.harvest import harvest  # noqa: E402
from gsae.activations.live_together import LiveTogether  # noqa: E402
from gsae.activations.store import ActivationStore  # noqa: E402
from gsae.mesh import make_mesh  # noqa: E402
from gsae.processes.failing import is_lost_peer  # noqa: E402
from gsae.text.tokens import TokenStore  # noqa: E402
from gsae.training.step import batch_sharding  # noqa: E402

names = tuple(map(str, SITES))
mesh = make_mesh(data=-1)  # of the devices of both processes, as a run's is
own = [device for device in mesh.devices.flat if device.process_index == process]
assert 0 < len(own) < mesh.size
language_model, token_store = make_language_model(), TokenStore.open(tokens)
harvest(
    language_model,
    token_store,
    SITES,
    path,
    **HARVEST,
    devices=own,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
)
multihost_utils.sync_global_devices("harvested")
store = ActivationStore.open(path)
print("rows", store.rows)

# The batches of some steps, whole and in order, on two meshes: the test has them from one process.
for sizes in MESHES_OF_TWO:
    batches = with_provenance(store, make_mesh(*sizes))
    rows = [multihost_utils.process_allgather(batch, tiled=True) for batch in batches.stream(*STEPS)]
    if process == 0:
        np.savez(path.with_name(f"rows{sizes}.npz"), **flattened(rows))

live = LiveTogether.of(language_model, token_store, SITES, path.with_name("live.json"), devices=own, **HARVEST)
sharding = batch_sharding(mesh)
stored = Batches(store, names, 128, 1, sharding=sharding)
made = Batches(live, names, 128, 1, sharding=sharding, meet=live.meet)


def assert_same(start, stop):
    for ours, others in zip(made.stream(start, stop), stored.stream(start, stop), strict=True):
        for name in names:
            shards = (batch[name]["x"].addressable_shards for batch in (ours, others))
            for one, other in zip(*shards, strict=True):
                assert one.index == other.index and np.asarray(one.data).tobytes() == np.asarray(other.data).tobytes()


for name in names:
    for key, value in store.statistics(name).items():
        assert np.asarray(live.statistics(name)[key]).tobytes() == np.asarray(value).tobytes()
assert live.made == store.num_superblocks
assert_same(0, 2 * made.steps_per_epoch + 1)  # two epochs: every generation once in each
assert 0 <= 3 * store.num_superblocks + 1 - live.made <= 2  # the two that the statistics left are used again
before = live.made
assert_same(3, 8)  # from the middle of a superblock, as after a resume, while other generations are kept
assert 0 < live.made - before <= 3
assert made.stall_seconds > 0 and live.idle_seconds > 0
live.close()
again = LiveTogether.of(language_model, token_store, SITES, path.with_name("live.json"), devices=own, **HARVEST)
assert again.statistics(names[0])["mean"].tobytes() == live.statistics(names[0])["mean"].tobytes() and not again.made
again.close()
multihost_utils.sync_global_devices("live")
print("live", live.describe(), flush=True)

# A peer that is lost while rows are exchanged: an error at once, that is known for what it is (`Together`).
lost = LiveTogether.of(language_model, token_store, SITES, path.with_name("live.json"), devices=own, **HARVEST)
lost.meet(0)
assert lost.read(names[0], 0).any()
multihost_utils.sync_global_devices("lost")
if process == 1:
    os._exit(0)
try:
    lost.meet(1)
    lost.read(names[0], 1)
    print("nothing was missed")
except Exception as error:
    print("missed" if is_lost_peer(error) else "unknown", repr(error))
sys.stdout.flush()
os._exit(0)  # jax would wait for the other one
