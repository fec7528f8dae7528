"""How many threads several CPU devices of one process get."""

import os

import pytest

from gsae.cpu_devices import enough_threads


@pytest.mark.parametrize(
    ("given", "threads"),
    [
        ({}, None),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}, None),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=2 --xla_force_host_platform_device_count=8"}, "32"),
        ({"JAX_NUM_CPU_DEVICES": "4"}, "16"),
        ({"JAX_NUM_CPU_DEVICES": "4", "NPROC": "5"}, "5"),
    ],
)
def test_threads(monkeypatch, given, threads):
    for name in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES", "NPROC"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    enough_threads()
    assert os.environ.get("NPROC") == threads
