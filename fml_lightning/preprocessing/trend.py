"""The trend: the straight line that fits a window best."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fml_lightning.errors import UserError
from fml_lightning.preprocessing.features import Column, Features


class Trend(Features):
    """The line of least squares through a window: its level in the middle, and how far it rises over the window.

    With times t of the W samples, less their mean: level = mean x, rise = W Σ t x / Σ t². A fault that grows
    shows in both before any single sample tells it from noise.
    """

    def columns(self, length: int, sample_rate: float) -> list[Column]:
        """`level` and `rise`, for every length and rate."""
        return [Column("level", "x"), Column("rise", "x")]

    def __call__(
        self, windows: NDArray[np.float32], sample_rate: float, told: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """(n, W) → (n, 2); W at least 2."""
        length = windows.shape[1]
        if length < 2:
            raise UserError(f"Trend: expected windows of at least 2 samples, got {length}; raise windowing.length")
        level = windows.mean(1)
        table = np.stack([level, (windows - level[:, None]) @ self.line(length)], axis=1).astype(np.float32)
        table[np.isnan(table[:, 1])] = np.nan  # the mean of an infinity is one
        return table

    @staticmethod
    def line(length: int) -> NDArray[np.float32]:
        """What each sample counts to the rise, W t / Σ t², (W,)."""
        times = np.arange(length) - (length - 1) / 2
        line: NDArray[np.float32] = (times * length / np.square(times).sum()).astype(np.float32)
        return line
