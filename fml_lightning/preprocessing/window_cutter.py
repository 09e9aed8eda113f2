"""The window cutter: cuts a channel that arrives block by block into windows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fml_lightning.preprocessing.windowing import Windowing


class Block(NamedTuple):
    """Samples of one channel that a machine sent together."""

    time: int
    """Of the first sample, µs since 1970, UTC."""
    sample_rate: float
    """Hz."""
    values: NDArray[np.float32]
    """(n,), n ≥ 1."""
    timed: bool = True
    """False: the device sends no time, and `time` is when the block was received."""


class CutWindows(NamedTuple):
    """Windows that a block has completed."""

    windows: NDArray[np.float32]
    """(n, W)."""
    start: NDArray[np.int64]
    """Time of each window's first sample, µs since 1970, UTC, (n,)."""
    sample_rate: float
    """Hz."""


class WindowCutter:
    """The open end of a channel: cuts contiguous blocks into windows, and keeps what the next window begins with.

    A block continues the one before if it has the same sample rate and begins where that one ends, within 1.5
    samples, 1 ms (some devices count milliseconds) or 0.1 % of a block (sample clocks are off), whichever is most;
    where devices send no time, within half a block. Only neighbours are compared: a drifting clock breaks nothing.
    No window reaches over a gap.

    Args:
        windowing: length and hop.
    """

    def __init__(self, windowing: Windowing) -> None:
        self.windowing = windowing
        self.tail = np.empty(0, np.float32)
        """Samples that belong to no complete window yet, fewer than a window."""
        self._skip = 0  # samples until the next window begins, where hop exceeds length
        self._sample_rate = 0.0
        self._due = 0.0  # when the next block should begin, µs since 1970
        self._tolerance = 0.0  # µs

    def update(self, block: Block) -> CutWindows:
        """The windows that a block completes."""
        period = 1e6 / block.sample_rate
        if block.sample_rate != self._sample_rate or abs(block.time - self._due) > self._tolerance:
            self.tail, self._skip = self.tail[:0], 0
        samples = np.concatenate([self.tail, block.values])
        windows = self.windowing.cut(samples[self._skip :])
        starts = self._skip + self.windowing.hop * np.arange(len(windows) + 1)  # the last is the next window's
        times = block.time + (starts[:-1] - len(self.tail)) * period
        self.tail = samples[starts[-1] :].copy()
        self._skip = max(0, int(starts[-1]) - len(samples))
        self._sample_rate = block.sample_rate
        duration = len(block.values) * period
        self._due = block.time + duration
        self._tolerance = max(1.5 * period, 1000.0, duration * (0.001 if block.timed else 0.5))
        return CutWindows(windows, np.rint(times).astype(np.int64), block.sample_rate)
