"""TopK and its relatives: float64 transcriptions, the auxiliary loss, thresholds, a sweep of k in one program."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsae.autoencoders.registry import architecture
from gsae.autoencoders.topk import TopKOptions
from gsae.mesh import make_mesh
from gsae.throughput import count_flops
from gsae.training.groups import Point, group_points
from gsae.training.schedules import Schedules
from gsae.training.step import StepSettings, batch_sharding, initial_state, make_step

D, F, B, K = 10, 24, 16, 5
NAMES = ("topk", "abstopk", "batchtopk")


@pytest.fixture
def x_BD(float64):
    return jax.random.normal(jax.random.key(7), (B, D), jnp.float64) + 0.5


def literal(name, parameters, x_BD, dead_F=None, coefficient=1 / 32, multi=0.0):
    """The loss as the papers write it, by sorting."""
    W_enc, W_dec, b_enc, b_dec = (parameters[key] for key in ("W_enc", "W_dec", "b_enc", "b_dec"))
    z = (x_BD - b_dec) @ W_enc + b_enc

    def select(z, k, together=name == "batchtopk"):
        scores = jnp.abs(z) if name == "abstopk" else jax.nn.relu(z)
        if together:
            flat = jax.lax.stop_gradient(scores).ravel()
            kept = (flat >= jnp.sort(flat)[-k * B]).reshape(z.shape)
        else:
            kept = scores >= jnp.sort(jax.lax.stop_gradient(scores), axis=1)[:, -k][:, None]
        return jnp.where(kept, z if name == "abstopk" else scores, 0)

    x_hat = select(z, K) @ W_dec + b_dec
    loss = jnp.mean(jnp.sum((x_BD - x_hat) ** 2, axis=1))
    if multi:
        loss += multi * jnp.mean(jnp.sum((x_BD - b_dec - select(z, 4 * K) @ W_dec) ** 2, axis=1))
    if dead_F is None:
        return loss
    e = jax.lax.stop_gradient(x_BD - x_hat)
    e_hat = select(jnp.where(dead_F, z, 0), D // 2, together=False) @ W_dec
    variance = jnp.sum((x_BD - x_BD.mean(0)) ** 2) / jnp.sum((e - e.mean(0)) ** 2)
    return loss + coefficient * variance * jnp.mean(jnp.sum((e - e_hat) ** 2, axis=1))


@pytest.mark.parametrize("dead", [False, True], ids=["none dead", "some dead"])
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradients_equal_a_literal_transcription(name, dead, x_BD, randomised, context):
    multi = 1 / 8 if dead else 0.0  # both additions in one, to compile less
    sae = randomised(architecture(name), D, F, architecture(name).Options(multi_coefficient=multi))
    dead_F = jnp.arange(F) % 2 == 0 if dead else None
    surroundings = dataclasses.replace(context(K), dead_F=dead_F)
    parameters = {field: getattr(sae, field) for field in sae.trained_fields()}
    ours = jax.value_and_grad(lambda p: sae.replace(**p).loss({"x": x_BD}, surroundings)[0])(parameters)
    theirs = jax.value_and_grad(lambda p: literal(name, p, x_BD, dead_F, multi=multi))(parameters)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_the_auxiliary_loss_moves_dead_features_alone(name, x_BD, randomised, context):
    sae = randomised(architecture(name), D, F)
    dead_F = jnp.arange(F) < 6

    def auxiliary(parameters):
        changed = sae.replace(**parameters)
        return changed.loss({"x": x_BD}, dataclasses.replace(context(K), dead_F=dead_F))[1]["auxiliary"]

    gradients = jax.grad(auxiliary)({field: getattr(sae, field) for field in ("W_enc", "W_dec", "b_enc")})
    for field, gradient in gradients.items():
        by_feature = np.asarray(gradient).T if field == "W_enc" else np.asarray(gradient).reshape(F, -1)
        moved_F = by_feature.any(axis=1)
        assert moved_F[:6].any() and not moved_F[6:].any(), field
    alive = sae.loss({"x": x_BD}, dataclasses.replace(context(K), dead_F=jnp.zeros(F, bool)))[1]["auxiliary"]
    without = sae.replace(options=TopKOptions(auxiliary_coefficient=0.0))
    assert alive == 0 and without.loss({"x": x_BD}, dataclasses.replace(context(K), dead_F=dead_F))[1]["auxiliary"] == 0


@pytest.mark.parametrize("name", NAMES)
def test_k_features_fire_and_an_exact_one_is_encoded_as_it_trained(name, x_BD, randomised, context):
    sae = randomised(architecture(name), D, F)
    _, stats = sae.loss({"x": x_BD}, context(K))
    per_token = np.asarray(sae.active(sae.encode(x_BD, context(K)))).sum(axis=1)
    assert per_token.mean() == K and (name == "batchtopk" or set(per_token) == {K})
    trained = sae.after_update(stats)
    assert trained.k == K
    alone = np.stack([trained.encode(x_D) for x_D in x_BD])
    if name == "batchtopk":  # by the threshold, which is the least f of this batch: that one alone is not above it
        kept = np.asarray(sae.encode(x_BD, context(K)))
        np.testing.assert_array_equal(trained.threshold, kept[kept > 0].min())
        np.testing.assert_allclose(alone, np.where(kept > kept[kept > 0].min(), kept, 0), atol=1e-12)
    else:
        np.testing.assert_allclose(alone, sae.encode(x_BD, context(K)), atol=1e-12)


def test_a_batch_threshold_is_a_running_mean(x_BD, randomised):
    sae = randomised(architecture("batchtopk"), D, F)
    first = sae.after_update({"k": jnp.float64(K), "least_kept": jnp.float64(2.0)})
    second = first.after_update({"k": jnp.float64(K), "least_kept": jnp.float64(1.0)})
    nothing = second.after_update({"k": jnp.float64(K), "least_kept": jnp.float64(np.inf)})
    np.testing.assert_allclose([first.threshold, second.threshold, nothing.threshold], [2, 1.99, 1.99])


def program(name, points, mesh, **settings):
    options = architecture(name).Options(**settings)
    members = [Point(name, "site", F, k, 3e-3, seed, options) for k, seed in points]
    (group,) = group_points(members, mesh.shape["sweep"])
    steps = StepSettings(batch_size=B, schedules=Schedules(total_steps=300, sparsity_warmup_steps=100))
    return make_step(group, steps, mesh), initial_state(group, D, mesh)


@pytest.mark.parametrize(
    "shape", [(2, 2, 2), *(pytest.param(s, marks=pytest.mark.slow) for s in [(1, 1, 1), (1, 2, 4)])]
)
@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_of_k_is_one_program_on_any_mesh(name, shape):
    mesh = make_mesh(*shape)
    step, state = program(name, [(2, 0), (6, 0)], mesh)
    data = np.random.default_rng(0).normal(size=(B, D)).astype(np.float32)
    losses = []
    for t in range(150):
        state, metrics = step(state, jax.device_put(data, batch_sharding(mesh)), jnp.int32(t))
        losses.append(np.asarray(metrics["loss"]))
    assert metrics["l0"].tolist() == [2, 6]  # no warm-up: k is k from the first step on
    assert (losses[-1] < 0.2 * losses[0]).all()
    assert state.autoencoder.k.tolist() == [2, 6]


@pytest.mark.parametrize("name", NAMES)
def test_five_products_a_step_and_eight_where_features_are_dead(name):
    for coefficient, products in ((0.0, 5), (1 / 32, 8)):
        step, state = program(name, [(2, 0)], make_mesh(), auxiliary_coefficient=coefficient)
        jaxpr = step.trace(state, jax.ShapeDtypeStruct((B, D), jnp.float32), jnp.int32(0)).jaxpr
        flops = count_flops(jaxpr)
        assert products * 2 * B * D * F <= flops < (products + 0.5) * 2 * B * D * F
