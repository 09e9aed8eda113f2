"""Moments: mean and standard deviation of a window."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fml_lightning.preprocessing.features import Column, Features


class Moments(Features):
    """Where a window lies and how much it spreads: the mean, and the (biased) standard deviation."""

    def columns(self, length: int, sample_rate: float) -> list[Column]:
        """`mean` and `std`, for every length and rate."""
        return [Column("mean", "x"), Column("std", "x")]

    def __call__(
        self, windows: NDArray[np.float32], sample_rate: float, told: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """(n, W) → (n, 2)."""
        table = np.stack([windows.mean(1), windows.std(1)], axis=1).astype(np.float32)
        table[np.isnan(table[:, 1])] = np.nan  # the mean of an infinity is one
        return table
