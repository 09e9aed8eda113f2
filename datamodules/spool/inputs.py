"""Inputs: slow scalars of a stream, such as speed and load, that features need or the network sees beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.connectors.quality import Quality
from fml_lightning.preprocessing.packed import Packed

MOST = 200_000
"""Values that are kept of each machine and channel, the newest; at one a second, those of two days."""
BAD = int(Quality.RETAINED | Quality.IMPLAUSIBLE_TIME | Quality.NOT_FINITE | Quality.BAD)


class Said(NamedTuple):
    """What one machine says, n values in the order in which they came."""

    place: NDArray[np.int64]
    """Of each one's reading, among those that came with it, ascending, (n,)."""
    channel: NDArray[np.object_]
    """(n,)."""
    time: NDArray[np.int64]
    """µs since 1970, (n,)."""
    value: NDArray[np.float32]
    """(n,)."""

    def part(self, begin: int, end: int) -> Said:
        """Some of them."""
        return Said(self.place[begin:end], self.channel[begin:end], self.time[begin:end], self.value[begin:end])


NOTHING = Said(np.empty(0, np.int64), np.empty(0, object), np.empty(0, np.int64), np.empty(0, np.float32))


class SaidState(msgspec.Struct, frozen=True):
    """What a machine has said of a channel, as plain types."""

    machine: str
    channel: str
    times: Packed
    """Ascending."""
    values: Packed

    def __post_init__(self) -> None:
        """Refuse other than one value for each time."""
        if len(self.times.array(np.int64)) != len(self.values.array(np.float32)) or not self.times.data:
            raise ValueError("expected a value for each time, and at least one")


class Inputs:
    """The last values of scalar channels before any moment.

    Args:
        channels: their names.
        max_age: seconds for which a value holds.
        nameplate: what is known of a machine, by its name, where no value holds: numbers by channel.
    """

    def __init__(
        self,
        channels: Sequence[str],
        max_age: float,
        nameplate: Callable[[str], Mapping[str, float]] = lambda machine: {},
    ) -> None:
        self.channels = tuple(channels)
        self.max_age = max_age
        self.nameplate = nameplate
        self.said: dict[tuple[str, str], tuple[NDArray[np.int64], NDArray[np.float32]]] = {}
        """Times, ascending, and values, by machine and channel."""

    def state(self) -> list[SaidState]:
        """All that machines have said and is kept."""
        return [
            SaidState(machine, channel, Packed.of(times), Packed.of(values))
            for (machine, channel), (times, values) in self.said.items()
        ]

    def restore(self, state: Iterable[SaidState]) -> None:
        """Know what others have known (`state`)."""
        self.said = {
            (each.machine, each.channel): (each.times.array(np.int64), each.values.array(np.float32))
            for each in state
        }

    def forget(self, machine: str) -> None:
        """Know nothing of a machine any more."""
        for channel in self.channels:
            self.said.pop((machine, channel), None)

    def among(self, readings: pl.DataFrame) -> Iterator[tuple[str, Said]]:
        """What each machine says among readings (`READINGS`, with the column `place`)."""
        scalars = readings.filter(
            pl.col("channel").is_in(self.channels)
            & pl.col("sample_rate").is_null()
            & ((pl.col("quality") & BAD) == 0)
        )
        for (machine,), own in scalars.group_by("machine", maintain_order=True):
            yield (
                str(machine),
                Said(
                    own["place"].cast(pl.Int64).to_numpy(),
                    own["channel"].to_numpy(),
                    own["time"].to_physical().to_numpy(),
                    own["values"].list.first().to_numpy(),
                ),
            )

    def add(self, machine: str, said: Said) -> None:
        """Take in what a machine says; the times may be in any order."""
        for channel in self.channels:
            here = said.channel == channel
            if here.any():
                times, values = self.said.get((machine, channel), (np.empty(0, np.int64), np.empty(0)))
                times = np.concatenate([times, said.time[here]])
                values = np.concatenate([values, said.value[here]])
                order = np.argsort(times, kind="stable")[-MOST:]
                self.said[machine, channel] = times[order], values[order].astype(np.float32)

    def at(self, machine: str, moments: NDArray[np.int64], channels: Sequence[str]) -> NDArray[np.float32]:
        """The value of each of C channels that holds at n moments (µs since 1970), (n, C); NaN where none does."""
        known = self.nameplate(machine)
        found = np.empty((len(moments), len(channels)), np.float32)
        for i, channel in enumerate(channels):
            found[:, i] = known.get(channel, np.nan)
            times, values = self.said.get((machine, channel), (np.empty(0, np.int64), np.empty(0)))
            at = np.searchsorted(times, moments, side="right") - 1
            holds = at >= 0
            holds[holds] &= moments[holds] - times[at[holds]] <= self.max_age * 1e6
            found[holds, i] = values[at[holds]]
        return found

    def is_final(self, machine: str, moments: NDArray[np.int64], channels: Sequence[str]) -> NDArray[np.bool_]:
        """Whether what holds at n moments (µs since 1970) is known for good, (n,).

        It is where a value of each channel has come that is no earlier than the moment, or where the nameplate
        tells it and the machine has never said another value.
        """
        known = self.nameplate(machine)
        found = np.ones(len(moments), np.bool_)
        for channel in channels:
            if (said := self.said.get((machine, channel))) is not None:
                found &= said[0][-1] >= moments
            elif channel not in known:
                found[:] = False
        return found
