"""One of several processes that judge together: python two_evaluations.py PORT PROCESS PROCESSES RESULT."""

import json
import sys

import jax

port, process, processes, result = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
if processes > 1:
    jax.distributed.initialize(f"127.0.0.1:{port}", processes, process)

import numpy as np  # noqa: E402 - the backend must not start before the processes have met
import tiny_members  # noqa: E402

from gsae import mesh as axes  # noqa: E402
from gsae.evaluation.evaluate import evaluate  # noqa: E402
from gsae.evaluation.held_out_rows import evaluate_rows  # noqa: E402
from gsae.evaluation.members import Member  # noqa: E402
from gsae.language_models.loading import load_language_model  # noqa: E402
from gsae.training.extraction import member_on_host, member_on_mesh  # noqa: E402

found = {}
devices = jax.device_count() // 4
mesh = axes.make_mesh(sweep=2, data=devices, feature=2) if processes > 1 else axes.make_mesh()
stacked = tiny_members.stacked(mesh)
members = [
    Member(f"live{index}", "mlp_out.1", lambda index=index: member_on_mesh(stacked, index, mesh)) for index in range(2)
]
own = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
for parts in (1, 2) if processes > 1 else (1,):
    split = axes.split_over(own, parts) if parts > 1 else None
    language_model = load_language_model("bundled", mesh=split)
    for evaluation in evaluate(
        language_model, tiny_members.Held(), members, tokens=0, batch_size=3, mesh=mesh, progress=False
    ):
        found[f"{evaluation.name} in {parts}"] = {**evaluation.metrics, "fired": evaluation.density.tolist()}
for evaluation in evaluate_rows(tiny_members.rows(), members, rows=0, mesh=mesh, progress=False):
    found[f"{evaluation.name} on rows"] = {**evaluation.metrics, "fired": evaluation.density.tolist()}
for index in range(2):
    taken = member_on_host(stacked, index, mesh)
    assert (taken is None) == (process > 0)
    if taken is not None:
        found[f"weights{index}"] = {
            name: np.asarray(getattr(taken, name), np.float64).ravel().tolist() for name in taken.feature_axes
        }
if process == 0:
    with open(result, "w") as file:
        json.dump(found, file)
