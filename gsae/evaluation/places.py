"""Where an evaluation happens: the language model behind automatic axes, the autoencoders on the explicit mesh.

Both use the same devices. A batch of sequences is split over all of them (over fewer where several share one copy of
the language model); an autoencoder sees its tokens over `data` and its features over `feature`, as in training. What
goes from one side to the other is activations, [B, T, D]. Several processes feed their parts of every batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gsae import mesh as axes
from gsae.language_models.placement import Placement


@dataclass(frozen=True)
class Places:
    """Where autoencoders, their activations and the language model's batches are.

    Attributes:
        mesh: explicit, with the axes of `gsae.mesh`, `sweep` of size one.
        automatic: the language model's, on the same devices (on others in a run that sets devices aside).
        sequences: how its batches [B, T, ...] are split; without a language model, as `activations`.
        parts: B has to be a multiple.
    """

    mesh: Mesh
    automatic: Mesh
    sequences: NamedSharding
    parts: int

    @classmethod
    def of(cls, mesh: Mesh, placement: Placement | None = None) -> "Places":
        """On the devices of a run's mesh, and where a language model has been placed."""
        mesh = axes.one_member(mesh)
        rows = NamedSharding(mesh, PartitionSpec((axes.DATA, axes.FEATURE)))
        if placement is None:
            return cls(mesh, mesh, rows, mesh.size)
        return cls(mesh, placement.mesh, placement.batch, int(np.lcm(mesh.size, placement.parts)))

    @property
    def activations(self) -> NamedSharding:
        """How activations [B, T, D] come to the autoencoders and go from them: B over all devices."""
        return NamedSharding(self.mesh, PartitionSpec((axes.DATA, axes.FEATURE)))

    def finished(self, results: Any) -> Any:
        """The results of a program with collectives; on several CPU devices only once they are there.

        CPU devices of one process share its threads. Programs that wait for each other's parts can take all of them
        while the part that is missing has none (seen with 8 devices, 2 cores); other devices run them in turn.
        """
        together = self.mesh.size > 1 and self.mesh.devices.flat[0].platform == "cpu"
        return jax.block_until_ready(results) if together else results

    def feed(self, array_BT: np.ndarray) -> jax.Array:
        """A batch as every process has it, [B, T, ...]; each sends its devices' parts."""
        return jax.make_array_from_callback(array_BT.shape, self.sequences, lambda index: array_BT[index])

    def to_autoencoders(self, array_BT: jax.Array) -> jax.Array:
        """From where the language model leaves it."""
        return jax.device_put(array_BT, self.activations)

    def to_language_model(self, array_BT: jax.Array) -> jax.Array:
        """From where an autoencoder leaves it."""
        return jax.device_put(array_BT, self.sequences)

    def autoencoder(self, given: Any) -> Any:
        """An autoencoder of any arrays, its features split over the mesh; each device gets its part and no more."""
        specs = given.partition_specs()
        return given.replace(
            **{name: self.put(getattr(given, name), getattr(specs, name)) for name in given.feature_axes}
        )

    def put(self, leaf: Any, spec: PartitionSpec) -> jax.Array:
        """An array of any kind, split so over the mesh; every process has it, and its devices get their parts."""
        sharding = NamedSharding(self.mesh, spec)
        if isinstance(leaf, jax.Array) and (not self.mesh.is_multi_process or not leaf.is_fully_addressable):
            return jax.device_put(leaf, sharding)
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def default_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """For autoencoders that are judged outside of a run: whole on each device, tokens over these devices; None for one.

    It hides the surrounding mesh, if there is one: the arrays are elsewhere.
    """
    grid = np.asarray(devices or jax.local_devices()[:1]).reshape(1, -1, 1)
    return Mesh(grid, axes.AXES, axis_types=(AxisType.Explicit,) * 3)


def bytes_on_a_device(autoencoder: Any) -> int:
    """What a placed autoencoder takes of each device."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(autoencoder)
    )
