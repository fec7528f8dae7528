"""One of two processes that harvest together: python two_harvests.py PORT PROCESS TOKENS STORE."""

import sys
from pathlib import Path

import jax

port, process, tokens, path = sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)

from jax.experimental import multihost_utils  # noqa: E402 - the backend must not start before the processes have met
from tiny_harvest import HARVEST, SITES, make_language_model  # noqa: E402

from gsae.activations.harvest import harvest  # noqa: E402
from gsae.activations.store import ActivationStore  # noqa: E402
from gsae.mesh import make_mesh  # noqa: E402
from gsae.text.tokens import TokenStore  # noqa: E402

mesh = make_mesh(data=-1)  # of the devices of both processes, as a run's is
own = [device for device in mesh.devices.flat if device.process_index == process]
assert 0 < len(own) < mesh.size
harvest(
    make_language_model(),
    TokenStore.open(tokens),
    SITES,
    path,
    **HARVEST,
    devices=own,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
)
multihost_utils.sync_global_devices("harvested")
print("rows", ActivationStore.open(path).rows)
