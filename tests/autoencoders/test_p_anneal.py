"""P-anneal: the penalty and its gradient, and a whole annealing against a plain loop of the same rule."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from gsae.autoencoders.p_anneal import PAnneal, PAnnealOptions
from gsae.autoencoders.standard import Standard

D, F, B, STEPS = 8, 14, 32, 40
OPTIONS = PAnnealOptions(anneal_start=0.25, p_end=0.2, anneal_updates=5, anneal_queue=3)


def test_the_penalty_is_l1_at_first_and_has_finite_gradients_for_any_p(float64, randomised, context):
    x_BD = jax.random.normal(jax.random.key(7), (B, D), jnp.float64)
    sae = randomised(PAnneal, D, F, OPTIONS).replace(stage=jnp.float64(0), factor=jnp.float64(1), seen=jnp.float64(0))
    plain = Standard(**{name: getattr(sae, name) for name in Standard.feature_axes})
    early = dataclasses.replace(context(0.3), progress=0.1)
    np.testing.assert_allclose(sae.loss({"x": x_BD}, early)[0], plain.loss({"x": x_BD}, early)[0], rtol=1e-10)
    f_BF = np.asarray(sae.encode(x_BD))
    for stage, p in ((1, 0.8), (4, 0.2), (9, 0.2)):
        assert np.isclose(sae.p(stage), p)
        loss, slope_BF = jax.value_and_grad(lambda f, p=p: sae.lp(f, p))(jnp.asarray(f_BF))
        np.testing.assert_allclose(loss, ((f_BF + 1e-4) ** p - 1e-4**p).sum() / B, rtol=1e-10)
        np.testing.assert_allclose(slope_BF, p * (f_BF + 1e-4) ** (p - 1) / B, rtol=1e-10)
    free = sae.replace(options=dataclasses.replace(OPTIONS, ri_l1=True))
    np.testing.assert_allclose(free.lp(f_BF, 0.5), sae.lp(f_BF * np.linalg.norm(sae.W_dec, axis=1), 0.5), rtol=1e-10)


def test_annealing_falls_at_its_steps_and_the_coefficient_keeps_the_pull(context):
    sae = PAnneal.initialise(jax.random.key(0), D, F, OPTIONS)
    update = jax.jit(
        lambda sae, x, progress: sae.loss({"x": x}, dataclasses.replace(surroundings, progress=progress))[1]
    )
    surroundings, queue, factor, stage = context(0.3, "float32"), [], 1.0, 0
    for t in range(STEPS):
        x_BD = jax.random.normal(jax.random.key(t), (B, D))
        due = int(np.floor(max(t / STEPS - 0.25, 0) / 0.75 * 4))  # falls at steps 18, 25, 33: the last would be at 40
        f_BF = np.asarray(sae.encode(x_BD), np.float64)
        if due > stage:
            assert t in (18, 25, 33)
            last = np.mean(queue[-3:], axis=0)
            factor, stage, queue = factor * last[0] / last[1], due, []
        now, following = (1 - 0.2 * s for s in (stage, stage + 1))
        queue.append([((f_BF + 1e-4) ** p - 1e-4**p).sum() / B for p in (now, following)])
        stats = update(sae, x_BD, jnp.float32(t / STEPS))
        np.testing.assert_allclose(stats["sparsity"], 0.3 * factor * queue[-1][0], rtol=1e-4)
        sae = sae.after_update(stats)
        assert (int(sae.stage), int(sae.seen)) == (stage, len(queue))
    assert stage == 3 and factor < 0.96
