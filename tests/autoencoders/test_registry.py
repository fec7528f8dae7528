"""What holds for every architecture, on the interface alone."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from gsae.autoencoders.base import CommonOptions
from gsae.autoencoders.registry import ARCHITECTURES, architecture, architecture_name, make_options
from gsae.errors import SettingError

D, F = 12, 24
DOCS = Path(__file__).parents[2] / "docs"
TARGETS = [name for name, cls in ARCHITECTURES.items() if not cls.warms_up]  # 6 does as their coefficient, 0.3 not
SIGNED = ("abstopk", "variational")
MOVED = ("feature_choice", "gba", "mutual_choice", "p_anneal")  # keep more than the newest batch's numbers
FREE = ("jumprelu_tanh", "normalized")  # decoder vectors of any norm, whatever the options
REFUSED = (("gba", "decoder_transpose_init"),)
# Every architecture, once with each option away from its default.
EVERY = [
    (name, options)
    for name, cls in ARCHITECTURES.items()
    for options in [
        {},
        *({o: not v} for o, v in vars(cls.Options()).items() if isinstance(v, bool) and (name, o) not in REFUSED),
        {"reconstruction_scale": "width"},
        {"reconstruction_scale": "width_and_norm"},
    ]
]


@pytest.fixture(params=EVERY, ids=lambda case: f"{case[0]} {case[1]}")
def sae(request, float64, randomised):
    name, options = request.param
    return randomised(architecture(name), D, F, make_options(name, options))


@pytest.fixture
def x_BD(float64):
    return jax.random.normal(jax.random.key(7), (40, D), jnp.float64) + 0.5


def test_declarations_agree_with_the_arrays(sae):
    for name, axis in sae.feature_axes.items():
        array = getattr(sae, name)
        assert [i for i, size in enumerate(array.shape) if size == F] == ([] if axis is None else [axis]), name
        spec = PartitionSpec(*("feature" if i == axis else None for i in range(array.ndim)))
        assert getattr(sae.partition_specs(), name) == spec
    name = architecture_name(sae)
    untrained = {"W_enc", "W_dec", "b_enc", "b_dec"} if sae.STARTS_FROM else set()
    untrained |= {"k", "threshold"} if hasattr(sae, "k") else set()
    untrained |= {"stage", "factor", "seen", "penalties", "density", "share", "largest"}
    untrained |= {name for name in sae.feature_axes if getattr(sae, name).ndim == 0}
    untrained |= {"gba": {"b_enc"}}.get(name, set())
    untrained |= set() if getattr(sae.options, "decoder_bias", True) else {"b_dec"}
    assert set(sae.trained_fields()) == set(sae.feature_axes) - untrained
    assert len(jax.tree.leaves(sae)) == len(sae.feature_axes)
    free = getattr(sae.options, "ri_l1", False) or name in FREE
    assert sae.unit_norm_fields() == (() if free else ("W_dec",))


def test_initialise(sae):
    fresh = type(sae).initialise(jax.random.key(3), D, F, sae.options)
    assert all(array.dtype == jnp.float32 for array in jax.tree.leaves(fresh))
    directions = (fresh.W_dec / jnp.linalg.norm(fresh.W_dec, axis=1, keepdims=True)).T
    along = np.linalg.norm(fresh.W_enc, axis=0) * directions
    assert np.allclose(fresh.W_enc, along, atol=1e-6) == sae.options.decoder_transpose_init
    if architecture_name(sae) not in FREE:
        np.testing.assert_allclose(np.linalg.norm(fresh.W_dec, axis=1), 1, rtol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(fresh.W_enc, axis=0), 1, rtol=1e-6)
    for name in sae.feature_axes:
        array = getattr(fresh, name)
        assert (
            name[0] == "W" or sae.feature_axes[name] is None or np.all(array == np.float32(sae.initial_value(name)))
        ), name
    other = type(sae).initialise(jax.random.key(4), D, F, sae.options)
    assert not np.any(fresh.W_dec == other.W_dec)


@pytest.mark.parametrize("scale", [0.13, 7.0])
def test_rescaled_works_on_raw_activations(sae, x_BD, scale):
    """Trained on x * scale, used on x: the same features fire, and the reconstruction is the trained one's / scale."""
    raw, f_trained = sae.rescaled(scale), sae.encode(x_BD * scale)
    f_raw = raw.encode(x_BD)
    assert 0.03 < np.mean(f_raw != 0) < 0.95  # top-AFA stops where the norm is reached
    np.testing.assert_array_equal(raw.active(f_raw), sae.active(f_trained))
    length = 1 if sae.bounded else scale  # what of the scale is the features'; the rest is the decoder vectors'
    np.testing.assert_allclose(f_raw, f_trained / length, atol=1e-12)
    np.testing.assert_allclose(raw.decode(f_raw), sae.decode(f_trained) / scale, atol=1e-12)
    np.testing.assert_array_equal(raw.W_dec, sae.W_dec * (length / scale))


def test_rescaled_refuses_what_is_not_positive(sae):
    for scale in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="positive"):
            sae.rescaled(scale)


def test_revive(sae):
    dead_F = jnp.arange(F) % 3 == 0
    directions_FD = jnp.where(dead_F[:, None], jnp.eye(F, D) + 1, jnp.nan)  # not read where alive
    revived = sae.revive(dead_F, directions_FD, 0.2)
    if sae.STARTS_FROM:  # frozen
        assert revived is sae
        return
    for name, axis in sae.feature_axes.items():
        old, new = (np.asarray(getattr(s, name)) for s in (sae, revived))
        if axis is None:
            np.testing.assert_array_equal(new, old)
            continue
        old, new = np.moveaxis(old, axis, 0), np.moveaxis(new, axis, 0)
        np.testing.assert_array_equal(new[~dead_F], old[~dead_F])
        if name == "W_var":  # an encoder of variances
            np.testing.assert_array_equal(new[dead_F], 0)
            continue
        length = np.linalg.norm(sae.W_dec, axis=1)[~dead_F].mean() if sae.bounded else 1
        expected = (
            directions_FD * {"W_dec": length}.get(name, 0.2) if name[0] == "W" else np.full(F, sae.initial_value(name))
        )
        np.testing.assert_allclose(new[dead_F], expected[dead_F], rtol=1e-14 if sae.bounded else 0)


def test_statistics(sae, x_BD, context):
    training = context(6 if architecture_name(sae) in TARGETS else 0.3)
    loss, stats = sae.loss({"x": x_BD}, training)
    f_BF = np.asarray(sae.encode(x_BD, training))
    fires_BF = np.asarray(sae.active(sae.encode(x_BD) if sae.bounded else f_BF))  # counted without noise
    x, x_hat = np.asarray(x_BD), np.asarray(sae.decode(f_BF))
    expected = {
        "l0": fires_BF.sum(axis=1).mean(),
        "squared_error": ((x - x_hat) ** 2).sum(axis=1).mean(),
        "x_squared": (x**2).sum(axis=1).mean(),
        "x_hat_squared": (x_hat**2).sum(axis=1).mean(),
        "x_dot_x_hat": (x * x_hat).sum(axis=1).mean(),
        "variance": ((x - x.mean(axis=0)) ** 2).sum(axis=1).mean(),
        "fired": fires_BF.sum(axis=0),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(stats[name], value, rtol=1e-12, err_msg=name)
    assert stats.keys() >= {*expected, "reconstruction", "sparsity", "auxiliary"}
    np.testing.assert_allclose(stats["reconstruction"] + stats["sparsity"] + stats["auxiliary"], loss, rtol=1e-12)
    assert stats["fired"].dtype == jnp.int32


def test_encode_and_decode_take_any_leading_dimensions_and_numpy(sae):
    x = np.random.default_rng(0).normal(size=(2, 3, D)).astype(np.float32)
    f = sae.encode(x)
    assert f.shape == (2, 3, F) and sae.decode(f).shape == (2, 3, D)
    np.testing.assert_allclose(sae.encode(x[1, 2]), f[1, 2], atol=1e-12)
    np.testing.assert_allclose(sae.decode(np.asarray(f)[1, 2]), sae.decode(f)[1, 2], atol=1e-12)


def test_after_update_changes_nothing_that_is_allowed(sae, x_BD, context):
    _, stats = sae.loss({"x": x_BD}, context(6 if architecture_name(sae) in TARGETS else 0.3))
    once = sae.after_update(stats)
    if architecture_name(sae) not in MOVED:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), once.after_update(stats), once)
    fresh = type(sae).initialise(jax.random.key(3), D, F, sae.options)
    assert all(np.array_equal(getattr(fresh.after_update(stats), n), getattr(fresh, n)) for n in fresh.trained_fields())


@pytest.mark.parametrize(  # what is signed has both signs of I, and what is bounded cannot give x back
    "name", [name for name, cls in ARCHITECTURES.items() if name not in SIGNED and not cls.bounded]
)
def test_known_weights(name):
    """W_enc = [I, -I], W_dec its transpose: every x with no zero in it is exact with L0 = D."""
    cls = architecture(name)
    own = {"initial_threshold": 1e-3} if hasattr(cls.Options(), "initial_threshold") else {}  # below every x
    sae = cls.initialise(jax.random.key(0), D, 2 * D, cls.Options(**own))
    W_enc_DF = jnp.concatenate([jnp.eye(D), -jnp.eye(D)], axis=1)
    known = {"W_enc": W_enc_DF, "W_dec": W_enc_DF.T}
    sae = sae.replace(**{field: value for field, value in known.items() if field in sae.feature_axes})
    x_BD = jax.random.normal(jax.random.key(1), (50, D)) + 0.3
    f_BF = sae.encode(x_BD)
    np.testing.assert_array_equal((f_BF > 0).sum(axis=1), D)
    np.testing.assert_array_equal(sae.decode(f_BF), x_BD)
    np.testing.assert_array_equal(sae.replace(W_dec=sae.W_dec / 2).decode(f_BF), x_BD / 2)


def test_what_another_class_stands_for_computes_the_same(x_BD, randomised):
    found = []
    for name, cls in ARCHITECTURES.items():
        sae = randomised(cls, D, F)
        plain = sae.plain()
        if plain is not sae:
            found.append(name)
            f_BF, f_plain_BF = sae.encode(x_BD), plain.encode(x_BD)
            np.testing.assert_allclose(np.sort(f_plain_BF), np.sort(f_BF), atol=1e-12, err_msg=name)  # any order
            np.testing.assert_allclose(plain.decode(f_plain_BF), sae.decode(f_BF), atol=1e-12, err_msg=name)
            assert np.all(np.any(f_BF, axis=1)) and type(plain.plain()) is type(plain)
    assert len(found) >= 4


def test_names():
    for name, cls in ARCHITECTURES.items():
        assert architecture_name(cls.initialise(jax.random.key(0), 4, 8, cls.Options())) == name
    known = ", ".join(sorted(ARCHITECTURES))
    with pytest.raises(SettingError, match=f"config.sae.architecture = 'topp': must be one of {known}"):
        architecture("topp")


def test_no_two_architectures_look_alike_to_jax():
    """Equal trees would share compiled programs now and then (seen: one architecture judged as the other)."""
    trees = {
        name: jax.tree.structure(kind.initialise(jax.random.key(0), 4, 8, kind.Options()))
        for name, kind in ARCHITECTURES.items()
    }
    for name, tree in trees.items():
        assert [other for other, theirs in trees.items() if theirs == tree] == [name]


def test_every_architecture_has_a_page_that_names_its_settings():
    index = (DOCS / "architectures.md").read_text()
    common = {field.name for field in dataclasses.fields(CommonOptions)}
    for name, kind in ARCHITECTURES.items():
        page = (DOCS / "architectures" / f"{name}.md").read_text()
        title = page.splitlines()[0]
        assert (
            title in (f"# {name}", f"# {title[2:].split(' (`')[0]} (`{name}`)") and f"architectures/{name}.md" in index
        )
        if kind.Options.__module__ != kind.__module__:
            continue  # another's, on whose page they are
        inherited = [options for options in kind.Options.__mro__[1:] if dataclasses.is_dataclass(options)]
        elsewhere = {field.name for options in inherited for field in dataclasses.fields(options)}
        own = {field.name for field in dataclasses.fields(kind.Options)} - elsewhere - common
        assert not [setting for setting in own if f"`{setting}`" not in page], name


def test_options_from_plain_values():
    assert make_options("gated", {"tied": False}).tied is False
    with pytest.raises(SettingError, match=r"config.sae.tied = True: standard has no such setting"):
        make_options("standard", {"tied": True})
