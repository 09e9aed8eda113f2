"""History: what came before, by which a reading is known as repeated or late, and a device's clock as skewed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.connectors.decoding.columns import Columns
from fml_lightning.connectors.decoding.streams import StreamNames
from fml_lightning.connectors.readings import Quality

REMEMBERED = 100_000
"""Readings with a device time among which, at least, a repeated one is looked for."""
SMOOTHING = 0.1
"""How much of a new distance between two clocks counts."""
NEVER = np.iinfo(np.int64).min
"""Earlier than any time, µs."""

KeyColumns = tuple[NDArray[Any], ...]
"""By which readings are the same: stream, device time, number of samples, first and last sample, (n,) each."""


class Generation:
    """Readings that are remembered: as columns, and as hashes once somebody asks for these."""

    def __init__(self) -> None:
        self.size = 0
        """Readings so far."""
        self._columns: list[KeyColumns] = []
        self._hashes: set[int] = set()

    def add(self, columns: KeyColumns) -> None:
        """Remember readings."""
        self.size += len(columns[0])
        self._columns.append(columns)

    def add_hashes(self, hashes: list[int]) -> None:
        """Remember readings by their hashes."""
        self.size += len(hashes)
        self._hashes.update(hashes)

    def hashes(self) -> set[int]:
        """Of all readings so far."""
        for columns in self._columns:
            self._hashes.update(_hashes(columns))
        self._columns.clear()
        return self._hashes


class History:
    """Remembers the newest time of each stream, and the last readings."""

    def __init__(self) -> None:
        self.skew: dict[tuple[str, str], float] = {}
        """Per site and machine, seconds from the device's time to the time received, a running mean: transport
        delay plus how far the device's clock is behind."""
        self._watermarks: dict[int, int] = {}  # of streams, without times that are doubtful
        self._newest: dict[int, int] = {}  # of streams, of all times of devices
        self._recent, self._before = Generation(), Generation()

    def compare(self, readings: Columns, names: StreamNames) -> tuple[Columns, NDArray[np.bool_]]:
        """Compare readings with those before, and remember them; it does not matter where frames end.

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
        sure = (readings.quality & int(Quality.IMPLAUSIBLE_TIME)) == 0
        order = np.argsort(readings.stream, kind="stable")
        late = readings.time < _newest_before(readings, sure, order, self._watermarks)
        if timed.any():
            is_newest = readings.time > _newest_before(readings, timed, order, self._newest)
            columns = (readings.stream, readings.time, *readings.edges())
            repeated[timed] = self._repeated(tuple(column[timed] for column in columns), is_newest[timed])
        self._estimate_skew(readings, timed, names)
        return replace(readings, quality=readings.quality | late * np.uint8(Quality.LATE)), repeated

    def _repeated(self, columns: KeyColumns, is_newest: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Whether each reading has come before, (n,), which none can that is the newest of its stream."""
        found = np.zeros(len(is_newest), np.bool_)
        begin = 0
        while begin < len(found):
            part = slice(begin, begin + REMEMBERED - self._recent.size)
            some = tuple(column[part] for column in columns)
            if is_newest[part].all():
                self._recent.add(some)
            else:
                recent, before, keys = self._recent.hashes(), self._before.hashes(), _hashes(some)
                seen: set[int] = set()
                for i, key in enumerate(keys, begin):
                    found[i] = key in recent or key in before or key in seen
                    seen.add(key)
                self._recent.add_hashes(keys)
            if self._recent.size >= REMEMBERED:
                self._recent, self._before = Generation(), self._recent
            begin += len(some[0])
        return found

    def _estimate_skew(self, readings: Columns, timed: NDArray[np.bool_], names: StreamNames) -> None:
        """From the last reading of each stream."""
        good = np.flatnonzero(timed & ((readings.quality & int(Quality.RETAINED)) == 0))
        if not len(good):
            return
        last = np.full(int(readings.stream.max()) + 1, -1)
        last[readings.stream[good]] = good  # of readings of one stream, the last stays
        for i in np.sort(last[last >= 0]).tolist():
            site, machine, _ = names[int(readings.stream[i])]
            seconds = int(readings.received[i] - readings.time[i]) / 1e6
            old = self.skew.get((site, machine), seconds)
            self.skew[site, machine] = old + SMOOTHING * (seconds - old)


def _hashes(columns: KeyColumns) -> list[int]:
    return pl.DataFrame({str(i): column for i, column in enumerate(columns)}).hash_rows(seed=0).to_list()


def _newest_before(
    readings: Columns, counted: NDArray[np.bool_], order: NDArray[np.int64], marks: dict[int, int]
) -> NDArray[np.int64]:
    """The newest time on its stream before each reading, (n,) µs, among those that are counted.

    Args:
        readings: n of them.
        counted: which count, (n,).
        order: brings them into order of streams, (n,).
        marks: the newest times before all of them; updated.
    """
    stream = readings.stream[order]
    begins = np.flatnonzero(np.diff(stream, prepend=-1))
    ends = np.append(begins[1:], len(stream))
    numbers = stream[begins].tolist()
    old = np.array([marks.get(number, NEVER) for number in numbers])
    newest = _running_max(np.where(counted, readings.time, NEVER)[order], begins)
    latest = np.maximum(old, newest[ends - 1]).tolist()
    marks.update((number, mark) for number, mark in zip(numbers, latest, strict=True) if mark != NEVER)
    before = np.roll(newest, 1)
    before[begins] = NEVER
    result = np.empty(len(stream), np.int64)
    result[order] = np.maximum(before, np.repeat(old, ends - begins))
    return result


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
