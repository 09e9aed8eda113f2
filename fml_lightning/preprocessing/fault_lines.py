"""Fault lines: how far the envelope's spectrum stands out where a bearing's faults repeat.

The lines are in orders, multiples of the shaft's speed, so that a machine of another speed and another bearing has
the same columns: what a model has learnt of one carries over to the other. Randall and Antoni, Rolling element
bearing diagnostics, Mechanical Systems and Signal Processing 25, 2011, https://doi.org/10.1016/j.ymssp.2010.07.017.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fml_lightning.bearing import INPUTS, Bearing
from fml_lightning.errors import UserError
from fml_lightning.preprocessing.envelope import (
    band_signal,
    batches,
    centred_spectrum,
    check_bands,
    kernels,
    lines_of,
    relative_envelopes,
    spectrum,
)
from fml_lightning.preprocessing.features import Column, Features
from fml_lightning.preprocessing.shaft_speed import check_speed
from fml_lightning.preprocessing.spectral_kurtosis import Kurtogram, kurtogram_bands, kurtosis_of

BANDS = ((500.0, 2000.0), (2000.0, 3500.0), (3500.0, 5500.0))
LINES = (
    *("bpfo", "2bpfo", "3bpfo", "4bpfo"),
    *("bpfi", "2bpfi", "3bpfi", "4bpfi"),
    *("2bsf", "4bsf", "6bsf", "bsf"),
    *("bpfi-x", "bpfi+x", "bpfi-2x", "bpfi+2x", "2bpfi-x", "2bpfi+x"),
    *("2bsf-ftf", "2bsf+ftf", "2bsf-2ftf", "2bsf+2ftf"),
    *("ftf", "2ftf", "x", "2x", "3x"),
)
"""Harmonics of the fault orders; sidebands of the shaft, which carries a fault of the inner race through the load
zone, and of the cage, which carries a ball's; cage and shaft themselves."""
RELATIVE = ("median", "kurtosis", "variance")
"""Statistics of the envelope over its mean, from which a sensor's gain drops out."""
STATISTICS = (*RELATIVE, "level")
"""The level, which a sensor's gain shifts, tells what sounds louder than the same machine's normal state."""
WIDTHS = (0.015, 0.75)
"""A line is the largest within 1.5 % of its order, for slip, or .75 spectral lines where that is more."""
NARROWEST = 1000.0
"""Width of the kurtogram's narrowest band, Hz: a narrower envelope does not hold the higher lines."""
_TERM = re.compile(rf"([+-]?)(\d*)({'|'.join(INPUTS)}|x)")


class FaultLines(Features):
    """Log amplitudes of the envelope's spectrum at a bearing's fault orders, over the median of orders .2 to 20.

    Of each band: the envelope, over its mean and less 1, so that a sensor's gain drops out; its spectrum under a
    Hann window; a column for each line, and what `statistics` names. What is not given is told of every window:
    `speed`, the shaft's, Hz; `bpfo`, `bpfi`, `bsf`, `ftf`, the bearing's orders (`Bearing.inputs`).

    A window has NaN, not numbers, where it is silent or not finite, where the shaft's speed is unknown, 0 or less
    than two revolutions in a window, and where it is so high that a line is beyond the envelope of a band, which
    holds frequencies up to the band's width.

    Args:
        bearing: a designation of the table, such as `6205-2RS`, or dimensions; none: told of every window.
        speed: of the shaft, Hz; none: told of every window.
        bands: Hz, lower and upper edge of each; or `kurtogram`: one band, for each window where its kurtosis is
            largest.
        lines: sums of multiples of bpfo, bpfi, bsf, ftf and x, which is the shaft's speed: `2bpfi-x`.
        statistics: of the envelope: logs of the spectrum's `median`, and of the samples' `kurtosis` and
            `variance`; and `level`, the log of the signal's RMS in the band, in its own unit. A sensor's gain
            shifts levels, so they say something beside the machine's normal windows only (`Episodes.centre`).
    """

    def __init__(
        self,
        bearing: str | Bearing | Mapping[str, Any] | None = None,
        speed: float | None = None,
        bands: Sequence[tuple[float, float]] | Literal["kurtogram"] = BANDS,
        lines: Sequence[str] = LINES,
        statistics: Sequence[str] = RELATIVE,
    ) -> None:
        check_speed(speed, "FaultLines")
        if unknown := [name for name in statistics if name not in STATISTICS]:
            raise UserError(f"FaultLines.statistics: expected some of {', '.join(STATISTICS)}, got {unknown[0]!r}")
        if not lines or len(set(lines)) < len(lines):
            raise UserError(f"FaultLines.lines: expected lines, each once, got {', '.join(lines) or 'none'}")
        self.bearing = Bearing(**bearing) if isinstance(bearing, Mapping) else bearing
        self.speed = speed
        self.bands = "kurtogram" if bands == "kurtogram" else check_bands(bands, "FaultLines")
        self.lines = list(lines)
        self.statistics = list(statistics)
        self.needs = (*(("speed",) if speed is None else ()), *(INPUTS if bearing is None else ()))
        self.multiples = np.array([multiples(line) for line in lines])  # (L, 5)
        known = Bearing.named(self.bearing) if isinstance(self.bearing, str) else self.bearing
        self.orders = None if known is None else np.array(list(known.inputs.values()))
        self.kept = [*range(len(lines)), *(len(lines) + STATISTICS.index(name) for name in statistics)]

    def columns(self, length: int, sample_rate: float) -> list[Column]:
        """`LINE_LOW_HIGH` of each line and statistic, band by band, edges in Hz; or `LINE_kurtogram`."""
        names = (*self.lines, *self.statistics)
        if isinstance(self.bands, str):
            return [Column(f"{name}_{self.bands}", _unit(name)) for name in names]
        for band in self.bands:
            lines_of(band, length, sample_rate, "FaultLines")
        return [Column(f"{name}_{low:g}_{high:g}", _unit(name)) for low, high in self.bands for name in names]

    def __call__(
        self, windows: NDArray[np.float32], sample_rate: float, told: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """(n, W) → (n, bands · (lines + statistics))."""
        length = windows.shape[1]
        speeds, orders = self._told(len(windows), told)
        bands = kurtogram_bands(length, sample_rate, NARROWEST) if isinstance(self.bands, str) else self.bands
        lines = [lines_of(band, length, sample_rate, "FaultLines") for band in bands]
        parts = 1 if isinstance(self.bands, str) else len(bands)
        table = np.empty((len(windows), parts, len(self.kept)), np.float32)
        padded: dict[tuple[int, int, type], NDArray[Any]] = {}
        for some in batches(len(windows)):
            spectra, peaks = centred_spectrum(windows[some])
            known = (peaks, speeds[some], orders[some])
            if isinstance(self.bands, str):
                best = Kurtogram(bands, kurtosis_of(spectra, peaks, length, sample_rate, bands)).best
                for number in np.unique(best):
                    rows = best == number
                    of_rows = tuple(x[rows] for x in known)
                    found = self._of_band(spectra[rows], lines[number], padded, length, sample_rate, *of_rows)
                    table[some][rows, 0] = found
                continue
            for number in range(parts):
                table[some, number] = self._of_band(spectra, lines[number], padded, length, sample_rate, *known)
        table[~np.isfinite(table).all((1, 2))] = np.nan
        return table.reshape(len(windows), -1)

    def _of_band(
        self,
        spectra: NDArray[np.complex64],
        band: slice,
        padded: dict[tuple[int, int, type], NDArray[Any]],
        length: int,
        sample_rate: float,
        peaks: NDArray[np.float32],
        speeds: NDArray[np.float64],
        orders: NDArray[np.float64],
    ) -> NDArray[np.float32]:
        """The columns of one band, (n, lines + statistics)."""
        relative, moments = relative_envelopes(band_signal(spectra, band, padded), length, peaks)
        found = np.empty((len(spectra), len(self.lines) + len(STATISTICS)), np.float32)
        turn, taps = interpolation(length, relative.shape[1])
        resolution = sample_rate / length
        kernels().lines(spectrum(relative), moments, speeds, orders, resolution, WIDTHS, turn, taps, found)
        return found[:, self.kept]

    def _told(
        self, count: int, told: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Speeds, Hz, (n,), and the lines' orders, (n, L)."""
        given = np.empty((count, 0)) if told is None else np.asarray(told, np.float64)
        if given.shape != (count, len(self.needs)):
            raise UserError(
                f"FaultLines: expected {', '.join(self.needs)} told of each of {count} windows, got"
                f" {'nothing' if told is None else f'numbers of shape {given.shape}'}"
            )
        speeds = given[:, 0] if self.speed is None else np.full(count, self.speed)
        faults = given[:, -len(INPUTS) :] if self.orders is None else np.tile(self.orders, (count, 1))
        faults = np.where(faults > 0, faults, np.nan)
        orders = np.concatenate([faults, np.ones((count, 1))], axis=1) @ self.multiples.T
        return np.ascontiguousarray(speeds), np.ascontiguousarray(orders)


def _unit(name: str) -> str:
    return "ln(x)" if name == "level" else "1"


def multiples(line: str) -> list[float]:
    """How often bpfo, bpfi, bsf, ftf and the shaft's speed are in a line.

    >>> multiples("2bpfi-x")
    [0.0, 2.0, 0.0, 0.0, -1.0]

    Raises:
        UserError: it is no sum of their multiples.
    """
    found = dict.fromkeys((*INPUTS, "x"), 0.0)
    text = line.replace(" ", "")
    terms = list(_TERM.finditer(text))
    if not terms or "".join(term.group() for term in terms) != text or not all(t[1] for t in terms[1:]):
        raise UserError(
            f"FaultLines.lines: expected a sum of multiples of {', '.join(found)}, such as 2bpfi-x, got"
            f" {line!r:.60}"
        )
    for term in terms:
        found[term[3]] += float(f"{term[1]}{term[2] or 1}")
    return list(found.values())


@cache
def interpolation(length: int, size: int) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
    """What interpolates the Hann-windowed spectrum between the lines of the plain one.

    The Hann window's transform is real but for a delay of half a window, which is taken from the lines instead.

    Args:
        length: samples of a window, W.
        size: samples of its decimated envelope, M.

    Returns:
        the lines' turns about the delay, from line 1 − TAPS on; and of the window's transform, which weights the
        2 · TAPS lines around, (5, TAPS): on a line the former and the latter; a quarter of the way to the next,
        what is even and what is odd about the middle; half of the way, where all is even.
    """
    kernel = kernels()
    half = (size - size / length) / 2  # the middle of a Hann window of W samples, in samples of the envelope
    time = np.arange(size) - half
    taper = 0.5 + 0.5 * np.cos(np.pi * time / half)
    lines = np.arange(1 - kernel.TAPS, size // 2 + kernel.TAPS + 3)
    turn = np.exp(2j * np.pi * lines * half / size).astype(np.complex64)
    offsets = np.arange(kernel.FINER)[:, None] / kernel.FINER - lines[: 2 * kernel.TAPS]  # (FINER, 2 TAPS)
    full = (taper * np.cos(2 * np.pi * offsets[..., None] * time / size)).sum(-1) / size
    former, latter = full[:, : kernel.TAPS], full[:, : kernel.TAPS - 1 : -1]
    even, odd = (former + latter) / 2, (former - latter) / 2
    taps = np.stack([former[0], full[0, kernel.TAPS :], even[1], odd[1], even[2]])
    return turn, taps.astype(np.float32)
