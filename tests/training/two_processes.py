"""One of two processes that save and restore a checkpoint together: python two_processes.py PORT PROCESS PLACE."""

import sys

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

port, process, directory = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)

from gsae import mesh as axes  # noqa: E402 - the backend must not start before the processes have met
from gsae.places import BucketPath, place  # noqa: E402
from gsae.training.checkpoints import Checkpoints  # noqa: E402

directory = place(directory)


def tree_on(mesh, spec, seed):
    values = np.random.default_rng(seed).standard_normal((4, 6, 32)).astype(np.float32)
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    return {"W": jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])}, values


mesh = axes.make_mesh(1, 1, 2)
with Checkpoints(directory, every=1) as checkpoints:
    for step in (1, 2):
        checkpoints.save(step, tree_on(mesh, (None, None, axes.FEATURE), step)[0])
from jax.experimental import multihost_utils  # noqa: E402

multihost_utils.sync_global_devices("saved")
if process == 1:  # one process damages the newest; both must take the other
    state = directory / "step-000000002" / "state"
    files = (
        [state / key for key in state.keys()]  # noqa: SIM118 - no mapping
        if isinstance(state, BucketPath)
        else [file for file in state.rglob("*") if file.is_file()]
    )
    file = max(files, key=lambda file: len(file.read_bytes()))
    file.write_bytes(file.read_bytes()[: len(file.read_bytes()) // 2])
multihost_utils.sync_global_devices("damaged")
for spec in ((None, None, axes.FEATURE), (axes.FEATURE, None, None)):
    with Checkpoints(directory, every=1) as checkpoints:
        target, values = tree_on(mesh, spec, 1)
        step, restored, _ = checkpoints.restore_newest(target)
    assert step == 1 and restored["W"].sharding == target["W"].sharding
    for shard in restored["W"].addressable_shards:
        assert np.asarray(shard.data).tobytes() == np.ascontiguousarray(values[shard.index]).tobytes()
    multihost_utils.sync_global_devices(str(spec))
print("restored", step)
