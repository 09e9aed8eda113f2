"""Spectral kurtosis: at which frequencies a signal comes in bursts; and the band where it does so most.

Antoni, The spectral kurtosis: a useful tool for characterising non-stationary signals, Mechanical Systems and
Signal Processing 20, 2006, https://doi.org/10.1016/j.ymssp.2004.09.001; Fast computation of the kurtogram for the
detection of transient faults, 21, 2007, https://doi.org/10.1016/j.ymssp.2005.12.002.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fml_lightning.errors import UserError
from fml_lightning.preprocessing.envelope import (
    SILENCE,
    band_signal,
    batches,
    centred,
    centred_spectrum,
    kernels,
    lines_of,
    spectrum,
)
from fml_lightning.preprocessing.features import Column, Features

FEWEST_LINES = 32
"""Spectral lines in the kurtogram's narrowest band, at least: fewer have no kurtosis to speak of."""


class SpectralKurtosis(Features):
    """⟨|X|⁴⟩ / ⟨|X|²⟩² − 2 at each frequency, over overlapping short spectra X: 0 for noise, −1 for a steady tone.

    The first and the last line, which are real, are left out. NaN of a window that is silent or not finite.

    Args:
        segment: samples of a short spectrum, Hann-windowed, one half further each; even, at most a quarter of the
            window.
    """

    def __init__(self, segment: int = 128) -> None:
        if segment < 4 or segment % 2:
            raise UserError(f"SpectralKurtosis.segment: expected an even number of at least 4, got {segment}")
        self.segment = segment

    def columns(self, length: int, sample_rate: float) -> list[Column]:
        """`kurtosis_FREQUENCY`, Hz."""
        self._check(length)
        frequencies = np.arange(1, self.segment // 2) * sample_rate / self.segment
        return [Column(f"kurtosis_{frequency:.6g}", "1") for frequency in frequencies]

    def __call__(
        self, windows: NDArray[np.float32], sample_rate: float, told: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """(n, W) → (n, segment / 2 − 1)."""
        self._check(windows.shape[1])
        taper = np.hanning(self.segment).astype(np.float32)
        moments = np.empty((len(windows), 2, self.segment // 2 - 1))
        for some in batches(len(windows)):
            x = centred(windows[some])
            frames = np.lib.stride_tricks.sliding_window_view(x, self.segment, axis=1)[:, :: self.segment // 2]
            found = spectrum(frames * taper)  # (n, frames, lines)
            kernels().powers_of_lines(found[..., 1:-1], moments[some])
        with np.errstate(divide="ignore", invalid="ignore"):
            table: NDArray[np.float32] = np.asarray(moments[:, 1] / np.square(moments[:, 0]) - 2, np.float32)
        table[~np.isfinite(table).all(1)] = np.nan
        return table

    def _check(self, length: int) -> None:
        if length < 4 * self.segment:
            raise UserError(
                f"SpectralKurtosis: expected windows of at least {4 * self.segment} samples, got {length}; lower"
                " segment, or raise windowing.length"
            )


class Kurtogram(NamedTuple):
    """Spectral kurtosis by centre and width of the band."""

    bands: list[tuple[float, float]]
    """Edges, Hz, from the widest band to the narrowest ones."""
    kurtosis: NDArray[np.float32]
    """⟨|z|⁴⟩ / ⟨|z|²⟩² − 2 of the bands' analytic signals z, (n, bands); NaN of silence."""

    @property
    def best(self) -> NDArray[np.intp]:
        """The band of the largest kurtosis of each window, (n,); 0 where there is none."""
        best: NDArray[np.intp] = np.where(np.isnan(self.kurtosis), -np.inf, self.kurtosis).argmax(1)
        return best


def kurtogram(windows: NDArray[np.float32], sample_rate: float, narrowest: float = 0.0) -> Kurtogram:
    """The fast kurtogram: half the sample rate in 1, 2, 3, 4, 6, 8, 12, 16 and so on bands of equal width.

    Its bands are Antoni's. They are cut from one spectrum, with straight edges, in place of his tree of filters.

    Args:
        windows: (n, W).
        sample_rate: Hz.
        narrowest: least width of a band, Hz; it has `FEWEST_LINES` at least.

    Returns:
        Of each window by itself, whatever other windows there are.
    """
    bands = kurtogram_bands(windows.shape[1], sample_rate, narrowest)
    return Kurtogram(bands, kurtosis_of(*centred_spectrum(windows), windows.shape[1], sample_rate, bands))


def kurtosis_of(
    spectra: NDArray[np.complex64],
    peaks: NDArray[np.float32],
    length: int,
    sample_rate: float,
    bands: Sequence[tuple[float, float]],
) -> NDArray[np.float32]:
    """The kurtosis of each band's analytic signal, (n, bands), of what `centred_spectrum` gives of windows."""
    kurtosis = np.empty((len(spectra), len(bands)), np.float32)
    padded: dict[tuple[int, int, type], NDArray[Any]] = {}
    for number, band in enumerate(bands):
        z = band_signal(spectra, lines_of(band, length, sample_rate, "kurtogram"), padded)
        moments = np.empty((len(z), 2))
        kernels().powers(z, moments)
        silent = ~(np.sqrt(moments[:, 0]) * 2 * z.shape[1] / length > SILENCE * peaks)
        moments[silent] = np.nan
        kurtosis[:, number] = moments[:, 1] / np.square(moments[:, 0]) - 2
    return kurtosis


def kurtogram_bands(length: int, sample_rate: float, narrowest: float = 0.0) -> list[tuple[float, float]]:
    """The bands of a kurtogram of windows of `length` samples, Hz."""
    least = max(narrowest, FEWEST_LINES * sample_rate / length)
    half = sample_rate / 2
    counts = sorted(
        power * part for power in (2**k for k in range(16)) for part in (1, 1.5) if power * part != 1.5
    )
    divided = [int(count) for count in counts if half / count >= least]
    return [(half * i / count, half * (i + 1) / count) for count in divided for i in range(count)]
