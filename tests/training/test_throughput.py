"""FLOPs of a traced program and published peaks."""

import types

import jax
import jax.numpy as jnp
import pytest
import tiny_sweep

from gsae import mesh as axes
from gsae.throughput import count_flops, peak_flops
from gsae.training.groups import group_points
from gsae.training.schedules import Schedules
from gsae.training.step import StepSettings, abstract_state, make_step


def flops(function, *arguments):
    return count_flops(jax.jit(function).trace(*arguments).jaxpr)


def test_a_product_is_two_flops_for_each_multiply_add():
    a, b = jnp.zeros((3, 5)), jnp.zeros((5, 7))
    assert flops(lambda a, b: a @ b, a, b) == 2 * 3 * 5 * 7
    assert flops(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), jnp.zeros((4, 3, 5)), jnp.zeros((4, 5, 7))) == 4 * 210


def test_loops_count_as_often_as_they_run_and_branches_once():
    a = jnp.zeros((4, 4))
    assert flops(lambda a: jax.lax.scan(lambda c, _: (c @ a, None), a, length=6)[0], a) == 6 * 128
    assert flops(lambda a: jax.lax.cond(a[0, 0] > 0, lambda a: a @ a @ a, lambda a: a @ a, a), a) == 2 * 128
    assert flops(jax.checkpoint(jax.vmap(lambda row: row @ jnp.zeros((4, 4)))), a) == 128


def test_what_nobody_uses_costs_nothing():
    a = jnp.zeros((4, 4))
    assert flops(lambda a: (a @ a, a + 1)[1], a) == 0
    assert flops(lambda a: jax.jit(lambda a: (a @ a, a @ a @ a))(a)[1], a) == 2 * 128

    def loop(a):
        # The first carry feeds the second, one trip later; the third feeds nobody.
        def body(carry, _):
            x, y, z = carry
            return (x @ a, y + x, z @ a @ a), None

        return jax.lax.scan(body, (a, a, a), length=3)[0][1]

    assert flops(loop, a) == 3 * 128


def test_a_group_costs_its_members_products():
    mesh = axes.make_mesh()
    settings = StepSettings(batch_size=64, schedules=Schedules(total_steps=10))
    for group in group_points(tiny_sweep.POINTS):
        x_BD = jax.ShapeDtypeStruct((64, 16), jnp.float32)
        step = jax.ShapeDtypeStruct((), jnp.int32)
        with jax.set_mesh(mesh):
            traced = make_step(group, settings, mesh).trace(abstract_state(group, 16, mesh), x_BD, step)
        products = {"gated": 7, "standard": 5}[group.architecture]
        # A few products with vectors come on top.
        assert 1 <= count_flops(traced.jaxpr) / (group.size * products * 2 * 64 * 16 * group.width) < 1.1


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("cpu", None),
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H200", 989e12),
    ],
)
def test_peaks_are_known_by_the_names_that_devices_give_themselves(kind, peak):
    assert peak_flops(types.SimpleNamespace(device_kind=kind)) == peak
