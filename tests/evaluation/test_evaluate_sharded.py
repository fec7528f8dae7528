"""Evaluation on meshes, in several processes, and beside a mesh of training: the numbers of one device."""

import dataclasses
import functools
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_members
from tiny_members import SITE, D, F, Held

from gsae import mesh as axes
from gsae.autoencoders.registry import ARCHITECTURES, architecture
from gsae.evaluation.evaluate import evaluate
from gsae.evaluation.held_out_rows import evaluate_rows
from gsae.evaluation.members import Member
from gsae.evaluation.metrics import reconstruct
from gsae.evaluation.places import Places, default_mesh
from gsae.language_models.loading import load_language_model
from gsae.mesh import make_mesh
from gsae.training.extraction import member_on_host, member_on_mesh

SHAPE = re.compile(r"\[([\d,]+)\]")
MESHES = [(1, 8, 1), (2, 2, 2), (1, 2, 4), (1, 1, 8)]  # (8, 1, 1) is (1, 8, 1) there


@functools.cache
def language_model():
    return load_language_model("bundled")


def random_member(name, seed=0):
    kind = architecture(name)
    return kind.initialise(jax.random.key(seed), D, F, kind.Options())


def signed(scale):
    """The identity, times a scale: for activations whose sign says nothing."""
    W_enc = jnp.concatenate([jnp.eye(D), -jnp.eye(D)], axis=1)
    fresh = architecture("standard").initialise(jax.random.key(0), D, 2 * D, architecture("standard").Options())
    return fresh.replace(W_enc=W_enc, W_dec=scale * W_enc.T)


def judged(members, model=None, **how):
    settings = {"tokens": 0, "batch_size": 3, "bootstrap_samples": 20, "progress": False} | how
    return evaluate(model or language_model(), Held(), members, **settings)


@functools.cache
def on_one_device():
    members = [Member(name, SITE, random_member(name)) for name in ARCHITECTURES]
    return judged(members), evaluate_rows(tiny_members.rows(), members, rows=0, progress=False)


def assert_alike(found, expected, tolerance=1e-5):
    """Metrics within 1e-5, of the numbers that they are differences of; counts exactly."""
    assert found.name == expected.name
    np.testing.assert_array_equal(found.density, expected.density)
    np.testing.assert_allclose(found.strength, expected.strength, rtol=tolerance)
    for name, value in expected.metrics.items():
        if name in ("tokens", "targets", "documents", "l0", "alive"):
            np.testing.assert_array_equal(found.metrics[name], value, err_msg=name)
        elif not name.startswith("loss_recovered"):
            np.testing.assert_allclose(found.metrics[name], value, rtol=tolerance, atol=tolerance, err_msg=name)
    recovered = expected.metrics["loss_recovered"]
    assert found.metrics["loss_recovered"] == pytest.approx(recovered, abs=1e-4, nan_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize("shape", MESHES)
def test_every_architecture_is_judged_on_a_mesh_as_on_one_device(shape):
    mesh = make_mesh(*shape)
    members = [Member(name, SITE, random_member(name)) for name in ARCHITECTURES]
    by_text, by_rows = on_one_device()
    for found, expected in zip(judged(members, mesh=mesh), by_text, strict=True):
        assert_alike(found, expected)
    for found, expected in zip(
        evaluate_rows(tiny_members.rows(), members, rows=0, mesh=mesh, progress=False), by_rows, strict=True
    ):
        assert_alike(found, expected)


def test_identity_gives_exactly_one_and_zero_exactly_zero_on_a_mesh():
    mesh = make_mesh(2, 2, 2)
    with jax.set_mesh(mesh):  # training's
        same, none = judged([Member("same", SITE, signed(1.0)), Member("none", SITE, signed(0.0))], mesh=mesh)
    assert same.metrics["loss_recovered"] == 1 and same.metrics["ce_spliced"] == same.metrics["ce_clean"]
    assert none.metrics["loss_recovered"] == 0 and none.metrics["ce_spliced"] == none.metrics["ce_zero"]


def test_a_mesh_of_training_around_it_changes_nothing():
    spread = Places.of(make_mesh(2, 2, 2)).autoencoder(random_member("gated"))
    with jax.set_mesh(make_mesh(2, 2, 2)):
        (found,) = judged([Member("gated", SITE, spread)])
    (expected,) = (evaluation for evaluation in on_one_device()[0] if evaluation.name == "gated")
    assert found.metrics == expected.metrics


def test_batches_are_rounded_up_and_what_is_wasted_is_said(capsys):
    members = [Member("gated", SITE, random_member("gated"))]
    judged(members, mesh=make_mesh(1, 8, 1), progress=True)
    said = capsys.readouterr().out
    assert "8 sequences at once instead of 3, as many on each of 8 devices; 12% of the rows fill up" in said
    judged(members, batch_size=4, mesh=make_mesh(1, 2, 2), progress=True)
    assert "at once instead" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 1, 8)])
def test_no_dictionary_and_no_features_are_gathered(name, shape):
    places = Places.of(make_mesh(*shape))
    placed = places.autoencoder(random_member(name))
    x_BTD = jax.device_put(jnp.ones((8, 6, D)), places.activations)
    keep_BT = jax.device_put(jnp.ones((8, 6), bool), places.activations)
    with jax.set_mesh(places.mesh):
        lowered = reconstruct.lower(placed, x_BTD, keep_BT, jnp.zeros(D))
        text = lowered.compile(compiler_options={"xla_backend_optimization_level": 0}).as_text()  # LLVM moves nothing
    moved = re.findall(r"= (.*?) (?:all-gather|all-to-all|collective-permute)(?:-start)?\(", text)
    shapes = [[int(n) for n in dims.split(",") if int(n) > 1] for found in moved for dims in SHAPE.findall(found)]
    assert shapes, "at least the activations come from all devices"
    assert not [shape for shape in shapes if F in shape and len(shape) > 1], moved  # counts [F] may


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 2, 4), (2, 1, 1)])
def test_a_member_leaves_the_state_as_it_was_in_it(name, shape):
    mesh = make_mesh(*shape)
    stacked = tiny_members.stacked(mesh, name, members=4)
    for index in range(4):
        expected = random_member(name, index)
        on_mesh, on_host = member_on_mesh(stacked, index, mesh), member_on_host(stacked, index, mesh)
        for field, axis in expected.feature_axes.items():
            value, spread = getattr(on_host, field), getattr(on_mesh, field)
            assert isinstance(value, np.ndarray)
            np.testing.assert_array_equal(value, getattr(expected, field))
            np.testing.assert_array_equal(spread, value)
            split = spread.sharding.shard_shape(spread.shape)
            assert axis is None or split[axis] == F // shape[2]


@pytest.mark.slow
def test_two_processes_judge_together_and_the_first_one_gets_the_weights(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    here = Path(__file__).parent
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "PYTHONPATH": f"{here.parent.parent}:{os.environ.get('PYTHONPATH', '')}",
    }
    command = [sys.executable, str(here / "two_evaluations.py"), port]
    started = [
        subprocess.Popen([*command, str(i), "2", str(tmp_path / "found.json")], env=environment) for i in range(2)
    ]
    try:
        assert [process.wait(timeout=300) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    found = json.loads((tmp_path / "found.json").read_text())
    mesh = default_mesh()
    members = [Member(f"live{seed}", SITE, random_member("gated", seed)) for seed in range(2)]
    by_text = {f"{e.name} in {parts}": e for parts in (1, 2) for e in judged(members)}
    by_rows = evaluate_rows(tiny_members.rows(), members, rows=0, mesh=mesh, progress=False)
    expected = by_text | {f"{e.name} on rows": e for e in by_rows}
    for name, evaluation in expected.items():
        result = found.pop(name)
        density = np.asarray(result.pop("fired"))
        assert_alike(dataclasses.replace(evaluation, metrics=result, density=density), evaluation)
    for seed in range(2):
        weights, own = found.pop(f"weights{seed}"), random_member("gated", seed)
        for field in own.feature_axes:
            np.testing.assert_array_equal(np.asarray(weights[field], np.float32), np.ravel(getattr(own, field)))
    assert not found


@pytest.mark.slow
def test_a_language_model_that_is_split_over_devices_judges_alike():
    member = Member("gated", SITE, random_member("gated"))
    (expected,) = (evaluation for evaluation in on_one_device()[0] if evaluation.name == "gated")
    mesh = make_mesh(data=4, feature=2)
    split = axes.split_over(list(mesh.devices.flat), 4)
    with jax.set_mesh(mesh):  # training's
        for how in ({"mesh": mesh}, {}):
            (found,) = judged([member], load_language_model("bundled", mesh=split), **how)
            assert_alike(found, expected)
