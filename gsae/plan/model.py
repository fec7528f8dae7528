"""The language model of a plan: shapes and shardings from config.json alone, no weights."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gsae.activations.capture import DTYPES, program
from gsae.language_models import hub
from gsae.language_models.directory import read_json
from gsae.language_models.families import Family, family_of
from gsae.language_models.placement import Placement
from gsae.language_models.settings import Settings
from gsae.language_models.sites import Site
from gsae.language_models.transformer import Transformer
from gsae.language_models.weights import AS_STORED, sharding
from gsae.mesh import DATA, split_over


@dataclasses.dataclass(frozen=True)
class AbstractModel:
    """A language model without its numbers.

    Attributes:
        family, settings: from config.json.
        graph: the structure, as `nnx.split` gives it.
        parameters: shapes and dtypes.
        dtype: of the parameters.
    """

    family: Family
    settings: Settings
    graph: Any
    parameters: nnx.State
    dtype: str

    @classmethod
    def of(cls, name: str, revision: str, dtype: str) -> "AbstractModel":
        """The model of a directory, of the hub, or the bundled one; of none more than config.json is read.

        Raises:
            SettingError: when there is no such model, or it is not supported.
            RunError: when the hub cannot be reached and its cache has no config.json.
        """
        config = read_json(hub.find_configuration(name, revision))
        family = family_of(config)
        settings = family.settings(config)
        if dtype == AS_STORED:
            dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
        graph, state = nnx.split(nnx.eval_shape(lambda: Transformer(settings, nnx.Rngs(0))))
        state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype)), state)
        return cls(family, settings, graph, state, dtype)

    @property
    def bytes(self) -> int:
        """Of one copy of the parameters."""
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(self.parameters))

    @property
    def model(self) -> Any:
        """The transformer, abstract: for what asks it for its settings."""
        return nnx.merge(self.graph, self.parameters)

    def placed(self, devices: Sequence[Any], parts: int) -> Placement:
        """Where the parameters would be: a copy on each device, or on every `parts` of them together."""
        if parts == 1:
            mesh = Mesh(np.asarray(devices), (DATA,), axis_types=(AxisType.Auto,))
            whole = NamedSharding(mesh, PartitionSpec())
            parameters = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), self.parameters
            )
            batch = NamedSharding(mesh, PartitionSpec(DATA))
            return Placement(self, parameters, mesh, batch, len(devices), False)
        mesh = split_over(devices, parts)
        where: dict[Any, NamedSharding] = {
            tensor.path: sharding(tensor, mesh) for tensor in self.family.tensors(self.settings)
        }
        flat = {
            path: variable.replace(
                jax.ShapeDtypeStruct(variable.get_value().shape, variable.get_value().dtype, sharding=where[path])
            )
            for path, variable in nnx.to_flat_state(self.parameters)
        }
        batch = NamedSharding(mesh, PartitionSpec(DATA))
        return Placement(self, nnx.from_flat_state(flat), mesh, batch, len(devices) // parts, True)

    def capture(self, sites: Sequence[Site], dtype: str, gradients: bool) -> Any:
        """The harvest's forward."""
        return program(self.graph, tuple(sites), DTYPES[dtype], gradients)


def tokens(shape: tuple[int, int], where: NamedSharding | None = None) -> tuple[Any, Any]:
    """Token ids and a mask [B, T], abstract."""
    return tuple(jax.ShapeDtypeStruct(shape, kind, sharding=where) for kind in (np.int32, np.bool_))  # type: ignore[return-value]
