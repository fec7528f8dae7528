"""Reading on token by token, with keys and values kept, against passes over the whole text."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_families import CONFIGS
from tiny_models import WINDOWS, tiny_model

from gsae.autoencoders.standard import Standard
from gsae.interventions.edits import ablate, clamp, combined, steer
from gsae.interventions.programs import through
from gsae.language_models.sites import Site, names_of

START, LENGTH, F = 3, 12, 16
FAST = ("gemma2",)  # key heads, norms on both sides, soft caps, a window in every second layer
KINDS = {
    "ablate": [ablate(feature) for feature in range(F // 2)],
    "clamp": [clamp(1, 0.7)],
    "steer": [steer(2, 0.5)],
    "sae": [],
}


def logits(model, tokens, edited, keep_error):
    """Of the pass over the whole text, and of those that read on, with autoencoders at all sites of the first layer."""

    def replace(tokens_BT):
        def stand_in(x_BTW):
            sae = Standard.initialise(jax.random.key(0), x_BTW.shape[-1], F, Standard.Options())
            with_error, without = (through(sae, x_BTW, *edited, keep_error=keep)[2] for keep in (True, False))
            value_BTW = jnp.where(keep_error, with_error, without)
            return jnp.where((tokens_BT % 3 > 0)[..., None], value_BTW, x_BTW)

        return {Site(0, name): stand_in for name in names_of(model.settings)}

    stream, _ = model.blocks(model.embed(tokens), 0, model.settings.num_layers, replace=replace(tokens))
    beginning = tokens.at[:, START:].set(0)  # what comes later is not known yet
    early, caches = model.read(beginning, replace=replace(beginning))

    def read_on(caches, at):
        token = tokens[:, at]
        stream, caches = model.read_on(token, at, caches, replace=replace(token[:, None]))
        return caches, stream[:, 0]

    _, late = jax.lax.scan(read_on, caches, jnp.arange(START, LENGTH))
    cached = jnp.concatenate([early[:, :START], late.swapaxes(0, 1)], axis=1)
    return model.unembed(jnp.stack([stream, cached]))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in CONFIGS]
)
def test_logits_are_those_of_the_whole_pass_for_every_kind_of_edit_at_every_site(name):
    model = tiny_model(name)
    assert (name in WINDOWS) == (3 in {layer.window for layer in model.settings.attention})
    tokens = jnp.asarray(np.random.default_rng(0).integers(model.settings.vocabulary, size=(2, LENGTH)))
    graph, state = nnx.split(model)

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiles faster
    def compute(state, edited, keep_error):
        return logits(nnx.merge(graph, state), tokens, edited, keep_error)

    seen = []
    for kind, edits in KINDS.items():
        for keep_error in (True, False):
            whole, cached = compute(state, combined(edits, F), keep_error)
            np.testing.assert_allclose(cached, whole, atol=1e-5, err_msg=f"{kind}, error kept: {keep_error}")
            np.testing.assert_array_equal(cached.argmax(-1), whole.argmax(-1))
            seen.append(np.asarray(whole))
    different = [np.abs(a - b).max() > 1e-3 for a in seen for b in seen if a is not b]
    assert all(different)  # each edit does something, with and without the error
