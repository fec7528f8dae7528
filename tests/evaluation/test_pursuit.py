"""Gradient pursuit against a literal transcription in numpy, and in torch by dictionary_learning."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from gsae.autoencoders.gated import Gated, GatedOptions
from gsae.autoencoders.registry import ARCHITECTURES
from gsae.evaluation.metrics import Sums, reconstruct
from gsae.evaluation.places import Places
from gsae.evaluation.pursuit import pursue, with_caps
from gsae.mesh import make_mesh

B, D, F = 24, 12, 40


def literal(y, W, max_l0, iterations, clipped, signed=False):
    """The algorithm, token by token, dense, float64: [F] a token."""
    codes = np.zeros((len(y), len(W)))
    for code, token in zip(codes, y, strict=True):
        support = []
        for _ in range(iterations):
            r = token - code @ W
            s = W @ r
            best = int(np.argmax(np.abs(s) if signed else s))
            if (signed or s[best] > 0) and best not in support and len(support) < max_l0:
                support.append(best)
            g = np.zeros(len(W))
            g[support] = s[support]
            c = g @ W
            step = (c @ r) / (c @ c) if c @ c > 0 else 0.0
            code[:] = np.maximum(-np.inf if signed else 0, code + step * g)
            if clipped == "leave":
                support = [i for i in support if code[i] > 0]
    return codes


@pytest.fixture
def data():
    draws = np.random.default_rng(0)
    W = draws.standard_normal((F, D)) + 1.5  # alike, so that weights are clipped
    return draws.standard_normal((B, D)) + 0.5, W / np.linalg.norm(W, axis=1, keepdims=True)


@pytest.mark.parametrize("clipped", ["stay", "leave"])
@pytest.mark.parametrize(("max_l0", "iterations"), [(1, 1), (6, 6), (6, 25), (10, 4)])
def test_equals_the_literal_algorithm(data, clipped, max_l0, iterations):
    y, W = data
    with jax.enable_x64(True):
        codes = pursue(y, W, places=10, max_l0=max_l0, iterations=iterations, clipped=clipped)
        found = np.asarray(codes.dense(F))
    np.testing.assert_allclose(found, literal(y, W, max_l0, iterations, clipped), atol=1e-10)
    assert (found > 0).sum(1).max() <= max_l0


def test_signed_weights_may_be_negative(data):
    y, W = data
    with jax.enable_x64(True):
        found = np.asarray(pursue(y, W, places=6, signed=True).dense(F))
    np.testing.assert_allclose(found, literal(y, W, 6, 6, "stay", signed=True), atol=1e-10)
    assert (found < 0).any() and ((found != 0).sum(1) <= 6).all()
    signed = ARCHITECTURES["abstopk"].initialise(jax.random.key(0), D, F, ARCHITECTURES["abstopk"].Options())
    assert (with_caps(signed, [4])[4].encode(y.astype(np.float32)) < 0).any()


def test_the_choice_about_clipped_features_matters(data):
    y, W = data
    assert np.abs(literal(y, W, 10, 10, "stay") - literal(y, W, 10, 10, "leave")).max() > 1e-3


def test_a_zero_residual_divides_by_nothing():
    W = np.eye(4, dtype=np.float32)
    y = np.array([[2, 0, 0, 0], [0, 0, 0, 0], [-1, -1, -1, -1]], np.float32)
    found = pursue(y, W, places=3, iterations=8).dense(4)
    np.testing.assert_array_equal(found, [[2, 0, 0, 0], [0] * 4, [0] * 4])


def test_float32_and_any_norms_and_dead_vectors(data):
    y, W = data
    norms = np.random.default_rng(1).uniform(0.2, 3, (F, 1))
    expected = literal(y, W, 5, 5, "stay")
    W = np.concatenate([W * norms, np.zeros((1, D))]).astype(np.float32)
    found = np.asarray(pursue(y.astype(np.float32), W, places=5).dense(F + 1))
    np.testing.assert_allclose(found[:, :F] * norms[:, 0], expected, atol=2e-5)
    assert not found[:, F].any()


def test_wrong_words_are_refused(data):
    with pytest.raises(ValueError, match="stay, leave"):
        pursue(*data, places=3, clipped="go")
    with pytest.raises(ValueError, match="at least 1"):
        pursue(*data, places=0)


def test_it_takes_the_encoders_place_in_an_evaluation():
    sae = Gated.initialise(jax.random.key(0), D, F, GatedOptions())
    x_BTD = jax.random.normal(jax.random.key(1), (2, 300, D)) + 1
    errors = []
    for l0, member in with_caps(sae, (1, 4, 8)).items():
        shift = jnp.zeros(D)
        sums = Sums(np.zeros(D))
        sums.add(jax.device_get(reconstruct(member, x_BTD, jnp.ones((2, 300), bool), shift)[1]))
        assert sums.metrics()["l0"] <= l0
        errors.append(sums.metrics()["fvu"])
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.skipif(jax.device_count() < 4, reason="needs four devices")
def test_split_over_a_mesh_it_is_the_same_and_no_device_gets_the_dictionary(data):
    y, W = (array.astype(np.float32) for array in data)
    sae = Gated.initialise(jax.random.key(0), D, F, GatedOptions()).replace(W_dec=jnp.asarray(3 * W))
    plain = with_caps(sae, (6,))[6]
    places = Places.of(make_mesh(1, 2, 2))
    for member in (plain.replace(clipped="leave"), plain.replace(signed=True)):
        with jax.set_mesh(places.mesh):
            x = jax.device_put(y, NamedSharding(places.mesh, PartitionSpec("data")))
            placed = places.autoencoder(member)
            program = jax.jit(lambda sae, x: sae.encode(x)).lower(placed, x).compile()
        np.testing.assert_allclose(program(placed, x), member.encode(y), atol=1e-5)
        gathered = re.findall(r"= (.*?) (?:all-gather|all-to-all|collective-permute)(?:-start)?\(", program.as_text())
        assert gathered and not [found for found in gathered if re.search(rf"\b{F}\b", found)], gathered


@pytest.mark.parity
def test_equals_dictionary_learning(data):
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("dictionary_learning.grad_pursuit")
    draws = np.random.default_rng(3)  # vectors on all sides: theirs takes one in where no product is positive, too
    W = draws.standard_normal((F, D)).astype(np.float32)
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    y = data[0].astype(np.float32)
    expected = theirs.grad_pursuit(torch.tensor(y), torch.tensor(W.T.copy()), target_l0=8).numpy()
    np.testing.assert_allclose(pursue(y, W, places=8).dense(F), expected, atol=2e-5)
