"""Spectral features."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fml_lightning.errors import UserError
from fml_lightning.preprocessing.features import Column, Features


class LogBandPowers(Features):
    """The logarithm of the mean power in bands of equal width.

    The bands reach from the first spectral line to half the sample rate. A sensor's gain, and any fixed colouring
    between fault and sensor, only adds a constant to each column.

    Args:
        bands: number of bands; must divide half the window's length.
    """

    def __init__(self, bands: int = 128) -> None:
        if bands < 1:
            raise UserError(f"LogBandPowers: expected bands >= 1, got {bands}")
        self.bands = bands

    def columns(self, length: int, sample_rate: float) -> list[Column]:
        """`power_LOW_HIGH` with band edges in Hz; log of x² (natural logarithm)."""
        bins = self._bins(length)
        edges = [sample_rate / length * (1 + bins * i) for i in range(self.bands + 1)]
        return [Column(f"power_{low:.6g}_{high:.6g}", "ln(x²)") for low, high in pairwise(edges)]

    def __call__(
        self, windows: NDArray[np.float32], sample_rate: float, told: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """(n, W) → (n, bands), Hann-windowed; a silent band gives ln(1e-12)."""
        from scipy import fft

        bins = self._bins(windows.shape[1])
        taper = np.hanning(windows.shape[1]).astype(np.float32)
        centred = windows - windows.mean(1, keepdims=True)
        centred[windows.max(1) == windows.min(1)] = 0  # the rounded mean of a constant need not be the constant
        spectrum = fft.rfft(centred * taper, axis=1)  # (n, W/2 + 1)
        power = (spectrum.real**2 + spectrum.imag**2) / np.square(taper).sum()
        banded = power[:, 1 : 1 + bins * self.bands].reshape(len(windows), self.bands, bins).mean(2)
        powers: NDArray[np.float32] = np.log(banded + np.float32(1e-12)).astype(np.float32)
        return powers

    def _bins(self, length: int) -> int:
        """Spectral lines per band."""
        if length // 2 % self.bands:
            raise UserError(
                f"LogBandPowers: {self.bands} bands do not divide the {length // 2} spectral lines of windows of"
                f" {length} samples; choose bands and windowing.length so that they do"
            )
        return length // 2 // self.bands
