import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsae.autoencoders.registry import ARCHITECTURES, architecture
from gsae.evaluation import metrics
from gsae.evaluation.metrics import Sums, error_bound, mean_of, reconstruct

WIDTH, FEATURES = 6, 20


def random_autoencoder(name, width=WIDTH, features=FEATURES):
    """With every number of it different from zero."""
    made = architecture(name)
    autoencoder = made.initialise(jax.random.key(0), width, features, made.Options())
    leaves, tree = jax.tree.flatten(autoencoder)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return tree.unflatten(
        [leaf + 0.2 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    )


def random_batches(count=3, sequences=4, positions=7, mean=0.5):
    draws = np.random.default_rng(0)
    for _ in range(count):
        x = draws.normal(mean, 1, (sequences, positions, WIDTH)).astype(np.float32)
        yield x, draws.random((sequences, positions)) < draws.random((sequences, 1))


def measured(autoencoder, some_batches):
    sums = shift = None
    for x, keep in some_batches:
        if sums is None:
            shift = mean_of(x, keep)
            sums = Sums(np.asarray(shift))
        sums.add(reconstruct(autoencoder, jnp.asarray(x), jnp.asarray(keep), shift)[1])
    return sums


def reference(x, x_hat, f, active):
    """Every metric in float64 from all tokens at once, as its definition says."""
    y, y_hat = x - x.mean(0), x_hat - x_hat.mean(0)
    norms, norms_hat = np.linalg.norm(x, axis=1), np.linalg.norm(x_hat, axis=1)
    return {
        "l0": active.sum(1).mean(),
        "l1": np.abs(f).sum(1).mean(),
        "gamma": (x_hat**2).sum() / (x_hat * x).sum(),
        "gamma_centred": (y_hat**2).sum() / (y_hat * y).sum(),
        "fvu": ((x - x_hat) ** 2).sum() / (y**2).sum(),
        "cosine": ((x * x_hat).sum(1) / norms / norms_hat).mean(),
        "norm_ratio": norms_hat.mean() / norms.mean(),
        "input_norm": norms.mean(),
        "mean_share": (x.mean(0) ** 2).sum() / (x**2).sum(1).mean(),
        "alive": active.any(0).mean(),
        "tokens": len(x),
    }


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_metric_equals_its_definition_in_float64(name):
    autoencoder, some = random_autoencoder(name), list(random_batches())
    x = np.concatenate([x[keep] for x, keep in some])
    f = autoencoder.encode(x)
    x_hat = np.asarray(autoencoder.decode(f), np.float64)
    expected = reference(x.astype(np.float64), x_hat, np.asarray(f, np.float64), np.asarray(autoencoder.active(f)))
    sums = measured(autoencoder, some)
    assert sums.metrics().keys() == expected.keys()
    for metric, value in sums.metrics().items():
        np.testing.assert_allclose(value, expected[metric], rtol=2e-6, err_msg=metric)
    assert 0 < expected["alive"] <= 1 and sums.metrics()["alive"] == expected["alive"]
    fires = np.asarray(autoencoder.active(f))
    np.testing.assert_array_equal(sums.density_F, fires.mean(0))
    with np.errstate(invalid="ignore"):
        strength_F = np.abs(np.asarray(f, np.float64)).sum(0) / fires.sum(0)  # nan where nothing fired
    np.testing.assert_allclose(sums.strength_F, strength_F, rtol=2e-6)


def test_the_error_bound_compares_the_norms_of_inputs_and_codes():
    autoencoder, some = random_autoencoder("abstopk"), list(random_batches())
    sums = Sums(np.zeros(WIDTH))
    for x, keep in some:
        sums.add(reconstruct(autoencoder, jnp.asarray(x), jnp.asarray(keep), np.zeros(WIDTH), norms=True)[1])
    x = np.concatenate([x[keep] for x, keep in some]).astype(np.float64)
    f = np.asarray(autoencoder.encode(x), np.float64) * np.linalg.norm(autoencoder.W_dec, axis=1)
    atoms = np.concatenate([f, np.full((len(x), 1), np.linalg.norm(autoencoder.b_dec))], axis=1)
    z2, f2 = (x**2).sum(1), (atoms**2).sum(1)
    np.testing.assert_allclose(sums.norms_N2, np.sqrt(np.stack([z2, f2], axis=1)), rtol=1e-5)
    assert sums.metrics()["error_bound"] == pytest.approx(np.median(abs(z2 - f2) / (FEATURES * f2)), rel=1e-5)
    exact = np.random.default_rng(0).normal(size=(50, 1)) * np.ones((1, 2))  # orthonormal atoms
    assert error_bound(exact, FEATURES) == 0 and np.isnan(error_bound(np.zeros((0, 2)), FEATURES))


def signed(scale=1.0):
    """W_enc = [I, -I], W_dec its transpose times `scale`: f holds the positive and the negative parts of x."""
    made = architecture("standard")
    eye = jnp.eye(WIDTH)
    W_enc = jnp.concatenate([eye, -eye], axis=1)
    autoencoder = made.initialise(jax.random.key(0), WIDTH, 2 * WIDTH, made.Options())
    zeros = {"b_enc": jnp.zeros(2 * WIDTH), "b_dec": jnp.zeros(WIDTH)}
    return autoencoder.replace(W_enc=W_enc, W_dec=scale * W_enc.T, **zeros)


def test_known_weights():
    exact = measured(signed(), random_batches()).metrics()
    assert (exact["l0"], exact["fvu"], exact["norm_ratio"]) == (WIDTH, 0, 1)
    assert exact["gamma"] == pytest.approx(1) and exact["cosine"] == pytest.approx(1)
    assert exact["gamma_centred"] == pytest.approx(1)
    half = measured(signed(0.5), random_batches()).metrics()
    assert half["norm_ratio"] == 0.5 and half["gamma"] == pytest.approx(0.5)
    assert half["gamma_centred"] == pytest.approx(0.5)
    assert half["cosine"] == pytest.approx(1)
    nothing = measured(signed(0.0), random_batches()).metrics()
    assert np.isnan(nothing["gamma"]) and np.isnan(nothing["gamma_centred"]) and nothing["cosine"] == 0
    assert nothing["fvu"] == pytest.approx(1 / (1 - nothing["mean_share"]))


@pytest.mark.parametrize("constant", [0.0, 1.0, 300.0])
def test_a_constant_in_x_and_in_the_reconstruction_changes_no_centred_metric(constant):
    autoencoder = random_autoencoder("standard")
    moved = autoencoder.replace(b_dec=autoencoder.b_dec + constant)
    plain = measured(autoencoder, random_batches()).metrics()
    far = measured(moved, [(x + np.float32(constant), keep) for x, keep in random_batches()]).metrics()
    for name in ("fvu", "gamma_centred", "l1"):
        assert far[name] == pytest.approx(plain[name], rel=1e-3 if constant > 1 else 1e-5), name
    assert far["l0"] == pytest.approx(plain["l0"], abs=0.01)
    assert constant < 100 or far["mean_share"] > 0.999


def test_fvu_is_numerically_safe_far_from_zero():
    # E||x||^2 - ||E x||^2 in float32 would have lost the variance altogether here.
    some = [(x + np.float32(2e4), keep) for x, keep in random_batches(mean=0)]
    x = np.concatenate([x[keep] for x, keep in some]).astype(np.float64)
    autoencoder = signed(0.0)
    autoencoder = autoencoder.replace(b_dec=jnp.asarray(x.mean(0), jnp.float32))
    error = ((x - np.asarray(autoencoder.b_dec, np.float64)) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    assert measured(autoencoder, some).metrics()["fvu"] == pytest.approx(error, rel=1e-3)


def test_batches_change_nothing():
    autoencoder, some = random_autoencoder("gated"), list(random_batches(count=4))
    whole = [(np.concatenate([x for x, _ in some]), np.concatenate([keep for _, keep in some]))]
    one, other = (measured(autoencoder, way).metrics() for way in (some, whole))
    np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-6)


@pytest.mark.parametrize("positions", [7, 5])  # 28 or 20 tokens, 8 at a time: the last chunk is not full
def test_chunks_change_nothing(monkeypatch, positions):
    autoencoder, (x, keep) = random_autoencoder("gated"), next(random_batches())
    arguments = autoencoder, x[:, :positions], keep[:, :positions], jnp.zeros(WIDTH)
    expected_x_hat, expected = reconstruct(*arguments)
    monkeypatch.setattr(metrics, "CHUNK_TOKENS", (1, 8))
    assert metrics.rows_at_once(FEATURES) == 8
    x_hat, sums = jax.jit(lambda *given: reconstruct.__wrapped__(*given))(*arguments)  # a trace of its own
    assert sums["tokens"].shape == (-(-4 * positions // 8),)
    np.testing.assert_allclose(x_hat, expected_x_hat, rtol=1e-5, atol=1e-6)
    for name, value in expected.items():
        total = sums[name] if name == "fired" else sums[name].sum(0)
        np.testing.assert_allclose(total, value if name == "fired" else value.sum(0), rtol=1e-5, atol=1e-5)


def test_what_does_not_count_is_left_out_even_when_it_is_not_finite():
    autoencoder, some = random_autoencoder("standard"), list(random_batches())
    broken = [(np.where(keep[..., None], x, np.nan).astype(np.float32), keep) for x, keep in some]
    assert measured(autoencoder, broken).metrics() == measured(autoencoder, some).metrics()


def test_no_tokens_give_nan_and_not_an_error():
    values = measured(random_autoencoder("standard"), [(x, np.zeros_like(keep)) for x, keep in random_batches()])
    assert np.isnan(values.metrics()["fvu"]) and values.metrics()["tokens"] == 0
