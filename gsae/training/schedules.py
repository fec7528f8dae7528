"""How the learning rate and the sparsity coefficient move during a run.

All factors are pure functions of the int32 step (traceable): they multiply a point's own learning rate or sparsity
coefficient, so that every member of a group shares one program.
"""

import dataclasses

import jax
import jax.numpy as jnp

COSINE_WARMUP_FLOOR = 0.1  # Gemma Scope (2408.05147): cosine warm-up from a tenth of the learning rate


@dataclasses.dataclass(frozen=True)
class Schedules:
    """Warm-up, decay and sparsity warm-up of a run, all lengths in steps.

    Attributes:
        total_steps: length of the run.
        warmup: shape of the learning rate's rise: "linear" from 0, or "cosine" from a tenth.
        warmup_steps: its length; 0 for none.
        decay: "constant", or a "cosine" or "linear" fall from `decay_start` to the end of the run.
        decay_start: the step at which the fall begins.
        final_fraction: what remains of the learning rate at the end of the fall.
        sparsity_warmup_steps: length of the linear rise of the sparsity coefficient from 0; 0 for none.
        adjust_until: the step at which coefficients that follow a target L0 are frozen; they move from the half of the
            warm-up on.
    """

    total_steps: int
    warmup: str = "linear"
    warmup_steps: int = 0
    decay: str = "constant"
    decay_start: int = 0
    final_fraction: float = 0.0
    sparsity_warmup_steps: int = 0
    adjust_until: int = 0

    def learning_rate_factor(self, step: jax.Array) -> jax.Array:
        """float32 factor of the learning rate at `step` (0 for the first update): warm-up times decay."""
        rise = jnp.float32(1)
        if self.warmup_steps:
            # The first update is already above the floor: at factor 0 it would be wasted.
            done = jnp.minimum((step + 1) / jnp.float32(self.warmup_steps), 1)
            rise = done if self.warmup == "linear" else _cosine_rise(done, COSINE_WARMUP_FLOOR)
        fall = jnp.float32(1)
        if self.decay != "constant":
            length = max(self.total_steps - self.decay_start, 1)
            done = jnp.clip((step - self.decay_start) / jnp.float32(length), 0, 1)
            left = 1 - done if self.decay == "linear" else (1 + jnp.cos(jnp.pi * done)) / 2
            fall = self.final_fraction + (1 - self.final_fraction) * left
        return (rise * fall).astype(jnp.float32)

    def sparsity_factor(self, step: jax.Array) -> jax.Array:
        """float32 factor of the sparsity coefficient at `step`: rises linearly from near 0 to 1, then stays."""
        if not self.sparsity_warmup_steps:
            return jnp.float32(1)
        return jnp.minimum((step + 1) / jnp.float32(self.sparsity_warmup_steps), 1).astype(jnp.float32)

    def progress(self, step: jax.Array) -> jax.Array:
        """float32 share of the run's updates that were made before the one of `step`: 0 for the first, always below 1.

        A run that is extended by raising its steps goes back to a smaller share.
        """
        return (step / jnp.float32(self.total_steps)).astype(jnp.float32)


def return_factor(steps_since: jax.Array, length: int, floor: float) -> jax.Array:
    """float32 factor of the learning rate `steps_since` a resampling event: `floor`, back to 1 along a cosine.

    Gated SAE paper (2404.16014), appendix on resampling: 0.1 and 1000 steps. Negative `steps_since` means "never".
    """
    if not length:
        return jnp.ones(jnp.shape(steps_since), jnp.float32)
    done = jnp.clip(steps_since / jnp.float32(length), 0, 1)
    return jnp.where(steps_since < 0, 1, _cosine_rise(done, floor)).astype(jnp.float32)


def _cosine_rise(done: jax.Array, floor: float) -> jax.Array:
    return floor + (1 - floor) * (1 - jnp.cos(jnp.pi * done)) / 2
