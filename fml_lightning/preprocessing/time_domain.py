"""Time-domain features: the usual sixteen of vibration monitoring.

The formulas are in `TimeDomain`'s docstring; Hjorth's mobility is from Hjorth, EEG analysis based on time domain
properties, 1970, https://doi.org/10.1016/0013-4694(70)90143-4. numba is imported on first use.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from fml_lightning.preprocessing.features import Column, Features
from fml_lightning.preprocessing.numba_cache import name_cache

COLUMNS = (
    Column("mean", "x"),
    Column("mean_abs", "x"),
    Column("root_amplitude", "x"),
    Column("rms", "x"),
    Column("std", "x"),
    Column("peak", "x"),
    Column("peak_to_peak", "x"),
    Column("skewness", "1"),
    Column("kurtosis", "1"),
    Column("crest_factor", "1"),
    Column("shape_factor", "1"),
    Column("impulse_factor", "1"),
    Column("clearance_factor", "1"),
    Column("zero_crossing_rate", "Hz"),
    Column("mean_abs_slope", "x/s"),
    Column("mobility", "Hz"),
)


class TimeDomain(Features):
    """Sixteen time-domain features per window.

    With mean square over the window's W samples, and population (biased) moments:

    - `mean`, `mean_abs` = mean |x|, `root_amplitude` = (mean √|x|)², `rms`, `std`;
    - `peak` = max |x|, `peak_to_peak` = max x − min x;
    - `skewness`, `kurtosis` (3 for Gaussian noise) about the mean; like `mobility` NaN for a constant signal;
    - `crest_factor` = peak / rms, `shape_factor` = rms / mean_abs, `impulse_factor` = peak / mean_abs,
      `clearance_factor` = peak / root_amplitude; NaN for silence;
    - `zero_crossing_rate`: sign changes about the mean per second;
    - `mean_abs_slope` = mean |Δx| · sample rate; `mobility` = std(Δx) / std(x) · sample rate / 2π (Hjorth): the
      frequency of a sine that is well sampled.
    """

    def columns(self, length: int, sample_rate: float) -> list[Column]:
        """The same sixteen for every length and rate."""
        return list(COLUMNS)

    def __call__(
        self, windows: NDArray[np.float32], sample_rate: float, told: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """(n, W) → (n, 16); W at least 2."""
        table = np.empty((len(windows), len(COLUMNS)), np.float32)
        # of read-only windows numba would compile another kernel, which rounds otherwise
        kernel()(np.require(windows, np.float32, ["C", "W"]), np.float64(sample_rate), table)
        return table


@cache
def kernel() -> Callable[[NDArray[np.float32], np.float64, NDArray[np.float32]], None]:
    """The compiled kernel (windows (n, W), sample rate, output (n, 16)); releases the GIL.

    Compiling takes some seconds once per machine; call this in a thread to have it ready.
    """
    name_cache()
    from fml_lightning.preprocessing import time_domain_kernel

    rows: Callable[[NDArray[np.float32], np.float64, NDArray[np.float32]], None] = time_domain_kernel.rows
    return rows
