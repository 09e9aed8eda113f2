"""The window cutter: cuts one channel, which arrives block by block, into windows.

It knows nothing of labels, and keeps only the samples that later windows need: fewer than one window's.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fml_lightning.preprocessing.windowing import Windowing


class Block(NamedTuple):
    """Samples of one channel that a machine sent together."""

    time: int
    """Time of the first sample, µs since 1970, UTC."""
    sample_rate: float
    """Hz."""
    values: NDArray[np.float32]
    """Samples in the sensor's unit, (n,), n ≥ 1."""
    timed: bool = True
    """False: the device sends no time, and `time` is when the block was received."""


class WindowCutter:
    """Cuts the blocks of one channel into windows; no window reaches over a gap.

    A block continues the one before if both have the same sample rate and it begins where that one ended. It may
    begin earlier or later by 1.5 samples, by 1 ms (some devices count milliseconds) or by 0.1 % of the earlier
    block's duration (no sample clock is exact), whichever is most; where the device sends no time, by half of that
    duration. Each block is compared with the one before only, so a clock that drifts for hours makes no gap.

    >>> cutter = WindowCutter(Windowing(length=4, hop=2))
    >>> windows, start = cutter.update(Block(0, 1000.0, np.arange(5, dtype=np.float32)))
    >>> windows.tolist(), start.tolist()
    ([[0.0, 1.0, 2.0, 3.0]], [0])
    >>> windows, start = cutter.update(Block(5000, 1000.0, np.arange(5, 8, dtype=np.float32)))
    >>> windows.tolist(), start.tolist()
    ([[2.0, 3.0, 4.0, 5.0], [4.0, 5.0, 6.0, 7.0]], [2000, 4000])

    Args:
        windowing: length and hop of the windows.
    """

    def __init__(self, windowing: Windowing) -> None:
        self.windowing = windowing
        self.tail = np.empty(0, np.float32)
        """The newest samples, from where the next window begins; fewer than a window's."""
        self._skip = 0  # samples still to come before the next window begins, where hop exceeds length
        self._sample_rate = 0.0
        self._due = 0.0  # when the next block should begin, µs since 1970
        self._tolerance = 0.0  # µs

    def update(self, block: Block) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The windows that a block completes.

        Returns:
            The windows, (n, length), and the time of each one's first sample, µs since 1970, UTC, (n,).
        """
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
        return windows, np.rint(times).astype(np.int64)
