"""Order spectra: the spectrum of a signal or of its envelope, in multiples of the shaft's speed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fml_lightning.errors import UserError
from fml_lightning.preprocessing.envelope import (
    band_signal,
    batches,
    centred,
    centred_spectrum,
    check_bands,
    kernels,
    lines_of,
    relative_envelopes,
    spectrum,
    zeros_behind,
)
from fml_lightning.preprocessing.features import Column, Features
from fml_lightning.preprocessing.shaft_speed import check_speed, speeds_of

PADDING = 4
"""The spectrum has lines so many times finer than the window is long."""
FLOOR = 1e-6
"""Added to amplitudes before their logarithm."""


class OrderSpectrum(Features):
    """The log amplitude in bins of equal width in orders, from the first bin around `highest / orders` on.

    Of envelopes, which are taken over their mean and less 1, or of the signal itself. Windows whose speed is not
    known or puts `highest` beyond the spectrum, and windows that are silent or not finite, have NaN.

    Args:
        bands: of the envelopes, Hz, lower and upper edge of each; none: the signal itself.
        highest: order in the middle of the last bin.
        orders: number of bins.
        speed: of the shaft, Hz; none: told of every window.
    """

    def __init__(
        self,
        bands: Sequence[tuple[float, float]] = ((500.0, 2000.0), (2000.0, 3500.0), (3500.0, 5500.0)),
        highest: float = 16.0,
        orders: int = 320,
        speed: float | None = None,
    ) -> None:
        check_speed(speed, "OrderSpectrum")
        if not (0 < highest < np.inf and orders >= 1):
            raise UserError(f"OrderSpectrum: expected highest above 0 and orders >= 1, got {highest} and {orders}")
        self.bands = check_bands(bands, "OrderSpectrum") if bands else []
        self.highest = highest
        self.orders = orders
        self.speed = speed
        self.needs = ("speed",) if speed is None else ()

    def columns(self, length: int, sample_rate: float) -> list[Column]:
        """`order_ORDER_LOW_HIGH` with a band's edges in Hz, of the signal itself `order_ORDER`."""
        for band in self.bands:
            lines_of(band, length, sample_rate, "OrderSpectrum")
        names = [f"order_{order:.6g}" for order in self.grid()]
        if not self.bands:
            return [Column(name, "ln(x)") for name in names]
        return [Column(f"{name}_{low:g}_{high:g}", "1") for low, high in self.bands for name in names]

    def __call__(
        self, windows: NDArray[np.float32], sample_rate: float, told: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """(n, W) → (n, bands · orders), or (n, orders) of the signal itself."""
        speeds = speeds_of(windows, self.speed, told, "OrderSpectrum")
        length = windows.shape[1]
        lines = [lines_of(band, length, sample_rate, "OrderSpectrum") for band in self.bands]
        table = np.empty((len(windows), len(lines) or 1, self.orders), np.float32)
        padded: dict[tuple[int, int, type], NDArray[Any]] = {}
        for some in batches(len(windows)):
            known = (speeds[some], length, sample_rate, padded)
            if not lines:
                table[some, 0] = self._binned(centred(windows[some]), *known)
                continue
            spectra, peaks = centred_spectrum(windows[some])
            for number, band in enumerate(lines):
                relative, _ = relative_envelopes(band_signal(spectra, band, padded), length, peaks)  # (n, M)
                table[some, number] = self._binned(relative, *known)
        table[~np.isfinite(table).all((1, 2))] = np.nan
        return table.reshape(len(windows), -1)

    def _binned(
        self,
        x: NDArray[np.float32],
        speeds: NDArray[np.float64],
        length: int,
        sample_rate: float,
        padded: dict[tuple[int, int, type], NDArray[Any]],
    ) -> NDArray[np.float32]:
        """The largest log amplitude in each bin, of windows of `length` samples at M instants: (n, orders)."""
        size = x.shape[1]
        room = zeros_behind(size, PADDING * size, len(x), np.float32, padded)
        np.multiply(x, hann(length, size), out=room[:, :size])
        grid = self.grid()
        edges = np.append(grid, grid[-1] + grid[0]) - grid[0] / 2
        table = np.empty((len(x), self.orders), np.float32)
        finer = sample_rate / length / PADDING
        kernels().largest_of_bins(spectrum(room), speeds, edges, finer, table)
        found: NDArray[np.float32] = np.log(np.sqrt(table) * np.float32(4 / size) + np.float32(FLOOR))  # of a sine
        return found

    def grid(self) -> NDArray[np.float64]:
        """Orders in the middle of the bins, (orders,)."""
        return np.linspace(self.highest / self.orders, self.highest, self.orders)


@cache
def hann(length: int, size: int) -> NDArray[np.float32]:
    """The Hann window of `length` samples at `size` instants, evenly spread from its first sample on."""
    at = np.arange(size) / size * length / (length - 1)
    taper: NDArray[np.float32] = (0.5 - 0.5 * np.cos(2 * np.pi * at)).astype(np.float32)
    return taper
