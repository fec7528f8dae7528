"""Norms, cosines and direct effects, the last against what the language model's own modules compute."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gsae.autoencoders.registry import ARCHITECTURES
from gsae.evaluation import directions as module
from gsae.evaluation.directions import directions
from gsae.language_models.families import family_of
from gsae.language_models.sites import Site
from gsae.language_models.transformer import Transformer

NEOX = {
    "model_type": "gpt_neox", "num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2,
    "intermediate_size": 12, "vocab_size": 31, "max_position_embeddings": 9, "rotary_pct": 0.5,
    "use_parallel_residual": True,
}  # fmt: skip
GEMMA = {
    "model_type": "gemma2", "num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2, "head_dim": 6,
    "num_key_value_heads": 1, "intermediate_size": 12, "vocab_size": 31, "max_position_embeddings": 9,
    "query_pre_attn_scalar": 6, "sliding_window": 4, "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6,
    "final_logit_softcapping": None, "attn_logit_softcapping": None,
}  # fmt: skip


def model_of(config):
    model = Transformer(family_of(config).settings(config), nnx.Rngs(0))
    graph, state = nnx.split(model)
    keys = iter(jax.random.split(jax.random.key(3), 100))
    noisy = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(next(keys), leaf.shape), state)
    return types.SimpleNamespace(model=nnx.merge(graph, noisy))


def autoencoder(width, features=7):
    kind = next(iter(ARCHITECTURES.values()))
    made = kind.initialise(jax.random.key(1), width, features, kind.Options())
    noise = jax.random.normal(jax.random.key(2), made.W_dec.shape)
    return made.replace(W_dec=made.W_dec * 1.5 + 0.3 * noise)


def direct_effect(model, site, vector):
    """By the model's own programs: what a very large multiple of the vector alone does to the logits."""
    layer = model.layers[site.layer]
    if site.name == "attn_z":
        vector = layer.attention.out(vector) - layer.attention.out(0 * vector)
    if site.name == "mlp_act":
        vector = layer.mlp.down(vector) - layer.mlp.down(0 * vector)
    if site.name in module.WAY and model.settings.post_norm:
        norm = layer.attention_post_norm if site.name == "attn_z" else layer.mlp_post_norm
        vector = norm(1e5 * vector)  # rms: only its size is another
    logits = model.unembed(1e5 * vector[None, None]) - model.unembed(0 * vector[None, None])
    logits = np.asarray(logits[0, 0], np.float64)
    return logits - logits.mean()


@pytest.mark.parametrize("config", [NEOX, GEMMA], ids=["layer norm", "post-norms"])
@pytest.mark.parametrize("name", ["resid_pre", "resid_post", "mlp_out", "attn_out", "attn_z", "mlp_act"])
def test_promoted_tokens_are_those_of_the_model(config, name):
    language_model, site = model_of(config), Site(1, name)
    sae = autoencoder(language_model.model.site_width(name))
    features = np.array([4, 0, 6])
    seen = directions(language_model, str(site), sae, features, tokens=5)
    for row, feature in enumerate(features):
        effect = direct_effect(language_model.model, site, sae.W_dec[feature])
        np.testing.assert_array_equal(seen.promoted_FN[row], np.argsort(-effect)[:5])
        np.testing.assert_array_equal(seen.suppressed_FN[row], np.argsort(effect)[:5])
        given = np.concatenate([seen.promoted_logit_FN[row], seen.suppressed_logit_FN[row]])
        wanted = effect[np.concatenate([seen.promoted_FN[row], seen.suppressed_FN[row]])]
        np.testing.assert_allclose(given / np.abs(given).max(), wanted / np.abs(wanted).max(), atol=1e-4)
    assert ("output projection" in seen.how) == (name == "attn_z")
    assert ("mean taken out" in seen.how) == (config is NEOX)


@pytest.mark.parametrize("chunk_bytes", [1, 1 << 20])
def test_vectors_are_compared_as_they_stand(monkeypatch, chunk_bytes):
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk_bytes)
    language_model = model_of(NEOX)
    sae = autoencoder(8)
    W_dec, W_enc = np.asarray(sae.W_dec, np.float64), np.asarray(sae.W_enc, np.float64).T
    features = np.array([2, 5, 1])
    seen = directions(language_model, "mlp_out.0", sae, features, nearest=3, tokens=99)
    unit = W_dec / np.linalg.norm(W_dec, axis=1, keepdims=True)
    for row, feature in enumerate(features):
        assert seen.norm_F[row] == pytest.approx(np.linalg.norm(W_dec[feature]), rel=1e-5)
        cosine = W_enc[feature] @ unit[feature] / np.linalg.norm(W_enc[feature])
        assert seen.cosine_F[row] == pytest.approx(cosine, rel=1e-5)
        cosines = np.delete(unit @ unit[feature], feature)
        others = np.delete(np.arange(7), feature)
        order = np.argsort(-cosines)[:3]
        np.testing.assert_array_equal(seen.nearest_FN[row], others[order])
        np.testing.assert_allclose(seen.nearest_cosine_FN[row], cosines[order], rtol=1e-4)
    assert seen.promoted_FN.shape == (3, 31), "more tokens than there are"
    zero = sae.replace(W_dec=jnp.zeros_like(sae.W_dec))
    assert np.isfinite(directions(language_model, "mlp_out.0", zero, features).nearest_cosine_FN).all()
