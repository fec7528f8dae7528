"""Checkpoints: bitwise, whole or not at all, and never read as data when a byte of them was altered."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from gsae import mesh as axes
from gsae.errors import RunError, SettingError
from gsae.training import checkpoints as checkpoints_module
from gsae.training.checkpoints import Checkpoints
from gsae.training.digests import digest, host_copies, verify


def states_on(mesh, members=4, features=64, seed=0):
    """A small tree like that of a run: floats with odd values, counters, flags, a scalar; on the mesh."""
    values = np.random.default_rng(seed)
    weights = values.standard_normal((members, 5, features)).astype(np.float32)
    weights[0, 0, :4] = [-0.0, np.inf, 1e-42, np.nan]

    def put(array, *spec):
        return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))

    return {
        "gated at mlp_out.2": {
            "W": put(weights, axes.SWEEP, None, axes.FEATURE),
            "half": put(weights.astype(jnp.bfloat16), axes.SWEEP, None, None),
            "count": put(values.integers(0, 2**31 - 1, (members, features)).astype(np.int32), axes.SWEEP, axes.FEATURE),
            "active": put(np.arange(members) < 3, axes.SWEEP),
        },
        "standard": {"scale": put(np.float32(0.1))},
    }


def same(left, right):
    return all(
        np.asarray(a).tobytes() == np.asarray(b).tobytes() and a.dtype == b.dtype
        for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    )


@pytest.fixture
def saved(tmp_path):
    """Two checkpoints of different states, and those states."""
    states = {step: states_on(axes.make_mesh(1, 2, 2), seed=step) for step in (10, 20)}
    checkpoints = Checkpoints(tmp_path / "checkpoints", every=10, settings="ours")
    for step, state in states.items():
        checkpoints.save(step, state, {"name": step})
    checkpoints.close()
    return tmp_path / "checkpoints", states


def restore(directory, target, settings="ours", **options):
    said: list[str] = []
    checkpoints = Checkpoints(directory, every=10, settings=settings, **options)
    try:
        return checkpoints.restore_newest(target, said.append), said
    finally:
        checkpoints.close()


def test_restores_the_newest_bit_for_bit(saved):
    directory, states = saved
    (step, restored, about), said = restore(directory, states[10])
    assert (step, about, said) == (20, {"name": 20}, [])
    assert same(restored, states[20]) and not same(restored, states[10])
    assert jax.tree.map(lambda a: a.sharding, restored) == jax.tree.map(lambda a: a.sharding, states[20])


@pytest.mark.parametrize("sizes", [(1, 1, 1), (4, 1, 2), (2, 2, 2)])
def test_restores_on_another_mesh(saved, sizes):
    directory, states = saved
    target = states_on(axes.make_mesh(*sizes))
    (_, restored, _), said = restore(directory, target)
    assert same(restored, states[20]) and said == []
    assert jax.tree.map(lambda a: a.sharding, restored) == jax.tree.map(lambda a: a.sharding, target)


def test_restores_a_sweep_padded_otherwise(saved):
    directory, states = saved
    (_, restored, _), said = restore(directory, states_on(axes.make_mesh(8, 1, 1), members=8))
    assert same(restored, states[20]) and said == []


def test_nothing_saved_is_nothing_restored(tmp_path):
    assert restore(tmp_path / "new", states_on(axes.make_mesh())) == (None, [])


def test_the_directory_may_be_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = states_on(axes.make_mesh(1, 2, 2))
    with Checkpoints(Path("runs/checkpoints"), every=10, settings="ours") as checkpoints:
        checkpoints.save(10, state)
        checkpoints.wait()
    (step, restored, _), _ = restore(Path("runs/checkpoints"), state)
    assert step == 10 and same(restored, state)


def newest(directory):
    return max(directory.glob("step-*"))


def largest_file(directory):
    return max((f for f in (newest(directory) / "state").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def flip(directory):
    file = largest_file(directory)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def truncate(directory):
    file = largest_file(directory)
    file.write_bytes(file.read_bytes()[:-100])


def remove_data(directory):
    largest_file(directory).unlink()


def remove_state(directory):
    shutil.rmtree(newest(directory) / "state")


def remove_manifest(directory):
    (newest(directory) / "manifest.json").unlink()


def change_manifest(directory):
    file = newest(directory) / "manifest.json"
    file.write_text(file.read_text().replace('"ours"', '"ourt"'))


def empty(directory):
    (directory / "step-000000030").mkdir()


@pytest.mark.parametrize("damage", [flip, truncate, remove_data, remove_state, remove_manifest, change_manifest, empty])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(saved, damage):
    directory, states = saved
    damage(directory)
    (step, restored, _), said = restore(directory, states[10])
    expected = 20 if damage is empty else 10
    assert step == expected and same(restored, states[expected])
    assert len(said) == 1 and "damaged" in said[0] and "\n" not in said[0]
    # It is out of the way afterwards: the next start says nothing.
    assert restore(directory, states[10])[1] == []


@pytest.mark.parametrize("sizes", [(1, 2, 2), (4, 1, 2)])
def test_the_arrays_are_verified_beside_the_files(sizes):
    # What no digest of a file can see: bytes that were already wrong when they were written.
    saved_on, read_on = axes.make_mesh(1, 2, 2), axes.make_mesh(*sizes)
    weights = states_on(saved_on)["gated at mlp_out.2"]["W"]
    shards = {key: digest(part) for key, part in host_copies({"W": weights})["W"].items()}
    assert len(shards) == 2
    values = np.array(weights)
    spec = NamedSharding(read_on, PartitionSpec(axes.SWEEP, None, axes.FEATURE))
    verify("W", jax.device_put(values, spec), {"shards": shards})
    for position in np.linspace(0, values.nbytes - 1, 6).astype(int):
        wrong = values.copy()
        wrong.reshape(-1).view(np.uint8)[position] ^= 1
        with pytest.raises(RunError, match="bytes of W are not those that were saved"):
            verify("W", jax.device_put(wrong, spec), {"shards": shards})


def test_arrays_that_differ_from_their_digests_are_damage(saved, monkeypatch):
    directory, states = saved
    state = states_on(axes.make_mesh(1, 2, 2), seed=30)
    copies = checkpoints_module.host_copies
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints_module, "host_copies", lambda arrays: copies(jax.tree.map(jnp.zeros_like, arrays)))
        with Checkpoints(directory, every=10, settings="ours") as checkpoints:
            checkpoints.save(30, state)
    (step, restored, _), said = restore(directory, states[10])
    assert step == 20 and same(restored, states[20]) and "SHA-256 differs" in said[0]


def test_all_damaged_is_an_error_each_time(saved):
    directory, states = saved
    for step in (10, 20):
        (directory / f"step-{step:09d}" / "manifest.json").unlink()
    for _ in range(2):
        with pytest.raises(RunError, match=rf"{directory}: every checkpoint is damaged"):
            restore(directory, states[10])


def test_other_settings_are_refused(saved):
    directory, states = saved
    with pytest.raises(SettingError, match="other settings"):
        restore(directory, states[10], settings="theirs")


def test_keeps_the_newest_and_multiples(tmp_path):
    state = states_on(axes.make_mesh())
    checkpoints = Checkpoints(tmp_path, every=10, keep=2, keep_every=30)
    for step in range(10, 80, 10):
        assert checkpoints.due(step) and not checkpoints.due(step + 1)
        checkpoints.save(step, state)
    checkpoints.close()
    assert checkpoints.steps() == [30, 60, 70]
    assert not checkpoints.due(0) and not Checkpoints(tmp_path, every=0).due(10)


def test_the_step_goes_on_while_it_saves_and_may_donate(tmp_path, monkeypatch):
    mesh = axes.make_mesh()
    state = {"W": jax.device_put(np.arange(2**20, dtype=np.float32), NamedSharding(mesh, PartitionSpec(None)))}
    expected = jax.tree.map(np.array, state)
    checkpoints = Checkpoints(tmp_path, every=1)
    finish = Checkpoints._finish
    go_on = threading.Event()
    monkeypatch.setattr(Checkpoints, "_finish", lambda *given: (go_on.wait(60), finish(*given)))
    advance = jax.jit(lambda tree: jax.tree.map(lambda a: a + 1, tree), donate_argnums=0)
    advance(jax.tree.map(jnp.copy, state))
    began = time.monotonic()
    checkpoints.save(1, state)
    for _ in range(5):
        state = jax.block_until_ready(advance(state))
    assert time.monotonic() - began < 50 and checkpoints.steps() == []  # nothing waited for the end of the save
    go_on.set()
    checkpoints.wait()
    _, restored, _ = checkpoints.restore_newest(state)
    assert same(restored, expected)
    checkpoints.close()


@pytest.mark.parametrize("inside", ["file", "file/below"])
def test_a_directory_that_cannot_be_written(tmp_path, inside):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(RunError, match="cannot be written"):
        Checkpoints(tmp_path / inside, every=1)


PREAMBLE = """
    import os, resource, signal, sys
    os.environ["JAX_PLATFORMS"] = "cpu"
    from pathlib import Path
    import jax.numpy as jnp
    from gsae.errors import RunError
    from gsae.training.checkpoints import Checkpoints
    directory = Path(sys.argv[1])
    checkpoints = Checkpoints(directory, every=1)
"""


def script(text):
    return [sys.executable, "-c", textwrap.dedent(PREAMBLE) + textwrap.dedent(text)]


def test_a_full_disk_is_one_line_and_nothing_counts(tmp_path):
    # A limit on the size of a file stands in for a full disk: the write is refused half-way.
    run = script("""
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        checkpoints.save(1, {"W": jnp.arange(1000.0)})
        import numpy as np
        checkpoints.save(2, {"W": jnp.asarray(np.random.default_rng(0).standard_normal(1_000_000))})
        try:
            checkpoints.wait()
        except RunError as error:
            print("refused:", error)
    """)
    done = subprocess.run([*run, tmp_path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused:") and done.stdout.count("\n") == 1 and "step-000000002" in done.stdout
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-000000001"]


def test_killed_during_a_save_leaves_nothing_that_counts(tmp_path):
    # Killed at the moment before it would be published: all data is there, under the name of an unfinished save.
    run = script("""
        checkpoints.save(1, {"W": jnp.zeros(1000)})
        checkpoints.wait()
        import gsae.training.checkpoints as module
        module.flushed_files = lambda path: os.kill(os.getpid(), signal.SIGKILL)
        checkpoints.save(2, {"W": jnp.ones(1000)})
        checkpoints.wait()
    """)
    assert subprocess.run([*run, tmp_path], timeout=120).returncode == -signal.SIGKILL
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["step-000000001", "step-000000002.partial-save"]
    (tmp_path / ".writable.partial-1").touch()  # killed even earlier
    checkpoints = Checkpoints(tmp_path, every=1)
    assert checkpoints.steps() == [1] and [p.name for p in Path(tmp_path).iterdir()] == ["step-000000001"]
    step, restored, _ = checkpoints.restore_newest({"W": jnp.full(1000, 7.0)})
    assert step == 1 and not np.asarray(restored["W"]).any()
    checkpoints.close()


@pytest.mark.slow
def test_two_processes_save_and_restore_together(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    program = [sys.executable, str(Path(__file__).with_name("two_processes.py")), port]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # one device for each
    both = [
        subprocess.Popen([*program, str(i), str(tmp_path)], env=environment, stdout=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    for process in both:
        assert process.communicate(timeout=240)[0].endswith("restored 1\n")
        assert process.returncode == 0


@pytest.mark.slow
def test_killed_at_random_moments_every_published_checkpoint_is_whole(tmp_path):
    run = script("""
        step = 0 if not checkpoints.steps() else checkpoints.steps()[-1]
        print("ready", flush=True)
        while True:
            step += 1
            checkpoints.save(step, {"W": jnp.full(300_000, float(step)), "n": jnp.int32(step)})
    """)
    random = np.random.default_rng(int(time.time()))
    for _ in range(12):
        with subprocess.Popen([*run, tmp_path], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            time.sleep(random.uniform(0, 1.0))
            process.kill()
        checkpoints = Checkpoints(tmp_path, every=1)
        for step in checkpoints.steps():
            restored, _ = checkpoints._restore(step, {"W": jnp.zeros(300_000), "n": jnp.int32(0)})
            assert step == int(restored["n"]) and (np.asarray(restored["W"]) == step).all()
        checkpoints.close()
    assert checkpoints.steps()


def test_the_manifest_says_what_wrote_it(saved):
    directory, _ = saved
    manifest = json.loads((directory / "step-000000020" / "manifest.json").read_text())
    assert (
        manifest["step"] == 20
        and manifest["settings"] == "ours"
        and set(manifest["versions"]) == {"gsae", "jax", "orbax"}
    )
    assert all(entry["shards"] for entry in manifest["arrays"].values())
