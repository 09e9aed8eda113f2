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

import numpy as np
from numpy.typing import NDArray

from fml_lightning.errors import UserError

FEWEST_LINES = 8
"""Spectral lines that a band has at least; fewer have no envelope to speak of."""


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


def band_signal(spectra: NDArray[np.complex64], lines: slice) -> NDArray[np.complex64]:
    """The analytic signal of a band, shifted down to 0 Hz and decimated.

    Args:
        spectra: of windows of W samples, (n, W // 2 + 1), as `spectrum` gives them.
        lines: of the band.

    Returns:
        (n, `instants(lines)`), larger than the signal by W / 2 / `instants(lines)`.
    """
    import torch

    shifted = np.zeros((len(spectra), instants(lines)), np.complex64)
    shifted[:, : lines.stop - lines.start] = spectra[:, lines]
    signal: NDArray[np.complex64] = torch.fft.ifft(torch.from_numpy(shifted)).numpy()
    return signal


def envelope(windows: NDArray[np.float32], sample_rate: float, band: tuple[float, float]) -> NDArray[np.float32]:
    """The envelope of windows in a band, decimated: (n, W) → (n, M) at W / M · j samples, in the signal's unit.

    Raises:
        UserError: the band does not fit windows and sample rate.
    """
    length = windows.shape[1]
    lines = lines_of(band, length, sample_rate, "envelope")
    scale = np.float32(2 * instants(lines) / length)
    found: NDArray[np.float32] = np.abs(band_signal(spectrum(np.array(windows, np.float32)), lines)) * scale
    return found


def spectrum(windows: NDArray[np.float32]) -> NDArray[np.complex64]:
    """The spectrum of real windows: (n, W) → (n, W // 2 + 1).

    By torch, whose transforms of single precision take half the time of scipy's on a processor that MKL serves.
    """
    import torch

    found: NDArray[np.complex64] = torch.fft.rfft(torch.from_numpy(windows)).numpy()
    return found
