# mypy: disable-error-code="assignment, untyped-decorator"
"""The numba kernels of `fault_lines`: importing this file imports numba, so only `envelope.kernels` does.

Of the envelope's spectrum under a Hann window, padded to four times its length, only the lowest lines are needed.
They are interpolated from the plain spectrum by the Hann window's own transform, which is below 4e-3 of its peak
beyond `TAPS` lines.
"""

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from fml_lightning.preprocessing.envelope import SILENCE

MAGNITUDE, INFINITE = np.int32(0x7FFFFFFF), np.int32(0x7F800000)
"""The bits of a float32 that are not its sign; and those of infinity, which only NaN exceeds."""
TAPS = 5
"""Lines on either side that a line is interpolated from; `_finer` names the weights of each."""
FINER = 4
"""Lines per line of the plain spectrum."""
FLOOR = 1e-9
"""Added to amplitudes before their logarithm."""
FEWEST_TURNS = 2
"""Revolutions in a window, at least; in fewer the orders run together."""
FIRST, LAST = 0.2, 20.0
"""Orders that the median is taken over."""


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def centre(windows: NDArray[np.float32], centred: NDArray[np.float32], peaks: NDArray[np.float32]) -> None:
    """Windows less their mean, and the largest sample of each; NaN of windows that are not finite, or constant.

    Magnitudes are compared as integers, which are in the same order and vectorize; those not finite are the
    largest.
    """
    n = windows.shape[1]
    for k in range(len(windows)):
        x, less = windows[k], centred[k]
        bits = x.view(np.int32)
        total, largest, unlike = np.float32(0), np.int32(0), np.int32(0)
        for i in range(n):
            total += x[i]
        for i in range(n):
            largest = max(largest, bits[i] & MAGNITUDE)
        for i in range(n):
            unlike |= bits[i] ^ bits[0]
        if largest >= INFINITE or largest == 0 or unlike == 0:
            less[:] = np.nan
            peaks[k] = np.nan
            continue
        mean = np.float32(total / n)
        for i in range(n):
            less[i] = x[i] - mean
        peaks.view(np.int32)[k] = largest


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def envelopes(
    signal: NDArray[np.complex64],
    scale: float,
    peaks: NDArray[np.float32],
    relative: NDArray[np.float32],
    moments: NDArray[np.float32],
) -> None:
    """Magnitudes over their mean minus 1, and their mean square and mean fourth power; NaN of what is silent."""
    for k in range(len(signal)):
        z, e = signal[k], relative[k]
        n = len(z)
        total = np.float32(0)
        for i in range(n):
            size = math.sqrt(z[i].real * z[i].real + z[i].imag * z[i].imag)
            e[i] = size
            total += size
        mean = total / n
        if not (mean * scale > SILENCE * peaks[k] and mean < np.inf):
            moments[k, :] = np.nan
            continue
        inverse = np.float32(1 / mean)
        second, fourth = np.float32(0), np.float32(0)
        for i in range(n):
            v = e[i] * inverse - np.float32(1)
            e[i] = v
            second += v * v
            fourth += v * v * v * v
        moments[k, 0] = second / n
        moments[k, 1] = fourth / n


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _finer(
    spectrum: NDArray[np.complex64],
    turn: NDArray[np.complex64],
    taps: NDArray[np.float32],
    count: int,
    real: NDArray[np.float32],
    imag: NDArray[np.float32],
    sums: NDArray[np.float32],
    power: NDArray[np.float32],
) -> None:
    """Fill `power[: FINER * count]` with the padded spectrum's squared amplitudes."""
    last = len(spectrum) - 1
    for k in range(count + 2 * TAPS):  # line k − TAPS + 1; real windows have mirrored spectra
        line = k - TAPS + 1
        at = abs(line)
        if at > last:
            at = 2 * last - at
        value = spectrum[at]
        if (line < 0) != (abs(line) > last):
            value = value.conjugate()
        value *= turn[k]
        real[k] = value.real
        imag[k] = value.imag
    for part in range(FINER):
        t = taps[part]
        w0, w1, w2, w3, w4, w5, w6, w7, w8, w9 = (
            t[0],
            t[1],
            t[2],
            t[3],
            t[4],
            t[5],
            t[6],
            t[7],
            t[8],
            t[9],
        )  # by name, so that the loop over lines vectorizes
        for m in range(count):
            sums[0, m] = (
                w0 * real[m] + w1 * real[m + 1] + w2 * real[m + 2] + w3 * real[m + 3] + w4 * real[m + 4]
            ) + (w5 * real[m + 5] + w6 * real[m + 6] + w7 * real[m + 7] + w8 * real[m + 8] + w9 * real[m + 9])
        for m in range(count):
            sums[1, m] = (
                w0 * imag[m] + w1 * imag[m + 1] + w2 * imag[m + 2] + w3 * imag[m + 3] + w4 * imag[m + 4]
            ) + (w5 * imag[m + 5] + w6 * imag[m + 6] + w7 * imag[m + 7] + w8 * imag[m + 8] + w9 * imag[m + 9])
        for m in range(count):
            power[FINER * m + part] = sums[0, m] * sums[0, m] + sums[1, m] * sums[1, m]


@numba.njit(nogil=True, cache=True)
def _select(values: NDArray[np.float32], wanted: int) -> Any:
    """The value that sorting puts at `wanted`; none before it is larger then, none behind it smaller (Hoare)."""
    low, high = 0, len(values) - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i, j = i + 1, j - 1
        if wanted <= j:
            high = j
        elif wanted >= i:
            low = i
        else:
            break
    return values[wanted]


@numba.njit(nogil=True, cache=True)
def _median_amplitude(power: NDArray[np.float32], counts: NDArray[np.int32], some: NDArray[np.float32]) -> float:
    """The median of the roots, by the leading bits of the numbers: floats from 0 on are in order as integers."""
    bits = power.view(np.int32)
    n = len(power)
    wanted = (n - 1) // 2
    counts[:] = 0
    for b in bits:
        counts[b >> 20] += 1
    bucket, before = 0, 0
    while before + counts[bucket] <= wanted:
        before += counts[bucket]
        bucket += 1
    size = 0
    for i in range(n):
        some[size] = power[i]
        size += (bits[i] >> 20) == bucket
    lower = _select(some[:size], wanted - before)  # it moves the larger ones behind
    if n % 2:
        return math.sqrt(lower)
    upper = np.float32(np.inf)
    for i in range(wanted - before + 1, size):
        upper = min(upper, some[i])
    if wanted - before + 1 == size:
        for i in range(n):
            if (bits[i] >> 20) > bucket:
                upper = min(upper, power[i])
    return (math.sqrt(lower) + math.sqrt(upper)) / 2


@numba.njit(nogil=True, cache=True)
def lines(
    spectra: NDArray[np.complex64],
    moments: NDArray[np.float32],
    speeds: NDArray[np.float64],
    orders: NDArray[np.float64],
    resolution: float,
    widths: tuple[float, float],
    turn: NDArray[np.complex64],
    taps: NDArray[np.float32],
    table: NDArray[np.float32],
) -> None:
    """Fill `table` (n, L + 3): log amplitudes at the orders over the median; log median, kurtosis, variance.

    Args:
        spectra: of `envelopes`' magnitudes, (n, M // 2 + 1).
        moments: as `envelopes` gives them.
        speeds: Hz, (n,).
        orders: of each window's lines, (n, L).
        resolution: of the spectra, Hz.
        widths: a line is sought within this share of its order, or this many lines of the spectrum.
        turn: as `interpolation` in `fault_lines` gives them.
        taps: likewise.
        table: NaN where there is no such window, speed or order.
    """
    reach = spectra.shape[1] - 1
    real = np.empty(reach + 2 * TAPS + 2, np.float32)
    imag = np.empty_like(real)
    sums = np.empty((2, reach + 2), np.float32)
    power = np.empty(FINER * (reach + 2), np.float32)
    some = np.empty(len(power) + 1, np.float32)
    counts = np.empty(2048, np.int32)
    across = orders.shape[1]
    scale = 2.0 / reach  # over a quarter of the 2 · reach samples
    for k in range(len(spectra)):
        speed = speeds[k]
        highest = 0.0
        for j in range(across):
            order = abs(orders[k, j])
            highest = max(highest, order) if order < np.inf else np.inf
        highest = max(highest * (1 + widths[0]), highest + widths[1] * resolution / speed if speed > 0 else np.inf)
        slowest = FEWEST_TURNS * resolution
        if not (speed >= slowest and highest * speed <= reach * resolution and moments[k, 0] >= 0):
            table[k, :] = np.nan
            continue
        step = resolution / FINER / speed  # orders
        begin = int(FIRST / step) + 1
        end = min(math.ceil(LAST / step), FINER * reach)
        count = max(end, int(highest / step) + 1) // FINER + 1
        _finer(spectra[k], turn, taps, count, real, imag, sums, power)
        if end <= begin:
            table[k, :] = np.nan
            continue
        median = math.log(_median_amplitude(power[begin:end], counts, some) * scale + FLOOR)
        for j in range(across):
            order = abs(orders[k, j])
            half = max(widths[0] * order, widths[1] * resolution / speed)
            low = max(math.ceil((order - half) / step), 0)
            high = math.floor((order + half) / step)
            largest = np.float32(0)
            for i in range(low, high + 1):
                largest = max(largest, power[i])
            table[k, j] = math.log(math.sqrt(largest) * scale + FLOOR) - median
        table[k, across] = median
        table[k, across + 1] = math.log(moments[k, 1] / (moments[k, 0] * moments[k, 0] + 1e-12) + 1e-12)
        table[k, across + 2] = math.log(moments[k, 0] + FLOOR)
