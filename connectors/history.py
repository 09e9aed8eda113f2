"""History: what came before, by which a reading is known as repeated or late, and a device's clock as skewed."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.connectors.readings import Quality
from fml_lightning.connectors.streams import StreamNames

REMEMBERED = 100_000
"""Readings with a device time among which, at least, a repeated one is looked for."""
SMOOTHING = 0.1
"""How much of a new distance between two clocks counts."""


class History:
    """Remembers the newest time of each stream, and hashes of its last readings."""

    def __init__(self) -> None:
        self.skew: dict[tuple[str, str], float] = {}
        """Per site and machine, seconds from the device's time to the time received, a running mean: transport
        delay plus how far the device's clock is behind."""
        self._watermarks: dict[int, int] = {}
        self._recent: set[int] = set()
        self._before: set[int] = set()

    def compare(self, frame: pl.DataFrame, names: StreamNames) -> tuple[NDArray[np.bool_], NDArray[Any]]:
        """Compare readings with those before, and remember them.

        A publisher that is not sure whether a message arrived sends it again: the same stream, device time, number
        of samples, first and last sample are the same reading. A reading older than one before it on its stream is
        late.

        Args:
            frame: `READINGS` with a column `stream`, in order of `sequence`.
            names: of the streams.

        Returns:
            Whether each row is repeated, and its quality with `Quality.LATE` where it is late: (n,), (n,) uint8.
        """
        samples = frame["values"].list
        key_columns = [frame["stream"], frame["time"], samples.len(), samples.first(), samples.last()]
        keys = pl.DataFrame({str(i): column for i, column in enumerate(key_columns)}).hash_rows(seed=0)
        quality = frame["quality"].to_numpy()
        time = frame["time"].to_physical().to_numpy()
        stream = frame["stream"].to_numpy()
        doubted, untimed = int(Quality.IMPLAUSIBLE_TIME), int(Quality.NO_DEVICE_TIME)
        recent, before, marks = self._recent, self._before, self._watermarks
        repeated, late = [], []
        for key, number, moment, flags in zip(
            keys.to_list(), stream.tolist(), time.tolist(), quality.tolist(), strict=True
        ):
            again = False
            if not flags & untimed:
                again = key in recent or key in before
                recent.add(key)
                if len(recent) >= REMEMBERED:  # here, so that it does not matter where frames end
                    recent, before = set(), recent
            mark = marks.get(number, moment)
            repeated.append(again)
            late.append(moment < mark)
            if moment >= mark and not flags & doubted:
                marks[number] = moment
        self._recent, self._before = recent, before
        self._estimate_skew(frame, quality, time, names)
        return np.array(repeated), quality | np.where(late, np.uint8(Quality.LATE), np.uint8(0))

    def _estimate_skew(
        self, frame: pl.DataFrame, quality: NDArray[Any], time: NDArray[np.int64], names: StreamNames
    ) -> None:
        """From the last reading of each stream."""
        good = (quality & int(Quality.NO_DEVICE_TIME | Quality.RETAINED)) == 0
        away = (frame["received"].to_physical().to_numpy() - time)[good].tolist()
        for number, microseconds in dict(
            zip(frame["stream"].to_numpy()[good].tolist(), away, strict=True)
        ).items():
            site, machine, _ = names[number]
            old = self.skew.get((site, machine), microseconds / 1e6)
            self.skew[site, machine] = old + SMOOTHING * (microseconds / 1e6 - old)
