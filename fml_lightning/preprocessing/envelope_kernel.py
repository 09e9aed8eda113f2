# mypy: disable-error-code="assignment, untyped-decorator"
"""The numba kernels of envelopes and spectra: importing this file imports numba; only `envelope.kernels` does.

Of the envelope's spectrum under a Hann window, padded to four times its length, `lines` needs the lowest only.
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
"""Lines on either side that a line is interpolated from; `_five` names the weights of each."""
FINER = 4
"""Lines per line of the plain spectrum; `_finer` names each."""
HALF_OCTAVE = 1 << 22
"""What the bits of a float32, read as an integer, grow by where it grows by half an octave."""
FLOOR = 1e-9
"""Added to amplitudes before their logarithm."""
FEWEST_TURNS = 2
"""Revolutions in a window, at least; in fewer the orders run together."""
FIRST, LAST = 0.2, 20.0
"""Orders that the median is taken over."""


@numba.njit(nogil=True, cache=True)
def largest(windows: NDArray[np.float32], peaks: NDArray[np.float32]) -> None:
    """The largest sample of each window; NaN of windows that are not finite, or constant.

    Magnitudes are compared as integers, which are in the same order and vectorize; those not finite are the
    largest.
    """
    for k in range(len(windows)):
        bits = windows[k].view(np.int32)
        peak, unlike = np.int32(0), np.int32(0)
        for i in range(len(bits)):
            peak = max(peak, bits[i] & MAGNITUDE)
            unlike |= bits[i] ^ bits[0]
        if peak >= INFINITE or peak == 0 or unlike == 0:
            peaks[k] = np.nan
        else:
            peaks.view(np.int32)[k] = peak


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def centre(windows: NDArray[np.float32], peaks: NDArray[np.float32], centred: NDArray[np.float32]) -> None:
    """Fill `centred` with windows less their mean; NaN of windows that have no largest sample."""
    n = windows.shape[1]
    for k in range(len(windows)):
        x, less = windows[k], centred[k]
        if math.isnan(peaks[k]):
            less[:] = np.nan
            continue
        total = np.float32(0)
        for i in range(n):
            total += x[i]
        mean = np.float32(total / n)
        for i in range(n):
            less[i] = x[i] - mean


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def envelopes(
    signal: NDArray[np.complex64],
    scale: float,
    peaks: NDArray[np.float32],
    relative: NDArray[np.float32],
    moments: NDArray[np.float32],
) -> None:
    """Magnitudes over their mean minus 1, and their moments; NaN of what is silent.

    Args:
        signal: analytic signals, (n, M).
        scale: from their magnitude to the undecimated one.
        peaks: largest sample of each window, (n,).
        relative: to fill, (n, M).
        moments: to fill, (n, 3): of `relative` the mean square and mean fourth power; the real signal's RMS.
    """
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
            e[:] = np.nan
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
        moments[k, 2] = mean * scale * math.sqrt((1 + second / n) / 2)  # half the power is the imaginary part's


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def powers(signal: NDArray[np.complex64], moments: NDArray[np.float64]) -> None:
    """Fill `moments` (n, 2) with the mean square and mean fourth power of the magnitudes of signals (n, M)."""
    for k in range(len(signal)):
        z = signal[k]
        second, fourth = 0.0, 0.0
        for i in range(len(z)):
            power = np.float64(z[i].real * z[i].real + z[i].imag * z[i].imag)
            second += power
            fourth += power * power
        moments[k, 0] = second / len(z)
        moments[k, 1] = fourth / len(z)


@numba.njit(nogil=True, cache=True, fastmath={"contract"})
def largest_of_bins(
    spectra: NDArray[np.complex64],
    speeds: NDArray[np.float64],
    edges: NDArray[np.float64],
    resolution: float,
    table: NDArray[np.float32],
) -> None:
    """Fill `table` (n, B) with the largest power in each bin of orders; NaN where bins are beyond the lines.

    Args:
        spectra: (n, L).
        speeds: Hz, (n,).
        edges: of the bins, orders, (B + 1,).
        resolution: of the spectra, Hz.
        table: to fill.
    """
    last, bins = spectra.shape[1] - 1, table.shape[1]
    bits = table.view(np.int32)  # powers are in order as their bits are
    power = np.empty(spectra.shape[1], np.float32)
    for k in range(len(spectra)):
        z, speed = spectra[k], speeds[k]
        if not speed * edges[-1] < resolution * last:
            table[k, :] = np.nan
            continue
        for i in range(math.ceil(speed * edges[-1] / resolution) + 1):
            power[i] = z[i].real * z[i].real + z[i].imag * z[i].imag
        lines = power.view(np.int32)
        stop = math.ceil(speed * edges[0] / resolution)
        for j in range(bins):
            start, stop = stop, math.ceil(speed * edges[j + 1] / resolution)
            largest = lines[start]  # also of a bin between two lines
            for i in range(start + 1, stop + (j == bins - 1)):  # the last one has the line at its upper edge, too
                largest = max(largest, lines[i])
            bits[k, j] = largest


@numba.njit(nogil=True, cache=True, fastmath={"contract"})
def powers_of_lines(spectra: NDArray[np.complex64], moments: NDArray[np.float64]) -> None:
    """The same over short spectra: (n, frames, lines) → `moments` (n, 2, lines)."""
    moments[:] = 0
    frames = spectra.shape[1]
    for k in range(len(spectra)):
        second, fourth = moments[k, 0], moments[k, 1]
        for t in range(frames):
            z = spectra[k, t]
            for i in range(len(z)):
                power = np.float64(z[i].real * z[i].real + z[i].imag * z[i].imag)
                second[i] += power
                fourth[i] += power * power
        for i in range(len(second)):
            second[i] /= frames
            fourth[i] /= frames


@numba.njit(nogil=True, cache=True)
def _five(taps: NDArray[np.float32]) -> Any:
    """The weights by name, so that the loop over lines vectorizes."""
    return taps[0], taps[1], taps[2], taps[3], taps[4]


@numba.njit(nogil=True, cache=True, fastmath={"contract"})
def _weighted(x: NDArray[np.float32], m: int, w: Any) -> Any:
    """Five values from m on, weighted."""
    return w[0] * x[m] + w[1] * x[m + 1] + (w[2] * x[m + 2] + w[3] * x[m + 3] + w[4] * x[m + 4])


@numba.njit(nogil=True, cache=True, fastmath={"contract"})
def _between(x: NDArray[np.float32], m: int, even: Any, odd: Any, half: Any) -> Any:
    """The lines a quarter, half and three quarters of the way from line m + 4 to line m + 5.

    The weights of three quarters are those of a quarter in reverse, so that both have the even and the odd part.
    """
    s0, d0 = x[m] + x[m + 9], x[m] - x[m + 9]
    s1, d1 = x[m + 1] + x[m + 8], x[m + 1] - x[m + 8]
    s2, d2 = x[m + 2] + x[m + 7], x[m + 2] - x[m + 7]
    s3, d3 = x[m + 3] + x[m + 6], x[m + 3] - x[m + 6]
    s4, d4 = x[m + 4] + x[m + 5], x[m + 4] - x[m + 5]
    a = even[0] * s0 + even[1] * s1 + (even[2] * s2 + even[3] * s3 + even[4] * s4)
    b = odd[0] * d0 + odd[1] * d1 + (odd[2] * d2 + odd[3] * d3 + odd[4] * d4)
    c = half[0] * s0 + half[1] * s1 + (half[2] * s2 + half[3] * s3 + half[4] * s4)
    return a + b, c, a - b


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _finer(
    spectrum: NDArray[np.complex64],
    turn: NDArray[np.complex64],
    taps: NDArray[np.float32],
    count: int,
    real: NDArray[np.float32],
    imag: NDArray[np.float32],
    parts: NDArray[np.float32],
    power: NDArray[np.float32],
) -> None:
    """Fill `power[: FINER * count]` with the padded spectrum's squared amplitudes."""
    last = len(spectrum) - 1
    zero, stop = TAPS - 1, count + 2 * TAPS  # where line 0 is put; real windows have mirrored spectra
    inner = min(stop, zero + last + 1)
    for k in range(zero):
        value = spectrum[zero - k].conjugate() * turn[k]
        real[k] = value.real
        imag[k] = value.imag
    for k in range(zero, inner):
        value = spectrum[k - zero] * turn[k]
        real[k] = value.real
        imag[k] = value.imag
    for k in range(inner, stop):
        value = spectrum[2 * last - (k - zero)].conjugate() * turn[k]
        real[k] = value.real
        imag[k] = value.imag
    before, after, even, odd, half = _five(taps[0]), _five(taps[1]), _five(taps[2]), _five(taps[3]), _five(taps[4])
    for m in range(count):
        re = _weighted(real, m, before) + _weighted(real, m + TAPS, after)
        im = _weighted(imag, m, before) + _weighted(imag, m + TAPS, after)
        parts[0, m] = re * re + im * im
    for m in range(count):
        re1, re2, re3 = _between(real, m, even, odd, half)
        im1, im2, im3 = _between(imag, m, even, odd, half)
        parts[1, m] = re1 * re1 + im1 * im1
        parts[2, m] = re2 * re2 + im2 * im2
        parts[3, m] = re3 * re3 + im3 * im3
    for m in range(count):
        for part in range(FINER):
            power[FINER * m + part] = parts[part, m]


@numba.njit(nogil=True, cache=True)
def _below(values: NDArray[np.int32], limit: Any) -> Any:
    """How many values are below the limit."""
    threshold, count = np.int32(limit), np.int32(0)
    for i in range(len(values)):
        count += np.int32(values[i] < threshold)
    return np.int64(count)


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _median_amplitude(power: NDArray[np.float32]) -> float:
    """The median of the roots of values from 0 on: they are in order as their bits are, read as integers.

    A limit with half of the values below it is sought between `low` and `high`, from half of the mean on. A count
    of all values vectorizes, so that the half dozen that it takes are faster than to sort or to part the values.
    """
    bits = power.view(np.int32)
    n = len(power)
    half = (n + 1) // 2
    total = np.float32(0)
    for i in range(n):
        total += power[i]
    low = high = int(np.float32(total / n / 2).view(np.int32))
    under = over = _below(bits, low)
    step = HALF_OCTAVE
    while under >= half:
        high, over = low, under
        low = max(high - step, 0)
        step *= 2
        under = _below(bits, low)
    while over < half:  # ends soon, as a quarter of them at most are above four times the mean
        low, under = high, over
        high = low + step
        step *= 2
        over = _below(bits, high)
    lack, excess = float(half - under), float(over - half)
    tries, side = 0, 0
    while over != half and high - low > 1:
        tries += 1
        if tries % 5:  # as if they were spread evenly between
            limit = min(max(low + int((high - low) * lack / (lack + excess)), low + 1), high - 1)
        else:  # so that it ends soon where they are not
            limit = (low + high) // 2
        count = _below(bits, limit)
        if count < half:
            low, lack = limit, float(half - count)
            if side < 0:  # twice: the Illinois rule leans to the side that stays
                excess /= 2
            side = -1
        else:
            high, over, excess = limit, count, float(count - half)
            if side > 0:
                lack /= 2
            side = 1
    lower, upper, threshold = np.int32(0), INFINITE, np.int32(high)
    for i in range(n):
        lower = max(lower, bits[i] if bits[i] < threshold else np.int32(0))
        upper = min(upper, bits[i] if bits[i] >= threshold else INFINITE)
    if n % 2 or over > half:  # several are equal
        upper = lower
    return (math.sqrt(np.int32(lower).view(np.float32)) + math.sqrt(np.int32(upper).view(np.float32))) / 2


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
    """Fill `table` (n, L + 4): log amplitudes at the orders over the median; then logs of the statistics.

    These are median, kurtosis, variance and level.

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
    parts = np.empty((FINER, reach + 2), np.float32)
    power = np.empty(FINER * (reach + 2), np.float32)
    bits = power.view(np.int32)
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
        _finer(spectra[k], turn, taps, count, real, imag, parts, power)
        if end <= begin:
            table[k, :] = np.nan
            continue
        median = math.log(_median_amplitude(power[begin:end]) * scale + FLOOR)
        for j in range(across):
            order = abs(orders[k, j])
            half = max(widths[0] * order, widths[1] * resolution / speed)
            low = max(math.ceil((order - half) / step), 0)
            high = math.floor((order + half) / step)
            largest = np.int32(0)  # the bits of values from 0 on are in their order
            for value in bits[low : high + 1]:
                largest = max(largest, value)
            table[k, j] = math.log(math.sqrt(np.int32(largest).view(np.float32)) * scale + FLOOR) - median
        table[k, across] = median
        table[k, across + 1] = math.log(moments[k, 1] / (moments[k, 0] * moments[k, 0] + 1e-12) + 1e-12)
        table[k, across + 2] = math.log(moments[k, 0] + FLOOR)
        table[k, across + 3] = math.log(moments[k, 2])
