"""How the learning rate and the sparsity coefficient move during a run, and how durations are written.

All factors are pure functions of the int32 step (traceable): they multiply a point's own learning rate or sparsity
coefficient, so that every member of a group shares one program.
"""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp

from gsae.errors import SettingError

DURATION = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*(steps?|tokens?|%)\s*")
ALLOWED = 'a duration such as "200 steps", "1_000_000 tokens" or "5%" (of the run)'
WARMUPS = ("linear", "cosine")
DECAYS = ("constant", "cosine", "linear")
COSINE_WARMUP_FLOOR = 0.1  # Gemma Scope (2408.05147): cosine warm-up from a tenth of the learning rate


def duration_in_steps(duration: str, *, total_steps: int, batch_size: int, setting: str) -> int:
    """A duration as a number of steps; tokens and percentages are rounded up to whole steps.

    Args:
        duration: "200 steps", "1_000_000 tokens" or "5%".
        total_steps: length of the run, what a percentage refers to.
        batch_size: tokens in a step.
        setting: the setting's full name, for the error.

    Raises:
        SettingError: when it is written in another way.
    """
    match = DURATION.fullmatch(duration) if isinstance(duration, str) else None
    if match is None:
        raise SettingError(setting, duration, f"must be {ALLOWED}")
    number, unit = match[1].replace("_", ""), match[2].rstrip("s")
    if unit == "%":
        if float(number) > 100:
            raise SettingError(setting, duration, "must be at most 100%")
        return math.ceil(round(total_steps * float(number) / 100, 6))
    if "." in number:
        raise SettingError(setting, duration, f"must be a whole number of {unit}s")
    return int(number) if unit == "step" else -(-int(number) // batch_size)


@dataclasses.dataclass(frozen=True)
class Schedules:
    """Warm-up, decay and sparsity warm-up of a run, all lengths in steps. `from_durations` makes one from settings.

    Attributes:
        total_steps: length of the run.
        warmup: shape of the learning rate's rise: "linear" from 0, or "cosine" from a tenth.
        warmup_steps: its length; 0 for none.
        decay: "constant", or a "cosine" or "linear" fall from `decay_start` to the end of the run.
        decay_start: the step at which the fall begins.
        final_fraction: what remains of the learning rate at the end of the fall.
        sparsity_warmup_steps: length of the linear rise of the sparsity coefficient from 0; 0 for none.
    """

    total_steps: int
    warmup: str = "linear"
    warmup_steps: int = 0
    decay: str = "constant"
    decay_start: int = 0
    final_fraction: float = 0.0
    sparsity_warmup_steps: int = 0

    @classmethod
    def from_durations(
        cls,
        *,
        total_steps: int,
        batch_size: int,
        warmup: str = "linear",
        warmup_duration: str = "0 steps",
        decay: str = "constant",
        decay_start: str = "0%",
        final_fraction: float = 0.0,
        sparsity_warmup_duration: str = "0 steps",
        setting: str = "config.training",
    ) -> "Schedules":
        """Checks the settings, whose full names are `setting` plus the argument's name, and counts them in steps.

        Raises:
            SettingError: naming the first one that is wrong.
        """
        if warmup not in WARMUPS:
            raise SettingError(f"{setting}.warmup", warmup, f"must be one of {', '.join(WARMUPS)}")
        if decay not in DECAYS:
            raise SettingError(f"{setting}.decay", decay, f"must be one of {', '.join(DECAYS)}")
        if not 0 <= final_fraction <= 1:
            raise SettingError(f"{setting}.final_fraction", final_fraction, "must be between 0 and 1")
        steps = {
            name: duration_in_steps(value, total_steps=total_steps, batch_size=batch_size, setting=f"{setting}.{name}")
            for name, value in (
                ("warmup_duration", warmup_duration),
                ("decay_start", decay_start),
                ("sparsity_warmup_duration", sparsity_warmup_duration),
            )
        }
        return cls(
            total_steps=total_steps,
            warmup=warmup,
            warmup_steps=steps["warmup_duration"],
            decay=decay,
            decay_start=steps["decay_start"],
            final_fraction=float(final_fraction),
            sparsity_warmup_steps=steps["sparsity_warmup_duration"],
        )

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
