"""A check of devices' times: whether most are implausible, and which unit would make them plausible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fml_lightning.connectors.codecs.times import TimeUnit, from_microseconds
from fml_lightning.connectors.decoding.columns import Columns
from fml_lightning.connectors.quality import AHEAD, BEHIND, DAY, Quality

ENOUGH = 40
"""Readings of which more than half must be implausible before anything is said."""
NANOSECONDS: dict[str, int] = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
"""In one of each unit."""


class Looked(NamedTuple):
    """Readings that were looked at, n of them."""

    time: NDArray[np.int64]
    """As they were read, µs since 1970, UTC, (n,)."""
    received: NDArray[np.int64]
    """Likewise, (n,)."""
    is_implausible: NDArray[np.bool_]
    """(n,)."""
    topic: str
    """Of the last that is implausible."""


class TimeCheck:
    """Looks at the last `ENOUGH` readings that have a device's time and were not retained, or at a larger group.

    Args:
        unit_of: the unit in which the times of a topic are read; None where there is none.
    """

    def __init__(self, unit_of: Callable[[str], TimeUnit | None]) -> None:
        self._unit_of = unit_of
        self._last = Looked(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.bool_), "")
        self._told: tuple[Looked, str | None] = self._last, None

    def add(self, readings: Columns, kept: NDArray[np.bool_], topic_of: Callable[[int], str]) -> None:
        """Look at n readings that came last.

        Args:
            readings: n of them.
            kept: those that count, (n,).
            topic_of: the topic of the message with a sequence number, one of the readings'.
        """
        counted = np.flatnonzero(kept & ((readings.quality & int(Quality.NO_DEVICE_TIME | Quality.RETAINED)) == 0))
        if not len(counted):
            return
        is_implausible = (readings.quality[counted] & int(Quality.IMPLAUSIBLE_TIME)) != 0
        time, received, topic = readings.time[counted], readings.received[counted], self._last.topic
        if is_implausible.any():
            topic = topic_of(int(readings.sequence[counted[is_implausible][-1]]))
        if missing := max(0, ENOUGH - len(counted)):
            before = self._last
            time = np.concatenate([before.time[-missing:], time])
            received = np.concatenate([before.received[-missing:], received])
            is_implausible = np.concatenate([before.is_implausible[-missing:], is_implausible])
        self._last = Looked(time, received, is_implausible, topic)

    @property
    def warning(self) -> str | None:
        """What is wrong with most of the last times, in one sentence; None if they are plausible."""
        last = self._last  # another thread may add meanwhile
        if last is not self._told[0]:  # who asks often, asks often of the same
            self._told = last, self._sentence(last)
        return self._told[1]

    def _sentence(self, last: Looked) -> str | None:
        bad, count = int(last.is_implausible.sum()), len(last.time)
        if count < ENOUGH or 2 * bad <= count:
            return None
        some = np.flatnonzero(last.is_implausible)[-ENOUGH:]
        why = diagnosis(last.time[some], last.received[some], self._unit_of(last.topic))
        return f"{bad:,} of the last {count:,} readings ({last.topic:.100}) have implausible times: {why}"


def diagnosis(time: NDArray[np.int64], received: NDArray[np.int64], unit: TimeUnit | None) -> str:
    """Why devices' times are implausible.

    Args:
        time: the times, as they were read, µs since 1970, UTC, (n,).
        received: when they were received, likewise, (n,).
        unit: in which they were read; None where it is not known.

    >>> diagnosis(np.array([1_714_564_800_000]), np.array([1_714_564_801_000_000]), "ms")
    'times are read as ms but look like s: set time_unit: s'
    """
    if unit in NANOSECONDS:
        for other in NANOSECONDS:
            if _most_plausible(time * (NANOSECONDS[other] / NANOSECONDS[unit]), received):
                return f"times are read as {unit} but look like {other}: set time_unit: {other}"
    if unit is None:
        for thousands in (1, 2, 3):
            for factor, word in ((1000.0**thousands, "small"), (1000.0**-thousands, "large")):
                if _most_plausible(time * factor, received):
                    return f"times are too {word} by a factor of {1000**thousands:,}: mend their unit in the codec"
    ahead = int(np.median(time - received))
    clock = from_microseconds(int(np.median(time)))
    way = "ahead" if ahead > 0 else "behind"
    return f"the device's clock is at {clock:%Y-%m-%d %H:%M} UTC, {abs(ahead) // DAY:,} days {way}: set it"


def _most_plausible(time: NDArray[np.floating[Any]], received: NDArray[np.int64]) -> bool:
    return bool(np.mean((time <= received + AHEAD) & (time >= received - BEHIND)) > 0.5)
