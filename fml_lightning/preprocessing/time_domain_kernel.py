# mypy: disable-error-code="assignment, untyped-decorator"
"""The numba kernel of `TimeDomain`: importing this file imports numba, so only `time_domain` does, when needed.

Sums run over blocks of 256 samples in float32, which vectorizes, and over the blocks in float64, which keeps them
exact to about 1e-6. A block is a slice whose indices begin at 0: where an index might be negative, numba looks for
it from the end, and the loop does not vectorize. Fast-math deletes NaN checks, so a row is tested by its exponent
bits first.
"""

import math

import numba
import numpy as np
from numpy.typing import NDArray

BLOCK = 256
EXPONENT = np.int32(0x7F800000)


@numba.njit(nogil=True, cache=True)
def _finite(bits: NDArray[np.int32]) -> bool:
    found = np.int32(0)
    for b in bits:
        found |= np.int32((b & EXPONENT) == EXPONENT)
    return bool(found == 0)


@numba.njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
def _first_pass(x: NDArray[np.float32]) -> tuple[float, float, float, float, float, float, float, float]:
    """Σx, Σ|x|, Σ√|x|, Σx², Σ|Δ|, ΣΔ², max, min."""
    total, total_abs, total_root, total_square, slope, slope_square = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    high, low = x[0], x[0]
    for begin in range(0, len(x), BLOCK):
        block, following = x[begin : begin + BLOCK], x[begin + 1 : begin + 1 + BLOCK]
        s, a, r, q = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for i in range(len(block)):
            v = block[i]
            size = abs(v)
            s += v
            a += size
            r += math.sqrt(size)
            q += v * v
            high = v if v > high else high
            low = v if v < low else low
        total, total_abs, total_root, total_square = (
            total + s,
            total_abs + a,
            total_root + r,
            total_square + q,
        )
        a, q = np.float32(0), np.float32(0)
        for i in range(len(following)):
            step = following[i] - block[i]
            a += abs(step)
            q += step * step
        slope, slope_square = slope + a, slope_square + q
    return total, total_abs, total_root, total_square, slope, slope_square, high, low


@numba.njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
def _second_pass(x: NDArray[np.float32], mean: np.float32) -> tuple[float, float, float, float, int]:
    """Means of d, d², d³, d⁴ and the sign changes of d = x − mean."""
    m1, m2, m3, m4, crossings = 0.0, 0.0, 0.0, 0.0, 0
    n = len(x)
    for begin in range(0, n, BLOCK):
        block, following = x[begin : begin + BLOCK], x[begin + 1 : begin + 1 + BLOCK]
        s, q, c, f = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for i in range(len(block)):
            d = block[i] - mean
            square = d * d
            s += d
            q += square
            c += square * d
            f += square * square
        m1, m2, m3, m4 = m1 + s, m2 + q, m3 + c, m4 + f
        changes = np.int32(0)
        for i in range(len(following)):
            changes += np.int32((block[i] >= mean) != (following[i] >= mean))
        crossings += changes
    return m1 / n, m2 / n, m3 / n, m4 / n, crossings


@numba.njit(nogil=True, cache=True, error_model="numpy")
def rows(windows: NDArray[np.float32], sample_rate: float, table: NDArray[np.float32]) -> None:
    """Fill `table` (n, 16) with the features of `windows` (n, W) at `sample_rate` Hz; columns as `COLUMNS`."""
    for k in range(len(windows)):
        x = windows[k]
        if not _finite(x.view(np.int32)):
            table[k, :] = np.nan
            continue
        n = len(x)
        total, total_abs, total_root, total_square, slope, slope_square, high, low = _first_pass(x)
        mean = total / n
        shift = np.float32(mean)
        m1, m2, m3, m4, crossings = _second_pass(x, shift)
        # The float32 shift is not quite the mean: move the moments to the exact one.
        variance = m2 - m1 * m1
        third = m3 - 3 * m1 * m2 + 2 * m1**3
        fourth = m4 - 4 * m1 * m3 + 6 * m1 * m1 * m2 - 3 * m1**4
        mean_abs = total_abs / n
        root_amplitude = (total_root / n) ** 2
        rms = math.sqrt(total_square / n)
        std = math.sqrt(max(variance, 0.0)) if high > low else np.nan
        peak = max(abs(high), abs(low))
        drift = (float(x[n - 1]) - float(x[0])) / (n - 1)
        slope_variance = max(slope_square / (n - 1) - drift * drift, 0.0)

        table[k, 0] = mean
        table[k, 1] = mean_abs
        table[k, 2] = root_amplitude
        table[k, 3] = rms
        table[k, 4] = std if high > low else 0.0
        table[k, 5] = peak
        table[k, 6] = high - low
        table[k, 7] = third / std**3
        table[k, 8] = fourth / std**4
        table[k, 9] = peak / rms
        table[k, 10] = rms / mean_abs
        table[k, 11] = peak / mean_abs
        table[k, 12] = peak / root_amplitude
        table[k, 13] = crossings * sample_rate / n
        table[k, 14] = slope / (n - 1) * sample_rate
        table[k, 15] = math.sqrt(slope_variance) / std * sample_rate / (2 * math.pi)
