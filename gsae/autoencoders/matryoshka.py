"""Matryoshka BatchTopK sparse autoencoders (Bussmann et al. 2025, arXiv 2503.17547): dictionaries within a dictionary.

The first m_1 features must reconstruct alone, the first m_2 > m_1 as well, and so on: general features go first, and
are not absorbed by special ones.

**What "first" means.** A prefix must be a slice of what each device holds where the mesh splits the features. So F
falls into `blocks` blocks of F / blocks features that lie one after the other in storage, and the order of features is
that of their place inside their block: first the first feature of every block, then the second of every block. A prefix
is the same number of first places in every block; `prefix_order` lists the features so, and what is exported to other
tools is in that order.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from gsae.autoencoders import linear
from gsae.autoencoders.batchtopk import BatchTopK
from gsae.autoencoders.context import Context
from gsae.autoencoders.statistics import mean_squared_norm
from gsae.autoencoders.topk import TopKOptions
from gsae.errors import SettingError


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatryoshkaOptions(TopKOptions):
    """Settings of nested dictionaries.

    Attributes:
        groups: shares of the features that each prefix adds to the one before; they add up to 1. Those of
            dictionary_learning. Prefixes are rounded to multiples of `blocks`, and equal ones count once.
        blocks: into how many blocks features are stored; must divide their number, and config.mesh.feature must divide
            it. Ours.
    """

    groups: tuple[float, ...] = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32)
    blocks: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.blocks, bool) or not isinstance(self.blocks, int) or self.blocks < 1:
            raise SettingError("config.sae.blocks", self.blocks, "must be a whole number from 1")
        good = isinstance(self.groups, Sequence) and not isinstance(self.groups, str) and len(self.groups) > 0
        good = good and all(isinstance(share, float | int) and 0 < share <= 1 for share in self.groups)
        if not (good and math.isclose(sum(self.groups), 1, abs_tol=1e-6)):
            raise SettingError("config.sae.groups", self.groups, "must be shares above 0 that add up to 1")
        object.__setattr__(self, "groups", tuple(float(share) for share in self.groups))  # hashable, from JSON too

    def check_split(self, features: int, parts: int) -> None:
        """Refuses features that do not fall into the blocks, and a mesh that does not divide the blocks."""
        if features % self.blocks:
            raise SettingError("config.sae.blocks", self.blocks, f"must divide the {features} features")
        if self.blocks % parts:
            raise SettingError("config.mesh.feature", parts, f"must divide config.sae.blocks = {self.blocks}")

    def places(self, features: int) -> tuple[int, ...]:
        """For each prefix, how many first places of every block belong to it."""
        self.check_split(features, 1)
        size = features // self.blocks
        places = [max(1, round(float(end) * size)) for end in np.cumsum(self.groups)]
        return tuple(dict.fromkeys([*places[:-1], size]))


@flax.struct.dataclass
class Matryoshka(BatchTopK):
    """As `BatchTopK`, with one selection over all features, trained by the reconstructions of all prefixes."""

    Options = MatryoshkaOptions

    options: MatryoshkaOptions = flax.struct.field(pytree_node=False, default=MatryoshkaOptions())

    @classmethod
    def feature_parts(cls, features: int, options: Any) -> tuple[int, ...]:
        """All for the encoder, what each prefix adds for the decoder."""
        ends = np.asarray(options.places(features)) * options.blocks
        return (features, *map(int, np.diff(ends, prepend=0)))

    @property
    def prefixes(self) -> tuple[int, ...]:
        """How many features each prefix has, the last of them all."""
        return tuple(self.options.blocks * places for places in self.options.places(self.b_enc.shape[-1]))

    def prefix_order(self) -> np.ndarray:
        """Indices [F] into the storage: its first m entries are the features of the prefix of m."""
        return np.arange(self.b_enc.shape[-1]).reshape(self.options.blocks, -1).T.ravel()

    def plain(self) -> "Matryoshka":
        """With its features in the order of its prefixes, stored as one block."""
        order_F, features = self.prefix_order(), self.b_enc.shape[-1]
        changes: dict[str, Any] = {
            name: jnp.take(getattr(self, name), order_F, axis=axis)
            for name, axis in self.feature_axes.items()
            if axis is not None
        }
        groups = tuple(np.diff(self.prefixes, prepend=0) / features)
        return self.replace(**changes, options=dataclasses.replace(self.options, groups=groups, blocks=1))

    def reconstruction(self, f_BF: jax.Array, target_BD: jax.Array, context: Context) -> tuple[jax.Array, jax.Array]:
        """The mean over the prefixes of ||x - x_hat of the prefix||^2, averaged over the batch, and x_hat of all.

        Groups are decoded one after the other and summed up: the products of one decode.
        """
        x_hat_BD, errors = self.b_dec, []
        for f_BG, W_dec_GD in self._groups(f_BF):
            x_hat_BD = x_hat_BD + linear.decode(f_BG, W_dec_GD, context.compute_dtype)
            errors.append(mean_squared_norm(target_BD - x_hat_BD))
        return sum(errors[1:], errors[0]) / len(errors), x_hat_BD

    def _groups(self, f_BF: jax.Array) -> Iterator[tuple[jax.Array, jax.Array]]:
        """What each prefix adds: features and their decoder vectors, slices of every block."""
        start = 0
        for stop in self.options.places(f_BF.shape[-1]):
            yield self._part(f_BF, 1, start, stop), self._part(self.W_dec, 0, start, stop)
            start = stop

    def _part(self, array: jax.Array, axis: int, start: int, stop: int) -> Any:
        """The places from start to stop of every block along an axis; on a mesh it stays split over `feature`."""
        blocks, other = self.options.blocks, array.shape[1 - axis]
        split = (blocks, array.shape[axis] // blocks)
        size = blocks * (stop - start)
        if axis == 0:
            part = jnp.reshape(array, (*split, other), out_sharding=_split(array, axis))[:, start:stop]
            return jnp.reshape(part, (size, other), out_sharding=_spec(array))
        part = jnp.reshape(array, (other, *split), out_sharding=_split(array, axis))[:, :, start:stop]
        return jnp.reshape(part, (other, size), out_sharding=_spec(array))


def _spec(array: jax.Array) -> PartitionSpec | None:
    """How a matrix lives on the explicit mesh around, or None without one."""
    return None if jax.sharding.get_abstract_mesh().empty else jax.typeof(array).sharding.spec


def _split(array: jax.Array, axis: int) -> PartitionSpec | None:
    """The same after its axis became blocks and places: the blocks are split."""
    spec = _spec(array)
    return None if spec is None else PartitionSpec(*spec[: axis + 1], None, *spec[axis + 1 :])
