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

    turn: Tensor
    taps: Tensor
    places: Tensor
    steps: Tensor

    def __init__(self, length: int, size: int, sample_rate: float) -> None:
        super().__init__()
        self.kernel = kernels()
        taps, finer = self.kernel.TAPS, self.kernel.FINER
        self.reach = size // 2
        self.resolution = sample_rate / length
        self.scale = 2.0 / self.reach
        lines = range(1 - taps, self.reach + taps + 1)
        self.spectrum = Spectrum(size, lines)
        turn, (former, latter, even, odd, half) = (
            torch.from_numpy(each).to(dtype)
            for each, dtype in zip(interpolation(length, size), (torch.cdouble, torch.double), strict=True)
        )
        quarter, three = (
            torch.cat([even + odd, (even - odd).flip(0)]),
            torch.cat([even - odd, (even + odd).flip(0)]),
        )
        rows = [torch.cat([former, latter]), quarter, torch.cat([half, half.flip(0)]), three]
        self.register_buffer("taps", torch.stack(rows, 1))  # (2 · TAPS, FINER)
        self.register_buffer("turn", torch.view_as_real(turn[: len(lines)]))  # (lines, 2)
        self.register_buffer("places", torch.arange(finer * (self.reach + 1)))
        widest = max(2 * WIDTHS[0] / (1 + WIDTHS[0]) * finer * self.reach, 2 * WIDTHS[1] * finer)
        self.register_buffer("steps", torch.arange(int(widest) + 2))

    def forward(self, relative: Tensor, mean: Tensor, speeds: Tensor, orders: Tensor) -> Tensor:
        """(N, B, L + 4), NaN as the kernel has it.

        Args:
            relative: envelopes, (N, B, M).
            mean: of the undecimated envelopes, (N, B); NaN of silence.
            speeds: Hz, (N,).
            orders: of the lines, (N, L).
        """
        second, fourth = relative.square().mean(2), relative.square().square().mean(2)
        orders = orders.abs()
        least = WIDTHS[1] * self.resolution / speeds
        highest = orders.amax(1)
        highest = torch.maximum(highest * (1 + WIDTHS[0]), highest + least)
        is_fast = speeds >= self.kernel.FEWEST_TURNS * self.resolution
        is_known = is_fast & (highest * speeds <= self.reach * self.resolution)
        speeds, orders = torch.where(is_known, speeds, 1), torch.where(is_known[:, None], orders, 1)
        step = self.resolution / self.kernel.FINER / speeds  # orders
        power = self._power(relative)
        median, is_any = self._median(power, step)
        heights = self._largest(power, step, speeds, orders)
        heights = log_above(heights.sqrt() * self.scale, self.kernel.FLOOR) - median[..., None]
        statistics = [
            median,
            log_above(fourth * 1e12 / (second.square() * 1e12 + 1), 1e-12),
            log_above(second, self.kernel.FLOOR),
            torch.log(mean * ((1 + second) / 2).sqrt()),
        ]
        table = torch.cat([heights, torch.stack(statistics, 2)], 2)
        return torch.where((is_known & is_any)[:, None, None] & ~mean.isnan()[..., None], table, torch.nan)

    def _power(self, relative: Tensor) -> Tensor:
        """The squared amplitudes of the spectrum under a Hann window, padded: (N, B, FINER · (reach + 1))."""
        parts = self.spectrum(relative.flatten(0, 1))
        real, imaginary = parts[0], parts[1]
        cosine, sine = self.turn[:, 0], self.turn[:, 1]
        turned = (real * cosine - imaginary * sine, real * sine + imaginary * cosine)
        count = self.reach + 1
        finer = [
            torch.matmul(torch.stack([part[:, j : j + count] for j in range(len(self.taps))], 2), self.taps)
            for part in turned
        ]  # (N · B, count, FINER)
        power: Tensor = (finer[0].square() + finer[1].square()).reshape(*relative.shape[:2], -1)
        return power

    def _median(self, power: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """The log median amplitude of the orders that count, (N, B), and whether there are any, (N,)."""
        finer, first, last = self.kernel.FINER, self.kernel.FIRST, self.kernel.LAST
        begin = (first / step).floor() + 1
        end = (last / step).ceil().clamp(max=finer * self.reach)
        count = end - begin
        counts = (self.places >= begin[:, None]) & (self.places < end[:, None])  # (N, P)
        half = power.shape[2] // 2 + 1
        ascending = torch.where(counts[:, None], power, torch.inf).topk(half, 2, largest=False).values
        lower, upper = (
            ascending.gather(
                2, (n / 2).floor().clamp(0, half - 1).long()[:, None, None].expand(-1, power.shape[1], 1)
            )
            for n in (count - 1, count)
        )
        amplitude = (lower.sqrt() + upper.sqrt())[..., 0] / 2
        return log_above(amplitude * self.scale, self.kernel.FLOOR), count > 0

    def _largest(self, power: Tensor, step: Tensor, speeds: Tensor, orders: Tensor) -> Tensor:
        """The largest power around each order, (N, B, L)."""
        half = torch.maximum(WIDTHS[0] * orders, (WIDTHS[1] * self.resolution / speeds)[:, None])
        low = ((orders - half) / step[:, None]).ceil().clamp(min=0)
        high = ((orders + half) / step[:, None]).floor()
        places = low[..., None] + self.steps  # (N, L, K)
        index = places.clamp(max=power.shape[2] - 1).long().flatten(1)
        found = power.gather(2, index[:, None].expand(-1, power.shape[1], -1))
        found = found.reshape(*power.shape[:2], *places.shape[1:])
        return torch.where((places <= high[..., None])[:, None], found, 0).amax(3)
