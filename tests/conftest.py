"""Eight CPU devices for every test process: sharded code runs for real on one machine. What they compile is shared."""

import os
import shutil
import tempfile

import pytest

from gsae.cpu_devices import enough_threads

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
# Most of the time of a test goes into compiling, and many files, and the processes that tests start, compile the same:
# they share one cache of compiled programs, which is new unless the variable is set. jax keys it by the program, the
# flags of its compiler and the version; its entries have the machine code itself, so that equal bits stay equal.
COMPILED = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # pytest-xdist's workers find it set
    COMPILED = os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="gsae-compiled-")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


# Steps of every architecture, alone and on meshes, take long to compile. A fresh checkout's test run has these, which
# differ most in what moves between devices; the slow tests have the others.
COMPILED_FOR_EACH = {"test_step.py", "test_step_sharded.py", "test_evaluate_sharded.py", "test_linear_sharded.py"}
SOON = {"gated", "standard", "jumprelu", "batchtopk", "matryoshka"}


# Files that start processes and wait for them take minutes each: begun first, none of them is what is left in the end.
LONGEST = ("test_several_processes.py", "test_killed_runs.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    first = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: first.get(item.path.name, len(first)))  # the others stay in their order
    from gsae.autoencoders.registry import ARCHITECTURES

    names = {kind: name for name, kind in ARCHITECTURES.items()}
    for item in items:
        if item.path.name in COMPILED_FOR_EACH and hasattr(item, "callspec"):
            given = (item.callspec.params.get(key) for key in ("name", "architecture", "cls"))
            found = {names.get(one, one) for one in given} & set(ARCHITECTURES)
            if found - SOON:
                item.add_marker("slow")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    return (yield from skipped_without_devices())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    return (yield from skipped_without_devices())


def skipped_without_devices():
    """Tests that need eight devices are skipped where `JAX_PLATFORMS=cuda` or another one has fewer."""
    from gsae.errors import SettingError

    try:
        return (yield)
    except SettingError as error:
        if os.environ["JAX_PLATFORMS"] != "cpu" and "devices" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture(scope="session")
def google():
    """A local server of Google's buckets that this process and its children find: TensorStore looks only once."""
    from bucket_servers import found_by_this_process, google_server

    with google_server() as server, found_by_this_process(server):
        yield server


@pytest.fixture(scope="session")
def amazon():
    """The same of Amazon's."""
    from bucket_servers import amazon_server, found_by_this_process

    with amazon_server() as server, found_by_this_process(server):
        yield server


def pytest_unconfigure():
    """Removes the cache that this process made."""
    if COMPILED:
        shutil.rmtree(COMPILED, ignore_errors=True)


enough_threads()  # inherited by the processes that tests start
