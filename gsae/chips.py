"""What known chips can do, as their makers publish it: the one table of hardware. A leaf.

All numbers are of one jax device. A chip whose two cores are devices of their own (TPU v3, tpu7x) has half of the
published numbers in each. Peaks are dense, without sparsity.

Looked up in November 2026; each row below names its source. "Page" is Google Cloud's page of the version
(docs.cloud.google.com/tpu/docs/v3, v4, v5e, v5p, v6e, tpu7x). "Book" is "How to Scale Your Model"
(jax-ml.github.io/scaling-book/tpus), by Google's own authors: links, which it gives lower than the pages (90 where
they have 100 GB/s for two links of v5e, say), and PCIe (16 GB/s a chip, 32 on v6e). "NVIDIA" is its data sheets and
white papers of A100 80 GB SXM, H100 and H200, read in others' copies. `unverified` names what no page was found for.
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
        unverified: which of them no published page was found for.
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
    unverified: tuple[str, ...] = ()

    def peak(self, dtype: str) -> float:
        """FLOP/s of matrix products with operands of a dtype."""
        return self.bfloat16 if dtype == "bfloat16" else self.float32

    def ring(self, devices: int) -> float:
        """Bytes/s that a device sends in a ring of a mesh over so many devices in all."""
        return self.network if self.group and devices > self.group else self.interconnect


GIB = 2.0**30
NDR = 50e9  # one 400 Gbit/s adapter a GPU, as in machines of eight (system descriptions of MLPerf's results)

# Order matters: the first entry whose kind is found in `device_kind` counts.
CHIPS = (
    # Page: 123 TFLOP/s, 32 GiB, 900 GB/s a chip of two devices. Book: links of 100 GB/s each way.
    Chip(
        "tpuv3", 61.5e12, 61.5e12, 16 * GIB, 450e9, 100e9, 8e9,
        devices_per_chip=2, kinds=("TPU v3",), unverified=("host_link",),
    ),
    # Page: 275, 32 GiB, 1200. Book: 45 each way.
    Chip("v4", 275e12, 275e12, 32 * GIB, 1200e9, 90e9, 16e9, kinds=("TPU v4",)),
    # Page: 197, 16 GB, 819 (a later edition: 800; 400 for all four links, both ways). Book: 45.
    Chip("v5e", 197e12, 197e12, 16 * GIB, 819e9, 90e9, 16e9, kinds=("TPU v5 lite", "TPU v5e")),
    # Page: 459, 95 GiB, 2765 (1200 for six links, both ways). Book: 90. It calls itself TPU v5.
    Chip("v5p", 459e12, 459e12, 95 * GIB, 2765e9, 180e9, 16e9, kinds=("TPU v5",)),
    # Page: 918, 32 GiB, 1640 (later editions: 1600, 1638; 800 for four links, both ways). Book: 90.
    Chip("v6e", 918e12, 918e12, 32 * GIB, 1640e9, 180e9, 32e9, kinds=("TPU v6",)),
    # Page: 2307, 192 GiB, 7380 (1200 for six links, both ways) a chip of two devices. Book: 90.
    Chip(
        "tpu7x", 1153.5e12, 1153.5e12, 96 * GIB, 3690e9, 90e9, 8e9,
        devices_per_chip=2, kinds=("TPU7x", "TPU v7"), unverified=("host_link",),
    ),
    # NVIDIA: 989 and 495 dense, 141 GB, 4800, NVLink 900 both ways, PCIe 5 128 both ways.
    Chip("h200", 989e12, 494e12, 141e9, 4800e9, 450e9, 64e9, group=8, network=NDR, kinds=("H200",)),
    # NVIDIA: 1513 and 756 sparse, 80 GB, 2000. NVLink bridges pairs only, so PCIe counts.
    Chip("h100-pcie", 756e12, 378e12, 80e9, 2000e9, 64e9, 64e9, group=8, network=NDR, kinds=("H100 PCIe",)),
    # NVIDIA: 989 and 495 dense, 80 GB, 3350, NVLink 900 both ways.
    Chip("h100", 989e12, 494e12, 80e9, 3350e9, 450e9, 64e9, group=8, network=NDR, kinds=("H100",)),
    # NVIDIA: 312 and 156, 80 GB, 2039, NVLink 600 and PCIe 4 64 both ways.
    Chip(
        "a100", 312e12, 156e12, 80e9, 2039e9, 300e9, 32e9,
        group=8, network=NDR / 2, kinds=("A100",), unverified=("network",),
    ),
)  # fmt: skip

# Four of the slowest server's cores, say, and what a device of no table is taken for when meshes are compared.
CPU = Chip("cpu", 0.1e12, 0.1e12, 8e9, 10e9, 5e9, 10e9, kinds=("cpu",), assumed=True)
UNKNOWN = dataclasses.replace(CHIPS[-1], name="unknown", kinds=(), assumed=True, unverified=())


def known(device_kind: str) -> Chip | None:
    """The chip that calls itself so; None where it is in no table, as any CPU."""
    return next((chip for chip in CHIPS if any(kind in device_kind for kind in chip.kinds)), None)


def of_device(device: jax.Device) -> Chip:
    """The chip of a device; `CPU` and `UNKNOWN` stand for those that have no published numbers here."""
    return known(device.device_kind) or (CPU if device.platform == "cpu" else UNKNOWN)


def named(name: str) -> Chip | None:
    """The chip of a topology's kind such as "v5e"; None where there is none."""
    return next((chip for chip in (*CHIPS, CPU) if chip.name == name), None)
