"""Features as operations of torch: (N, W) → (N, F), the numbers of `preprocessing`, for a graph that is exported.

A window with a NaN or an infinity may give any numbers here: `graph` takes care of it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from fml_lightning.errors import UserError
from fml_lightning.export.cepstrum import CepstrumModule
from fml_lightning.export.fault_lines import FaultLinesModule
from fml_lightning.export.order_spectrum import OrderSpectrumModule
from fml_lightning.export.power_spectrum import PowerSpectrum
from fml_lightning.export.spectral_kurtosis import SpectralKurtosisModule
from fml_lightning.preprocessing import (
    Cepstrum,
    Concat,
    FaultLines,
    Features,
    LogBandPowers,
    Moments,
    OrderSpectrum,
    RawWindows,
    SpectralKurtosis,
    TimeDomain,
    Trend,
)

EXPORTED = (
    *(RawWindows, LogBandPowers, TimeDomain, Moments, Trend),
    *(FaultLines, OrderSpectrum, Cepstrum, SpectralKurtosis, Concat),
)
"""The features that have a module here."""


def module_of(features: Features, length: int, sample_rate: float) -> nn.Module:
    """The module that computes features of windows of one channel; what they need is its second argument, (N, K).

    Args:
        features: of which kind; a subclass of one that has a module has none itself.
        length: samples of a window, W.
        sample_rate: Hz.

    Raises:
        UserError: there is none.
    """
    if type(features) not in EXPORTED:
        names = ", ".join(kind.__name__ for kind in EXPORTED)
        raise UserError(
            f"export: the features {type(features).__name__} cannot be exported, only {names} can; load the"
            " personal model itself where they are needed"
        )
    match features:
        case LogBandPowers():
            return LogBandPowersModule(features.bands, length)
        case TimeDomain():
            return TimeDomainModule(sample_rate)
        case Moments():
            return MomentsModule()
        case Trend():
            return TrendModule(length)
        case FaultLines():
            return FaultLinesModule(features, length, sample_rate)
        case OrderSpectrum():
            return OrderSpectrumModule(features, length, sample_rate)
        case Cepstrum():
            return CepstrumModule(features, length, sample_rate)
        case SpectralKurtosis():
            return SpectralKurtosisModule(features, length)
        case Concat():
            return SideBySide(features, length, sample_rate)
    return nn.Identity()  # RawWindows


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


class TrendModule(nn.Module):
    """`Trend` of windows of `length` samples."""

    line: Tensor

    def __init__(self, length: int) -> None:
        super().__init__()
        self.register_buffer("line", torch.from_numpy(Trend.line(length)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, W) → (N, 2)."""
        level = x.mean(1, keepdim=True)
        return torch.cat([level, ((x - level) * self.line).sum(1, keepdim=True)], 1)


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

    def __init__(self, features: Concat, length: int, sample_rate: float) -> None:
        super().__init__()
        self.parts = nn.ModuleList([module_of(part, length, sample_rate) for part in features.parts])
        self.needed = [[features.needs.index(name) for name in part.needs] for part in features.parts]

    def forward(self, x: Tensor, told: Tensor | None = None) -> Tensor:
        """(N, W) and what the features need, (N, K) → (N, ΣF)."""
        found = []
        for part, needed in zip(self.parts, self.needed, strict=True):
            found.append(part(x) if told is None or not needed else part(x, told[:, needed]))
        return torch.cat(found, 1)
