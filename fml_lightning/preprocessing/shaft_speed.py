"""The shaft's speed, estimated from its own harmonics near the speed of the nameplate.

An unbalanced, bent or misaligned shaft shows at whole multiples of its speed. For every speed near the nominal one
the spectrum's height above its surroundings is averaged over the multiples, and the best speed wins: the harmonic
sum of Schroeder, Period histogram and product spectrum, JASA 43, 1968, https://doi.org/10.1121/1.1910902.

Combs that are no shaft's are what mislead it: an outer race's at 3.05 orders looks like a third harmonic of a
shaft that is 1.7 % faster. So the average is taken with every second, third, fourth and fifth harmonic left out
too and the smallest counts, and the lowest harmonics by themselves must name the same speed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fml_lightning.errors import UserError

SPEED = "speed"
"""Name under which the shaft's speed, Hz, is told of windows."""
HARMONICS = 40
LOWEST = 6
"""Harmonics that must name the same speed by themselves; of fewer, too few remain without their multiples."""
AGREEMENT = 0.008
"""Share of the speed by which the two answers may differ: half of what a line's own search allows."""
FEWEST_TURNS = 60
"""Revolutions that an estimate needs: in fewer, a bearing's lines and the shaft's run together."""
PADDING = 4
CEILING = 3.0
"""Of the log height of a harmonic: no single one decides."""
EVIDENCE = 0.9
"""Least average log height: noise alone reaches 0.6."""
BEYOND = 0.2
"""Share of the speed beyond the tolerance that is searched too, so that no alias of a speed there is taken."""


class SpeedEstimate(NamedTuple):
    """What a signal says of the shaft's speed."""

    hz: float
    """The best speed, Hz; NaN where nothing can be said."""
    confidence: float
    """0 to 1: by how much of its lead over the middle of all speeds it leads the best of the others; 0 where
    `reason` speaks against it. On CWRU's recordings of 5 s, 99 % of the estimates above .1 are within 1 %."""
    reason: str
    """Why it is not to be used; empty where nothing speaks against it."""


@dataclass(frozen=True)
class ShaftSpeed:
    """A nameplate's speed, brought to what the signal says.

    Raises:
        UserError: a number is out of its range.
    """

    tolerance: float = 0.08
    """Share of the nominal speed by which the true one may differ."""
    least_confidence: float = 0.1
    """Below it a speed is not used."""
    seconds: float = 5.0
    """Of signal that an estimate is made of; the speed is taken as constant in them."""

    def __post_init__(self) -> None:
        if not 0 < self.tolerance <= 0.2:
            raise UserError(f"ShaftSpeed.tolerance: expected a share above 0 and up to 0.2, got {self.tolerance}")
        if not 0 <= self.least_confidence <= 1:
            raise UserError(f"ShaftSpeed.least_confidence: expected 0 to 1, got {self.least_confidence}")
        if not 0 < self.seconds < np.inf:
            raise UserError(f"ShaftSpeed.seconds: expected seconds above 0, got {self.seconds}")

    def of(self, signal: NDArray[np.float32], sample_rate: float, nominal: float) -> SpeedEstimate:
        """The estimate, with NaN in place of a speed that is not to be used."""
        found = estimate_speed(signal, sample_rate, nominal, self.tolerance)
        if found.reason:
            return found._replace(hz=np.nan)
        if found.confidence < self.least_confidence:
            reason = (
                f"the shaft's harmonics name {found.hz:.4g} Hz near the nominal {nominal:.4g} Hz with a confidence"
                f" of {found.confidence:.2f} only, less than {self.least_confidence:g}"
            )
            return SpeedEstimate(np.nan, found.confidence, reason)
        return found

    def over(
        self, signal: NDArray[np.float32], sample_rate: float, nominal: float, ends: NDArray[np.intp]
    ) -> list[SpeedEstimate]:
        """One estimate per window, from the stretch of signal that ends with it or at most half of it earlier.

        Windows that end within the first stretch have the first one: in a stream they wait for it.

        Args:
            signal: (n,), without a gap.
            sample_rate: Hz.
            nominal: speed of the nameplate, Hz.
            ends: of each window the sample after its last.
        """
        length = min(int(self.seconds * sample_rate), len(signal))
        hop = max(length // 2, 1)
        stops = length + np.maximum(np.asarray(ends) - length, 0) // hop * hop
        found = {stop: self.of(signal[stop - length : stop], sample_rate, nominal) for stop in np.unique(stops)}
        return [found[stop] for stop in stops]


def estimate_speed(
    signal: NDArray[np.float32], sample_rate: float, nominal: float, tolerance: float = 0.08
) -> SpeedEstimate:
    """The shaft's speed within `tolerance` of the nominal one, and how sure it is.

    Args:
        signal: (n,), in any unit, at a constant speed.
        sample_rate: Hz.
        nominal: Hz.
        tolerance: share of `nominal`.
    """
    nothing = SpeedEstimate(np.nan, 0.0, "")
    x = np.asarray(signal, np.float64)
    if not 0 < nominal < np.inf:
        return nothing._replace(reason=f"expected a nominal speed in Hz above 0, got {nominal}")
    if len(x) * nominal < FEWEST_TURNS * sample_rate:
        turns = len(x) / sample_rate * nominal
        return nothing._replace(
            reason=f"{turns:.0f} revolutions are too few, expected {FEWEST_TURNS}: take more signal"
        )
    if not np.isfinite(x).all() or np.ptp(x) == 0:
        return nothing._replace(reason="the signal is constant or not finite")
    reach = tolerance + BEYOND
    count = min(HARMONICS, int(sample_rate / 2 / (nominal * (1 + reach))) - 1)
    if count < 2 * LOWEST:
        known = max(count, 0)
        return nothing._replace(reason=f"{known} harmonics are below half the sample rate, expected {2 * LOWEST}")
    speeds, heights = _heights(x, sample_rate, nominal, reach, count)
    low, all_of_them = _average(heights[:LOWEST], (1, 2, 3)), _average(heights, (1, 2, 3, 4, 5))
    best = int(all_of_them.argmax())
    speed, score = float(speeds[best]), float(all_of_them[best])
    apart = np.abs(speeds - speed) > AGREEMENT * speed
    lead = score - float(np.median(all_of_them))
    confidence = (score - float(all_of_them[apart].max())) / lead if apart.any() and lead > 0 else 0.0
    other = float(speeds[low.argmax()])
    if score < EVIDENCE:
        return SpeedEstimate(speed, 0.0, "the signal has no harmonics of a shaft near the nominal speed")
    if abs(speed / nominal - 1) > tolerance:
        reason = f"its harmonics name {speed:.4g} Hz, more than {tolerance:.0%} off the nominal {nominal:.4g} Hz"
        return SpeedEstimate(speed, 0.0, reason)
    if abs(other - speed) > AGREEMENT * speed:
        reason = f"its lowest harmonics name {other:.4g} Hz and all of them {speed:.4g} Hz"
        return SpeedEstimate(speed, 0.0, reason)
    return SpeedEstimate(speed, min(max(confidence, 0.0), 1.0), "")


def speeds_of(
    windows: NDArray[np.float32], speed: float | None, told: NDArray[np.float32] | None, where: str
) -> NDArray[np.float64]:
    """The shaft's speed in each window, Hz, (n,): the fixed one, or what is told; NaN where it is not above 0.

    Raises:
        UserError: none is fixed, and none told of each window.
    """
    if speed is not None:
        return np.full(len(windows), speed, np.float64)
    if told is None or told.shape != (len(windows), 1):
        got = "nothing" if told is None else f"numbers of shape {told.shape}"
        raise UserError(f"{where}: expected the speed told of each of {len(windows)} windows, got {got}")
    speeds = told[:, 0].astype(np.float64)
    return np.where((speeds > 0) & (speeds < np.inf), speeds, np.nan)


def check_speed(speed: float | None, where: str) -> None:
    """See that a fixed speed is one.

    Raises:
        UserError: it is none.
    """
    if speed is not None and not 0 < speed < np.inf:
        raise UserError(f"{where}.speed: expected the shaft's speed in Hz above 0, got {speed}")


def _heights(
    x: NDArray[np.float64], sample_rate: float, nominal: float, reach: float, count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Speeds, Hz, (s,), and the log height of the spectrum at their harmonics, (count, s)."""
    from scipy import fft
    from scipy.ndimage import median_filter

    size = PADDING * fft.next_fast_len(len(x), real=True)
    top = int((count + 1) * nominal * (1 + reach) * size / sample_rate) + 2
    power = np.square(np.abs(fft.rfft((x - x.mean()) * np.hanning(len(x)), size)[:top]))
    width = int(nominal * size / sample_rate / PADDING) | 1  # one revolution's, in lines that are not padded
    around = median_filter(power[::PADDING], width, mode="nearest")
    surroundings = 3 * np.interp(np.arange(len(power)), np.arange(0, len(power), PADDING), around)
    height = np.minimum(np.log1p(power / np.maximum(surroundings, np.finfo(float).tiny)), CEILING)
    steps = int(np.ceil(2 * reach * nominal * count * size / sample_rate))  # a line at the highest harmonic
    speeds = np.linspace(nominal * (1 - reach), nominal * (1 + reach), max(steps, 50))
    at = np.arange(1, count + 1)[:, None] * speeds * size / sample_rate
    return speeds, np.interp(at, np.arange(len(height)), height)


def _average(heights: NDArray[np.float64], left_out: tuple[int, ...]) -> NDArray[np.float64]:
    """The mean over harmonics h, weighted by h^-½, least of those with the multiples of each number left out."""
    harmonic = np.arange(1, len(heights) + 1)
    averages = []
    for number in left_out:
        kept = np.ones(len(heights), bool) if number == 1 else harmonic % number > 0
        averages.append(np.average(heights[kept], axis=0, weights=harmonic[kept] ** -0.5))
    least: NDArray[np.float64] = np.min(averages, axis=0)
    return least
