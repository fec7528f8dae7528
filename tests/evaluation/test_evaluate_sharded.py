"""Evaluating while a mesh is set and autoencoders are spread over it, as during training."""

import types

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding

from gsae.autoencoders.registry import architecture
from gsae.evaluation.evaluate import Member, evaluate
from gsae.language_models.transformer import Settings, Transformer
from gsae.mesh import make_mesh


class Held:
    num_sequences, context_length, num_documents = 6, 8, 3
    tokens = np.random.default_rng(0).integers(0, 20, (6, 8)).astype(np.uint16)

    def documents_of(self, ids):
        return np.repeat(np.asarray(ids)[:, None] // 2, 8, axis=1).astype(np.int32)

    def mask(self, ids):
        return np.arange(8) > np.zeros((len(ids), 1))


def test_the_mesh_of_training_changes_nothing():
    settings = Settings(
        num_layers=2, width=8, num_heads=2, head_width=4, mlp_width=12, vocabulary=20, context_length=8,
        rotary_width=2, rotary_base=1e4, parallel_residual=True, norm_epsilon=1e-5, activation="gelu",
        attention_bias=True, tied_embeddings=False,
    )  # fmt: skip
    language_model = types.SimpleNamespace(model=Transformer(settings, nnx.Rngs(0)))
    made = architecture("gated")
    plain = made.initialise(jax.random.key(0), 8, 16, made.Options())
    mesh = make_mesh(sweep=2, data=2, feature=2)
    spread = jax.tree.map(
        lambda array, spec: jax.device_put(array, NamedSharding(mesh, spec)), plain, plain.partition_specs()
    )

    def metrics(autoencoder):
        member = Member("a", "mlp_out.1", autoencoder)
        return evaluate(language_model, Held(), [member], tokens=0, batch_size=4, progress=False)[0].metrics

    expected = metrics(plain)
    with jax.set_mesh(mesh):
        assert metrics(spread) == expected
