"""What a group's state before step 0 takes from the rows that it will train on.

Two things: the decoder's bias from the mean of a site, where the settings want it, and whatever an architecture makes
of a sample of rows (`Autoencoder.calibrate`), which comes after and may replace that bias. The sample is the first
batches of the run, so it comes from wherever these come from and is the same on any mesh and in any number of
processes; the calibration is a program like the step, with rows over `data` and features over `feature`.
"""

import contextlib
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gsae import mesh as axes
from gsae.activations.batches import Batches
from gsae.autoencoders.registry import architecture
from gsae.training.groups import Group
from gsae.training.members import over_members
from gsae.training.step import GroupState, StepSettings, state_shardings


def with_decoder_bias(state: GroupState, b_dec_D: np.ndarray) -> GroupState:
    """The state with the same decoder bias in every member.

    Args:
        state: before step 0.
        b_dec_D: [D], for inputs that are scaled as in training.
    """
    old_SD = state.autoencoder.b_dec
    value_SD = np.broadcast_to(b_dec_D, old_SD.shape).astype(old_SD.dtype)
    b_dec_SD = jax.make_array_from_callback(old_SD.shape, old_SD.sharding, lambda index: value_SD[index])
    return dataclasses.replace(state, autoencoder=state.autoencoder.replace(b_dec=b_dec_SD))


def calibrated(
    group: Group, state: GroupState, batches: Batches, settings: StepSettings, mesh: Mesh
) -> tuple[GroupState, int]:
    """A group's state before step 0 after its members have seen a sample of rows, and how many rows that were.

    Nothing is read where the architecture asks for no rows, or begins with trained weights. Of several processes, all
    call it alike.

    Args:
        group, settings, mesh: as for `make_step`.
        state: the initial one; consumed where anything is calibrated.
        batches: those of the run; the sample is whole batches, at most one epoch of them.
    """
    wanted = state.autoencoder.calibration_rows()
    if not wanted or architecture(group.architecture).STARTS_FROM:
        return state, 0
    x_ND = sample(batches, group.site, wanted, mesh)
    program = axes.in_turn(make_calibration(group, settings, mesh))
    with jax.set_mesh(mesh):
        return program(state, x_ND), x_ND.shape[0]


def sample(batches: Batches, site: str, rows: int, mesh: Mesh) -> jax.Array:
    """At least so many rows (fewer only where there are fewer), [N, D] over `data`, in the store's dtype.

    The same rows in the same order on any mesh: each process holds them all on its host for a moment.
    """
    count = min(-(-rows // batches.batch_size), batches.steps_per_epoch)
    coming: Any = batches.stream(0, count)
    with contextlib.closing(coming):
        x_ND = np.concatenate([axes.fetch(batch[site]["x"]) for batch in coming])
    sharding = NamedSharding(mesh, PartitionSpec(axes.DATA, None))
    return jax.make_array_from_callback(x_ND.shape, sharding, lambda index: x_ND[index])


def make_calibration(group: Group, settings: StepSettings, mesh: Mesh) -> jax.stages.Wrapped:
    """The jitted calibration of a group: (state, x_ND) -> state, x_ND unscaled rows over `data`. Consumes the state."""

    def calibrate(state: GroupState, x_ND: jax.Array) -> GroupState:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            scaled_ND = x_ND.astype(jnp.float32) * settings.input_scale
            autoencoder, _ = over_members(
                lambda member, _: (member.calibrate(scaled_ND), ()), state.autoencoder, (), mesh
            )
            return dataclasses.replace(state, autoencoder=autoencoder)

    return jax.jit(calibrate, donate_argnums=0, out_shardings=state_shardings(group, mesh))
