"""One process of some that calibrate together: python calibrating.py PORT PROCESSES PROCESS; prints what was set."""

import sys

import jax
from jax.sharding import NamedSharding, PartitionSpec

port, processes, process = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4 // processes)
if processes > 1:
    jax.distributed.initialize(f"127.0.0.1:{port}", processes, process)

from gsae.activations.batches import Batches  # noqa: E402 - the backend must not start before the processes have met
from gsae.activations.synthetic import SITE, Synthetic  # noqa: E402
from gsae.autoencoders.registry import make_options  # noqa: E402
from gsae.mesh import AXES, fetch, make_mesh  # noqa: E402
from gsae.training.calibration import calibrated  # noqa: E402
from gsae.training.groups import Point, group_points  # noqa: E402
from gsae.training.schedules import Schedules  # noqa: E402
from gsae.training.step import StepSettings, initial_state  # noqa: E402

mesh = make_mesh(1, 2, 2)
rows = NamedSharding(mesh, PartitionSpec(AXES))
batches = Batches(Synthetic(16, 24, 3.0, 2048, 512, seed=3), [SITE], 64, 5, sharding=rows)
settings = StepSettings(batch_size=64, schedules=Schedules(total_steps=10))
for name, field in (("topk", "b_dec"), ("jumprelu_tanh", "b_enc")):
    (group,) = group_points([Point(name, SITE, 32, 4, 1e-2, 0, make_options(name, {}))])
    state, count = calibrated(group, initial_state(group, 16, mesh), batches, settings, mesh)
    # a line of its own: the collectives' library prints without one
    print(f"\ncalibrated {name} {count} {fetch(getattr(state.autoencoder, field)).tobytes().hex()}", flush=True)
