"""Evaluating while a mesh is set and autoencoders are spread over it, as during training."""

import types

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding

from gsae.autoencoders.registry import architecture
from gsae.evaluation.evaluate import Member, evaluate
from gsae.language_models.families import family_of
from gsae.language_models.loading import load_language_model
from gsae.language_models.transformer import Transformer
from gsae.mesh import make_mesh


class Held:
    num_sequences, context_length, num_documents = 6, 8, 3
    tokens = np.random.default_rng(0).integers(0, 20, (6, 8)).astype(np.uint16)

    def documents_of(self, ids):
        return np.repeat(np.asarray(ids)[:, None] // 2, 8, axis=1).astype(np.int32)

    def mask(self, ids):
        return np.arange(8) > np.zeros((len(ids), 1))


def test_the_mesh_of_training_changes_nothing():
    config = {
        "model_type": "gpt_neox", "num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2,
        "intermediate_size": 12, "vocab_size": 20, "max_position_embeddings": 8, "rotary_pct": 0.5,
        "use_parallel_residual": True,
    }  # fmt: skip
    language_model = types.SimpleNamespace(model=Transformer(family_of(config).settings(config), nnx.Rngs(0)))
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


@pytest.mark.slow
def test_a_language_model_that_is_split_over_devices_judges_alike():
    made = architecture("gated")
    member = Member("a", "mlp_out.1", made.initialise(jax.random.key(0), 128, 64, made.Options()))

    def metrics(language_model):
        return evaluate(language_model, Held(), [member], tokens=0, batch_size=4, progress=False)[0].metrics

    expected = metrics(load_language_model("bundled"))
    mesh = make_mesh(data=2, feature=4)
    with jax.set_mesh(mesh):  # training's
        found = metrics(load_language_model("bundled", mesh=mesh))
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)
