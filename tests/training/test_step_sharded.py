"""The step and resampling on meshes of eight devices equal one device; what moves between devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_resampling import SETTINGS as RESAMPLING_SETTINGS
from test_resampling import R, state_with
from test_step import SETTINGS, B, D, F, point, program, rows

from gsae.mesh import make_mesh
from gsae.training.groups import group_points
from gsae.training.resampling import make_resampling
from gsae.training.step import batch_sharding, initial_state, make_step, state_shardings

MESHES = [(2, 2, 2), (1, 2, 4), (4, 2, 1)]
POINTS = [point(seed=s, sparsity_coefficient=c) for s in (0, 1) for c in (0.05, 0.2)]


def step_once(state, shape, t):
    """One step from a state on the host, back on the host."""
    mesh = make_mesh(*shape)
    (group,) = group_points(POINTS, shape[0])
    placed = jax.device_put(state, state_shardings(group, mesh))
    batch = jax.device_put(rows(t), batch_sharding(mesh))
    return jax.device_get(program(group, SETTINGS, mesh)(placed, batch, jnp.int32(t)))


@pytest.mark.parametrize("shape", MESHES)
def test_a_step_from_a_common_state_equals_one_device(shape):
    mesh = make_mesh()
    (group,) = group_points(POINTS)
    start = jax.device_get(initial_state(group, D, mesh))
    (sharded,) = group_points(POINTS, shape[0])
    jax.tree.map(np.testing.assert_array_equal, start, jax.device_get(initial_state(sharded, D, make_mesh(*shape))))
    for t in range(2):
        one, one_metrics = step_once(start, (1, 1, 1), t)
        many, many_metrics = step_once(start, shape, t)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), one, many)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one_metrics, many_metrics)
        start = one


def collectives(shape):
    mesh = make_mesh(*shape)
    (group,) = group_points(POINTS, shape[0])
    batch = jax.ShapeDtypeStruct((B, D), jnp.float32, sharding=batch_sharding(mesh))
    text = (
        make_step(group, SETTINGS, mesh).lower(initial_state(group, D, mesh), batch, jnp.int32(0)).compile().as_text()
    )
    kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    return [line for line in text.splitlines() if re.search(rf" ({kinds})(-start)?\(", line)]


def replica_groups(line, devices):
    """The groups of device numbers of a collective, whichever way they are written."""
    listed = re.search(r"replica_groups=\{(\{.*?\})\}", line)
    if listed:
        return [[int(n) for n in part.split(",")] for part in re.findall(r"\{([\d,]+)\}", listed[1])]
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line)
    if not iota:
        return mesh_groups(line, devices)
    sizes, reshape = ([int(n) for n in iota[i].split(",")] for i in (1, 2))
    order = [int(n) for n in iota[3].split(",")] if iota[3] else range(len(reshape))
    return np.arange(devices).reshape(reshape).transpose(order).reshape(sizes).tolist()


def mesh_groups(line, devices):
    """`replica_groups=mesh['axis_0'=2,'axis_1'=4], device_ids=([2,4]T(1,0)) {'axis_1'}`; device order optional."""
    axes, order, own = re.search(r"replica_groups=mesh\[(.*?)\](?:, device_ids=\((.*?\))\))? \{(.*?)\}", line).groups()
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)}
    numbers = np.arange(devices)
    if order:
        reshape, permutation = re.fullmatch(r"\[([\d,]+)\]T\(([\d,]+)\)", order).groups()
        numbers = numbers.reshape([int(n) for n in reshape.split(",")])
        numbers = numbers.transpose([int(n) for n in permutation.split(",")])
    together = [i for i, name in enumerate(sizes) if f"'{name}'" in own]
    apart = [i for i in range(len(sizes)) if i not in together]
    numbers = numbers.reshape(list(sizes.values())).transpose(apart + together)
    return numbers.reshape(-1, int(np.prod(numbers.shape[len(apart) :]))).tolist()


@pytest.mark.parametrize("shape", MESHES)
def test_only_the_batch_is_gathered_and_nothing_else_crosses_the_sweep(shape):
    lines = collectives(shape)
    gathers = [line for line in lines if " all-gather" in line]
    assert len(gathers) == 1
    assert f"[{B // shape[1]},{D}]" in gathers[0]
    assert all(" all-reduce" in line for line in lines if line not in gathers), lines
    per_member = shape[1] * shape[2]
    reductions = [line for line in lines if " all-reduce" in line]
    assert reductions
    for line in reductions:
        for devices in replica_groups(line, 8):
            assert len({device // per_member for device in devices}) == 1, line
    assert not any(re.search(rf"\[(\d+,)*{B},{F}\]|\[(\d+,)*{D},{F}\]", line) for line in gathers)


@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 1, 8)])
def test_resampling_equals_one_device(shape):
    from test_resampling import POINTS as points

    before = state_with([[0, 5, 6, 11, 12, 23], list(range(1, 15))])

    def run(shape):
        mesh = make_mesh(*shape)
        (group,) = group_points(points, shape[0])
        placed = jax.device_put(before, state_shardings(group, mesh))
        program = make_resampling(group, RESAMPLING_SETTINGS, mesh, max_revived=R)
        batches = [jax.device_put(rows(i), batch_sharding(mesh)) for i in range(2)]
        return jax.device_get(program(placed, batches, 7))

    one, many = run((1, 1, 1)), run(shape)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), one, many)
    assert many[1]["revived"].tolist() == [6, 8]
