"""What an update of a point costs, counted from the program that makes it."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gsae.throughput import count_flops
from gsae.training.groups import Group
from gsae.training.step import StepSettings, abstract_state, batch_sharding, make_step


def cost_of_update(group: Group, settings: StepSettings, activation_width: int, mesh: Mesh) -> dict[str, float]:
    """FLOPs of one update of one member, and how many products of B D F multiply-adds that is; nothing is run.

    Returns:
        `flops_a_step`, over all devices, and `products_a_step`.
    """
    x_BD = jax.ShapeDtypeStruct((settings.batch_size, activation_width), jnp.bfloat16, sharding=batch_sharding(mesh))
    step = jax.ShapeDtypeStruct((), np.int32, sharding=NamedSharding(mesh, PartitionSpec()))
    with jax.set_mesh(mesh):
        traced = make_step(group, settings, mesh).trace(abstract_state(group, activation_width, mesh), x_BD, step)
    flops = count_flops(traced.jaxpr) / group.size
    one_product = 2.0 * settings.batch_size * activation_width * group.width
    return {"flops_a_step": flops, "products_a_step": flops / one_product}
