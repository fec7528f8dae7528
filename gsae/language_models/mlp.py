"""The MLP of a layer."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from gsae.language_models.norms import Norm
from gsae.language_models.settings import MLPSettings

ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "solu": lambda x: x * jax.nn.softmax(x, axis=-1),  # Elhage et al. 2022
}


class MLP(nnx.Module):
    """Linear maps around a nonlinearity, in two halves: up to the neurons, and the output projection `down`."""

    def __init__(self, settings: MLPSettings, width: int, out_deviation: float, rngs: nnx.Rngs):
        self.settings = settings

        def linear(inputs: int, outputs: int, deviation: float = 0.02) -> nnx.Linear:
            initial = nnx.initializers.normal(deviation)
            return nnx.Linear(inputs, outputs, use_bias=settings.bias, kernel_init=initial, rngs=rngs)

        if settings.gated:
            self.gate = linear(width, settings.width)
        self.up = linear(width, settings.width)
        if settings.norm is not None:
            self.norm = Norm(settings.norm, settings.width)
        self.down = linear(settings.width, width, out_deviation)

    def neurons(self, h_BTD: jax.Array) -> jax.Array:
        """The neurons as `down` reads them, [B, T, width of the MLP]."""
        before = self.gate(h_BTD) if self.settings.gated else self.up(h_BTD)
        wide = before.astype(jnp.promote_types(before.dtype, jnp.float32))
        neurons = ACTIVATIONS[self.settings.activation](wide).astype(before.dtype)
        if self.settings.gated:
            neurons = neurons * self.up(h_BTD)
        return neurons if self.settings.norm is None else self.norm(neurons)
