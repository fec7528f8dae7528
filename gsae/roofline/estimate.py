"""A roofline of the training step: FLOPs, bytes and collectives of one device against what its chip can do."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from gsae.chips import Chip
from gsae.mesh import DATA, FEATURE, SWEEP
from gsae.roofline.work import MemberWork, Share

LATENCY = 5e-6  # seconds of a collective, however small: an assumption, no maker publishes it
# The compiler keeps some operands in two layouts: its temporaries against what is alive at once in the traced update,
# the new state included where a device loops over members, left out where its one member is updated in place. Gated
# steps compiled for v5e and v5p gave 1.23 to 1.30, and 1.35 to 1.47.
OF_SEVERAL_MEMBERS, OF_ONE_MEMBER = 1.3, 1.5
BATCHES = 4  # on the devices: two read ahead, the one in use, and the one before it


class Sizes(NamedTuple):
    """Devices along each axis of a mesh."""

    sweep: int
    data: int
    feature: int

    @property
    def devices(self) -> int:
        """Of the whole mesh."""
        return self.sweep * self.data * self.feature

    def along(self, axis: str) -> int:
        """Of one axis."""
        return {SWEEP: self.sweep, DATA: self.data, FEATURE: self.feature}[axis]

    def __str__(self) -> str:
        return f"sweep {self.sweep} x data {self.data} x feature {self.feature}"


@dataclasses.dataclass(frozen=True)
class Demand:
    """What one step of all groups asks of one device.

    Attributes:
        flops: of matrix products.
        memory_bytes: to and from its memory.
        collective_bytes: that it sends to other devices.
        collectives: how many.
        host_bytes: that come from the host.
        arguments: bytes of memory for the states of all groups and the batches.
        temporaries: bytes of the neediest group's update beside them.
        useful_flops: without what members that only fill the sweep axis cost.
    """

    flops: float
    memory_bytes: float
    collective_bytes: float
    collectives: int
    host_bytes: float
    arguments: float
    temporaries: float
    useful_flops: float

    @property
    def peak(self) -> float:
        """Bytes of memory."""
        return self.arguments + self.temporaries


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of one step, by term: the least that the chip's published peaks allow.

    Products and memory overlap within a device, the host's rows arrive during the step before; collectives are counted
    as if nothing hid them.
    """

    matmul: float
    memory: float
    collectives: float
    host_to_device: float

    @property
    def device(self) -> float:
        """What the devices take once the batch is there."""
        return max(self.matmul, self.memory) + self.collectives

    @property
    def seconds(self) -> float:
        """Of a step."""
        return max(self.device, self.host_to_device)

    @property
    def bound(self) -> str:
        """The longest term."""
        terms = dataclasses.asdict(self)
        return max(terms, key=terms.__getitem__).replace("_", " ")


def demand(works: Sequence[MemberWork], sizes: Sizes, *, batch_size: int, row_itemsize: int) -> Demand:
    """Arithmetic of one step of all groups.

    Args:
        works: one member's update for each group.
        sizes: of the mesh.
        batch_size: B over all devices.
        row_itemsize: bytes of a number of a row as it comes from the host.
    """
    flops = useful = memory = sent = arguments = host = temporaries = 0.0
    count = 0
    for work in works:
        share = Share(batch_size / sizes.data, work.group.width / sizes.feature)
        points = len(work.group.points)
        local = -(-points // sizes.sweep)
        flops += local * work.flops(share)
        useful += points / sizes.sweep * work.flops(share)
        memory += local * work.memory_bytes(share)
        for total in work.sums(share, FEATURE, DATA):
            ring = sizes.along(total.axis)
            sent += local * all_reduce(total.size, ring)
            count += local * (ring > 1)
        batch = batch_size * work.activation_width * row_itemsize
        gathered = sizes.sweep * sizes.feature  # each has all rows of its part of the batch in the end
        sent += all_gather(batch / sizes.data, gathered)
        count += gathered > 1
        arguments += local * work.state_bytes(share)
        update, state = work.update_bytes(share), work.state_bytes(share)
        temporaries = max(temporaries, OF_SEVERAL_MEMBERS * update if local > 1 else OF_ONE_MEMBER * (update - state))
    for width in {work.group.site: work.activation_width for work in works}.values():  # a site's rows come once
        host += batch_size * width * row_itemsize / sizes.devices
    return Demand(
        flops=flops,
        memory_bytes=memory,
        collective_bytes=sent,
        collectives=count,
        host_bytes=host,
        arguments=arguments + BATCHES * host,
        temporaries=temporaries,
        useful_flops=useful,
    )


def all_reduce(size: float, ring: int) -> float:
    """Bytes that a device sends so that `ring` devices have the sum of arrays of `size` bytes each."""
    return 2 * (ring - 1) / ring * size


def all_gather(size: float, ring: int) -> float:
    """Bytes that a device sends so that `ring` devices have an array of `size` bytes of which each had a part."""
    return (ring - 1) / ring * size


def roofline(asked: Demand, chip: Chip, devices: int, compute_dtype: str) -> Roofline:
    """What a step takes at the least on so many of these chips."""
    return Roofline(
        matmul=asked.flops / chip.peak(compute_dtype),
        memory=asked.memory_bytes / chip.memory_bandwidth,
        collectives=asked.collective_bytes / chip.ring(devices) + asked.collectives * LATENCY,
        host_to_device=asked.host_bytes / chip.host_link,
    )
