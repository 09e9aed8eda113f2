"""Features as operations of torch: (N, W) → (N, F), the numbers of `preprocessing`, for a graph that is exported.

A window with a NaN or an infinity may give any numbers here: `graph` takes care of it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from fml_lightning.errors import UserError
from fml_lightning.export.power_spectrum import PowerSpectrum
from fml_lightning.preprocessing import Concat, Features, LogBandPowers, Moments, RawWindows, TimeDomain

EXPORTED = (RawWindows, LogBandPowers, TimeDomain, Moments, Concat)
"""The features that have a module here."""


def module_of(features: Features, length: int, sample_rate: float) -> nn.Module:
    """The module that computes features of windows of one channel.

    Args:
        features: of which kind; a subclass of one that has a module has none itself.
        length: samples of a window, W.
        sample_rate: Hz.

    Raises:
        UserError: there is none.
    """
    kind = type(features)
    if kind is RawWindows:
        return nn.Identity()
    if isinstance(features, LogBandPowers) and kind is LogBandPowers:
        return LogBandPowersModule(features.bands, length)
    if kind is TimeDomain:
        return TimeDomainModule(sample_rate)
    if kind is Moments:
        return MomentsModule()
    if isinstance(features, Concat) and kind is Concat:
        return SideBySide([module_of(part, length, sample_rate) for part in features.parts])
    raise UserError(
        f"export: the features {kind.__name__} cannot be exported, only {', '.join(k.__name__ for k in EXPORTED)}"
        " can; load the personal model itself where they are needed"
    )


class LogBandPowersModule(nn.Module):
    """`LogBandPowers` of windows of `length` samples."""

    taper: Tensor
    floor: Tensor

    def __init__(self, bands: int, length: int) -> None:
        super().__init__()
        LogBandPowers(bands).columns(length, 1.0)  # refuses bands that do not divide the spectrum
        self.bands, self.bins = bands, length // 2 // bands
        taper = torch.from_numpy(np.hanning(length).astype(np.float32))
        self.scale = float(taper.square().sum() * self.bins)
        self.register_buffer("taper", taper)
        # A number for each band: optimizers of graphs take one small number for 0, and silence would be -inf.
        self.register_buffer("floor", torch.full((bands,), 1e-12))
        self.spectrum = PowerSpectrum(length, bands * self.bins)

    def forward(self, x: Tensor) -> Tensor:
        """(N, W) → (N, bands)."""
        is_constant = x.amax(1, keepdim=True) == x.amin(1, keepdim=True)
        power = self.spectrum(torch.where(is_constant, 0, x - x.mean(1, keepdim=True)) * self.taper)
        banded: Tensor = power.reshape(-1, self.bands, self.bins).sum(2) / self.scale
        return torch.log(banded + self.floor)


class MomentsModule(nn.Module):
    """`Moments`."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, W) → (N, 2)."""
        mean = x.mean(1, keepdim=True)
        return torch.cat([mean, (x - mean).square().mean(1, keepdim=True).sqrt()], 1)


class TimeDomainModule(nn.Module):
    """`TimeDomain` at a sample rate (Hz), in double precision, as the sums of its kernel are."""

    def __init__(self, sample_rate: float) -> None:
        super().__init__()
        self.sample_rate = sample_rate

    def forward(self, x: Tensor) -> Tensor:
        """(N, W) → (N, 16)."""
        length = x.shape[1]
        single, x = x, x.double()
        mean, size = x.mean(1), x.abs()
        mean_abs, root, rms = size.mean(1), size.sqrt().mean(1).square(), x.square().mean(1).sqrt()
        high, low, peak = x.amax(1), x.amin(1), size.amax(1)
        away = x - mean[:, None]
        square = away.square()
        variance = square.mean(1)
        changes = high > low
        std = torch.where(changes, variance.sqrt(), 0.0)
        spread = torch.where(changes, std, torch.nan)
        above = (single >= mean.float()[:, None]).to(x.dtype)
        crossings = (above[:, 1:] - above[:, :-1]).abs().sum(1)
        step = x[:, 1:] - x[:, :-1]
        slope = step.square().mean(1) - step.mean(1).square()
        columns = [
            mean,
            mean_abs,
            root,
            rms,
            std,
            peak,
            high - low,
            (square * away).mean(1) / (spread * spread * spread),
            square.square().mean(1) / spread.square().square(),
            peak / rms,
            rms / mean_abs,
            peak / mean_abs,
            peak / root,
            crossings * (self.sample_rate / length),
            step.abs().mean(1) * self.sample_rate,
            slope.clamp(min=0).sqrt() / spread * (self.sample_rate / (2 * math.pi)),
        ]
        return torch.stack(columns, 1).float()


class SideBySide(nn.Module):
    """`Concat`: the features of several modules, side by side."""

    def __init__(self, parts: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        """(N, W) → (N, ΣF)."""
        return torch.cat([part(x) for part in self.parts], 1)
