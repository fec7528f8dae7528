"""The optimiser as optax components: gradient projection, one-moment Adam, exact unit norm; and resets.

The components act on the trained fields {name: array} of one member. They keep shardings: products along an axis that
is split over devices do not occur, every norm is along the axis that is not the features'.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

Fields = dict[str, jax.Array]


class NoState(NamedTuple):
    """A component that keeps nothing between steps."""


def project_out_parallel(feature_axes: Mapping[str, int]) -> optax.GradientTransformation:
    r"""Removes from the gradient of each unit vector d its component along d.

    .. math:: g \leftarrow g - \frac{\langle g, d \rangle}{\langle d, d \rangle} d

    That part would only change the length, which `hold_unit_norm` undoes, yet it would enter Adam's second moment.

    Args:
        feature_axes: the fields of unit vectors, each [F, D] or [D, F], with the axis that is F.

    Returns:
        A gradient transformation without state; `update` needs `params`.

    References:
        Bricken et al., Towards Monosemanticity, 2023 (appendix on advice for training).
    """

    def update(updates, state, params=None):
        if params is None:
            raise ValueError(optax.NO_PARAMS_MSG)
        projected = {}
        for name, gradient in updates.items():
            if name in feature_axes:
                d, axis = params[name], 1 - feature_axes[name]
                along = jnp.sum(gradient * d, axis, keepdims=True) / _squared_norm(d, axis)
                gradient = gradient - along * d
            projected[name] = gradient
        return projected, state

    return optax.GradientTransformation(lambda params: NoState(), update)


def hold_unit_norm(feature_axes: Mapping[str, int]) -> optax.GradientTransformation:
    r"""Changes the update u so that p + u has unit L2 norm, to float32 rounding. The last component of a chain.

    .. math:: u \leftarrow \frac{p + u}{\|p + u\|_2} - p

    Args:
        feature_axes: the fields of unit vectors, each [F, D] or [D, F], with the axis that is F.

    Returns:
        A gradient transformation without state; `update` needs `params`.
    """

    def update(updates, state, params=None):
        if params is None:
            raise ValueError(optax.NO_PARAMS_MSG)
        held = {}
        for name, change in updates.items():
            if name in feature_axes:
                moved = params[name] + change
                change = moved * jax.lax.rsqrt(_squared_norm(moved, 1 - feature_axes[name])) - params[name]
            held[name] = change
        return held, state

    return optax.GradientTransformation(lambda params: NoState(), update)


def scale_by_second_moment(beta2: float = 0.999, eps: float = 1e-8) -> optax.GradientTransformation:
    r"""Adam with :math:`\beta_1 = 0`: one moment, so two float32 copies of the parameters are the whole state.

    .. math::
        v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \qquad
        u = \frac{g}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    References:
        Kingma & Ba, Adam, 2015; the setting is that of the Gated SAE paper (2404.16014, appendix on training).
    """
    return optax.scale_by_rms(beta2, eps=eps, eps_in_sqrt=False, bias_correction=True)


def update_member(
    gradients: Fields,
    second_moments: Fields,
    parameters: Fields,
    *,
    step: jax.Array,
    learning_rate: jax.Array,
    unit_norm_axes: Mapping[str, int],
    beta2: float,
    eps: float,
) -> tuple[Fields, Fields]:
    """One update of one member: project, scale, step, hold the norm.

    Args:
        gradients, second_moments, parameters: the trained fields, float32.
        step: int32, updates made before this one; the bias correction's count.
        learning_rate: float32 scalar of this step.
        unit_norm_axes: the fields of unit vectors, each with the axis that is F.
        beta2, eps: Adam's constants.

    Returns:
        the new parameters and second moments.
    """
    chain = optax.chain(
        project_out_parallel(unit_norm_axes),
        scale_by_second_moment(beta2, eps),
        optax.scale(-learning_rate),
        hold_unit_norm(unit_norm_axes),
    )
    # The count is the step: it is not kept a second time in the state.
    state = optax.tree_utils.tree_set(chain.init(parameters), count=step, nu=second_moments)
    updates, state = chain.update(gradients, state, parameters)
    return optax.apply_updates(parameters, updates), optax.tree_utils.tree_get(state, "nu")


def reset_second_moments(
    second_moments: Fields, reset_F: jax.Array, living_F: jax.Array, feature_axes: Mapping[str, int | None]
) -> Fields:
    """Gives the entries of some features the median second moment of the living features' entries, field by field.

    Zero would be wrong late in training: under the bias correction of a large count, the next update would be about
    1 / sqrt(1 - beta2) = 31.6 times the learning rate.

    Args:
        second_moments: the fields, each with at most one axis of F.
        reset_F: bool, the features to reset.
        living_F: bool, the features to learn from.
        feature_axes: for every field the axis that is F, None where there is none (left as it is).
    """
    reset = {}
    for name, moment in second_moments.items():
        axis = feature_axes[name]
        if axis is not None:
            others = tuple(i for i in range(moment.ndim) if i != axis)
            median = masked_median(moment, jnp.expand_dims(living_F, others))
            moment = jnp.where(jnp.expand_dims(reset_F, others), median, moment)
        reset[name] = moment
    return reset


def masked_median(values: jax.Array, mask: jax.Array) -> jax.Array:
    """The lower median of the non-negative float32 `values` where `mask` (broadcast) holds; 0 where it never does.

    By bisection on the bits, which order as the values do: counts are plain reductions, so nothing is gathered when the
    values are sharded, and the result is exact.
    """
    bits = jax.lax.bitcast_convert_type(values.astype(jnp.float32), jnp.int32)
    total = _count(jnp.broadcast_to(mask, values.shape))

    def halve(_, bounds):
        low, high = bounds
        middle = low + (high - low) // 2
        count = _count((bits <= middle) & mask)
        enough = count >= total - count
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    low, _ = jax.lax.fori_loop(0, 31, halve, (jnp.min(bits), jnp.max(bits)))
    return jnp.where(total > 0, jax.lax.bitcast_convert_type(low, jnp.float32), 0)


def _count(mask: jax.Array) -> jax.Array:
    return jnp.sum(mask, dtype=jnp.uint32)  # exact for fields of up to 4.29e9 entries


def _squared_norm(vectors: jax.Array, axis: int) -> jax.Array:
    return jnp.sum(jnp.square(vectors), axis, keepdims=True)
