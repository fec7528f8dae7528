"""Eight CPU devices for every test process: sharded code runs for real on one machine."""

import os

from gsae.cpu_devices import enough_threads

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import pytest  # the variables come first


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


enough_threads()  # inherited by the processes that tests start
