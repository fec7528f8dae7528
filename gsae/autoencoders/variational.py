"""Variational sparse autoencoders (Baker and Li, arXiv 2509.22994): TopK of sampled codes, drawn to a normal prior.

q(z | x) = N(mu, sigma^2), mu = (x - b_dec) W_enc + b_enc. While it trains, z = mu + sigma e with e normal, f = z where
|z| is among the token's k largest, and the loss has beta KL(q || N(0, 1)); afterwards z = mu.

With `sample=False` it is what the authors' released models were: TopK with signs and an L2 penalty on mu, beta / 2
||mu||^2; nothing variational is in it. Their encoder also has a ReLU on mu, which the paper's equations have not; ours
follows the paper.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Self

import flax.struct
import jax
import jax.numpy as jnp

from gsae.autoencoders import linear
from gsae.autoencoders.base import parameter
from gsae.autoencoders.context import Context
from gsae.autoencoders.selection import largest_of_each
from gsae.autoencoders.statistics import mean_squared_norm, reconstruction_statistics
from gsae.autoencoders.topk import SelectingOptions, TopK, whole
from gsae.errors import SettingError

LOG_VARIANCES = (-6.0, 2.0)  # between which log sigma^2 is held, as in the authors' code


@dataclasses.dataclass(frozen=True, kw_only=True)
class VariationalOptions(SelectingOptions):
    """Settings of variational autoencoders.

    Attributes:
        sample: whether codes are sampled in training; without, this is TopK with an L2 penalty (the module says more).
        learned_variance: whether log sigma^2 = (x - b_dec) W_var + b_var, a second encoder; otherwise it is a number.
        log_variance: that number, or b_var at the start; -2 is the authors'. In units of the scaled inputs.
        select_on_mean: select by |mu| instead of |z|, so that noise does not decide which features fire; ours.
        kl_coefficient: beta. The paper's model has 1 with unscaled sums; ours is small, as features die of it.
        kl_warm_up: share of the run over which beta rises from 0; the authors' 10 %.
    """

    sample: bool = True
    learned_variance: bool = False
    log_variance: float = -2.0
    select_on_mean: bool = False
    kl_coefficient: float = 1e-4
    kl_warm_up: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds = {"log_variance": (-100, LOG_VARIANCES[1]), "kl_coefficient": (0, math.inf), "kl_warm_up": (0, 1)}
        for name, (least, most) in bounds.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, float | int) or not least <= value <= most:
                raise SettingError(f"config.sae.{name}", value, f"must be a number from {least} to {most}")
        if self.learned_variance and not self.sample:
            raise SettingError("config.sae.learned_variance", True, "must be False without config.sae.sample")

    def variant(self) -> str:
        """What sets it apart from the sampled one, in words."""
        return "" if self.sample else "not sampled"


@flax.struct.dataclass
class Variational(TopK):
    """f = z where |z| is among the k largest of the token, with its sign; z is sampled in training, mu afterwards."""

    Options = VariationalOptions
    signed: ClassVar[bool] = True

    W_var: jax.Array | None = parameter(feature_axis=1, optional=True)  # [D, F]; None where the variance is a number
    b_var: jax.Array | None = parameter(feature_axis=0, optional=True)  # [F]
    options: VariationalOptions = flax.struct.field(pytree_node=False, default=VariationalOptions())

    @classmethod
    def initialise(cls, key: jax.Array, activation_width: int, features: int, options: SelectingOptions) -> Self:
        """As `TopK`; where the variance is learned, W_var is zero and b_var the variance to start from."""
        fresh = super().initialise(key, activation_width, features, options)
        if not fresh.options.learned_variance:
            return fresh
        b_var_F = jnp.full(features, fresh.initial_value("b_var"), jnp.float32)
        return fresh.replace(W_var=jnp.zeros_like(fresh.W_enc), b_var=b_var_F)

    def initial_value(self, name: str) -> float:
        """The variance of the options; zero for other biases."""
        return self.options.log_variance if name == "b_var" else 0.0

    def encoders(self) -> tuple[jax.Array, ...]:
        """W_enc; W_var makes no features."""
        return (self.W_enc,)

    def _revived(self, name, axis, dead_F, directions_FD, encoder_scale):
        if name == "W_var" and self.W_var is not None:
            return jnp.where(dead_F, 0, self.W_var).astype(self.W_var.dtype)
        return super()._revived(name, axis, dead_F, directions_FD, encoder_scale)

    def rescaled(self, scale: float) -> Self:
        """As for every architecture; the variance is in the units of z squared."""
        raw = super().rescaled(scale)
        if self.W_var is None or self.b_var is None:
            return raw
        return raw.replace(W_var=self.W_var * scale, b_var=self.b_var - 2 * math.log(scale))

    def selected_alone(self, z: jax.Array, k: jax.Array) -> jax.Array:
        """f of codes: [..., F] -> [..., F]; k is a whole number, of both signs together."""
        return jnp.where(largest_of_each(jnp.abs(z), k), z, 0)

    def encode(self, x: jax.Array, context: Context | None = None) -> jax.Array:
        """Feature activations: [..., D] -> [..., F]; sampled where it trains."""
        mu = self.preactivations(x, context)
        if context is None or not context.train:
            return self.select(mu, context)
        return self._drawn(mu, self._log_variance(x, context), context)

    def _log_variance(self, x: jax.Array, context: Context) -> jax.Array | float:
        if self.W_var is None or self.b_var is None:
            return self.options.log_variance
        x, compute_dtype = self.operands(x, context)
        log_variance = linear.encode(x, self.b_dec, self.W_var, compute_dtype) + self.b_var
        return jnp.clip(log_variance, *LOG_VARIANCES)

    def _drawn(self, mu: jax.Array, log_variance: jax.Array | float, context: Context) -> jax.Array:
        """f of a batch in training."""
        if not self.options.sample:
            return self.select(mu, context)
        z = mu + jnp.exp(log_variance / 2) * linear.normal_like(context.key, mu)
        if not self.options.select_on_mean:
            return self.select(z, context)
        return jnp.where(largest_of_each(jnp.abs(mu), whole(context.sparsity_coefficient)), z, 0)

    def loss(self, batch: Mapping[str, jax.Array], context: Context) -> tuple[jax.Array, dict[str, jax.Array]]:
        """||x - x_hat||^2 + beta KL + AuxK, means over the batch; with its statistics.

        KL is over all features: 1/2 ||mu||^2, where the variance is learned 1/2 sum (mu^2 + sigma^2 - 1 - log sigma^2).
        Five products of B D F multiplications with its gradient, seven with a learned variance; where features are
        dead, three more.
        """
        x_BD = batch["x"]
        target_BD = batch.get("target", x_BD)
        mu_BF, log_variance = self.preactivations(x_BD, context), self._log_variance(x_BD, context)
        f_BF = self._drawn(mu_BF, log_variance, context)
        x_hat_BD = linear.decode(f_BF, self.W_dec, context.compute_dtype) + self.b_dec

        scale = self.options.error_scale(target_BD)
        reconstruction = scale * mean_squared_norm(target_BD - x_hat_BD)
        divergence = mean_squared_norm(mu_BF) / 2
        if self.options.learned_variance:
            divergence += jnp.sum(jnp.exp(log_variance) - 1 - log_variance) / (2 * mu_BF.shape[0])
        sparsity = self._beta(context) * divergence
        auxiliary = scale * self.auxiliary_loss(mu_BF, target_BD, x_hat_BD, context)
        stats = reconstruction_statistics(target_BD, x_hat_BD, self.fired(f_BF))
        stats |= {"reconstruction": reconstruction, "sparsity": sparsity, "auxiliary": auxiliary}
        return reconstruction + sparsity + auxiliary, stats | {"k": context.sparsity_coefficient}

    def _beta(self, context: Context) -> jax.Array | float:
        options = self.options
        if not options.kl_warm_up:
            return options.kl_coefficient
        return options.kl_coefficient * jnp.minimum(context.progress / options.kl_warm_up, 1)
