"""JumpReLU with a tanh penalty, as Anthropic's update of January 2025 trains it ("Dictionary learning optimization").

The update's settings are for inputs whose mean norm is sqrt(D). Here inputs have mean squared norm one, so that
everything of the size of a pre-activation is divided by sqrt(D): settings are written in the update's units, and
converted where they are used. The loss is the update's divided by D; its coefficients keep their values.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import flax.struct
import jax
import jax.numpy as jnp

from gsae.autoencoders import linear
from gsae.autoencoders.context import Context
from gsae.autoencoders.jumprelu import JumpReLU, JumpReLUOptions
from gsae.autoencoders.statistics import mean_squared_norm, reconstruction_statistics
from gsae.errors import SettingError

ROWS = 8192  # from so many rows b_enc is set; ours: [rows, F] pre-activations must fit in memory
HALVINGS = 30  # of the interval in which a quantile lies


@dataclasses.dataclass(frozen=True, kw_only=True)
class JumpReLUTanhOptions(JumpReLUOptions):
    """Settings of the recipe, in the update's units; the defaults are the update's unless said otherwise.

    Attributes:
        initial_threshold: theta of every feature at the start.
        bandwidth: epsilon of the straight-through estimators.
        tanh_scale: c, how steeply the penalty of a feature saturates.
        preactivation_coefficient: lambda_P, what pulls up the pre-activations below theta, dead features' first of all.
        initial_l0: how many features fire for a token at the start, which b_enc is set to give; at most a quarter of
            all (ours: the update's dictionaries are much larger than 40,000).
    """

    initial_threshold: float = 0.1
    bandwidth: float = 2.0
    tanh_scale: float = 4.0
    preactivation_coefficient: float = 3e-6
    initial_l0: float = 10_000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tanh_scale", "initial_l0"):
            if isinstance(getattr(self, name), bool) or not 0 < getattr(self, name) < math.inf:
                raise SettingError(f"config.sae.{name}", getattr(self, name), "must be a number above zero")
        value = self.preactivation_coefficient
        if isinstance(value, bool) or not 0 <= value < math.inf:
            raise SettingError("config.sae.preactivation_coefficient", value, "must be a number from 0")


@flax.struct.dataclass
class JumpReLUTanh(JumpReLU):
    """f = z H(z - theta), as `JumpReLU`; the penalty is sum tanh(c f ||d||), and decoder vectors are free.

    The sparsity coefficient lambda_S rises over the whole run, whatever the schedule of the others is.
    """

    Options = JumpReLUTanhOptions
    warms_up: ClassVar[bool] = False

    options: JumpReLUTanhOptions = flax.struct.field(pytree_node=False, default=JumpReLUTanhOptions())

    @classmethod
    def initialise(cls, key: jax.Array, activation_width: int, features: int, options: JumpReLUOptions) -> Self:
        """W_dec ~ U(-1/sqrt(D), 1/sqrt(D)), W_enc = (D/F) W_dec^T (or of its own), biases zero; float32."""
        decoder_key, encoder_key = jax.random.split(key)
        plain = super().initialise(key, activation_width, features, options)
        bound = activation_width**-0.5
        W_dec_FD, W_own_FD = (
            jax.random.uniform(k, plain.W_dec.shape, jnp.float32, -bound, bound) for k in (decoder_key, encoder_key)
        )
        W_enc_DF = (W_dec_FD if options.decoder_transpose_init else W_own_FD).T * (activation_width / features)
        fresh = plain.replace(W_enc=W_enc_DF, W_dec=W_dec_FD)
        name = "log_threshold" if options.log_threshold else "threshold"
        return fresh.replace(**{name: jnp.full(features, fresh.initial_value(name), jnp.float32)})

    @classmethod
    def no_target_l0(cls, options: Any) -> str:
        """Following a target would undo the rise of the coefficient, which is the recipe."""
        return "its coefficient rises until the last step, so that no L0 before the end is the one to come"

    @property
    def unit(self) -> float:
        """sqrt(D): the size of the update's inputs in ours."""
        return math.sqrt(self.b_dec.shape[-1])

    @property
    def bandwidth(self) -> float:
        """Epsilon, in the units of the inputs."""
        return self.options.bandwidth / self.unit

    def initial_value(self, name: str) -> float:
        """The threshold of the options in the units of the inputs, or its logarithm; zero for biases."""
        theta = self.options.initial_threshold / self.unit
        return {"threshold": theta, "log_threshold": math.log(theta)}.get(name, 0.0)

    def unit_norm_fields(self) -> tuple[str, ...]:
        """None: the penalty weighs a feature by the norm of its decoder vector."""
        return ()

    def calibration_rows(self) -> int:
        """As many as the pre-activations of which fit beside the weights."""
        return ROWS

    def calibrate(self, x_ND: jax.Array) -> Self:
        """b_enc so that every feature fires for the same share of the rows."""
        z_NF = self.preactivations(x_ND)
        share = min(self.options.initial_l0 / z_NF.shape[1], 0.25)
        return self.replace(b_enc=(self.b_enc + self.theta - _upper_quantile(z_NF, share)).astype(self.b_enc.dtype))

    def loss(self, batch: Mapping[str, jax.Array], context: Context) -> tuple[jax.Array, dict[str, jax.Array]]:
        """||x - x_hat||^2 + lambda_S sum tanh(c f ||d||) + lambda_P sum ReLU(theta - z) ||d||, averaged over the batch.

        That is the loss in the update's units, divided by D. Five products of B D F multiplications with its gradient.
        The straight-through estimators give gradients to theta and to z, hence to all parameters.
        """
        x_BD = batch["x"]
        target_BD = batch.get("target", x_BD)
        rows, width = x_BD.shape

        z_BF, theta_F = self.preactivations(x_BD, context), self.theta
        f_BF = jump_through(z_BF, theta_F, self.bandwidth)
        x_hat_BD = linear.decode(f_BF, self.W_dec, context.compute_dtype) + self.b_dec

        norms_F = linear.row_norms(self.W_dec) * self.unit  # of f and theta - z in the update's units
        scale = self.options.error_scale(target_BD)
        reconstruction = scale * mean_squared_norm(target_BD - x_hat_BD)
        saturated = jnp.sum(jnp.tanh(self.options.tanh_scale * f_BF * norms_F)) / rows
        sparsity = context.sparsity_coefficient * context.progress * saturated / width
        below = jnp.sum(jnp.sum(jax.nn.relu(theta_F - z_BF), axis=0) * norms_F) / rows
        auxiliary = self.options.preactivation_coefficient * below / width

        stats = reconstruction_statistics(target_BD, x_hat_BD, self.fired(f_BF))
        stats |= {"reconstruction": reconstruction, "sparsity": sparsity, "auxiliary": auxiliary}
        return reconstruction + sparsity + auxiliary, stats


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def jump_through(z: jax.Array, theta_F: jax.Array, bandwidth: float) -> jax.Array:
    """`jumprelu.jump`, whose step also passes (theta / bandwidth) K((z - theta) / bandwidth) to z."""
    return jnp.where(z > theta_F, jax.nn.relu(z), 0)


def _jump_forward(z, theta_F, bandwidth):
    return jump_through(z, theta_F, bandwidth), (z, theta_F)


def _jump_backward(bandwidth, residuals, g):
    z, theta_F = residuals
    through = jnp.where(jnp.abs(z - theta_F) < bandwidth / 2, theta_F / bandwidth * g, 0)
    return jnp.where((z > theta_F) & (z > 0), g, 0) + through, -jnp.sum(through, axis=tuple(range(z.ndim - 1)))


jump_through.defvjp(_jump_forward, _jump_backward)


def _upper_quantile(z_NF: jax.Array, share: float) -> jax.Array:
    """For each column the number that about this share of its rows exceeds, [F]; by counting, as in `selection`."""
    wanted = share * z_NF.shape[0]

    def halve(_, bounds):
        low_F, high_F = bounds
        middle_F = (low_F + high_F) / 2
        above_F = jnp.sum(z_NF > middle_F, axis=0, dtype=jnp.int32) > wanted
        return jnp.where(above_F, middle_F, low_F), jnp.where(above_F, high_F, middle_F)

    return jax.lax.fori_loop(0, HALVINGS, halve, (jnp.min(z_NF, axis=0), jnp.max(z_NF, axis=0)))[1]
