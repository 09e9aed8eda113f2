"""History: what is remembered of earlier readings, to tell which new readings are repeated or late.

It also keeps an estimate of how far each machine's clock is from ours.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.connectors.decoding.columns import Columns
from fml_lightning.connectors.decoding.streams import StreamNames
from fml_lightning.connectors.quality import Quality

REMEMBERED = 100_000
"""Readings in a generation. A reading is compared with a whole generation of those before it, at least."""
SMOOTHING = 0.1
"""The weight of a new observation in the running mean of `History.skew`."""
NEVER = np.iinfo(np.int64).min
"""Earlier than any time, µs."""

KeyColumns = tuple[NDArray[Any], ...]
"""Stream, device time and digest (`Columns.digests`) of n readings, (n,) each. Two readings that agree in all are
the same."""


class Generation:
    """A set of readings, to be asked by their hashes whether it holds a given one.

    Most devices never repeat themselves, and then nobody asks. So `add` only keeps the columns of the readings;
    `hashes` computes the hashes when it is called.
    """

    def __init__(self) -> None:
        self.size = 0
        """Readings that were added."""
        self._unhashed: list[KeyColumns] = []
        self._hashes: set[int] = set()

    def add(self, columns: KeyColumns) -> None:
        """Add readings."""
        self.size += len(columns[0])
        self._unhashed.append(columns)

    def add_hashes(self, hashes: list[int]) -> None:
        """Add readings of which the hashes are known."""
        self.size += len(hashes)
        self._hashes.update(hashes)

    def hashes(self) -> set[int]:
        """The hashes of all readings that were added."""
        for columns in self._unhashed:
            self._hashes.update(_hashes(columns))
        self._unhashed.clear()
        return self._hashes


class History:
    """Remembers, of each stream, the newest time, and of all streams together, the last readings."""

    def __init__(self) -> None:
        self.skew: dict[tuple[str, str], float] = {}
        """Per site and machine, the running mean of received time minus device time, seconds: how long transport
        takes, plus how far the device's clock is behind ours."""
        self._watermark: dict[int, int] = {}  # per stream, of the times that are plausible and past, µs
        self._newest_of_device: dict[int, int] = {}  # per stream, of all times that a device has sent, µs
        self._filling, self._full = Generation(), Generation()  # the last readings, and those before them

    def compare(self, readings: Columns, names: StreamNames) -> tuple[Columns, NDArray[np.bool_]]:
        """Compare readings with earlier ones, and remember them for the next call.

        A reading is *repeated* if one with the same stream, device time, rate and samples, all of them, came
        before: a publisher that does not know whether a message arrived sends it again. A reading is *late*
        if it is older than its stream's watermark: the newest plausible time that came before, where a time ahead
        of the moment it was received counts as that moment. So no clock that is ahead makes later readings late.
        The result does not depend on how readings are divided among calls.

        Args:
            readings: n of them.
            names: of the streams.

        Returns:
            The readings, with `Quality.LATE` added where they are late, and whether each is repeated, (n,).
        """
        is_repeated = np.zeros(len(readings), np.bool_)
        if not len(readings):
            return readings, is_repeated
        has_device_time = (readings.quality & int(Quality.NO_DEVICE_TIME)) == 0
        is_plausible = (readings.quality & int(Quality.IMPLAUSIBLE_TIME)) == 0
        by_stream = np.argsort(readings.stream, kind="stable")
        come = np.minimum(readings.time, readings.received)
        is_late = readings.time < _newest_before(readings, come, is_plausible, by_stream, self._watermark)
        if has_device_time.any():
            newest = _newest_before(readings, readings.time, has_device_time, by_stream, self._newest_of_device)
            is_newest = (readings.time > newest)[has_device_time]
            columns = (readings.stream, readings.time, readings.digests())
            keys = tuple(column[has_device_time] for column in columns)
            is_repeated[has_device_time] = self._are_repeated(keys, is_newest)
        self._estimate_skew(readings, has_device_time, names)
        quality = readings.quality | is_late * np.uint16(Quality.LATE)
        return replace(readings, quality=quality), is_repeated

    def _are_repeated(self, columns: KeyColumns, is_newest: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Whether each of m readings has come before, (m,), and add them to the generation that is filling.

        A reading that is newer than all before it on its stream cannot have come before. Where all readings are
        (`is_newest`, (m,)), no hash is computed.
        """
        found = np.zeros(len(is_newest), np.bool_)
        begin = 0
        while begin < len(found):
            part = slice(begin, begin + REMEMBERED - self._filling.size)  # as many as the generation has room for
            some = tuple(column[part] for column in columns)
            if is_newest[part].all():
                self._filling.add(some)
            else:
                filling, full, hashes = self._filling.hashes(), self._full.hashes(), _hashes(some)
                seen: set[int] = set()  # of this part
                for i, key in enumerate(hashes, begin):
                    found[i] = key in filling or key in full or key in seen
                    seen.add(key)
                self._filling.add_hashes(hashes)
            if self._filling.size >= REMEMBERED:
                self._filling, self._full = Generation(), self._filling
            begin += len(some[0])
        return found

    def _estimate_skew(self, readings: Columns, has_device_time: NDArray[np.bool_], names: StreamNames) -> None:
        """Update `skew` with the last reading of each stream that has a device time and was not retained."""
        telling = np.flatnonzero(has_device_time & ((readings.quality & int(Quality.RETAINED)) == 0))
        if not len(telling):
            return
        last = np.full(int(readings.stream.max()) + 1, -1)
        last[readings.stream[telling]] = telling  # of several readings of one stream numpy keeps the last
        for i in np.sort(last[last >= 0]).tolist():
            site, machine, *_ = names[int(readings.stream[i])]
            seconds = int(readings.received[i] - readings.time[i]) / 1e6
            old = self.skew.get((site, machine), seconds)
            self.skew[site, machine] = old + SMOOTHING * (seconds - old)


def _hashes(columns: KeyColumns) -> list[int]:
    return pl.DataFrame({str(i): column for i, column in enumerate(columns)}).hash_rows(seed=0).to_list()


def _newest_before(
    readings: Columns,
    time: NDArray[np.int64],
    counted: NDArray[np.bool_],
    by_stream: NDArray[np.int64],
    newest_so_far: dict[int, int],
) -> NDArray[np.int64]:
    """For each reading, the newest time that came before it on its stream, (n,) µs; `NEVER` where none did.

    Args:
        readings: n of them.
        time: of each, as it counts, µs since 1970, (n,).
        counted: the readings whose times count, (n,).
        by_stream: the indices that sort readings by stream, and within a stream as they came, (n,).
        newest_so_far: the newest time of each stream before all these readings, µs; it is updated.
    """
    stream = readings.stream[by_stream]
    begins = np.flatnonzero(np.diff(stream, prepend=-1))
    ends = np.append(begins[1:], len(stream))
    numbers = stream[begins].tolist()
    earlier = np.array([newest_so_far.get(number, NEVER) for number in numbers])
    newest = _running_max(np.where(counted, time, NEVER)[by_stream], begins)
    latest = np.maximum(earlier, newest[ends - 1]).tolist()
    newest_so_far.update((number, time) for number, time in zip(numbers, latest, strict=True) if time != NEVER)
    before = np.roll(newest, 1)
    before[begins] = NEVER
    result = np.empty(len(stream), np.int64)
    result[by_stream] = np.maximum(before, np.repeat(earlier, ends - begins))
    return result


def _running_max(values: NDArray[np.int64], begins: NDArray[np.int64]) -> NDArray[np.int64]:
    """At each place the largest of the values from the last of `begins` (the first is 0) up to there, (n,).

    >>> _running_max(np.array([3, 1, 4, 2, 1, 5]), np.array([0, 3]))
    array([3, 3, 4, 2, 2, 5])
    """
    rising = values[1:] >= values[:-1]
    rising[begins[1:] - 1] = True
    if rising.all():
        return values
    # Each value is replaced by its rank, plus len(values) for every part before its own: then no rank of a part
    # exceeds one of the next part, and one running maximum over all of them begins anew by itself.
    by_value = np.argsort(values, kind="stable")
    rank = np.empty(len(values), np.int64)
    rank[by_value] = np.arange(len(values))
    part = np.zeros(len(values), np.int64)
    part[begins[1:]] = len(values)
    part = np.cumsum(part)
    return values[by_value[np.maximum.accumulate(part + rank) - part]]
