"""What a harvest says of itself: before it starts, while it runs, and at its end."""

import sys
import time
from collections.abc import Sequence
from typing import Self

import jax
from tqdm import tqdm

from gsae.activations.forward import Forward
from gsae.throughput import peak_flops


class Account:
    """The words and the progress bar of one process's part of a harvest."""

    def __init__(self, forward: Forward, missing: Sequence[int], mine: Sequence[int], speaks: bool):
        """Says nothing yet.

        Args:
            forward: makes the rows.
            missing: the superblocks that all processes have to make.
            mine: those of them that this process makes.
            speaks: whether anything is said at all.
        """
        self._forward, self._missing, self._mine, self._speaks = forward, missing, mine, speaks
        order = forward.order
        others = len(missing) - len(mine)
        rows, done = order.superblock_rows, order.num_superblocks - len(missing)
        self._bar = tqdm(
            total=(order.num_superblocks - others) * rows,
            initial=done * rows,
            desc="harvest",
            unit=" rows",
            unit_scale=True,
            disable=not speaks,
            delay=1e-9,  # not before the first rows: what is said before would break it
        )

    def __enter__(self) -> Self:
        """Says what will be done; then measures the first batch and says how long it will take."""
        if not self._speaks or not self._mine:
            return self
        forward, order = self._forward, self._forward.order
        left_out = order.rows_found - order.num_superblocks * order.superblock_rows
        sequences = len(order.sequences) * len(self._missing) / order.num_superblocks
        self._say(
            f"{', '.join(forward.widths)}; {order.num_superblocks} superblocks of {order.superblock_rows:,} rows, "
            f"{len(self._missing)} to make: {number(sequences * forward.context_length)} tokens to run, "
            f"{size(len(self._missing) * forward.identity.superblock_bytes())} to write"
            + (f" (the last {left_out:,} rows fill no superblock and are left out)" if left_out else "")
        )
        forward.compile()
        self._began, self._sequences = time.perf_counter(), forward.sequences_run
        jax.block_until_ready(forward.batch(forward.first_batch(self._mine[0])))
        each = time.perf_counter() - self._began
        mine = sequences * len(self._mine) / len(self._missing)
        at_once, why = forward.fitting
        self._say(
            f"{at_once} sequences of {forward.context_length} tokens at once ({why}); the first batch took "
            f"{duration(each)}: about {duration(each * max(1, mine / at_once))} in all"
        )
        return self

    def rows(self, count: int) -> None:
        """So many more rows are there."""
        self._bar.update(count)

    def __exit__(self, kind: object, *rest: object) -> None:
        """At the end, not after an error: how fast it was."""
        self._bar.close()
        if kind is not None or not self._speaks or not self._mine:
            return
        forward, seconds = self._forward, max(time.perf_counter() - self._began, 1e-9)
        sequences = forward.sequences_run - self._sequences
        rate = forward.flops() / forward.fitting.sequences * sequences / seconds
        peak = peak_flops(forward.devices[0])
        share = f", {rate / peak / len(forward.devices):.1%} of the devices' bfloat16 peak" if peak else ""
        tokens, written = sequences * forward.context_length, len(self._mine) * forward.identity.superblock_bytes()
        self._say(
            f"{number(tokens)} tokens in {duration(seconds)}: {number(tokens / seconds)} tokens/s, "
            f"{rate / 1e12:.3g} TFLOP/s{share}, {size(written / seconds)}/s written"
        )

    def _say(self, words: str) -> None:
        print(f"harvest: {words}", file=sys.stderr, flush=True)


def size(count: float) -> str:
    """Bytes, in words."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def number(count: float) -> str:
    """A large number, in words."""
    for unit, name in ((1e9, " billion"), (1e6, " million")):
        if count >= unit:
            return f"{count / unit:.2f}{name}"
    return f"{count:,.0f}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, in words."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
