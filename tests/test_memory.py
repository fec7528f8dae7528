"""The estimate against what the compiler says, and the one line that refuses what cannot fit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from gsae import config, memory, pipeline
from gsae import mesh as axes
from gsae.activations.capture import traced
from gsae.activations.exchange import PIECE_BYTES
from gsae.autoencoders.registry import architecture
from gsae.errors import SettingError
from gsae.evaluation import members
from gsae.evaluation.members import Member, placed_runs
from gsae.evaluation.places import Places, bytes_on_a_device
from gsae.language_models.loading import load_language_model
from gsae.language_models.sites import Site
from gsae.training.extraction import member_on_mesh
from gsae.training.groups import Point, group_points
from gsae.training.schedules import Schedules
from gsae.training.step import StepSettings, abstract_state, batch_sharding, initial_state, make_step

QUICKLY = {"xla_backend_optimization_level": 0}  # memory is laid out before LLVM's optimisations


@pytest.fixture(scope="module")
def language_model():
    return load_language_model("bundled")


def test_intermediate_results_count_from_their_making_to_their_last_use():
    def chain(x):  # 4 kB each; never more than two at a time
        y = jnp.sin(x)
        z = jnp.cos(y)
        return jnp.sin(z)

    x = jax.ShapeDtypeStruct((1000,), jnp.float32)
    assert memory.program_bytes(jax.make_jaxpr(chain)(x)) == 8000
    assert memory.program_bytes(jax.make_jaxpr(jax.jit(chain))(x)) == 8000
    assert memory.program_bytes(jax.make_jaxpr(lambda x: (jnp.sin(x), jnp.cos(x), jnp.tan(x)))(x)) == 12000


@pytest.mark.parametrize(("name", "sizes"), [("gated", (1, 1, 1)), ("standard", (1, 2, 2)), ("gated", (2, 2, 1))])
def test_the_update_is_estimated_within_a_factor_of_two(name, sizes):
    mesh, options = axes.make_mesh(*sizes), architecture(name).Options()
    points = [Point(name, "mlp_out.0", 1024, coefficient, 1e-3, 0, options) for coefficient in (0.1, 0.2)]
    [group] = group_points(points, sizes[0])
    settings = StepSettings(batch_size=512, schedules=Schedules(total_steps=10))
    state = abstract_state(group, 128, mesh)
    x_BD = jax.ShapeDtypeStruct((512, 128), jnp.float32, sharding=batch_sharding(mesh))
    count = jax.ShapeDtypeStruct((), jnp.int32, sharding=NamedSharding(mesh, PartitionSpec()))
    with jax.set_mesh(mesh):
        compiled = make_step(group, settings, mesh).lower(state, x_BD, count).compile(QUICKLY).memory_analysis()
    terms = memory._sweep_terms([group], {"mlp_out.0": 128}, mesh, settings)
    assert terms["sweep"] == pytest.approx(compiled.alias_size_in_bytes, rel=0.01)
    assert 0.7 < terms["update"] / compiled.temp_size_in_bytes < 2


def test_the_forward_pass_is_estimated_within_a_factor_of_two(language_model):
    program = traced(language_model, [Site(1, "attn_z")], (8, 64), "bfloat16")
    compiled = program.lower().compile(QUICKLY).memory_analysis()
    assert 0.7 < memory.program_bytes(program.jaxpr) / compiled.temp_size_in_bytes < 2


def needs(language_model, **changes):
    options = architecture("gated").Options()
    groups = changes.pop("groups", group_points([Point("gated", "attn_z.1", 1024, 0.1, 1e-3, 0, options)]))
    settings = {"superblock_rows": 1 << 20, "context_length": 64, "sequences_at_once": 8, "dtype": "bfloat16"}
    step = StepSettings(batch_size=512, schedules=Schedules(total_steps=10))
    mesh = changes.pop("mesh", axes.make_mesh())
    sites = [Site(1, "attn_z")]
    settings |= {"devices": jax.devices()[:1]} | changes
    return memory.live_needs(language_model, sites, groups, mesh, step=step, **settings)


def test_terms_are_sizes_of_arrays(language_model):
    [need] = needs(language_model)
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.split(language_model.model)[1]))
    assert need.terms["language model"] == parameters
    assert need.terms["2 superblocks"] == (1 << 20) * (2 * 128 * np.dtype("float16").itemsize + memory.PLAN_BYTES)
    assert need.there > 1e8 and need.total == sum(need.terms.values())
    [twice] = needs(language_model, superblock_rows=1 << 21)
    assert twice.total - need.total == need.terms["2 superblocks"]


def test_what_cannot_fit_is_refused_with_the_largest_terms_first(language_model):
    [need] = needs(language_model, limit=10**8)
    with pytest.raises(
        SettingError, match=r"needs 0\.\d+ GB of the host's memory, which has 0\.1 GB: 2 superblocks 0\.6"
    ):
        need.check()
    [need] = needs(language_model, limit=10**10)
    need.check()


def test_accelerators_have_memories_of_their_own(language_model, monkeypatch):
    monkeypatch.setattr(memory, "_is_host", lambda device: False)
    monkeypatch.setattr(memory, "device_memory", lambda devices: 10**6 * len(devices))
    device, host = needs(language_model)
    assert device.there == 10**6 and {"language model", "forward pass", "sweep", "update", "batches"} == set(
        device.terms
    )
    assert host.there > 1e8 and {"2 superblocks", "checkpoint on its way"} == set(host.terms)
    with pytest.raises(
        SettingError, match=r"of each device's memory, which has 0\.001 GB: update 0.\d+ GB, language model"
    ):
        device.check()
    device_of_four, host_of_four = needs(language_model, processes=4)
    rows = (1 << 20) * 128 * np.dtype("float16").itemsize
    assert host_of_four.terms["own share"] == rows // 4
    assert device_of_four.terms["exchange"] == rows + PIECE_BYTES
    training, own, _ = needs(language_model, devices=jax.devices()[6:])
    assert set(own.terms) == {"language model", "forward pass"} and own.there == 2 * 10**6
    assert set(training.terms) == {"language model", "sweep", "update", "batches"} and training.there == 10**6
    assert own.terms["forward pass"] < 0.6 * device.terms["forward pass"]  # half of the sequences each


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)])
def test_weights_that_are_judged_while_they_train_count_as_they_are_placed(language_model, sizes):
    """Beside the state: two groups at one site, as the evaluation takes them out of it and puts them on the mesh."""
    points = [
        Point(name, "attn_z.1", 256, coefficient, 1e-3, 0, architecture(name).Options())
        for name in ("gated", "standard") for coefficient in (0.1, 0.2)
    ]  # fmt: skip
    groups, mesh = group_points(points, sizes[0]), axes.make_mesh(*sizes)
    shared = {"groups": groups, "mesh": mesh, "devices": list(mesh.devices.flat)}
    [without], [need] = (needs(language_model, evaluates=evaluates, **shared) for evaluates in (False, True))
    assert need.total - without.total == need.terms["evaluation"] and "evaluation" not in without.terms
    states = [initial_state(group, 128, mesh) for group in groups]
    judged = [
        Member(f"{state} {i}", "attn_z.1", functools.partial(member_on_mesh, states[state].autoencoder, i, mesh))
        for state in range(2) for i in range(2)
    ]  # fmt: skip
    [(_, run)] = placed_runs(judged, Places.of(mesh), lambda site: 128)
    assert need.terms["evaluation"] == mesh.size * sum(bytes_on_a_device(placed) for _, placed in run)


def test_as_many_weights_count_as_are_placed_at_once(monkeypatch):
    monkeypatch.setattr(members, "BYTES_AT_ONCE", 10)
    assert members.most_bytes([4, 4, 4, 4]) == 12  # two fit; the third is there before they go
    assert members.most_bytes([20, 3]) == 23 and members.most_bytes([1] * 40) == 11
    monkeypatch.setattr(members, "AT_ONCE", 2)
    assert members.most_bytes([1] * 40) == 3


def test_a_live_run_that_cannot_fit_is_refused_before_anything_is_written(tmp_path):
    texts = tiny_run.documents(tmp_path / "texts")
    settings = tiny_run.configuration(texts, activations__source="live", activations__memory_gb=0.001)
    with pytest.raises(SettingError, match=r"\Aconfig\.activations\.source = 'live': needs [^\n]*superblocks [^\n]*\Z"):
        pipeline.run(config.parse(settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()
