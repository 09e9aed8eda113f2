"""`SpectralKurtosis` as operations of torch, for a graph that is exported."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from fml_lightning.export.envelope import largest
from fml_lightning.export.fourier import Spectrum
from fml_lightning.preprocessing import SpectralKurtosis


class SpectralKurtosisModule(nn.Module):
    """`SpectralKurtosis` of windows of `length` samples, in double precision."""

    taper: Tensor

    def __init__(self, features: SpectralKurtosis, length: int) -> None:
        super().__init__()
        features.columns(length, 1.0)  # refuses windows that are too short
        self.hop = features.segment // 2
        self.halves = length // self.hop
        self.register_buffer("taper", torch.from_numpy(np.hanning(features.segment).astype(np.float32)).double())
        self.spectrum = Spectrum(features.segment, range(1, self.hop))

    def forward(self, x: Tensor) -> Tensor:
        """(N, W) → (N, segment / 2 − 1)."""
        x = x.double()
        halves = (x - x.mean(1, keepdim=True))[:, : self.halves * self.hop].reshape(-1, self.halves, self.hop)
        frames = torch.cat([halves[:, :-1], halves[:, 1:]], 2) * self.taper
        real, imaginary = self.spectrum(frames.flatten(0, 1))
        power = (real * real + imaginary * imaginary).reshape(-1, self.halves - 1, self.hop - 1)
        second, fourth = power.mean(1), (power * power).mean(1)
        kurtosis = fourth / (second * second) - 2
        return torch.where(largest(x).isnan()[:, None], torch.nan, kurtosis).float()
