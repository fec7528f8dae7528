"""Nested dictionaries: prefixes by an ordinary cumulative decode, on any mesh, at the cost of one decode."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsae import chips, recipe
from gsae.autoencoders.batchtopk import BatchTopK
from gsae.autoencoders.matryoshka import Matryoshka, MatryoshkaOptions
from gsae.errors import SettingError
from gsae.mesh import make_mesh
from gsae.roofline.choice import rank
from gsae.roofline.work import MemberWork
from gsae.training.cost import cost_of_update
from gsae.training.groups import Group, Point
from gsae.training.schedules import Schedules
from gsae.training.step import StepSettings, abstract_state, batch_sharding, make_step

D, F, B, K = 10, 32, 16, 5
OPTIONS = MatryoshkaOptions(groups=(0.25, 0.25, 0.5), blocks=4, auxiliary_coefficient=0.0)


def test_prefixes_are_the_first_features_of_the_prefix_order(float64, randomised, context):
    sae = randomised(Matryoshka, D, F, OPTIONS)
    x_BD = jax.random.normal(jax.random.key(7), (B, D), jnp.float64) + 0.5
    order = sae.prefix_order()
    assert sae.prefixes == (8, 16, 32) and order[:8].tolist() == [0, 8, 16, 24, 1, 9, 17, 25]
    assert sorted(order) == list(range(F))

    def literal(parameters):
        W_enc, W_dec, b_enc, b_dec = (parameters[name] for name in ("W_enc", "W_dec", "b_enc", "b_dec"))
        f = jax.nn.relu((x_BD - b_dec) @ W_enc + b_enc)
        f = jnp.where(f >= jnp.sort(jax.lax.stop_gradient(f).ravel())[-K * B], f, 0)[:, order]
        errors = [x_BD - f[:, :m] @ W_dec[order][:m] - b_dec for m in (8, 16, 32)]
        return sum(jnp.mean(jnp.sum(e**2, axis=1)) for e in errors) / 3

    parameters = {name: getattr(sae, name) for name in sae.trained_fields()}
    ours = jax.value_and_grad(lambda p: sae.replace(**p).loss({"x": x_BD}, context(K))[0])(parameters)
    theirs = jax.value_and_grad(literal)(parameters)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), ours, theirs)


def test_one_prefix_is_batchtopk(float64, randomised, context):
    sae = randomised(Matryoshka, D, F, dataclasses.replace(OPTIONS, groups=(1.0,)))
    plain = BatchTopK(**{name: getattr(sae, name) for name in sae.feature_axes})
    plain = plain.replace(options=BatchTopK.Options(auxiliary_coefficient=0.0))
    x_BD = jax.random.normal(jax.random.key(7), (B, D), jnp.float64)
    np.testing.assert_allclose(sae.loss({"x": x_BD}, context(K))[0], plain.loss({"x": x_BD}, context(K))[0], rtol=1e-12)


def test_sizes_are_rounded_and_refused_where_they_do_not_fit():
    assert MatryoshkaOptions().places(384) == (2, 4, 10, 22, 48)  # of 8 blocks: 16, 32, 80, 176, 384
    assert MatryoshkaOptions().places(24) == (1, 3)  # prefixes of fewer features than there are blocks count once
    with pytest.raises(SettingError, match=r"config.sae.blocks = 8: must divide the 20 features"):
        MatryoshkaOptions().check_split(20, 1)
    with pytest.raises(SettingError, match=r"config.mesh.feature = 3: must divide config.sae.blocks = 8"):
        MatryoshkaOptions().check_split(24, 3)
    assert MatryoshkaOptions(groups=[0.5, 0.5]) == MatryoshkaOptions(groups=(0.5, 0.5))  # a list, as JSON has it


def test_a_mesh_that_does_not_divide_the_blocks_is_refused_by_a_run_and_never_chosen():
    point = Point("matryoshka", "site", 48, 8, 1e-3, 0, Matryoshka.Options(blocks=2))
    run = SimpleNamespace(training=SimpleNamespace(batch_size=16), sae=SimpleNamespace(width=48))
    recipe.check_mesh(run, make_mesh(1, 4, 2), [point])
    with pytest.raises(SettingError, match=r"config.mesh.feature = 4: must divide config.sae.blocks = 2"):
        recipe.check_mesh(run, make_mesh(1, 2, 4), [point])
    settings = StepSettings(batch_size=16, schedules=Schedules(total_steps=10))
    work = MemberWork.of(Group((point,)), 10, settings)
    options = {"batch_size": 16, "row_itemsize": 4, "compute_dtype": "float32", "memory": None}
    ranked = rank([work], chips.named("v5e"), 8, **options)
    assert {choice.sizes.feature for choice in ranked} == {1, 2}


def group(name, **options):
    kind = {"matryoshka": Matryoshka, "batchtopk": BatchTopK}[name]
    return Group((Point(name, "site", 512, 8, 1e-3, 0, kind.Options(**options)),))


def test_as_many_products_as_batchtopk():
    settings = StepSettings(batch_size=128, schedules=Schedules(total_steps=10))
    costs = {
        n: cost_of_update(group(n), settings, 48, make_mesh())["flops_a_step"] for n in ("matryoshka", "batchtopk")
    }
    assert costs["matryoshka"] == pytest.approx(costs["batchtopk"], rel=1e-3)


def test_nothing_is_gathered_where_features_are_split():
    """Of what is sums over features, the group's x_hat [B, D] alone; and the compiler's FLOPs are BatchTopK's."""
    mesh, settings = make_mesh(1, 2, 4), StepSettings(batch_size=128, schedules=Schedules(total_steps=10))
    programs = {}
    for name in ("matryoshka", "batchtopk"):
        own = group(name, auxiliary_coefficient=0.0)
        batch = jax.ShapeDtypeStruct((128, 48), jnp.float32, sharding=batch_sharding(mesh))
        step = make_step(own, settings, mesh)
        programs[name] = step.lower(abstract_state(own, 48, mesh), batch, jnp.int32(0)).compile()
    text = programs["matryoshka"].as_text()
    assert text.count(" all-gather(") + text.count(" all-gather-start(") == 1  # the batch itself, [B, D]
    assert " all-to-all(" not in text and " collective-permute(" not in text
    flops = {name: program.cost_analysis()["flops"] for name, program in programs.items()}
    assert flops["matryoshka"] == pytest.approx(flops["batchtopk"], rel=0.1)
