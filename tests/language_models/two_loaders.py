"""One of two processes that load a model over both: python two_loaders.py PORT PROCESS DIRECTORY."""

import json
import sys

import jax
import numpy as np

port, process, directory = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)

from flax import nnx  # noqa: E402 - the backend must not start before the processes have met
from jax.experimental import multihost_utils  # noqa: E402

from gsae import artifacts  # noqa: E402
from gsae.language_models import fingerprint, weights  # noqa: E402
from gsae.language_models.loading import load_language_model  # noqa: E402
from gsae.mesh import make_mesh  # noqa: E402

read, digested = [], []


class Bar:
    def __init__(self, **_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def update(self, count):
        read.append(count)


weights.tqdm = Bar
fingerprint.digest_file = lambda path: digested.append(path.name) or artifacts.digest_file(path)
loaded = load_language_model(directory, mesh=make_mesh(1, 1, 4))
logits = nnx.jit(lambda model, tokens: model(tokens))(loaded.model, np.arange(24).reshape(3, 8))
whole = np.asarray(multihost_utils.process_allgather(logits, tiled=True))
np.save(f"{directory}/logits{process}.npy", whole)
print(json.dumps({"read": sum(read), "digested": digested, "fingerprint": loaded.fingerprint}))
