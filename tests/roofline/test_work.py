"""One traced member against the formula of FLOPs, the formula of collectives, and the state as it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from sweeps import points, settings

from gsae.autoencoders.batchtopk import BatchTopK
from gsae.autoencoders.registry import ARCHITECTURES
from gsae.autoencoders.top_afa import TopAFA
from gsae.autoencoders.topk import TopK
from gsae.collectives import totals
from gsae.mesh import DATA, FEATURE, SWEEP, make_mesh
from gsae.roofline.estimate import Sizes, demand
from gsae.roofline.work import MemberWork, Share
from gsae.throughput import count_flops
from gsae.training.collectives import step_collectives
from gsae.training.groups import group_points
from gsae.training.step import abstract_state, batch_sharding, make_step

B, D, F = 512, 64, 1024
# How often a step selects by counting over a row's features: for f and for dead features, or for these alone.
SELECTIONS = dict.fromkeys((name for name, kind in ARCHITECTURES.items() if issubclass(kind, TopK | TopAFA)), 2)
SELECTIONS |= dict.fromkeys((name for name, kind in ARCHITECTURES.items() if issubclass(kind, BatchTopK)), 1)


def work_of(name, width=F, members=1, d=D):
    (group,) = group_points(points(name, width, members))
    return MemberWork.of(group, d, settings(B))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_flops_are_those_of_the_real_step(name):
    mesh = make_mesh()
    (group,) = group_points(points(name, F))
    x_BD = jax.ShapeDtypeStruct((B, D), jnp.bfloat16, sharding=batch_sharding(mesh))
    step = jax.ShapeDtypeStruct((), np.int32, sharding=NamedSharding(mesh, PartitionSpec()))
    with jax.set_mesh(mesh):
        counted = count_flops(
            make_step(group, settings(B), mesh).trace(abstract_state(group, D, mesh), x_BD, step).jaxpr
        )
    work = work_of(name)
    assert work.flops(Share(B, F)) == counted
    assert work.flops(Share(B / 2, F / 4)) == pytest.approx(counted / 8, rel=0.01)  # vectors of F are not split by rows


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_summed_is_what_the_formula_of_collectives_says(name):
    sizes = {SWEEP: 1, DATA: 2, FEATURE: 4}
    (group,) = group_points(points(name, F))
    formula = totals(step_collectives(group, D, settings(B), sizes, "bfloat16"))
    found = {DATA: 0.0, FEATURE: 0.0}
    for one in work_of(name).sums(Share(B / 2, F / 4), FEATURE, DATA):
        found[one.axis] += one.size
    # Selection by counting, 31 numbers each time, is no product: the estimate leaves it out. Feature Choice counts a
    # feature's rows as well.
    formula["all-reduce", (FEATURE,)] -= SELECTIONS.get(name, 0) * 31 * 4 * B / 2
    formula["all-reduce", (DATA,)] -= 31 * 4 * F / 4 if name == "feature_choice" else 0
    vectors = 8 * 4 * (F / 4 + D)  # counts and sums beside the gradients, which the estimate leaves out
    for axis, size in found.items():
        assert size == pytest.approx(formula["all-reduce", (axis,)], rel=0.01, abs=vectors), axis


def test_the_state_is_counted_as_it_is():
    mesh = make_mesh(1, 2, 4)
    (group,) = group_points(points("gated", F))
    leaves = jax.tree.leaves(abstract_state(group, D, mesh))
    real = sum(np.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
    assert work_of("gated").state_bytes(Share(B / 2, F / 4)) == real


def test_a_width_that_equals_the_activations_is_told_apart():
    square = work_of("standard", width=D)
    assert square.flops(Share(B, D)) == pytest.approx(5 * 2 * B * D * D, rel=0.01)
    assert square.state_bytes(Share(B, D / 2)) < square.state_bytes(Share(B, D))


def test_arithmetic_of_a_step():
    work = work_of("gated", members=3)
    one = demand([work], Sizes(1, 1, 1), batch_size=B, row_itemsize=2)
    assert one.flops == 3 * work.flops(Share(B, F)) == one.useful_flops
    assert one.collective_bytes == one.collectives == 0
    assert one.host_bytes == 2 * B * D
    padded = demand(
        [work], Sizes(2, 2, 2), batch_size=B, row_itemsize=2
    )  # two members each, one of the four for nothing
    assert padded.useful_flops / padded.flops == pytest.approx(3 / 4)
    share = Share(B / 2, F / 2)
    sent = 2 * sum(2 * (2 - 1) / 2 * one.size for one in work.sums(share, FEATURE, DATA)) + 3 / 4 * 2 * B / 2 * D
    assert padded.collective_bytes == pytest.approx(sent)
    assert padded.host_bytes == 2 * B * D / 8
