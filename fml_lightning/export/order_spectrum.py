"""`OrderSpectrum` as operations of torch, for a graph that is exported."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from fml_lightning.export.envelope import LARGEST, BandSpectrum, Envelopes, by_size, largest, log_above
from fml_lightning.export.fourier import Spectrum
from fml_lightning.export.order_bins import largest_of_bins
from fml_lightning.export.told_speed import ToldSpeed
from fml_lightning.preprocessing import OrderSpectrum
from fml_lightning.preprocessing.envelope import lines_of
from fml_lightning.preprocessing.order_spectrum import FLOOR, PADDING, hann


class OrderSpectrumModule(nn.Module):
    """`OrderSpectrum` of windows of `length` samples at a sample rate (Hz), in double precision."""

    order: Tensor

    def __init__(self, features: OrderSpectrum, length: int, sample_rate: float) -> None:
        super().__init__()
        self.speed = ToldSpeed(features.speed)
        bands = [lines_of(band, length, sample_rate, "OrderSpectrum") for band in features.bands]
        groups = by_size(bands) if bands else {length: [0]}
        self.spectrum = BandSpectrum(length, bands) if bands else None
        self.envelopes = nn.ModuleList()
        if self.spectrum is not None:
            begin = self.spectrum.begin
            self.envelopes += [Envelopes(length, [bands[n] for n in group], begin) for group in groups.values()]
        self.bins = nn.ModuleList([OrderBins(features.grid(), length, size, sample_rate) for size in groups])
        self.register_buffer("order", torch.tensor([n for group in groups.values() for n in group]).argsort())

    def forward(self, x: Tensor, told: Tensor | None = None) -> Tensor:
        """(N, W) and the speed, (N, 1), if it is to be told → (N, F)."""
        x = x.double()
        speeds, peaks = self.speed(x, told), largest(x)
        if self.spectrum is None:
            table = self.bins[0]((x - x.mean(1, keepdim=True))[:, None], speeds)
            return torch.where(peaks.isnan()[:, None], torch.nan, table.flatten(1)).float()
        spectrum, tables = self.spectrum(x), []
        for envelopes, bins in zip(self.envelopes, self.bins, strict=True):
            relative, mean, _ = envelopes(spectrum, peaks)
            tables.append(torch.where(mean.isnan()[..., None], torch.nan, bins(relative, speeds)))
        return torch.cat(tables, 1).index_select(1, self.order).flatten(1).float()


class OrderBins(nn.Module):
    """The largest log amplitude in each bin of orders, of M samples that are spread over windows of W.

    Args:
        grid: orders in the middle of the bins.
        length: samples of a window, W.
        size: M.
        sample_rate: Hz of the window.
    """

    taper: Tensor
    edges: Tensor

    def __init__(
        self, grid: np.ndarray[tuple[int], np.dtype[np.float64]], length: int, size: int, rate: float
    ) -> None:
        super().__init__()
        self.last = PADDING * size // 2
        self.finer = rate / length / PADDING
        self.scale = 4 / size  # to the amplitude of a sine
        edges = np.append(grid, grid[-1] + grid[0]) - grid[0] / 2
        self.widest = int(self.last * grid[0] / edges[-1]) + 2
        self.register_buffer("edges", torch.from_numpy(edges))
        self.register_buffer("taper", torch.from_numpy(hann(length, size)).double())
        self.spectrum = Spectrum(PADDING * size, range(self.last + 1), size)

    def forward(self, x: Tensor, speeds: Tensor) -> Tensor:
        """(N, B, M) and speeds, Hz, (N,) → (N, B, bins), NaN where bins are beyond the lines."""
        parts = self.spectrum((x * self.taper).flatten(0, 1))
        power = (parts[0] * parts[0] + parts[1] * parts[1]).reshape(*x.shape[:2], -1)
        is_known = speeds * self.edges[-1] < self.finer * self.last
        borders = torch.where(is_known, speeds, 0)[:, None] * self.edges / self.finer
        found = largest_of_bins(power, borders.ceil(), self.widest)
        heights = log_above(found.sqrt() * self.scale, FLOOR)
        return torch.where(is_known[:, None, None] & (found <= LARGEST), heights, torch.nan)
