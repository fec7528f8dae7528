"""JumpReLU sparse autoencoders (Rajamanoharan et al. 2024, arXiv 2407.14435): a threshold a feature, an L0 penalty."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Self

import flax.struct
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from gsae.autoencoders import base, linear
from gsae.autoencoders.base import parameter
from gsae.autoencoders.context import Context
from gsae.autoencoders.statistics import mean_squared_norm, reconstruction_statistics
from gsae.errors import SettingError


@dataclasses.dataclass(frozen=True, kw_only=True)
class JumpReLUOptions(base.CommonOptions):
    """Settings of JumpReLU autoencoders; the defaults are the paper's, for inputs of unit mean squared norm.

    Attributes:
        log_threshold: train log theta, as the paper does; otherwise theta, held at or above zero after each update.
            Adam moves a parameter by about the learning rate a step: theta by a factor in the first case, by a sum in
            the second.
        initial_threshold: theta of every feature at the start, above zero.
        bandwidth: epsilon, the width of the window around theta in which an input gives theta a gradient, above zero.
    """

    log_threshold: bool = True
    initial_threshold: float = 0.001
    bandwidth: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("initial_threshold", "bandwidth"):
            value = getattr(self, name)
            if not (isinstance(value, float | int) and not isinstance(value, bool) and 0 < value < math.inf):
                raise SettingError(f"config.sae.{name}", value, "must be a number above zero")


@flax.struct.dataclass
class JumpReLU(base.Autoencoder):
    """f = z H(z - theta) with z = x W_enc + b_enc and theta >= 0, x_hat = f W_dec + b_dec; b_dec is not subtracted."""

    Options = JumpReLUOptions

    W_enc: jax.Array = parameter(feature_axis=1)  # [D, F]
    W_dec: jax.Array = parameter(feature_axis=0)  # [F, D]
    b_enc: jax.Array = parameter(feature_axis=0)  # [F]
    b_dec: jax.Array = parameter(feature_axis=None)  # [D]
    log_threshold: jax.Array | None = parameter(feature_axis=0, optional=True)  # [F]; None where theta is the parameter
    threshold: jax.Array | None = parameter(feature_axis=0, optional=True)  # [F]; None where log theta is
    options: JumpReLUOptions = flax.struct.field(pytree_node=False, default=JumpReLUOptions())

    @classmethod
    def initialise(cls, key: jax.Array, activation_width: int, features: int, options: JumpReLUOptions) -> Self:
        """Unit decoder vectors, biases zero, all thresholds the same; float32."""
        W_enc_DF, W_dec_FD = base.initial_weights(key, activation_width, features, options)
        zeros_F, zeros_D = jnp.zeros(features, jnp.float32), jnp.zeros(activation_width, jnp.float32)
        fresh = cls(W_enc=W_enc_DF, W_dec=W_dec_FD, b_enc=zeros_F, b_dec=zeros_D, options=options)
        name = "log_threshold" if options.log_threshold else "threshold"
        return fresh.replace(**{name: jnp.full(features, fresh.initial_value(name), jnp.float32)})

    @property
    def theta(self) -> jax.Array:
        """The thresholds [F], whichever parameter holds them."""
        if self.threshold is not None:
            return self.threshold
        assert self.log_threshold is not None
        return jnp.exp(self.log_threshold)

    @property
    def bandwidth(self) -> float:
        """Epsilon, in the units of the inputs."""
        return self.options.bandwidth

    def unit_norm_fields(self) -> tuple[str, ...]:
        """W_dec: without the constraint z could shrink below any bandwidth."""
        return ("W_dec",)

    def initial_value(self, name: str) -> float:
        """The threshold of the options, or its logarithm; zero for biases."""
        theta = self.options.initial_threshold
        return {"threshold": theta, "log_threshold": math.log(theta)}.get(name, 0.0)

    def rescaled(self, scale: float) -> Self:
        """As for every architecture; thresholds are in the units of z, which is divided by the scale."""
        raw = super().rescaled(scale)
        if self.log_threshold is not None:
            return raw.replace(log_threshold=self.log_threshold - math.log(scale))
        return raw.replace(threshold=self.theta / scale)

    def after_update(self, stats: Mapping[str, jax.Array]) -> Self:
        """Puts a threshold that was pushed below zero back to zero, where it keeps its gradient."""
        return self if self.threshold is None else self.replace(threshold=jnp.maximum(self.threshold, 0))

    def preactivations(self, x: jax.Array, context: Context | None = None) -> jax.Array:
        """z = x W_enc + b_enc: [..., D] -> [..., F].

        As (x - b_dec) W_enc + b_dec W_enc + b_enc, which does not depend on b_dec: where the mean of x dominates, b_dec
        comes near it, and a bfloat16 rounds what is left of x instead of the mean.
        """
        x, compute_dtype = self.operands(x, context)
        centre_D = stop_gradient(self.b_dec)
        z = linear.encode(x, centre_D, self.W_enc, compute_dtype)
        return z + jnp.matmul(centre_D, self.W_enc, precision="highest") + self.b_enc

    def encode(self, x: jax.Array, context: Context | None = None) -> jax.Array:
        """Feature activations: [..., D] -> [..., F]."""
        return jump(self.preactivations(x, context), self.theta, self.bandwidth)

    def plain(self) -> "JumpReLU":
        """Of any recipe a JumpReLU."""
        if type(self) is JumpReLU:
            return self
        arrays = {name: getattr(self, name) for name in self.feature_axes}
        return JumpReLU(**arrays, options=JumpReLUOptions(log_threshold=self.options.log_threshold))

    def penalty(self, l0: jax.Array, context: Context) -> jax.Array:
        """The sparsity term of the loss, given the batch's mean L0: lambda L0."""
        return context.sparsity_coefficient * l0

    def loss(self, batch: Mapping[str, jax.Array], context: Context) -> tuple[jax.Array, dict[str, jax.Array]]:
        """||x - x_hat||^2 + lambda ||f||_0, summed over an example, averaged over the batch; with its statistics.

        Five products of B D F multiplications with its gradient. theta gets its gradient by the paper's
        straight-through estimators; the penalty moves nothing else.
        """
        x_BD = batch["x"]
        target_BD = batch.get("target", x_BD)

        z_BF, theta_F = self.preactivations(x_BD, context), self.theta
        f_BF = jump(z_BF, theta_F, self.bandwidth)
        x_hat_BD = linear.decode(f_BF, self.W_dec, context.compute_dtype) + self.b_dec

        reconstruction = self.options.error_scale(target_BD) * mean_squared_norm(target_BD - x_hat_BD)
        l0 = jnp.sum(step(z_BF, theta_F, self.bandwidth)) / z_BF.shape[0]
        sparsity = self.penalty(l0, context)

        stats = reconstruction_statistics(target_BD, x_hat_BD, self.fired(f_BF))
        stats |= {"reconstruction": reconstruction, "sparsity": sparsity, "auxiliary": jnp.zeros_like(reconstruction)}
        return reconstruction + sparsity, stats


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def jump(z: jax.Array, theta_F: jax.Array, bandwidth: float) -> jax.Array:
    r"""ReLU(z) H(z - theta): [..., F] -> [..., F], with the gradients of the paper's section 4.

    d/dz = H(z - theta), and by a straight-through estimator with the rectangle K,
    d/dtheta = -(theta / bandwidth) K((z - theta) / bandwidth), summed over the leading axes.
    """
    return jnp.where(z > theta_F, jax.nn.relu(z), 0)


def _jump_forward(z, theta_F, bandwidth):
    return jump(z, theta_F, bandwidth), (z, theta_F)


def _jump_backward(bandwidth, residuals, g):
    z, theta_F = residuals
    g_z = jnp.where((z > theta_F) & (z > 0), g, 0)
    return g_z, -theta_F / bandwidth * _in_window(z, theta_F, bandwidth, g)


jump.defvjp(_jump_forward, _jump_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def step(z: jax.Array, theta_F: jax.Array, bandwidth: float) -> jax.Array:
    """H(z - theta) as a number: [..., F] -> [..., F]; d/dz = 0, d/dtheta = -(1 / bandwidth) K((z - theta) / bandwidth).

    Of z, not of f, as the paper's equations have it: half of the window lies below theta, where f is zero.
    """
    return (z > theta_F).astype(z.dtype)


def _step_forward(z, theta_F, bandwidth):
    return step(z, theta_F, bandwidth), (z, theta_F)


def _step_backward(bandwidth, residuals, g):
    z, theta_F = residuals
    return jnp.zeros_like(z), -_in_window(z, theta_F, bandwidth, g) / bandwidth


step.defvjp(_step_forward, _step_backward)


def _in_window(z: jax.Array, theta_F: jax.Array, bandwidth: float, g: jax.Array) -> jax.Array:
    """The sum of g over all rows where |z - theta| < bandwidth / 2, [F]."""
    near = jnp.abs(z - theta_F) < bandwidth / 2
    return jnp.sum(jnp.where(near, g, 0), axis=tuple(range(z.ndim - 1)))
