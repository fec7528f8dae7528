import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gsae.evaluation import splice
from gsae.evaluation.splice import prefix, score, spliced_stream
from gsae.language_models.families import family_of
from gsae.language_models.sites import NAMES, Site
from gsae.language_models.transformer import Transformer

VOCABULARY = 23


def language_model(parallel=True, vocabulary=VOCABULARY):
    config = {
        "model_type": "gpt_neox", "num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2,
        "intermediate_size": 12, "vocab_size": vocabulary, "max_position_embeddings": 6, "rotary_pct": 0.5,
        "use_parallel_residual": parallel,
    }  # fmt: skip
    graph, state = nnx.split(Transformer(family_of(config).settings(config), nnx.Rngs(0)))
    return graph, jax.tree.map(lambda leaf: leaf * 4, state)  # far from uniform predictions


def batch_of(sequences=3, positions=6):
    draws = np.random.default_rng(0)
    tokens = jnp.asarray(draws.integers(0, VOCABULARY, (sequences, positions)), jnp.int32)
    return tokens, jnp.asarray(draws.random((sequences, positions)) < 0.6)


def log_probabilities(logits):
    return np.asarray(jax.nn.log_softmax(logits)[:, :-1], np.float64)


@pytest.mark.parametrize(("name", "parallel"), [*((name, True) for name in NAMES), ("mlp_act", False)])
def test_equals_the_whole_model_with_the_site_replaced(name, parallel):
    (graph, state), (tokens, keep), site = language_model(parallel), batch_of(), Site(0, name)
    model = nnx.merge(graph, state)
    before = prefix(state, tokens, graph=graph, site=site)
    _, captured = model.blocks(model.embed(tokens), 0, 1, capture=[site])
    np.testing.assert_allclose(before.original_BTW, captured[site], rtol=1e-5, atol=1e-6)

    other = captured[site] + jax.random.normal(jax.random.key(0), captured[site].shape)
    clean, spliced = (
        spliced_stream(state, before, value, keep, graph=graph, site=site) for value in (before.original_BTW, other)
    )
    cross_entropy, divergence = score(state, (clean, spliced), tokens, graph=graph)
    value = jnp.where(keep[..., None], other, captured[site])
    spliced_logits = model.unembed(model.blocks(model.embed(tokens), 0, 2, replace={site: value})[0])
    p, q = log_probabilities(model(tokens)), log_probabilities(spliced_logits)
    targets = np.asarray(tokens)[:, 1:, None]
    for arm, expected in enumerate((p, q)):
        expected = -np.take_along_axis(expected, targets, -1)[..., 0]
        np.testing.assert_allclose(cross_entropy[arm], expected, rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(divergence[1], (np.exp(p) * (p - q)).sum(-1), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(divergence[0], 0, atol=1e-6)
    assert np.abs(cross_entropy[0] - cross_entropy[1]).max() > 0.01


@pytest.mark.parametrize("name", ["mlp_out", "resid_pre"])
def test_masked_positions_are_replaced_nowhere(name):
    (graph, state), (tokens, keep), site = language_model(), batch_of(), Site(0, name)
    before = prefix(state, tokens, graph=graph, site=site)
    noise = 5 * jax.random.normal(jax.random.key(0), before.original_BTW.shape)

    def stream(replacement):
        return np.asarray(spliced_stream(state, before, replacement, keep, graph=graph, site=site))

    where_masked = jnp.where(keep[..., None], 0, noise)
    np.testing.assert_array_equal(stream(before.original_BTW + where_masked), stream(before.original_BTW))
    np.testing.assert_array_equal(stream(where_masked), stream(jnp.zeros_like(noise)))
    assert not np.array_equal(stream(before.original_BTW + noise), stream(before.original_BTW))


def test_chunks_change_nothing(monkeypatch):
    graph, state = language_model()
    tokens, _ = batch_of(sequences=5)
    streams = tuple(jax.random.normal(jax.random.key(arm), (5, 6, 8)) for arm in range(3))
    whole = score(state, streams, tokens, graph=graph)
    monkeypatch.setattr(splice, "CHUNK_BYTES", 4 * 4 * VOCABULARY)
    monkeypatch.setattr(splice, "FEWEST_TOKENS", 4)
    again = jax.jit(lambda *given: score.__wrapped__(*given, graph=graph))  # a trace of its own
    chunked = again(state, streams, tokens)  # 25 predictions, 4 at a time
    for one, other in zip(whole, chunked, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_logits_of_a_whole_batch_never_exist():
    vocabulary, sequences, positions = 4096, 16, 256
    graph, state = language_model(vocabulary=vocabulary)
    tokens = jax.ShapeDtypeStruct((sequences, positions), jnp.int32)
    streams = (jax.ShapeDtypeStruct((sequences, positions, 8), jnp.float32),) * 4
    memory = score.lower(state, streams, tokens, graph=graph).compile().memory_analysis()
    logits_bytes = 4 * sequences * positions * vocabulary  # 64 MiB; a chunk has 4 MiB
    assert memory.temp_size_in_bytes < logits_bytes / 3
