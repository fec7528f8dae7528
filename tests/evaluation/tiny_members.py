"""Two autoencoders in a group's state, and held-out text and rows for the bundled language model."""

from types import SimpleNamespace

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from gsae import mesh as axes
from gsae.autoencoders.registry import architecture

D, F, SITE = 128, 64, "mlp_out.1"
ROWS = np.random.default_rng(1).normal(0.3, 1, (53, D)).astype(np.float32)


class Held:
    """Seven sequences of three documents; position 0 counts nowhere."""

    num_sequences, context_length, num_documents = 7, 8, 4
    tokens = np.random.default_rng(0).integers(0, 1000, (7, 8)).astype(np.uint16)

    def documents_of(self, ids):
        return np.repeat(np.asarray(ids)[:, None] // 2, 8, axis=1).astype(np.int32)

    def mask(self, ids):
        return np.arange(8) > np.zeros((len(ids), 1))


def rows():
    return SimpleNamespace(
        sites=(SITE,), rows=len(ROWS), superblock_rows=20, width=lambda _: D,
        read=lambda site, k: ROWS[k * 20 : (k + 1) * 20],
    )  # fmt: skip


def stacked(mesh, name="gated", members=2):
    """As in a group's state, on the mesh."""
    kind = architecture(name)
    made = [kind.initialise(jax.random.key(seed), D, F, kind.Options()) for seed in range(members)]
    host = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *made)
    specs = made[0].partition_specs()

    def put(array, spec):
        sharding = NamedSharding(mesh, PartitionSpec(axes.SWEEP, *spec))
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return host.replace(**{field: put(getattr(host, field), getattr(specs, field)) for field in host.feature_axes})
