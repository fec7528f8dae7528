"""Points beside their JumpReLU forms on a mesh: what one device finds, and no dictionary on any of them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from gsae import equivalence
from gsae.autoencoders.registry import architecture
from gsae.evaluation.places import Places
from gsae.interop.equivalence import agreement, compare, form
from gsae.mesh import DATA, FEATURE, make_mesh

D, F, ROWS = 12, 40, 90  # of these the last ones are filled up on two and four shards of data
SHAPE = re.compile(r"\[([\d,]+)\]")
MESHES = [(2, 2, 2), (1, 1, 8)]


def random_member(name):
    """In the host's memory, as a file gives it."""
    kind = architecture(name)
    fresh = kind.initialise(jax.random.key(0), D, F, kind.Options())
    leaves, tree = jax.tree.flatten(fresh)
    noise = np.random.default_rng(1)
    return jax.tree.unflatten(tree, [np.asarray(x + 0.3 * noise.normal(size=x.shape), np.float32) for x in leaves])


def rows():
    return np.random.default_rng(2).normal(size=(ROWS, D)).astype(np.float32)


@pytest.mark.parametrize("shape", MESHES)
def test_on_a_mesh_it_is_what_one_device_finds(shape):
    for name in ("gated", "matryoshka"):
        expected = agreement(random_member(name), rows())
        found = equivalence.agreement_on(Places.of(make_mesh(*shape)), random_member(name), rows())
        for field in ("rows", "latents", "above_zero"):
            assert getattr(found, field) == getattr(expected, field), field
        assert abs(found.differ - expected.differ) <= 1
        assert found.largest < 3e-6 and found.reconstruction < 3e-6
        assert len(found.pairs[0]) == len(expected.pairs[0]) > 100
        np.testing.assert_allclose(found.pairs, expected.pairs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", MESHES)
def test_no_dictionary_and_no_features_are_gathered(shape):
    places, member = Places.of(make_mesh(*shape)), random_member("gated")
    placed = places.autoencoder(member)
    converted = form(placed, equivalence._encoder_on(places, member))
    for array in jax.tree.leaves((placed, converted)):
        of_a_device = {shard.data.size for shard in array.addressable_shards}
        assert of_a_device == {array.size // (shape[2] if F in array.shape else 1)}
    x_BD = places.put(np.ones((96, D), np.float32), PartitionSpec(DATA))
    row_B = places.put(np.arange(96, dtype=np.int32), PartitionSpec(DATA))
    with jax.set_mesh(places.mesh):
        lowered = compare.lower(placed, converted, x_BD, row_B)
        compiled = lowered.compile(compiler_options={"xla_backend_optimization_level": 0})  # LLVM moves nothing
    text = compiled.as_text()
    assert "all-reduce" in text and not re.findall(r"all-to-all|collective-permute", text)
    moved = re.findall(r"= (.*?) all-gather(?:-start)?\(", text)
    shapes = [[int(n) for n in dims.split(",")] for found in moved for dims in SHAPE.findall(found)]
    assert not [shape for shape in shapes if F in shape], moved
    assert compiled.output_shardings["f_RF"].spec == PartitionSpec(None, FEATURE)


def test_numbers_that_do_not_exist_are_seen():
    member = random_member("gated")
    broken = member.replace(b_mag=np.full(F, np.inf, np.float32))
    found = equivalence.agreement_on(Places.of(make_mesh(1, 2, 2)), broken, rows())
    assert not jnp.isfinite(found.largest)
