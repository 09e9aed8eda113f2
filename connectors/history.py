"""History: what came before, by which a reading is known as repeated or late, and a device's clock as skewed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.connectors.columns import Columns
from fml_lightning.connectors.readings import Quality
from fml_lightning.connectors.streams import StreamNames

REMEMBERED = 100_000
"""Readings with a device time among which, at least, a repeated one is looked for."""
SMOOTHING = 0.1
"""How much of a new distance between two clocks counts."""
NEVER = np.iinfo(np.int64).min
"""Earlier than any time, µs."""


class History:
    """Remembers the newest time of each stream, and hashes of its last readings."""

    def __init__(self) -> None:
        self.skew: dict[tuple[str, str], float] = {}
        """Per site and machine, seconds from the device's time to the time received, a running mean: transport
        delay plus how far the device's clock is behind."""
        self._watermarks: dict[int, int] = {}
        self._recent: set[int] = set()
        self._before: set[int] = set()

    def compare(self, readings: Columns, names: StreamNames) -> tuple[Columns, NDArray[np.bool_]]:
        """Compare readings with those before, and remember them; where frames end makes no difference.

        A publisher that is not sure whether a message arrived sends it again: the same stream, device time, number
        of samples, first and last sample are the same reading. A reading older than one before it on its stream is
        late.

        Args:
            readings: n of them.
            names: of the streams.

        Returns:
            The readings, with `Quality.LATE` where they are late, and whether each is repeated, (n,).
        """
        repeated = np.zeros(len(readings), np.bool_)
        if not len(readings):
            return readings, repeated
        timed = (readings.quality & int(Quality.NO_DEVICE_TIME)) == 0
        if timed.any():
            key_columns = (readings.stream, readings.time, *readings.edges())
            keys = pl.DataFrame({str(i): column for i, column in enumerate(key_columns)}).hash_rows(seed=0)
            repeated[timed] = self._repeated(keys.filter(timed).to_list())
        self._estimate_skew(readings, timed, names)
        late = self._late(readings)
        return replace(readings, quality=readings.quality | late * np.uint8(Quality.LATE)), repeated

    def _repeated(self, keys: list[int]) -> list[bool]:
        """Whether each key has come before; all are remembered."""
        found: list[bool] = []
        while keys:
            room = REMEMBERED - len(self._recent)
            some, keys = keys[:room], keys[room:]
            fresh = set(some)
            if len(fresh) == len(some) and fresh.isdisjoint(self._recent) and fresh.isdisjoint(self._before):
                found += [False] * len(some)
                self._recent |= fresh
            else:
                for key in some:
                    found.append(key in self._recent or key in self._before)
                    self._recent.add(key)
            if len(self._recent) >= REMEMBERED:
                self._recent, self._before = set(), self._recent
        return found

    def _late(self, readings: Columns) -> NDArray[np.bool_]:
        """Whether each reading is older than one of undoubted time before it on its stream, (n,)."""
        order = np.argsort(readings.stream, kind="stable")
        stream, time = readings.stream[order], readings.time[order]
        doubtful = (readings.quality[order] & int(Quality.IMPLAUSIBLE_TIME)) != 0
        begins = np.flatnonzero(np.diff(stream, prepend=-1))
        numbers = stream[begins].tolist()
        marks = np.array([self._watermarks.get(number, NEVER) for number in numbers])
        newest = _running_max(np.where(doubtful, NEVER, time), begins)
        before = np.roll(newest, 1)
        before[begins] = NEVER
        before = np.maximum(before, np.repeat(marks, np.diff(begins, append=len(stream))))
        ends = np.append(begins[1:], len(stream)) - 1
        for number, mark in zip(numbers, np.maximum(marks, newest[ends]).tolist(), strict=True):
            if mark != NEVER:
                self._watermarks[number] = mark
        late = np.empty(len(stream), np.bool_)
        late[order] = time < before
        return late

    def _estimate_skew(self, readings: Columns, timed: NDArray[np.bool_], names: StreamNames) -> None:
        """From the last reading of each stream."""
        good = timed & ((readings.quality & int(Quality.RETAINED)) == 0)
        away = (readings.received - readings.time)[good].tolist()
        for number, microseconds in dict(zip(readings.stream[good].tolist(), away, strict=True)).items():
            site, machine, _ = names[number]
            old = self.skew.get((site, machine), microseconds / 1e6)
            self.skew[site, machine] = old + SMOOTHING * (microseconds / 1e6 - old)


def _running_max(values: NDArray[np.int64], begins: NDArray[np.int64]) -> NDArray[np.int64]:
    """The largest value so far, beginning anew at each of `begins` (the first is 0): (n,).

    >>> _running_max(np.array([3, 1, 4, 2, 1, 5]), np.array([0, 3]))
    array([3, 3, 4, 2, 2, 5])
    """
    rising = values[1:] >= values[:-1]
    rising[begins[1:] - 1] = True
    if rising.all():
        return values
    by_value = np.argsort(values, kind="stable")
    rank = np.empty(len(values), np.int64)
    rank[by_value] = np.arange(len(values))
    part = np.zeros(len(values), np.int64)
    part[begins[1:]] = len(values)
    part = np.cumsum(part)
    return values[by_value[np.maximum.accumulate(part + rank) - part]]
