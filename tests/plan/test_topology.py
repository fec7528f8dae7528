"""Names of machines: what they mean, and what is said of those that mean nothing."""

import sys

import pytest

from gsae import chips
from gsae.errors import SettingError
from gsae.plan.plan import named_sizes
from gsae.plan.topology import find, parse
from gsae.throughput import peak_flops


@pytest.mark.parametrize(
    "name", ["v5e:4", "v5p:4x4", "v9:2x2", "h100:2x2", "v5e", "v5e:0x4", "", "h100:8 ", "h100-pcie:8"]
)
def test_a_name_that_means_nothing_is_refused(name):
    with pytest.raises(SettingError, match=r"--topology = .*must be a TPU and its shape such as v5e:4x4"):
        find(name)


@pytest.mark.parametrize(
    ("name", "most"),
    [("v5e:16x32", "16x16"), ("v6e:32x8", "16x16"), ("v5p:16x24x24", "8960"), ("v4:16x16x17", "4096")],
)
def test_no_pod_is_larger_than_there_are(name, most):
    kind = name.partition(":")[0]
    with pytest.raises(SettingError, match=f"--topology = '{name}': a pod of {kind} has at most {most} chips$"):
        find(name)


def test_names_that_mean_something():
    assert parse("v5p:4x4x8") == ("v5p", (4, 4, 8))
    machine = find("h100:8")
    assert (machine.count, machine.chips, machine.devices) == (8, 8, None)
    cores = find("tpuv3:8")  # two devices a chip, which is what one pays for
    assert (cores.count, cores.chips) == (16, 8)
    assert len(find("cpu:4").devices) == 4
    with pytest.raises(SettingError, match="only 8 CPU devices"):
        find("cpu:9")


def test_without_libtpu_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)  # as if it were not installed
    with pytest.raises(SettingError, match=r"--topology = 'v5e:4x4': .*pip install \"gsae\[tpu\]\""):
        find("v5e:4x4")


@pytest.mark.parametrize("text", ["8,1", "a,b,c", "1,1,1,1", "1,-2,1"])
def test_sizes_that_are_none(text):
    with pytest.raises(SettingError, match="--mesh = "):
        named_sizes(text)


def test_sizes():
    assert named_sizes("8,1,2") == named_sizes("8x1x2") == (8, 1, 2)


def test_each_chip_is_found_by_its_own_name_and_its_numbers_are_of_one_device():
    for chip in chips.CHIPS:
        assert chips.named(chip.name) is chip
        for kind in chip.kinds:
            assert chips.known(f"NVIDIA {kind} 80GB" if chip.group else kind) is chip
        assert chip.float32 <= chip.bfloat16 and chip.memory_bandwidth < chip.bfloat16
        assert all(getattr(chip, name) > 0 for name in chip.unverified)
    assert chips.known("cpu") is None

    class Cpu:
        device_kind, platform = "cpu", "cpu"

    class New:
        device_kind, platform = "TPU v99", "tpu"

    assert chips.of_device(Cpu()) is chips.CPU and peak_flops(Cpu()) is None
    assert chips.of_device(New()) is chips.UNKNOWN and chips.UNKNOWN.assumed
