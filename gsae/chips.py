"""What known chips can do, as their makers publish it: the one table of hardware. A leaf.

All numbers are of one jax device. A chip whose two cores are devices of their own (TPU v3, tpu7x) has half of the
published numbers in each. Peaks are dense, without sparsity.

Sources. TPU: the page of each version in Google Cloud's documentation (cloud.google.com/tpu/docs/v3, v4, v5e, v5p,
v6e, tpu7x: peak compute, HBM capacity and bandwidth, interchip interconnect bandwidth); for v3 also Norrie et al. 2021
(The Design Process for Google's Training Chips), for single links and PCIe "How to Scale Your Model"
(jax-ml.github.io/scaling-book). GPU: NVIDIA's data sheets of A100 (80 GB SXM), H100 (SXM and PCIe) and H200, with
NVLink's and PCIe's bandwidths.
"""

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class Chip:
    """One jax device.

    Attributes:
        name: as a topology names its kind.
        bfloat16, float32: FLOP/s of matrix products with operands of this dtype at jax's default precision. TPUs round
            float32 operands to bfloat16 by default and so reach the same; GPUs take TensorFloat-32.
        memory: bytes.
        memory_bandwidth: bytes/s.
        interconnect: bytes/s that a device sends in a ring over its neighbours, in both directions together: two links
            of a TPU's torus, half of NVLink's published sum of both directions.
        host_link: bytes/s from the host.
        devices_per_chip: jax devices that are one chip to whoever pays for it.
        group: devices that `interconnect` joins; beyond, `network`. 0: all.
        network: bytes/s of a device beyond its group.
        kinds: how `device_kind` of such a device begins, or what is in it.
        assumed: whether the numbers are not a maker's.
    """

    name: str
    bfloat16: float
    float32: float
    memory: float
    memory_bandwidth: float
    interconnect: float
    host_link: float
    devices_per_chip: int = 1
    group: int = 0
    network: float = 0.0
    kinds: tuple[str, ...] = ()
    assumed: bool = False

    def peak(self, dtype: str) -> float:
        """FLOP/s of matrix products with operands of a dtype."""
        return self.bfloat16 if dtype == "bfloat16" else self.float32

    def ring(self, devices: int) -> float:
        """Bytes/s that a device sends in a ring of a mesh over so many devices in all."""
        return self.network if self.group and devices > self.group else self.interconnect


GIB = 2.0**30
NDR = 50e9  # one 400 Gbit/s adapter for each GPU, as in the makers' own machines of eight

# Order matters: the first entry whose kind is found in `device_kind` counts.
CHIPS = (
    Chip("tpuv3", 61.5e12, 61.5e12, 16 * GIB, 450e9, 100e9, 8e9, devices_per_chip=2, kinds=("TPU v3",)),
    Chip("v4", 275e12, 275e12, 32 * GIB, 1228e9, 90e9, 16e9, kinds=("TPU v4",)),
    Chip("v5e", 197e12, 197e12, 16 * GIB, 819e9, 90e9, 16e9, kinds=("TPU v5 lite", "TPU v5e")),
    Chip("v5p", 459e12, 459e12, 95 * GIB, 2765e9, 180e9, 16e9, kinds=("TPU v5",)),  # it calls itself TPU v5
    Chip("v6e", 918e12, 918e12, 32 * GIB, 1640e9, 180e9, 32e9, kinds=("TPU v6",)),
    Chip("tpu7x", 1153.5e12, 1153.5e12, 96 * GIB, 3690e9, 100e9, 16e9, devices_per_chip=2, kinds=("TPU7x", "TPU v7")),
    Chip("h200", 989e12, 494e12, 141e9, 4800e9, 450e9, 64e9, group=8, network=NDR, kinds=("H200",)),
    Chip("h100-pcie", 756e12, 378e12, 80e9, 2000e9, 64e9, 64e9, group=8, network=NDR, kinds=("H100 PCIe",)),
    Chip("h100", 989e12, 494e12, 80e9, 3350e9, 450e9, 64e9, group=8, network=NDR, kinds=("H100",)),
    Chip("a100", 312e12, 156e12, 80e9, 2039e9, 300e9, 32e9, group=8, network=NDR / 2, kinds=("A100",)),
)

# Four of the slowest server's cores, say, and what a device of no table is taken for when meshes are compared.
CPU = Chip("cpu", 0.1e12, 0.1e12, 8e9, 10e9, 5e9, 10e9, kinds=("cpu",), assumed=True)
UNKNOWN = dataclasses.replace(CHIPS[-1], name="unknown", kinds=(), assumed=True)


def known(device_kind: str) -> Chip | None:
    """The chip that calls itself so; None where it is in no table, as any CPU."""
    return next((chip for chip in CHIPS if any(kind in device_kind for kind in chip.kinds)), None)


def of_device(device: jax.Device) -> Chip:
    """The chip of a device; `CPU` and `UNKNOWN` stand for those that have no published numbers here."""
    return known(device.device_kind) or (CPU if device.platform == "cpu" else UNKNOWN)


def named(name: str) -> Chip | None:
    """The chip of a topology's kind such as "v5e"; None where there is none."""
    return next((chip for chip in (*CHIPS, CPU) if chip.name == name), None)
