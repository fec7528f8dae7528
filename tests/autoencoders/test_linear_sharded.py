"""On a mesh of eight devices: the numbers of one device, all-reduces only, and these in float32."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from gsae.autoencoders.gated import Gated
from gsae.autoencoders.jumprelu import JumpReLU
from gsae.autoencoders.registry import ARCHITECTURES
from gsae.autoencoders.standard import Standard
from gsae.mesh import make_mesh
from gsae.training.members import over_members

B, D, F, MEMBERS = 64, 24, 40, 4
CASES = [
    *((cls, {}) for cls in ARCHITECTURES.values()),
    (Gated, {"tied": False, "ri_l1": True}),
    (Gated, {"r_mag": False, "frozen_decoder": False}),
    (Standard, {"ri_l1": True}),
    (JumpReLU, {"bandwidth": 0.5, "initial_threshold": 0.3}),
]


# All on the first mesh, and each on one more in turn: a program for every pair would take too long to compile.
FURTHER = [(1, 2, 4), (1, 1, 8), (1, 8, 1), (8, 1, 1)]  # the last has eight members
ON_MESHES = [(*case, (2, 2, 2)) for case in CASES]
ON_MESHES += [(cls, {}, FURTHER[i % len(FURTHER)]) for i, cls in enumerate(ARCHITECTURES.values())]


def member_gradient(sae, coefficient, x_BD, context):
    def loss(sae):
        return sae.loss({"x": x_BD}, context.replace(sparsity_coefficient=coefficient))

    return jax.value_and_grad(loss, has_aux=True)(sae)


def sweep_gradient(stacked, coefficients, x_BD, context, mesh):
    """As the production step goes over members; the gradients stand where the state would."""

    context = context.replace(branches=mesh.shape["sweep"] == 1)  # as the step says

    def of_a_member(sae, coefficient):
        results, gradients = member_gradient(sae, coefficient, x_BD, context)
        return gradients, results

    gradients, results = over_members(of_a_member, stacked, coefficients, mesh)
    return results, gradients


def on_mesh(cls, options, mesh):
    """A stack of random members, coefficients and a batch, on one device and on the mesh."""
    S = max(MEMBERS, mesh.shape["sweep"])

    @jax.jit
    def random_members():
        fresh = jax.vmap(lambda key: cls.initialise(key, D, F, cls.Options(**options)))
        leaves, tree = jax.tree.flatten(fresh(jax.random.split(jax.random.key(0), S)))
        keys = jax.random.split(jax.random.key(1), 20)
        leaves = [leaf + 0.2 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=False)]
        return jax.tree.unflatten(tree, leaves)

    stacked = random_members()
    arguments = stacked, jnp.linspace(0.1, 0.4, S), jax.random.normal(jax.random.key(2), (B, D))
    one = jax.eval_shape(lambda: cls.initialise(jax.random.key(0), D, F, cls.Options(**options)))
    member_specs = one.partition_specs()
    specs = (
        jax.tree.map(lambda spec: P("sweep", *spec), member_specs, is_leaf=lambda s: isinstance(s, P)),
        P("sweep"),
        P("data", None),
    )
    put = [
        jax.tree.map(lambda array, spec: jax.device_put(array, NamedSharding(mesh, spec)), argument, spec)
        for argument, spec in zip(arguments, specs, strict=True)
    ]
    return arguments, put


@pytest.mark.parametrize(("cls", "options", "shape"), ON_MESHES)
def test_sharded_sweep_equals_one_device(cls, options, shape, context):
    mesh = make_mesh(*shape)
    (stacked, coefficients, x_BD), put = on_mesh(cls, options, mesh)
    surroundings = context(0.0, "float32")
    expected = jax.jit(jax.vmap(lambda sae, c: member_gradient(sae, c, x_BD, surroundings)))(stacked, coefficients)
    with jax.set_mesh(mesh):
        step = jax.jit(lambda *arguments: sweep_gradient(*arguments, surroundings, mesh))
        actual = step(*put)
        moved = collectives(step.lower(*put).compile().as_text())
        assert moved == (set() if shape == (8, 1, 1) else {"all-reduce"})
    for (path, one), many in zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(actual), strict=True):
        np.testing.assert_allclose(many, one, atol=1e-5 * np.abs(one).max() + 1e-7, rtol=0, err_msg=str(path))
    gradients = actual[1]
    for name, axis in gradients.feature_axes.items():
        array = getattr(gradients, name)
        assert array.sharding.spec == P("sweep", *("feature" if i == axis else None for i in range(array.ndim - 1)))
    assert actual[0][1]["fired"].sharding.spec == P("sweep", "feature")


def collectives(text):
    """Which collectives a compiled program holds."""
    return set(re.findall(r"(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(", text))


@pytest.mark.parametrize("cls", ARCHITECTURES.values())
def test_all_reduces_are_float32_when_computing_in_bfloat16(cls, context):
    mesh = make_mesh(2, 2, 2)
    _, put = on_mesh(cls, {}, mesh)
    with jax.set_mesh(mesh):
        step = jax.jit(lambda *arguments: sweep_gradient(*arguments, context(0.0, "bfloat16"), mesh))
        text = step.lower(*put).compile().as_text()
    results = re.findall(r"= (.*?) all-reduce(?:-start)?\(", text)
    assert results and "f32[" in "".join(results)
    assert not [result for result in results if "bf16" in result or "f16[" in result]


def test_a_loaded_autoencoder_works_beside_a_mesh():
    """Inside the mesh, with whole arrays, as in an evaluation; and with other leading dimensions."""
    sae = Gated.initialise(jax.random.key(0), D, F, Gated.Options())
    x = jax.random.normal(jax.random.key(1), (8, 6, D))
    expected = sae.decode(sae.encode(x))
    mesh = make_mesh(2, 2, 2)
    with jax.set_mesh(mesh):
        everywhere = NamedSharding(mesh, P())
        actual = jax.jit(lambda sae, x: sae.decode(sae.encode(x)))(*jax.device_put((sae, x), everywhere))
    np.testing.assert_allclose(actual, expected, atol=1e-5)
