"""Levels: how strong a window is in each of a few bands, by which a sensor that drifts is told from a fault.

A sensor that loses or gains sensitivity makes all bands weaker or stronger alike; a fault makes some of them so.
The *gain* is the median over bands of how far their levels are from the machine's baseline, the *shape* is what is
left of the largest one without the gain. The *offset* is the mean of the signal.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fml_lightning.preprocessing.spectral import LogBandPowers

BANDS = 16
"""Bands of equal width from 0 to half the sample rate, of each channel."""
DB = 10 / np.log(10)
"""Decibels in a natural logarithm of a power."""
FLOOR = -120.0
"""dB of silence."""


def levels(windows: NDArray[np.float32], sample_rate: float) -> NDArray[np.float64]:
    """Of windows (n, C, W), the level of each channel's bands in dB, then each channel's mean: (n, C * (B + 1)).

    A window shorter than two samples for each band has fewer bands.
    """
    count, channels, length = windows.shape
    bands = min(BANDS, length // 2)
    means: NDArray[np.float64] = windows.mean(2, dtype=np.float64)
    if not bands:
        return means
    used = np.ascontiguousarray(windows[:, :, : length // (2 * bands) * 2 * bands], np.float32)
    powers = LogBandPowers(bands)(used.reshape(count * channels, -1), sample_rate)
    decibels = np.maximum(FLOOR, DB * powers.astype(np.float64)).reshape(count, -1)
    return np.concatenate([decibels, means], axis=1)


def medians(level: Sequence[float], channels: int) -> NDArray[np.float64]:
    """The median of each channel's bands, dB, (C,)."""
    bands = _of_bands(level, channels)
    return np.asarray(np.median(bands, axis=1) if bands.size else np.zeros(channels))


def gain(level: Sequence[float], baseline: Sequence[float], channels: int) -> NDArray[np.float64]:
    """How many dB a window, or a block of them, is stronger than the baseline, of each channel (C,)."""
    difference = _of_bands(level, channels) - _of_bands(baseline, channels)
    return np.asarray(np.median(difference, axis=1) if difference.size else np.zeros(channels))


def shape(level: Sequence[float], baseline: Sequence[float], channels: int) -> NDArray[np.float64]:
    """The largest difference of a band's level from the baseline but for the gain, dB, of each channel (C,)."""
    difference = _of_bands(level, channels) - _of_bands(baseline, channels)
    if not difference.size:
        return np.zeros(channels)
    return np.asarray(np.abs(difference - np.median(difference, axis=1, keepdims=True)).max(1))


def offset(level: Sequence[float], channels: int) -> NDArray[np.float64]:
    """The mean of each channel (C,)."""
    return np.asarray(level[len(level) - channels :], np.float64)


def _of_bands(level: Sequence[float], channels: int) -> NDArray[np.float64]:
    """(C, B)."""
    return np.asarray(level[: len(level) - channels], np.float64).reshape(channels, -1)
