"""The envelope of a signal in a band: how strongly it rings there, sample by sample.

A fault strikes, the housing rings at its resonances, and the envelope of the ringing repeats as the strikes do:
Randall and Antoni, Rolling element bearing diagnostics, Mechanical Systems and Signal Processing 25, 2011,
https://doi.org/10.1016/j.ymssp.2010.07.017.

The analytic signal of a band is the spectrum's lines in the band, twice, and nothing else. Shifted down to 0 Hz it
has the same magnitude, and as few samples hold it as the band is narrow: the envelope comes *decimated*, at
instants evenly spread over the window. It is exact there, and so is the spectrum of its square; into the spectrum
of the envelope itself a little is folded, as its cusps are sharper than the band is wide.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fml_lightning.errors import UserError
from fml_lightning.preprocessing.numba_cache import name_cache

SILENCE = 1e-6
"""What is below this share of a window's largest sample is what rounding to float32 has left."""
FEWEST_LINES = 8
"""Spectral lines that a band has at least; fewer have no envelope to speak of."""

AT_ONCE = 128
"""Windows that are transformed together: more take more memory, and little less time."""


def batches(count: int) -> Iterator[slice]:
    """The slices of so many windows that are transformed together."""
    return (slice(begin, begin + AT_ONCE) for begin in range(0, count, AT_ONCE))


def check_bands(bands: Sequence[tuple[float, float]], where: str) -> list[tuple[float, float]]:
    """The bands as pairs of numbers.

    Raises:
        UserError: they are no lower and upper edges.
    """
    pairs = [tuple(map(float, band)) for band in bands]
    if not pairs or not all(len(pair) == 2 and 0 <= pair[0] < pair[1] < math.inf for pair in pairs):
        raise UserError(f"{where}.bands: expected a lower and an upper edge in Hz of each, got {bands}")
    return [(low, high) for low, high in pairs]


def lines_of(band: tuple[float, float], length: int, sample_rate: float, where: str) -> slice:
    """The lines of a window's spectrum from the band's lower edge to just below its upper one.

    Args:
        band: edges, Hz.
        length: samples of a window.
        sample_rate: Hz.
        where: whose band it is, for errors.

    Raises:
        UserError: the band is above half the sample rate, or the window is too short for it.
    """
    low, high = band
    if high > sample_rate / 2:
        raise UserError(
            f"{where}: expected bands up to {sample_rate / 2:g} Hz, half the sample rate, got {low:g} to"
            f" {high:g} Hz; name lower bands"
        )
    lines = slice(math.ceil(low * length / sample_rate), math.ceil(high * length / sample_rate))
    if lines.stop - lines.start < FEWEST_LINES:
        raise UserError(
            f"{where}: expected at least {FEWEST_LINES} spectral lines in the band {low:g} to {high:g} Hz, got"
            f" {lines.stop - lines.start} of windows of {length} samples; widen it, or raise windowing.length"
        )
    return lines


def instants(lines: slice) -> int:
    """How many samples of the envelope there are: at least twice the band's lines, and quick to transform."""
    least = 2 * (lines.stop - lines.start)
    power: int = 1 << (least - 1).bit_length()
    return next(size for size in (power * 5 // 8, power * 3 // 4, power) if size >= least)


def band_signal(
    spectra: NDArray[np.complex64], lines: slice, padded: dict[tuple[int, int, type], NDArray[Any]]
) -> NDArray[np.complex64]:
    """The analytic signal of a band, shifted down to 0 Hz and decimated.

    Args:
        spectra: of windows of W samples, (n, W // 2 + 1), as `spectrum` gives them.
        lines: of the band.
        padded: as `zeros_behind` has it.

    Returns:
        (n, `instants(lines)`), larger than the signal by W / 2 / `instants(lines)`.
    """
    import torch

    held = lines.stop - lines.start
    shifted = zeros_behind(held, instants(lines), len(spectra), np.complex64, padded)
    shifted[:, :held] = spectra[:, lines]
    signal: NDArray[np.complex64] = torch.fft.ifft(torch.from_numpy(shifted)).numpy()
    return signal


def zeros_behind(
    held: int, size: int, count: int, dtype: type, padded: dict[tuple[int, int, type], NDArray[Any]]
) -> NDArray[Any]:
    """Room for rows of `held` values each, with zeros behind them: (count, size).

    Args:
        held: values that the caller writes to a row, and no more.
        size: of a row.
        count: of rows.
        dtype: of the values.
        padded: the rooms, whose zeros are written once for all calls that this dictionary is given to; empty at
            first.
    """
    key = (held, size, dtype)
    if key not in padded or len(padded[key]) < count:
        padded[key] = np.zeros((count, size), dtype)
    return padded[key][:count]


def relative_envelopes(
    signal: NDArray[np.complex64], length: int, peaks: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The magnitude of analytic signals over its mean, less 1, (n, M), and its moments.

    Args:
        signal: as `band_signal` gives it.
        length: samples of a window.
        peaks: as `centred_spectrum` gives them.

    Returns:
        the relative envelopes; their mean square and mean fourth power, and the RMS of the windows in the band,
        (n, 3), NaN of what is silent or not finite.
    """
    relative = np.empty(signal.shape, np.float32)
    moments = np.empty((len(signal), 3), np.float32)
    kernels().envelopes(signal, 2 * signal.shape[1] / length, peaks, relative, moments)
    return relative, moments


def centred_spectrum(windows: NDArray[np.float32]) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
    """The spectrum of windows less their mean, (n, W // 2 + 1), and the largest sample of each window.

    The mean is in line 0 alone, so no window is copied. The largest sample is NaN of a window that is constant
    or not finite, whose spectrum says nothing.
    """
    x = np.require(windows, np.float32, ["C", "W"])  # torch warns of what is read-only
    spectra = spectrum(x)
    spectra[:, 0] = 0
    return spectra, largest(x)


def centred(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Windows less their mean, (n, W); NaN of a window that is constant or not finite."""
    x = np.require(windows, np.float32, ["C", "W"])  # numba compiles other kernels of what is read-only
    less = np.empty_like(x)
    kernels().centre(x, largest(x), less)
    return less


def largest(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest sample of each window, (n,); NaN of a window that is constant or not finite."""
    peaks = np.empty(len(windows), np.float32)
    kernels().largest(windows, peaks)
    return peaks


def spectrum(windows: NDArray[np.float32]) -> NDArray[np.complex64]:
    """The spectrum of real windows: (n, W) → (n, W // 2 + 1).

    By torch, whose transforms of single precision take half the time of scipy's on a processor that MKL serves.
    """
    import torch

    found: NDArray[np.complex64] = torch.fft.rfft(torch.from_numpy(windows)).numpy()
    return found


@cache
def kernels() -> Any:
    """The module of the compiled kernels; they release the GIL.

    Compiling takes some seconds once per machine; call this in a thread to have it ready.
    """
    name_cache()
    from fml_lightning.preprocessing import envelope_kernel

    return envelope_kernel
