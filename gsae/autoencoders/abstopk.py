"""AbsTopK sparse autoencoders (Zhu et al., arXiv 2510.00404): the k features of largest size, with their signs."""

import dataclasses
from typing import ClassVar

import flax.struct
import jax
import jax.numpy as jnp

from gsae.autoencoders.selection import largest_of_each
from gsae.autoencoders.topk import TopK, TopKOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbsTopKOptions(TopKOptions):
    """Those of `TopK`, as a class of their own: see `base.Autoencoder.Options`."""


@flax.struct.dataclass
class AbsTopK(TopK):
    """As `TopK`, but f = z where |z| is among the k largest of the token: a feature fires when f is not zero."""

    Options = AbsTopKOptions
    signed: ClassVar[bool] = True

    options: AbsTopKOptions = flax.struct.field(pytree_node=False, default=AbsTopKOptions())

    def selected_alone(self, z: jax.Array, k: jax.Array) -> jax.Array:
        """f of pre-activations: [..., F] -> [..., F]; k is a whole number, of both signs together."""
        return jnp.where(largest_of_each(jnp.abs(z), k), z, 0)
