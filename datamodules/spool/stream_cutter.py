"""The stream cutter: windows of a stream's machines, as blocks arrive, with what is told of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.datamodules.machine_windows import AT_ONCE
from fml_lightning.datamodules.spool.blocks import (
    Arrived,
    blocks,
    no_blocks,
    of_one_unit,
    sort_out,
)
from fml_lightning.datamodules.spool.inputs import NOTHING, Inputs, Said, SaidState
from fml_lightning.datamodules.spool.left_out import LeftOut, Reason
from fml_lightning.preprocessing.channels_cutter import ChannelsCutter, ChannelsCutterState
from fml_lightning.preprocessing.packed import Packed
from fml_lightning.preprocessing.preprocessing import Preprocessing
from fml_lightning.stream_timing import MAX_LATENESS

MOST_AWAITING = 64
"""Windows of a machine that wait at most until it is known for good what they need, such as the speed."""


class Cut(NamedTuple):
    """Windows of one machine and sample rate, n in number, in the order in which they were complete."""

    values: NDArray[np.float32]
    """(n, C, W)."""
    start: NDArray[np.int64]
    """Times of their first samples, µs since 1970, (n,)."""
    place: NDArray[np.int64]
    """Of the reading that completed each, among those that came with it, ascending, (n,)."""
    sample_rate: float
    """Hz."""

    def where(self, rows: NDArray[np.bool_] | slice) -> Cut:
        """Some of them."""
        return Cut(self.values[rows], self.start[rows], self.place[rows], self.sample_rate)

    @property
    def last(self) -> NDArray[np.int64]:
        """Times of their last samples, µs since 1970, (n,)."""
        return last_samples(self.start, self.values.shape[2], 1e6 / self.sample_rate)


Told = tuple[Cut, NDArray[np.float32]]
"""Windows, and what is told of each of them, (n, `len(needs)`)."""


class CutState(NamedTuple):
    """The same as plain types."""

    values: Packed
    start: Packed
    place: Packed
    sample_rate: float


class StreamCutterState(msgspec.Struct, frozen=True, tag="blocks"):
    """All that a stream cutter has learnt, as plain types."""

    cutters: dict[str, ChannelsCutterState]
    """By machine."""
    awaiting: dict[str, list[CutState]]
    """By machine."""
    units: dict[str, str]
    left_out: dict[str, dict[str, int]]
    """By machine and the name of the reason."""
    inputs: list[SaidState]


class StreamCutter:
    """Cuts the blocks of one site's machines into windows, each of which it gives once.

    What it gives, and in which order, depends on the order of the readings alone, not on how many are added at
    once.

    Args:
        preprocessing: how stretches are cut, and which channels, rate and unit are expected.
        channels: the channels, in the order in which they stand in a window.
        needs: names of what must be told of every window: the value that holds at its last sample, by a channel
            of `inputs` or the machine's nameplate. A machine's newest `MOST_AWAITING` windows wait until that is
            known for good; then, or when there are more, they are given with what is known, or left out.
        inputs: slow scalars of the machines.
        max_lateness: seconds after its own time that a reading may be received; later ones are left out.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        channels: Sequence[str],
        needs: Sequence[str],
        inputs: Inputs,
        max_lateness: float = MAX_LATENESS,
    ) -> None:
        self.preprocessing = preprocessing
        self.windowing = preprocessing.windowing_in_samples()
        self.channels = tuple(channels)
        self.needs = tuple(needs)
        self.inputs = inputs
        self.max_lateness = max_lateness
        self.cutters: dict[str, ChannelsCutter] = {}
        """Of every machine that sent blocks, by its name."""
        self.awaiting: dict[str, list[Cut]] = {}
        """Windows that wait, one each, in the order in which they were complete."""
        self.units: dict[str, str] = {}
        """The first unit of each machine's channels."""
        self.left_out: dict[str, LeftOut] = {}
        """What each machine has sent and is in no window, as far as that is known when it is left out."""

    def state(self) -> StreamCutterState:
        """All that it has learnt, so that another one with the same arguments can go on in its place."""
        return StreamCutterState(
            {machine: cutter.state() for machine, cutter in self.cutters.items()},
            {machine: [_state(cut) for cut in cuts] for machine, cuts in self.awaiting.items()},
            dict(self.units),
            {machine: {why.name: count for why, count in left.items()} for machine, left in self.left_out.items()},
            self.inputs.state(),
        )

    def restore(self, state: StreamCutterState) -> None:
        """Go on in the place of another one, with the same arguments; this one has cut nothing yet.

        Raises:
            ValueError: it is the state of one with other arguments, or of none.
        """
        for machine, learnt in state.cutters.items():
            self._cutter(machine).restore(learnt)
        self.awaiting = {
            machine: [self._restored(cut) for cut in cuts] for machine, cuts in state.awaiting.items()
        }
        self.units = dict(state.units)
        if unknown := {why for left in state.left_out.values() for why in left} - {*Reason.__members__}:
            raise ValueError(f"expected reasons of what is left out, got {', '.join(sorted(unknown))}")
        self.left_out = {
            machine: LeftOut({Reason[why]: count for why, count in left.items()})
            for machine, left in state.left_out.items()
        }
        self.inputs.restore(state.inputs)

    def forget(self, machine: str) -> None:
        """Know nothing of a machine any more: its next block is its first."""
        for known in (self.cutters, self.awaiting, self.left_out):
            known.pop(machine, None)
        for channel in self.channels:
            self.units.pop(f"{machine}\0{channel}", None)
        self.inputs.forget(machine)

    def _restored(self, state: CutState) -> Cut:
        if state.values.shape != [1, len(self.channels), self.windowing.length]:
            raise ValueError(f"expected one window of each channel, got an array {state.values.shape}")
        start, place = state.start.array(np.int64), state.place.array(np.int64)
        if len(start) != 1 or len(place) != 1 or not state.sample_rate > 0:
            raise ValueError("expected the time, the place and the sample rate of one window")
        return Cut(state.values.array(np.float32, 3), start, place, state.sample_rate)

    def _cutter(self, machine: str) -> ChannelsCutter:
        """The cutter of a machine's blocks, made if there is none."""
        if machine not in self.cutters:
            self.cutters[machine] = ChannelsCutter(self.windowing, self.channels, self.preprocessing.resampling)
        return self.cutters[machine]

    def add(self, readings: pl.DataFrame) -> Iterator[tuple[str, Cut, NDArray[np.float32]]]:
        """Take in readings of the channels and inputs (`READINGS`), in the order in which they came.

        Where machines have been renamed, readings have a column `source`, who sent each (`renamed`): what two
        sources have sent is in no window together.

        Yields:
            A machine's name and windows that are complete now, in their order, and what is told of each,
            (n, `len(needs)`). `Cut.place` is the row of the reading with which each was complete.
        """
        if "source" not in readings.columns:
            readings = readings.with_columns(source="machine")
        readings = readings.with_row_index("place")
        said = dict(self.inputs.among(readings))
        for machine, cuts in self._cuts(readings.filter(pl.col("channel").is_in(self.channels))):
            for cut, told in self._take(machine, cuts, said.pop(machine, NOTHING)):
                yield machine, cut, told
        for machine, rest in said.items():
            for cut, told in self._take(machine, (), rest):
                yield machine, cut, told

    def counts(self, machine: str) -> LeftOut:
        """What a machine has sent and is left out, to be added to."""
        return self.left_out.setdefault(machine, LeftOut())

    def left_out_of(self, machine: str) -> LeftOut:
        """What a machine has sent and is in no window, as far as that is known by now, or not yet."""
        counts = LeftOut(self.left_out.get(machine, {}))
        if (cutter := self.cutters.get(machine)) is not None:
            of_channels = cutter.cutters.values()
            counts[Reason.OVERLAPPING] = sum(each.overlapping for each in of_channels)
            counts[Reason.WAITING] = sum(each.waiting for each in of_channels)
            counts[Reason.BETWEEN] = sum(each.between for each in of_channels)
            counts[Reason.UNMATCHED] = cutter.unmatched
        if awaiting := self.awaiting.get(machine):
            counts[Reason.NO_INPUT] += len(awaiting) - len(self.told(machine, awaiting))
        return +counts

    def _cuts(self, readings: pl.DataFrame) -> Iterator[tuple[str, Iterator[Cut]]]:
        """Each machine's windows that readings of the channels complete."""
        sure, left_out = sort_out(readings, self.max_lateness, no_blocks(readings, self.preprocessing))
        sure, of_others = of_one_unit(sure, self.units, self.preprocessing.unit)
        for machine, counts in (*left_out.items(), *of_others.items()):
            self.counts(machine).update(counts)
        for machine, own in blocks(sure):
            yield machine, self._cut(machine, own)

    def _cut(self, machine: str, arrived: Iterable[Arrived]) -> Iterator[Cut]:
        """The finite windows that blocks complete, about `AT_ONCE` windows of one sample rate at a time."""
        cutter = self._cutter(machine)
        parts: list[Cut] = []
        for place, channel, block in arrived:
            windows, start = cutter.update(channel, block)
            is_whole = is_finite(windows)
            if broken := int((~is_whole).sum()):
                self.counts(machine)[Reason.NOT_FINITE] += broken
            if not is_whole.any():
                continue
            rate = self.preprocessing.rate(block.sample_rate)
            if parts and (sum(len(part.start) for part in parts) >= AT_ONCE or rate != parts[0].sample_rate):
                yield _joined(parts)
                parts = []
            parts.append(Cut(windows, start, np.full(len(start), place), rate).where(is_whole))
        if parts:
            yield _joined(parts)

    def _take(self, machine: str, cuts: Iterable[Cut], said: Said) -> Iterator[Told]:
        """Take in windows, and what is said of their machine, in the order in which both came."""
        at = 0
        if not self.needs:  # what is seen beside the features is looked up when somebody looks
            at = len(said.place)
            self.inputs.add(machine, said)
        for cut in cuts:
            begin, is_final = 0, np.empty(len(cut.start), np.bool_)
            told = np.empty((len(cut.start), len(self.needs)), np.float32)
            last = cut.last
            while begin < len(told):
                before = max(at, int(np.searchsorted(said.place, cut.place[begin])))
                yield from self._hear(machine, said.part(at, before))
                at, end = before, len(told)
                if at < len(said.place):
                    end = int(np.searchsorted(cut.place, said.place[at]))
                here = slice(begin, end)
                told[here] = self.inputs.at(machine, last[here], self.needs)
                is_final[here] = self.inputs.is_final(machine, last[here], self.needs) & is_finite(told[here])
                given = begin
                for row in (begin + np.flatnonzero(~is_final[here])).tolist():
                    yield from _some(cut, told, slice(given, row))
                    given = row + 1
                    yield from self._await(machine, cut.where(slice(row, row + 1)))
                yield from _some(cut, told, slice(given, end))
                begin = end
        yield from self._hear(machine, said.part(at, len(said.place)))

    def _await(self, machine: str, window: Cut) -> Iterator[Told]:
        """Let a window wait for what it needs; one that waits too long is given with what is known."""
        awaiting = self.awaiting.setdefault(machine, [])
        awaiting.append(window._replace(values=window.values.copy()))
        if len(awaiting) > MOST_AWAITING:
            yield from self._give_known(machine, [awaiting.pop(0)], int(window.place[0]))

    def _hear(self, machine: str, said: Said) -> Iterator[Told]:
        """Take in what is said of a machine, and give the windows that waited for it."""
        at = 0
        while at < len(said.place) and (awaiting := self.awaiting.get(machine)):
            self.inputs.add(machine, said.part(at, at + 1))
            is_final = self.inputs.is_final(machine, _ends(awaiting), self.needs)
            if is_final.any():
                self.awaiting[machine] = [awaiting[row] for row in np.flatnonzero(~is_final)]
                known = [awaiting[row] for row in np.flatnonzero(is_final)]
                yield from self._give_known(machine, known, int(said.place[at]))
            at += 1
        self.inputs.add(machine, said.part(at, len(said.place)))

    def _give_known(self, machine: str, windows: Sequence[Cut], place: int) -> Iterator[Told]:
        """Those of windows of which all is known, complete with the reading at a place; the others are counted."""
        known = self.told(machine, windows)
        self.counts(machine)[Reason.NO_INPUT] += len(windows) - len(known)
        for window, told in known:
            yield window._replace(place=np.full(1, place)), told

    def told(self, machine: str, windows: Sequence[Cut]) -> list[Told]:
        """Those of windows, each by itself, of which all is known by now, and that, (1, `len(needs)`)."""
        if not windows:
            return []
        told = self.inputs.at(machine, _ends(windows), self.needs)
        return [(windows[row], told[row : row + 1]) for row in np.flatnonzero(is_finite(told)).tolist()]


def _state(cut: Cut) -> CutState:
    return CutState(Packed.of(cut.values), Packed.of(cut.start), Packed.of(cut.place), cut.sample_rate)


def last_samples(start: NDArray[np.int64], length: int, period: NDArray[np.float64] | float) -> NDArray[np.int64]:
    """Times of the last samples of windows of so many, whose samples are so many µs apart; µs since 1970, (n,)."""
    return start + np.rint((length - 1) * period).astype(np.int64)


def is_finite(rows: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Of which of n rows, (n, …), all numbers are finite, (n,)."""
    return np.asarray(np.isfinite(rows).all(axis=tuple(range(1, rows.ndim))), np.bool_)


def _ends(windows: Sequence[Cut]) -> NDArray[np.int64]:
    """The times of the last samples of windows, each by itself, µs since 1970, (n,)."""
    return np.concatenate([window.last for window in windows])


def _some(cut: Cut, told: NDArray[np.float32], rows: slice) -> Iterator[Told]:
    """Some of windows, if there are any."""
    if rows.start < rows.stop:
        yield cut.where(rows), told[rows]


def _joined(parts: Sequence[Cut]) -> Cut:
    """The windows of several parts of one sample rate."""
    values, start, place, _ = zip(*parts, strict=True)
    return Cut(np.concatenate(values), np.concatenate(start), np.concatenate(place), parts[0].sample_rate)
