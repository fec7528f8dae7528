"""Mutual and Feature Choice, Group Bias Adaptation, top-AFA, variational: their equations, by sorting, in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_topk import literal as topk_literal

from gsae.autoencoders import zipf
from gsae.autoencoders.registry import architecture, make_options
from gsae.errors import SettingError
from gsae.mesh import make_mesh
from gsae.throughput import count_flops
from gsae.training.groups import Point, group_points
from gsae.training.schedules import Schedules
from gsae.training.step import StepSettings, abstract_state, make_step

D, F, B, K = 10, 24, 16, 5
stop = jax.lax.stop_gradient


@pytest.fixture
def x_BD(float64):
    return jax.random.normal(jax.random.key(7), (B, D), jnp.float64) + 0.5


def agree(sae, ours, theirs, **how):
    """Value and gradients of two losses of the trained parameters."""
    parameters = {name: getattr(sae, name) for name in sae.trained_fields()}
    found, expected = (jax.jit(jax.value_and_grad(loss))(parameters) for loss in (ours, theirs))
    how = {"rtol": 1e-10, "atol": 1e-12} | how
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **how), found, expected)
    assert all(np.any(value) for value in found[1].values())


def in_training(sae, x_BD, context):
    return lambda p: sae.replace(**p).loss({"x": x_BD}, context)[0]


def by_sorting(density_F):
    """Ranks from 1."""
    order = np.argsort(-np.asarray(density_F), kind="stable")
    rank_F = np.empty(len(order))
    rank_F[order] = np.arange(1, len(order) + 1)
    return rank_F


def test_ranks_are_those_of_a_sort_and_ties_share_one():
    density_F = np.random.default_rng(0).permutation(0.3 / np.arange(1, 301) ** 1.2).astype(np.float32)
    found = np.asarray(jax.jit(zipf.ranks)(density_F))
    assert np.abs(found / by_sorting(density_F) - 1).max() < 0.5  # within a class of densities they are interpolated
    assert np.abs(found / by_sorting(density_F) - 1).mean() < 0.05
    tied = np.asarray(zipf.ranks(np.array([0.5, 0.25, 0.25, 0, 0], np.float32)))
    assert tied[0] < tied[1] == tied[2] < tied[3] == tied[4] == 5.5


@pytest.mark.parametrize(("k", "exponent", "shift"), [(0.5, 1.0, 0.0), (5, 1.0, 10.0), (60, 1.5, 2.0), (299, 0.7, 0.0)])
def test_the_law_gives_k_features_a_token(k, exponent, shift):
    rank_F = jnp.arange(1, 301, dtype=jnp.float32)
    share_F = np.asarray(zipf.law(rank_F, jnp.float32(k), 300, exponent, shift), np.float64)
    assert share_F.sum() == pytest.approx(k, rel=1e-4) and share_F.max() <= 1
    below = share_F < 1
    line = np.polyfit(np.log(rank_F + shift)[below], np.log(share_F[below]), 1)
    assert line[0] == pytest.approx(-exponent, rel=1e-3)


def test_the_law_is_found_again_in_densities():
    share_F = np.asarray(zipf.law(jnp.arange(1.0, 2001), jnp.float32(20), 2000, 1.3, 25.0))
    exponent, shift = zipf.fit(np.random.default_rng(0).permutation(np.append(share_F, np.zeros(100))))
    assert exponent == pytest.approx(1.3, rel=0.02) and shift == pytest.approx(25, rel=0.05)
    with pytest.raises(ValueError, match="too few"):
        zipf.fit(np.full(7, 0.1))


def with_history(sae, updates=100):
    """Densities as after so many updates, half of the features below the law."""
    density = zipf.law(jnp.arange(1, F + 1) * 1.0, jnp.float64(K), F, 1.0, 10.0) * jnp.where(
        jnp.arange(F) % 2, 1.5, 0.4
    )
    return sae.replace(density=density, updates=jnp.float64(updates))


def test_mutual_choice_is_batchtopk_whose_neglected_features_are_those_below_the_law(x_BD, randomised, context):
    sae = with_history(randomised(architecture("mutual_choice"), D, F))
    fresh = sae.replace(updates=jnp.float64(0))
    expected_F, below_F, none_F = jax.jit(lambda c: (sae.expected_density(c), sae.neglected(c), fresh.neglected(c)))(
        context(K)
    )
    np.testing.assert_array_equal(below_F, sae.density < expected_F)
    assert 3 < below_F.sum() < F - 3 and expected_F.sum() == pytest.approx(K)
    agree(sae, in_training(sae, x_BD, context(K)), lambda p: topk_literal("batchtopk", p, x_BD, below_F))
    assert not np.any(none_F)


def test_densities_are_means_and_then_running_means(x_BD, randomised, context):
    sae = randomised(architecture("mutual_choice"), D, F).replace(density=jnp.zeros(F), updates=jnp.float64(0))
    shares = []
    for row in range(3):
        _, stats = jax.jit(sae.loss)({"x": x_BD + row}, context(K))
        shares.append(np.asarray(stats["fired"]) / B)
        sae = sae.after_update(stats)
    np.testing.assert_allclose(sae.density, np.mean(shares, axis=0), rtol=1e-12)
    late = sae.replace(updates=jnp.float64(1000)).after_update(stats)
    np.testing.assert_allclose(late.density, 0.99 * sae.density + 0.01 * shares[-1], rtol=1e-12)


def literal_feature_choice(p, x_BD, budgets_F, below_F):
    """The loss by sorting each feature's column."""
    z = (x_BD - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    positive = jax.nn.relu(z)
    order_BF = jnp.argsort(-stop(positive), axis=0)
    rank_BF = jnp.argsort(order_BF, axis=0)
    f = jnp.where(rank_BF < budgets_F, positive, 0)
    x_hat = f @ p["W_dec"] + p["b_dec"]
    e = stop(x_BD - x_hat)
    rest = jax.nn.relu(jnp.where(below_F, z, 0))  # the largest of each token
    kept = rest >= jnp.sort(stop(rest), axis=1)[:, -(D // 2)][:, None]
    left = e - jnp.where(kept, rest, 0) @ p["W_dec"]
    share = jnp.sum(left**2) / jnp.sum((e - e.mean(0)) ** 2)
    variance = jnp.mean(jnp.sum((x_BD - x_BD.mean(0)) ** 2, 1))
    return jnp.mean(jnp.sum((x_BD - x_hat) ** 2, 1)) + variance * share / 32


def test_feature_choice_keeps_the_budget_of_every_feature(x_BD, randomised, context):
    sae = with_history(randomised(architecture("feature_choice"), D, F))
    late = dataclasses.replace(context(K), progress=jnp.float64(0.9))
    allowed_F, budgets_F, f_BF, below_F = jax.jit(
        lambda c: (sae.expected_density(c), sae.budgets(B, c), sae.encode(x_BD, c), sae.neglected(c))
    )(late)
    assert budgets_F.max() > budgets_F.min() and np.all(np.abs(budgets_F - B * allowed_F) < 1)
    positive_F = (sae.preactivations(x_BD) > 0).sum(0)
    np.testing.assert_array_equal((f_BF > 0).sum(0), np.minimum(budgets_F, positive_F))
    # Its auxiliary loss selects by token, whatever the budgets.
    trained = {name: getattr(sae, name) for name in sae.trained_fields()}
    ours, theirs = (
        jax.jit(in_training(sae, x_BD, late))(trained),
        literal_feature_choice(trained, x_BD, budgets_F, below_F),
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    early = dataclasses.replace(context(K), progress=jnp.float64(0.1))
    mutual = with_history(randomised(architecture("mutual_choice"), D, F))
    mutual = mutual.replace(**{name: getattr(sae, name) for name in mutual.trained_fields()})
    np.testing.assert_array_equal(jax.jit(sae.encode)(x_BD, early), jax.jit(mutual.encode)(x_BD, early))


def test_random_rounding_gives_every_feature_its_share(randomised, context):
    sae = with_history(randomised(architecture("feature_choice"), D, F, dtype=jnp.float32))
    keys = jax.random.split(jax.random.key(0), 400)
    once = context(1, "float32")
    drawn = jax.jit(jax.vmap(lambda key: sae.budgets(4, dataclasses.replace(once, key=key))))(keys)
    expected_F = 4 * np.asarray(jax.jit(sae.expected_density)(once))
    assert expected_F.min() < 0.2
    np.testing.assert_allclose(np.mean(drawn, axis=0), expected_F, atol=0.1)


def test_feature_choice_encodes_one_token_by_thresholds(x_BD, randomised, context):
    sae = with_history(randomised(architecture("feature_choice"), D, F)).replace(threshold=jnp.zeros(F))
    late = dataclasses.replace(context(K), progress=jnp.float64(0.9))
    f_BF = np.asarray(jax.jit(sae.encode)(x_BD, late))
    trained = sae.after_update(jax.jit(sae.loss)({"x": x_BD}, late)[1])
    least_F = np.where(f_BF > 0, f_BF, np.inf).min(0)
    kept_F = np.isfinite(least_F)
    np.testing.assert_allclose(trained.threshold[kept_F], least_F[kept_F])
    alone = np.stack([trained.encode(x_D) for x_D in x_BD])
    np.testing.assert_allclose(alone[:, kept_F], np.where(f_BF > least_F, f_BF, 0)[:, kept_F], atol=1e-12)


@pytest.mark.parametrize("jump", [False, True])
def test_gba_equals_a_literal_transcription(jump, x_BD, randomised, context):
    sae = randomised(architecture("gba"), D, F, make_options("gba", {"jump": jump}))
    sae = sae.replace(b_enc=-jnp.abs(sae.b_enc))

    def theirs(p):
        plain = (x_BD - stop(p["b_dec"])) @ p["W_dec"].T
        y = plain + sae.b_enc
        f = jnp.exp(p["log_gain"]) * jnp.where(y > 0, plain if jump else y, 0)
        x_hat = f @ p["W_dec"] + p["b_dec"]
        return jnp.mean(jnp.sum((x_BD - x_hat) ** 2, axis=1))

    agree(sae, in_training(sae, x_BD, context(K)), theirs)
    f_BF = sae.encode(x_BD)
    np.testing.assert_array_equal(sae.active(f_BF), sae.preactivations(x_BD) > 0)


def test_gba_moves_biases_by_the_rule_every_few_updates(randomised, context):
    options = make_options("gba", {"groups": 3, "every": 4, "step_down": 0.1, "step_up": 0.2, "frequency_span": 16.0})
    sae = randomised(architecture("gba"), D, F, options, dtype=jnp.float32)
    bias = np.linspace(-0.9, 0, F, dtype=np.float32)
    zeros = jnp.zeros(F)
    sae = sae.replace(b_enc=jnp.asarray(bias), share=zeros, largest=zeros, batches=jnp.float32(0))
    target = np.repeat([1.0, 0.25, 0.0625], 8)
    target *= 3 / target.sum()
    np.testing.assert_allclose(sae.targets(jnp.float32(3)), target, rtol=1e-6)
    assert sae.targets(jnp.float32(F)).max() == 1
    draws = np.random.default_rng(0)
    shares, largest = draws.uniform(0, 0.5, (4, F)), draws.normal(0.3, 0.5, (4, F))
    shares[:, [2, 9, 15]], largest[:, [2, 9, 15]] = 0, -0.1
    for t in range(4):
        np.testing.assert_array_equal(sae.b_enc, bias)
        stats = {"share": jnp.asarray(shares[t]), "largest": jnp.asarray(largest[t]), "k": jnp.float32(3)}
        sae = sae.after_update(stats)
    expected, reach = bias.copy(), np.maximum(largest.max(0), 0)
    for m in range(F):
        group = reach[m // 8 * 8 : m // 8 * 8 + 8]
        if shares[:, m].mean() > target[m]:
            expected[m] = max(bias[m] - 0.1 * reach[m], -1)
        elif shares[:, m].mean() < 1e-6:
            expected[m] = min(bias[m] + 0.2 * group[group > 0].mean(), 0)
    np.testing.assert_allclose(sae.b_enc, expected, rtol=1e-5)
    assert (expected < bias).any() and (expected > bias).sum() == 3 and (expected == bias).any()
    assert not np.any(sae.share) and not np.any(sae.largest) and sae.batches == 0


def test_gba_needs_its_encoder_to_be_its_decoder():
    with pytest.raises(SettingError, match=r"config\.sae\.decoder_transpose_init = False: must be True"):
        make_options("gba", {"decoder_transpose_init": False})


def keep_by_sorting(squares_F, norm):
    """As the authors' code: the nearest of all partial sums' roots."""
    order = np.argsort(-squares_F, kind="stable")
    roots = np.sqrt(np.cumsum(squares_F[order]))
    kept = np.zeros(len(squares_F), bool)
    kept[order[: np.argmin(np.abs(roots - norm)) + 1]] = True
    return kept & (squares_F > 0)


def test_top_afa_equals_a_literal_transcription(x_BD, randomised, context):
    sae = randomised(architecture("top_afa"), D, F)
    dead_F = jnp.arange(F) < 6

    norm = np.linalg.norm(x_BD - sae.b_dec, axis=1)
    start = np.asarray(jax.nn.relu((x_BD - sae.b_dec) @ sae.W_enc)) * np.linalg.norm(sae.W_dec, axis=1)
    kept = np.stack([keep_by_sorting(*row) for row in zip(start**2, norm, strict=True)])
    assert len(set(kept.sum(1))) > 3

    def theirs(p):
        a = jax.nn.relu((x_BD - p["b_dec"]) @ p["W_enc"])
        lengths = a * jnp.linalg.norm(p["W_dec"], axis=1)
        x_hat = jnp.where(kept, a, 0) @ p["W_dec"] + p["b_dec"]
        f_norm = jnp.sqrt(jnp.sum(jnp.where(kept, lengths, 0) ** 2, axis=1))
        e = stop(x_BD - x_hat)
        left = jnp.where(dead_F, a, 0)
        left = jnp.where(left >= jnp.sort(stop(left), axis=1)[:, [-D // 2]], left, 0)
        auxiliary = jnp.sum((e - left @ p["W_dec"]) ** 2) / jnp.sum((e - e.mean(0)) ** 2)
        auxiliary *= jnp.mean(jnp.sum((x_BD - x_BD.mean(0)) ** 2, 1)) / 32
        return jnp.mean(jnp.sum((x_BD - x_hat) ** 2, 1)) + 0.3 * jnp.mean((f_norm - norm) ** 2) + auxiliary

    agree(sae, in_training(sae, x_BD, dataclasses.replace(context(0.3), dead_F=dead_F)), theirs)


def kl(mu, log_variance, learned):
    spread = jnp.exp(log_variance) - 1 - log_variance if learned else 0
    return jnp.mean(jnp.sum(mu**2 + spread, axis=1)) / 2


@pytest.mark.parametrize(
    "options", [{}, {"learned_variance": True}, {"select_on_mean": True}, {"sample": False}], ids=str
)
def test_variational_equals_a_literal_transcription(options, x_BD, randomised, context):
    options = {"kl_coefficient": 0.02, "kl_warm_up": 0.4} | options
    sae = randomised(architecture("variational"), D, F, make_options("variational", options))
    surroundings = dataclasses.replace(context(K), progress=jnp.float64(0.1))
    noise = jax.random.normal(surroundings.key, (B, F), jnp.float64)
    learned = "learned_variance" in options

    def theirs(p):
        mu = (x_BD - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
        log_variance = -2.0
        if learned:
            log_variance = jnp.clip((x_BD - p["b_dec"]) @ p["W_var"] + p["b_var"], -6, 2)
        z = mu + jnp.exp(log_variance / 2) * noise if options.get("sample", True) else mu
        scores = stop(jnp.abs(mu if options.get("select_on_mean") else z))
        f = jnp.where(scores >= jnp.sort(scores, axis=1)[:, [-K]], z, 0)
        loss = jnp.mean(jnp.sum((x_BD - f @ p["W_dec"] - p["b_dec"]) ** 2, axis=1))
        return loss + 0.02 * 0.25 * kl(mu, log_variance, learned)

    agree(sae, in_training(sae, x_BD, surroundings), theirs)
    mu = np.asarray(sae.preactivations(x_BD))
    judged = np.asarray(sae.encode(x_BD))  # nothing is sampled, and the k of the newest update
    assert set((judged != 0).sum(1)) == {int(sae.k)} and np.all((judged == 0) | (judged == mu))
    trained = np.asarray(jax.jit(sae.encode)(x_BD, surroundings))
    assert np.array_equal(trained[trained != 0], mu[trained != 0]) == (not options.get("sample", True))
    other = dataclasses.replace(surroundings, key=jax.random.key(9))
    assert np.array_equal(trained, jax.jit(sae.encode)(x_BD, other)) == (not options.get("sample", True))


def test_wrong_options_are_named():
    wrong = {
        "variational": [{"learned_variance": True, "sample": False}, {"kl_coefficient": -1.0}, {"kl_warm_up": 2}],
        "mutual_choice": [{"zipf_exponent": -1.0}, {"zipf_shift": "3"}],
        "feature_choice": [{"mutual_choice_share": 1.5}],
        "gba": [{"groups": 0}, {"every": 2.5}, {"least_bias": 0.5}, {"frequency_span": 0.5}],
    }
    for name, all_options in wrong.items():
        for options in all_options:
            setting = next(iter(options))
            with pytest.raises(SettingError, match=rf"config\.sae\.{setting} = "):
                make_options(name, options)


PRODUCTS = (
    ("mutual_choice", {}, 8),
    ("feature_choice", {}, 8),
    ("gba", {}, 5),
    ("top_afa", {}, 8),
    ("top_afa", {"auxiliary_coefficient": 0.0}, 5),
    ("variational", {"auxiliary_coefficient": 0.0}, 5),
    ("variational", {"auxiliary_coefficient": 0.0, "learned_variance": True}, 7),
)


@pytest.mark.parametrize(("name", "options", "products"), PRODUCTS, ids=str)
def test_products_a_step(name, options, products):
    rows, width, features = 64, 32, 512  # large enough that the rest is little
    (group,) = group_points([Point(name, "site", features, 4.0, 1e-3, 0, make_options(name, options))])
    settings = StepSettings(batch_size=rows, schedules=Schedules(total_steps=100))
    step = make_step(group, settings, make_mesh())
    jaxpr = step.trace(
        abstract_state(group, width, make_mesh()), jax.ShapeDtypeStruct((rows, width), jnp.float32), jnp.int32(0)
    ).jaxpr
    assert products <= count_flops(jaxpr) / (2 * rows * width * features) < products + 0.5
