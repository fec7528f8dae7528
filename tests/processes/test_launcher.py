"""Who says that there are several processes: the settings, a launcher's variables, or a cluster that jax knows."""

import socket
import time

import pytest

from gsae.errors import RunError, SettingError
from gsae.processes import launcher
from gsae.processes.launcher import Launch, find, first_by_name

AUTO = ("auto", 0, -1, 5.0)
VARIABLES = {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "2"}
SLURM = {
    "SLURM_JOB_ID": "4096",
    "SLURM_STEP_NODELIST": "node[007-009]",
    "SLURM_NTASKS": "3",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Nothing of a launcher, unless a test sets it."""
    for name in (*VARIABLES, *SLURM, "JAX_COORDINATOR_PORT", "KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"):
        monkeypatch.delenv(name, raising=False)
    return lambda values: [monkeypatch.setenv(name, value) for name, value in values.items()]


def test_without_a_launcher_there_is_one_process_and_no_server_is_asked(monkeypatch):
    def ask(*about):
        raise AssertionError(f"asked {about}")

    monkeypatch.setattr(socket.socket, "connect", ask)
    monkeypatch.setattr(socket, "getaddrinfo", ask)
    began = time.perf_counter()
    assert find(*AUTO) is None
    assert time.perf_counter() - began < 60  # imports jax


def test_a_launcher_says_it_in_three_variables(environment):
    environment(VARIABLES)
    assert find(*AUTO) == Launch("10.0.0.1:1234", 4, 2)
    assert find("none", 0, -1, 5.0) is None
    assert find("auto", 8, 7, 5.0) == Launch("10.0.0.1:1234", 8, 7)  # settings count more
    environment({"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"})
    assert find(*AUTO) is None


def test_slurm_is_recognised_and_one_task_of_it_is_one_process(environment):
    environment(SLURM)
    assert find(*AUTO) == Launch("node007:61440", 3, 1, [0])
    environment({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"})
    assert find(*AUTO) is None


def test_settings_alone_are_enough():
    assert find("host:99", 3, 0, 5.0) == Launch("host:99", 3, 0)
    assert find("[::1]:99", 2, 1, 5.0) == Launch("[::1]:99", 2, 1)


def test_a_pod_that_is_no_member_of_a_job_is_one_process(environment, recwarn):
    environment({"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert find(*AUTO) is None
    environment({"JOB_COMPLETION_INDEX": "0"})  # without the package `kubernetes` jax cannot ask
    assert find(*AUTO) is None and not recwarn.list


@pytest.mark.parametrize(
    ("settings", "variables", "complaint"),
    [
        (("host", 2, 0), {}, "config.processes.coordinator = 'host': must be auto, none, or"),
        (
            ("host:1", 0, 0),
            {},
            "config.processes.count = 0: with config.processes.coordinator = host:port, it or",
        ),
        (("host:1", 2, -1), {}, "config.processes.index = -1: with"),
        (("host:1", 2, 2), {}, "config.processes.index = 2: must be from 0 to 1, the processes are 2"),
        (("auto", 0, -1), VARIABLES | {"JAX_PROCESS_ID": "4"}, "config.processes.index = 4: must be from 0 to 3"),
        (
            ("auto", 0, -1),
            VARIABLES | {"JAX_NUM_PROCESSES": "four"},
            "JAX_NUM_PROCESSES = 'four': must be a whole",
        ),
        (
            ("auto", 0, -1),
            {"JAX_COORDINATOR_ADDRESS": "host:1"},
            "is set, but neither JAX_NUM_PROCESSES nor",
        ),
    ],
)
def test_what_cannot_be_is_refused(environment, settings, variables, complaint):
    environment(variables)
    with pytest.raises((SettingError, RunError)) as refused:
        find(*settings, 5.0)
    assert complaint in str(refused.value)


def test_the_first_process_is_known_by_any_launcher(environment):
    assert first_by_name()
    environment({"SLURM_PROCID": "1"})
    assert not first_by_name()
    environment({launcher.INDEX: "0"})
    assert first_by_name()
