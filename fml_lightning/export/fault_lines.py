"""`FaultLines` as operations of torch, for a graph that is exported: the counterpart of its kernel."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from fml_lightning.bearing import INPUTS
from fml_lightning.export.envelope import BandSpectrum, Envelopes, by_size, largest, log_above
from fml_lightning.export.fourier import Spectrum
from fml_lightning.preprocessing import FaultLines
from fml_lightning.preprocessing.envelope import kernels, lines_of
from fml_lightning.preprocessing.fault_lines import NARROWEST, WIDTHS, interpolation
from fml_lightning.preprocessing.spectral_kurtosis import kurtogram_bands


class FaultLinesModule(nn.Module):
    """`FaultLines` of windows of `length` samples at a sample rate (Hz), in double precision."""

    speed: Tensor
    orders: Tensor
    of_faults: Tensor
    of_shaft: Tensor
    order: Tensor
    kept: Tensor

    def __init__(self, features: FaultLines, length: int, sample_rate: float) -> None:
        super().__init__()
        self.is_chosen = isinstance(features.bands, str)
        edges = kurtogram_bands(length, sample_rate, NARROWEST) if self.is_chosen else features.bands
        bands = [lines_of(cast(tuple[float, float], band), length, sample_rate, "FaultLines") for band in edges]
        groups = by_size(bands)
        self.spectrum = BandSpectrum(length, bands)
        begin = self.spectrum.begin
        self.envelopes = nn.ModuleList(
            [Envelopes(length, [bands[number] for number in group], begin) for group in groups.values()]
        )
        self.heights = nn.ModuleList([LineHeights(length, size, sample_rate) for size in groups])
        self.register_buffer("order", torch.tensor([n for group in groups.values() for n in group]).argsort())
        self.register_buffer("kept", torch.tensor(features.kept))
        self.has_speed, self.has_orders = features.speed is not None, features.orders is not None
        self.register_buffer("speed", torch.tensor([features.speed or 0.0], dtype=torch.double))
        multiples = torch.from_numpy(features.multiples).double()  # (L, 5)
        self.register_buffer("of_faults", multiples[:, :-1].T.contiguous())
        self.register_buffer("of_shaft", multiples[:, -1].contiguous())
        known = np.ones(len(INPUTS)) if features.orders is None else features.orders
        self.register_buffer("orders", torch.from_numpy(np.append(known, 1.0) @ features.multiples.T)[None])

    def forward(self, x: Tensor, told: Tensor | None = None) -> Tensor:
        """(N, W) and what the features need, (N, K) → (N, F)."""
        x = x.double()
        speeds, orders = self._told(x, told)
        peaks, spectrum = largest(x), self.spectrum(x)
        tables, of_bands = [], []
        for envelopes, heights in zip(self.envelopes, self.heights, strict=True):
            relative, mean, kurtosis = envelopes(spectrum, peaks)
            tables.append(heights(relative, mean, speeds, orders))
            of_bands.append(kurtosis)
        table = torch.cat(tables, 1).index_select(1, self.order).index_select(2, self.kept)  # (N, bands, columns)
        if self.is_chosen:
            best = torch.cat(of_bands, 1).index_select(1, self.order).argmax(1)
            table = table.gather(1, best[:, None, None].expand(-1, 1, table.shape[2]))
        return table.flatten(1).float()

    def _told(self, x: Tensor, told: Tensor | None) -> tuple[Tensor, Tensor]:
        """Speeds, Hz, (N,), and the lines' orders, (N, L); NaN where they are none."""
        known = x.new_empty(x.shape[0], 0) if told is None else told.double()
        speeds = self.speed.expand(x.shape[0]) if self.has_speed else known[:, 0]
        if self.has_orders:
            return speeds, self.orders.expand(x.shape[0], -1)
        faults = known[:, -len(INPUTS) :]
        are_known = ((faults > 0) & (faults < torch.inf)).all(1, keepdim=True)
        orders = torch.matmul(torch.where(are_known, faults, 1), self.of_faults) + self.of_shaft
        return speeds, torch.where(are_known, orders, torch.nan)


class LineHeights(nn.Module):
    """Log heights of the lines of envelopes of M samples, and their statistics: the kernel `lines`.

    Args:
        length: samples of a window, W.
        size: of an envelope, M.
        sample_rate: Hz.
    """

    of_real: Tensor
    of_imaginary: Tensor
    places: Tensor
    steps: Tensor

    def __init__(self, length: int, size: int, sample_rate: float) -> None:
        super().__init__()
        self.kernel = kernels()
        taps, finer = self.kernel.TAPS, self.kernel.FINER
        self.reach = size // 2
        self.resolution = sample_rate / length
        self.scale = 2.0 / self.reach
        self.spectrum = Spectrum(size, range(1 - taps, self.reach + taps + 2))
        turn, (former, latter, even, odd, half) = interpolation(length, size)
        weights = np.stack(
            [
                np.append(former, latter),
                np.append(even + odd, (even - odd)[::-1]),
                np.append(half, half[::-1]),
                np.append(even - odd, (even + odd)[::-1]),
            ]
        )  # (FINER, 2 · TAPS)
        # The lines around turn with the first of them, on which no power depends.
        weights = weights * turn[: 2 * taps].astype(np.complex128)
        real, imaginary = torch.from_numpy(weights.real.copy()), torch.from_numpy(weights.imag.copy())
        self.register_buffer("of_real", torch.cat([real, imaginary]))  # (2 · FINER, 2 · TAPS)
        self.register_buffer("of_imaginary", torch.cat([-imaginary, real]))
        self.register_buffer("places", torch.arange(finer * (self.reach + 1), dtype=torch.double))
        widest = max(2 * WIDTHS[0] / (1 + WIDTHS[0]) * finer * self.reach, 2 * WIDTHS[1] * finer)
        self.register_buffer("steps", torch.arange(int(widest) + 2, dtype=torch.double))

    def forward(self, relative: Tensor, mean: Tensor, speeds: Tensor, orders: Tensor) -> Tensor:
        """(N, B, L + 4), NaN as the kernel has it.

        Args:
            relative: envelopes, (N, B, M).
            mean: of the undecimated envelopes, (N, B); NaN of silence.
            speeds: Hz, (N,).
            orders: of the lines, (N, L).
        """
        square = relative * relative
        second, fourth = square.mean(2), (square * square).mean(2)
        orders = orders.abs()
        least = over(WIDTHS[1] * self.resolution, speeds)
        highest = orders.amax(1)
        highest = torch.maximum(highest * (1 + WIDTHS[0]), highest + least)
        is_fast = speeds >= self.kernel.FEWEST_TURNS * self.resolution
        is_known = is_fast & (highest * speeds <= self.reach * self.resolution)
        speeds, orders = torch.where(is_known, speeds, 1), torch.where(is_known[:, None], orders, 1)
        step = over(self.resolution / self.kernel.FINER, speeds)  # orders
        power = self._power(relative)
        median, is_any = self._median(power, step)
        heights = self._largest(power, step, speeds, orders)
        heights = log_above(heights.sqrt() * self.scale, self.kernel.FLOOR) - median[..., None]
        statistics = [
            median,
            log_above(fourth * 1e12 / (second * second * 1e12 + 1), 1e-12),
            log_above(second, self.kernel.FLOOR),
            torch.log(mean * ((1 + second) / 2).sqrt()),
        ]
        table = torch.cat([heights, torch.stack(statistics, 2)], 2)
        return torch.where((is_known & is_any)[:, None, None] & ~mean.isnan()[..., None], table, torch.nan)

    def _power(self, relative: Tensor) -> Tensor:
        """The squared amplitudes of the spectrum under a Hann window, padded: (N, B, FINER · (reach + 1))."""
        real, imaginary = (self._around(part) for part in self.spectrum(relative.flatten(0, 1)))
        found = torch.matmul(self.of_real, real) + torch.matmul(self.of_imaginary, imaginary)
        found = found * found  # (N · B, 2 · FINER, reach + 1)
        finer = self.kernel.FINER
        power = (found[:, :finer] + found[:, finer:]).transpose(1, 2)
        return power.reshape(*relative.shape[:2], -1)

    def _around(self, lines: Tensor) -> Tensor:
        """The lines around each: (N · B, lines) → (N · B, 2 · TAPS, reach + 1).

        Of copies of n lines, one after the other, that are read in rows of n + 1, each row is one line further.
        """
        count, taps = lines.shape[1], self.of_real.shape[1]
        copies = lines[:, None].expand(-1, taps + 1, -1).flatten(1)
        return copies[:, : taps * (count + 1)].reshape(-1, taps, count + 1)[:, :, : self.reach + 1]

    def _median(self, power: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """The log median amplitude of the orders that count, (N, B), and whether there are any, (N,).

        What does not count is taken for less than all and for more than all in equal shares, so that the median is
        in the middle, however much counts; to sort would take longer.
        """
        finer, first, last = self.kernel.FINER, self.kernel.FIRST, self.kernel.LAST
        begin = (over(first, step).floor() + 1)[:, None]
        end = over(last, step).ceil().clamp(max=finer * self.reach)[:, None]
        count = end - begin
        place = torch.where(self.places < begin, self.places, self.places - count)  # among those that do not count
        aside = torch.where(place < ((power.shape[2] - count) / 2).floor(), -1.0, torch.inf)
        counts = (self.places >= begin) & (self.places < end)  # (N, P)
        half = power.shape[2] // 2 + 1
        lower_half = torch.where(counts[:, None], power, aside[:, None]).topk(half, 2, largest=False, sorted=False)
        middle = lower_half.values.topk(2, 2).values.clamp(min=0).sqrt()  # (N, B, 2), the larger one first
        amplitude = torch.where(count % 2 > 0, middle[..., 1], middle.mean(2))
        return log_above(amplitude * self.scale, self.kernel.FLOOR), count[:, 0] > 0

    def _largest(self, power: Tensor, step: Tensor, speeds: Tensor, orders: Tensor) -> Tensor:
        """The largest power around each order, (N, B, L)."""
        half = torch.maximum(WIDTHS[0] * orders, over(WIDTHS[1] * self.resolution, speeds)[:, None])
        low = ((orders - half) / step[:, None]).ceil().clamp(min=0)
        high = ((orders + half) / step[:, None]).floor()
        places = low[..., None] + self.steps  # (N, L, K)
        index = places.clamp(max=power.shape[2] - 1).long().flatten(1)
        found = power.gather(2, index[:, None].expand(-1, power.shape[1], -1))
        found = found.reshape(*power.shape[:2], *places.shape[1:])
        return torch.where((places <= high[..., None])[:, None], found, 0).amax(3)


def over(number: float, x: Tensor) -> Tensor:
    """A number over x, rounded once: torch multiplies a number by 1 / x, and what is whole is whole no longer."""
    return torch.full_like(x, number) / x
