"""`Cepstrum` as operations of torch, for a graph that is exported."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from fml_lightning.export.envelope import largest
from fml_lightning.export.fourier import Spectrum
from fml_lightning.export.order_bins import largest_of_bins
from fml_lightning.export.told_speed import ToldSpeed
from fml_lightning.preprocessing import Cepstrum
from fml_lightning.preprocessing.cepstrum import FLOOR


class CepstrumModule(nn.Module):
    """`Cepstrum` of windows of `length` samples at a sample rate (Hz), in double precision."""

    taper: Tensor
    edges: Tensor
    mirrored: Tensor

    def __init__(self, features: Cepstrum, length: int, sample_rate: float) -> None:
        super().__init__()
        self.speed = ToldSpeed(features.speed)
        self.length, self.sample_rate = length, sample_rate
        edges = features.edges()
        self.widest = int((edges[1] - edges[0]) / edges[-1] * length / 2) + 2
        self.register_buffer("edges", torch.from_numpy(edges))
        self.register_buffer("taper", torch.from_numpy(np.hanning(length).astype(np.float32)).double())
        lines = torch.arange(length)
        self.register_buffer("mirrored", torch.minimum(lines, length - lines))
        self.spectrum = Spectrum(length, range(length // 2 + 1))

    def forward(self, x: Tensor, told: Tensor | None = None) -> Tensor:
        """(N, W) and the speed, (N, 1), if it is to be told → (N, points)."""
        x = x.double()
        speeds, peaks = self.speed(x, told), largest(x)
        real, imaginary = self.spectrum((x - x.mean(1, keepdim=True)) * self.taper)
        amplitude = (real * real + imaginary * imaginary).sqrt()
        logs = torch.log(amplitude + FLOOR * amplitude.mean(1, keepdim=True))
        values = self.spectrum(logs.index_select(1, self.mirrored))[0] / self.length  # real and even, as logs are
        is_known = self.edges[-1] * self.sample_rate < speeds * self.length / 2
        borders = self.edges * self.sample_rate / torch.where(is_known, speeds, self.sample_rate)[:, None]
        found = largest_of_bins(values[:, None], borders.ceil().clamp(min=1), self.widest)[:, 0]
        return torch.where((is_known & ~peaks.isnan())[:, None], found, torch.nan).float()
