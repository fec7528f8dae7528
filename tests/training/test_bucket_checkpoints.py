"""Checkpoints in a bucket: written by Orbax to a local server of Google's interface, and as safe as on a disk."""

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bucket_servers import BUCKET
from test_checkpoints import restore, same, states_on

from gsae import mesh as axes
from gsae.errors import RunError, SettingError
from gsae.places import place
from gsae.training import bucket_shelf
from gsae.training.checkpoints import Checkpoints


@pytest.fixture
def there(google, request):
    """A place of its own in the bucket."""
    where = place(f"gs://{BUCKET}/{re.sub(r'[^a-z_]', '-', request.node.name)}/checkpoints")
    where.remove_below()
    return where


@pytest.fixture
def saved(there):
    states = {step: states_on(axes.make_mesh(1, 2, 2), seed=step) for step in (10, 20)}
    with Checkpoints(there, every=10, settings="ours") as checkpoints:
        for step, state in states.items():
            checkpoints.save(step, state, {"name": step})
    return there, states


def test_restores_the_newest_bit_for_bit_on_any_mesh(saved):
    where, states = saved
    for sizes, members in (((1, 2, 2), 4), ((4, 1, 2), 4), ((1, 1, 1), 4), ((8, 1, 1), 8)):
        target = states_on(axes.make_mesh(*sizes), members=members)
        (step, restored, about), said = restore(where, target)
        assert (step, about, said) == (20, {"name": 20}, []) and same(restored, states[20])
        if members == 4:
            assert jax.tree.map(lambda a: a.sharding, restored) == jax.tree.map(lambda a: a.sharding, target)
    with pytest.raises(SettingError, match="other settings"):
        restore(where, states[10], settings="theirs")


def test_keeps_the_newest_and_multiples(there):
    state = states_on(axes.make_mesh())
    with Checkpoints(there, every=10, keep=2, keep_every=30) as checkpoints:
        for step in range(10, 80, 10):
            checkpoints.save(step, state)
    assert checkpoints.steps() == [30, 60, 70]
    assert {key.partition("/")[0] for key in there.keys()} == {  # noqa: SIM118
        "index.json", "step-000000030", "step-000000060", "step-000000070"
    }  # fmt: skip


def largest_object(where):
    state = where / "step-000000020" / "state"
    return max((state / key for key in state.keys()), key=lambda found: len(found.read_bytes()))  # noqa: SIM118


def flip(where):
    data = bytearray(largest_object(where).read_bytes())
    data[len(data) // 2] ^= 4
    largest_object(where).write_bytes(bytes(data))


def truncate(where):
    data = largest_object(where).read_bytes()
    largest_object(where).write_bytes(data[: len(data) // 2])  # its last bytes are read by nobody after a merge


def remove_data(where):
    largest_object(where).unlink()


def remove_state(where):
    (where / "step-000000020" / "state").remove_below()


def remove_manifest(where):
    (where / "step-000000020" / "manifest.json").unlink()


def change_manifest(where):
    manifest = where / "step-000000020" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"ours"', b'"ourt"'))


@pytest.mark.parametrize("damage", [flip, truncate, remove_data, remove_state, remove_manifest, change_manifest])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(saved, damage):
    where, states = saved
    damage(where)
    (step, restored, _), said = restore(where, states[10])
    assert step == 10 and same(restored, states[10])
    assert len(said) == 1 and "damaged" in said[0] and f"{where}/step-000000020" in said[0] and "\n" not in said[0]
    assert restore(where, states[10])[1] == []  # it is out of the way
    with Checkpoints(where, every=10, settings="ours") as checkpoints:  # and its step can be saved once more
        checkpoints.save(20, states[20])
    (step, restored, _), said = restore(where, states[10])
    assert step == 20 and same(restored, states[20]) and said == []


def test_all_damaged_is_an_error_each_time(saved):
    where, states = saved
    for step in (10, 20):
        (where / f"step-{step:09d}" / "manifest.json").unlink()
    for _ in range(2):
        with pytest.raises(RunError, match=rf"{where}: every checkpoint is damaged"):
            restore(where, states[10])


def test_out_of_reach_is_not_damaged(saved, google):
    where, states = saved
    with Checkpoints(where, every=10, settings="ours") as checkpoints:
        try:
            google.refused = {"GET": BUCKET}
            with pytest.raises(RunError, match="PERMISSION_DENIED"):
                checkpoints.restore_newest(states[10])
            google.refused = {"POST": BUCKET}
            with pytest.raises(RunError, match=r"step-000000030.*(could not be saved|cannot be)") as error:
                checkpoints.save(30, states[10])
                checkpoints.wait()
            assert "\n" not in str(error.value)
        finally:
            google.refused = {}
    (step, restored, _), said = restore(where, states[10])
    assert step == 20 and same(restored, states[20]) and said == []


def test_an_index_that_is_not_one_is_named(saved):
    where, states = saved
    (where / "index.json").write_bytes(b"[10, 20")
    with pytest.raises(RunError, match=rf"{where}/index\.json: is not readable"):
        restore(where, states[10])


def test_killed_before_it_is_published_nothing_counts(there):
    script = """
        import os, signal, sys
        import jax.numpy as jnp
        from gsae.places import place
        from gsae.training.bucket_shelf import BucketShelf
        from gsae.training.checkpoints import Checkpoints
        checkpoints = Checkpoints(place(sys.argv[1]), every=1)
        checkpoints.save(1, {"W": jnp.zeros(1000)})
        checkpoints.wait()
        BucketShelf.publish = lambda *given: os.kill(os.getpid(), signal.SIGKILL)
        checkpoints.save(2, {"W": jnp.ones(1000)})
        checkpoints.wait()
    """
    run = [sys.executable, "-c", textwrap.dedent(script), str(there)]
    assert subprocess.run(run, timeout=200).returncode == -signal.SIGKILL
    assert any(key.startswith("step-000000002/state/") for key in there.keys())  # noqa: SIM118
    with Checkpoints(there, every=1) as checkpoints:
        assert checkpoints.steps() == [1]
        assert not any(key.startswith("step-000000002/") for key in there.keys())  # noqa: SIM118
        step, restored, _ = checkpoints.restore_newest({"W": jnp.full(1000, 7.0)})
        assert step == 1 and not np.asarray(restored["W"]).any()


def test_what_orbax_cannot_write_to_is_refused_by_name(there, monkeypatch):
    with pytest.raises(SettingError, match=r"config\.training\.checkpoints = 's3://bucket/x': .* Orbax writes to no"):
        Checkpoints(place("s3://bucket/x"), every=1)
    monkeypatch.setattr(bucket_shelf.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r'config\.training\.checkpoints = .*pip install "gsae\[gcs\]"'):
        Checkpoints(there, every=1)


@pytest.mark.slow
def test_two_processes_that_share_only_the_bucket(there):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    program = [sys.executable, str(Path(__file__).with_name("two_processes.py")), port]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # one device for each
    both = [
        subprocess.Popen([*program, str(i), str(there)], env=environment, stdout=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    for process in both:
        assert process.communicate(timeout=240)[0].endswith("restored 1\n")
        assert process.returncode == 0
