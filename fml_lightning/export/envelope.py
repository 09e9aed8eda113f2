"""Envelopes of bands as operations of torch, in double precision: the counterpart of `preprocessing.envelope`.

In double precision nothing of what differs from the model is the graph's: the model's own rounding to float32 is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fml_lightning.export.fourier import Signal, Spectrum
from fml_lightning.preprocessing.envelope import SILENCE, instants

LARGEST = float(torch.finfo(torch.float32).max)
"""A larger power of a line or a sample is infinite to the model."""


def log_above(x: Tensor, floor: float) -> Tensor:
    """log(x + floor), of x from 0 on, as no optimizer of graphs takes for log(x)."""
    return torch.log(x / floor + 1) + math.log(floor)


def largest(x: Tensor) -> Tensor:
    """The largest magnitude of each window (N, W), (N,); NaN of a window that is constant."""
    high, low = x.amax(1), x.amin(1)
    return torch.where(high == low, torch.nan, torch.maximum(high, -low))


def by_size(bands: Sequence[slice]) -> dict[int, list[int]]:
    """The places of bands by the number of samples that their envelopes are decimated to."""
    places: dict[int, list[int]] = {}
    for place, band in enumerate(bands):
        places.setdefault(instants(band), []).append(place)
    return places


class BandSpectrum(nn.Module):
    """The lines of a window's spectrum that bands take.

    Args:
        length: samples of a window, W.
        bands: the lines of each.
    """

    def __init__(self, length: int, bands: Sequence[slice]) -> None:
        super().__init__()
        self.begin = min(band.start for band in bands)
        self.spectrum = Spectrum(length, range(self.begin, max(band.stop for band in bands)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, W), double → real and imaginary parts, (N, lines)."""
        real, imaginary = self.spectrum(x)
        if self.begin:
            return real, imaginary
        return nn.functional.pad(real[:, 1:], (1, 0)), nn.functional.pad(imaginary[:, 1:], (1, 0))  # less the mean


class Envelopes(nn.Module):
    """The envelopes of windows in B bands that are decimated to as many samples, M.

    Args:
        length: samples of a window, W.
        bands: the lines of each, (B,).
        begin: the first line of the spectra that are given.
    """

    def __init__(self, length: int, bands: Sequence[slice], begin: int) -> None:
        super().__init__()
        (self.size,) = {instants(band) for band in bands}
        """Samples of an envelope, M."""
        self.bands = [slice(band.start - begin, band.stop - begin) for band in bands]
        self.held = max(band.stop - band.start for band in bands)
        self.scale = 2 * self.size / length
        self.signal = Signal(self.size, self.held)

    def forward(self, spectrum: tuple[Tensor, Tensor], peaks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Relative envelopes, their means and kurtosis.

        Args:
            spectrum: as `BandSpectrum` gives it.
            peaks: as `largest` gives them, (N,).

        Returns:
            the envelopes over their mean, less 1, (N, B, M); that mean as it is undecimated, (N, B), NaN of
            silence in the band; and ⟨|z|⁴⟩ / ⟨|z|²⟩² − 2 of the analytic signals z, (N, B), −∞ of silence.
        """
        power = self._power(spectrum)
        size = power.sqrt()
        mean, second, fourth = size.mean(2), power.mean(2), (power * power).mean(2)
        is_finite, silence = power.amax(2) <= LARGEST, SILENCE * peaks[:, None]
        is_loud = is_finite & (mean * self.scale > silence)
        relative = size / torch.where(is_loud, mean, 1)[..., None] - 1
        has_power = is_finite & (second.sqrt() * self.scale > silence)
        kurtosis = torch.where(has_power, fourth / torch.where(has_power, second * second, 1) - 2, -torch.inf)
        return relative, torch.where(is_loud, mean * self.scale, torch.nan), kurtosis

    def _power(self, spectrum: tuple[Tensor, Tensor]) -> Tensor:
        """The squared magnitudes of the analytic signals, (N, B, M)."""
        real, imaginary = self.signal(*map(self._held, spectrum))
        power: Tensor = (real * real + imaginary * imaginary).reshape(-1, len(self.bands), self.size)
        return power

    def _held(self, part: Tensor) -> Tensor:
        """The lines of each band, with zeros behind those of a narrower one: (N · B, held)."""
        of_bands = [part[:, band] for band in self.bands]
        short = [self.held - each.shape[1] for each in of_bands]
        padded = [nn.functional.pad(x, (0, n)) if n else x for x, n in zip(of_bands, short, strict=True)]
        return torch.stack(padded, 1).flatten(0, 1)
