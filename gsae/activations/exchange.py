"""Rows of which every process has made a part, whole in each of them: from device to device, in pieces."""

from collections.abc import Iterable, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

PIECE_BYTES = 64 << 20  # of all processes together: what one collective takes of each device's memory


class Exchange:
    """Gathers arrays over one device of each process.

    Its programs are collectives: all processes start them in the same order, and from the thread that starts the
    collectives of the training, or two processes could wait for each other.
    """

    def __init__(self) -> None:
        first: dict[int, jax.Device] = {}
        for device in jax.devices():
            first.setdefault(device.process_index, device)
        devices = [first[process] for process in range(jax.process_count())]
        mesh = Mesh(np.asarray(devices), ("process",), axis_types=(AxisType.Auto,))
        self._apart, self._together = (NamedSharding(mesh, PartitionSpec(axis)) for axis in ("process", None))
        self._gather = jax.jit(lambda array: array, out_shardings=self._together)
        self._own, self.processes = first[jax.process_index()], len(devices)

    def start(self, own: np.ndarray, most: int) -> list[jax.Array]:
        """Starts to gather what each process has; returns before anything has arrived.

        Args:
            own: [n, W]; n may differ between processes, dtype and W do not.
            most: the largest n of all processes.

        Returns:
            pieces [P, rows of a piece, W] of integers as wide as the dtype, for `whole`.
        """
        bits = own.view(f"u{own.dtype.itemsize}")  # moved, not computed with
        at_once = max(1, min(most, PIECE_BYTES // (self.processes * bits.itemsize * bits.shape[1])))
        pieces = []
        for start in range(0, most, at_once):
            piece = np.zeros((1, at_once, bits.shape[1]), bits.dtype)
            found = bits[start : start + at_once]
            piece[0, : len(found)] = found
            shape = (self.processes, *piece.shape[1:])
            local = [jax.device_put(piece, self._own)]
            pieces.append(self._gather(jax.make_array_from_single_device_arrays(shape, self._apart, local)))
        return pieces

    @staticmethod
    def whole(pieces: Iterable[jax.Array], shares: Sequence[np.ndarray], dtype: np.dtype) -> np.ndarray:
        """Waits for the pieces and puts the rows of each process where its share says: [R, W]."""
        arrived = np.concatenate([np.asarray(piece.addressable_data(0)) for piece in pieces], axis=1)
        rows = np.empty((sum(map(len, shares)), arrived.shape[2]), dtype)
        bits = rows.view(arrived.dtype)
        for share, found in zip(shares, arrived, strict=True):
            bits[share] = found[: len(share)]
        return rows
