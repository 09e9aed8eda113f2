"""Inputs: slow scalars of a stream, such as speed and load, that the network sees beside a window's features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.connectors.quality import Quality

MAX_AGE = 3600.0
"""Seconds for which a value holds, unless a user says otherwise."""
MOST = 200_000
"""Values that are kept of each machine and channel, the newest; at one a second, those of two days."""
BAD = int(Quality.RETAINED | Quality.IMPLAUSIBLE_TIME | Quality.NOT_FINITE | Quality.BAD)


class Inputs:
    """The last values of scalar channels before any moment.

    Args:
        channels: their names, in the order in which the network sees them.
        max_age: seconds for which a value holds.
    """

    def __init__(self, channels: Sequence[str], max_age: float) -> None:
        self.channels = tuple(channels)
        self.max_age = max_age
        self._said: dict[tuple[str, str], tuple[NDArray[np.int64], NDArray[np.float32]]] = {}

    def add(self, readings: pl.DataFrame) -> None:
        """Take in the scalars of the channels among readings (`READINGS`), which may come in any order."""
        scalars = readings.filter(
            pl.col("channel").is_in(self.channels)
            & pl.col("sample_rate").is_null()
            & ((pl.col("quality") & BAD) == 0)
        )
        for (machine, channel), own in scalars.group_by("machine", "channel", maintain_order=True):
            times, values = self._said.get((str(machine), str(channel)), (np.empty(0, np.int64), np.empty(0)))
            times = np.concatenate([times, own["time"].to_physical().to_numpy()])
            values = np.concatenate([values, own["values"].list.first().to_numpy()])
            order = np.argsort(times, kind="stable")[-MOST:]
            self._said[str(machine), str(channel)] = times[order], values[order].astype(np.float32)

    def at(self, machine: str, moments: NDArray[np.int64]) -> NDArray[np.float32]:
        """The value of each of C channels that holds at n moments (µs since 1970), (n, C); NaN where none does."""
        found = np.full((len(moments), len(self.channels)), np.nan, np.float32)
        for i, channel in enumerate(self.channels):
            times, values = self._said.get((machine, channel), (np.empty(0, np.int64), np.empty(0)))
            at = np.searchsorted(times, moments, side="right") - 1
            holds = at >= 0
            holds[holds] &= moments[holds] - times[at[holds]] <= self.max_age * 1e6
            found[holds, i] = values[at[holds]]
        return found
