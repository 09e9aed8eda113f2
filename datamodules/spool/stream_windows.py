"""Windows of a stream: cut as blocks arrive, kept as features, labelled as far as labels are known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.datamodules.machine_windows import AT_ONCE, MachineWindows
from fml_lightning.datamodules.spool.blocks import (
    MAX_LATENESS,
    Arrived,
    blocks,
    no_blocks,
    of_one_unit,
    sort_out,
)
from fml_lightning.datamodules.spool.inputs import NOTHING, Inputs, Said
from fml_lightning.datamodules.spool.labels import CHANGING, UNKNOWN, UNLABELLED, Labels
from fml_lightning.datamodules.spool.left_out import LeftOut, Reason, counted
from fml_lightning.datamodules.windows import Windows
from fml_lightning.preprocessing.channels_cutter import ChannelsCutter
from fml_lightning.preprocessing.preprocessing import Preprocessing

CONDITION = "any"
"""The operating condition of every window: a stream does not tell."""
REASONS = {
    Reason.NO_LABEL: UNLABELLED,
    Reason.UNKNOWN_LABEL: UNKNOWN,
    Reason.LABEL_CHANGES: CHANGING,
}
"""What windows have for a label that are left out for its sake."""
MOST_AWAITING = 64
"""Windows of a machine that wait at most until it is known for good what features need, such as the speed."""


class Cut(NamedTuple):
    """Windows of one machine and sample rate, n in number, in the order in which they were complete."""

    values: NDArray[np.float32]
    """(n, C, W)."""
    start: NDArray[np.int64]
    """Times of their first samples, µs since 1970, (n,)."""
    place: NDArray[np.int64]
    """Of the reading that completed each, among those that came with it, (n,)."""
    sample_rate: float
    """Hz."""

    def where(self, rows: NDArray[np.bool_] | slice) -> Cut:
        """Some of them."""
        return Cut(self.values[rows], self.start[rows], self.place[rows], self.sample_rate)


class StreamWindows:
    """The windows of one site's machines, from one or several channels of a stream.

    Of every machine and class the newest `max_windows` are kept, and as many each without a label, under a label
    that is no class, and in which the label changes: labels may come late, and be corrected.

    Args:
        preprocessing: what turns stretches into what the network sees; features are computed when a window is
            complete, once. What they need is what holds at its last sample, by a channel of `inputs` or the
            machine's nameplate. The newest `MOST_AWAITING` windows wait until that is known for good; meanwhile
            they are seen with what is known.
        early_share: the share of a machine's windows of each class, from the oldest on, that is early.
        channels: the channels, in the order in which they stand in a window.
        labels: of the site's machines; it may grow.
        inputs: slow scalars of the machines, of the channels that `preprocessing.needs` names.
        max_windows: as above, at least 1.
        max_lateness: seconds after its own time that a reading may be received; later ones are left out.
        aliases: the machines' names by names that they had before.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        early_share: float,
        channels: Sequence[str],
        labels: Labels,
        inputs: Inputs,
        max_windows: int,
        max_lateness: float = MAX_LATENESS,
        aliases: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.preprocessing = preprocessing
        self.early_share = early_share
        self.windowing = preprocessing.windowing_in_samples()
        self.channels = tuple(channels)
        self.labels = labels
        self.inputs = inputs
        self.max_windows = max_windows
        self.max_lateness = max_lateness
        self.aliases = dict(aliases)
        self.cutters: dict[str, ChannelsCutter] = {}
        """Of every machine that sent blocks, by its name."""
        self._kept: dict[str, list[Windows]] = {}
        self._awaiting: dict[str, list[Cut]] = {}  # one window each, in the order in which they were complete
        self._meanwhile: dict[str, Windows] = {}  # of these, with what is known
        self._units: dict[str, str] = {}  # the first of each machine's channels
        self._left_out: dict[str, LeftOut] = {}  # what is known when it is left out

    def add(self, readings: pl.DataFrame) -> None:
        """Take in readings of the channels and inputs (`READINGS`), in the order in which they came."""
        readings = readings.with_columns(source="machine").with_row_index("place")
        if self.aliases:
            readings = readings.with_columns(pl.col("machine").replace(self.aliases))
        said = dict(self.inputs.among(readings))
        readings = readings.filter(pl.col("channel").is_in(self.channels))
        sure, left_out = sort_out(readings, self.max_lateness, no_blocks(readings, self.preprocessing))
        sure, of_others = of_one_unit(sure, self._units, self.preprocessing.unit)
        for machine, counts in (*left_out.items(), *of_others.items()):
            self._counts(machine).update(counts)
        for machine, own in blocks(sure):
            if machine not in self.cutters:
                self.cutters[machine] = ChannelsCutter(
                    self.windowing, self.channels, self.preprocessing.resampling
                )
            self._take(machine, self._cut(machine, own), said.pop(machine, NOTHING))
        for machine, rest in said.items():
            self._take(machine, (), rest)

    @property
    def senders(self) -> list[str]:
        """The machines that have sent blocks, sorted."""
        return sorted(self.cutters)

    @property
    def machine_names(self) -> list[str]:
        """The machines that have sent readings, sorted."""
        return sorted({*self.cutters, *self._left_out})

    def units_of(self, machine: str) -> set[str | None]:
        """The units of a machine's channels; None of one of which nobody has said it."""
        return {self._units.get(f"{machine}\0{channel}") for channel in self.channels}

    def left_out(self, machine: str) -> LeftOut:
        """What a machine has sent and is not trained on, by reason, as labels are known by now."""
        counts = LeftOut(self._left_out.get(machine, {}))
        if machine in self.cutters:
            cutters = self.cutters[machine].cutters.values()
            counts[Reason.OVERLAPPING] = sum(cutter.overlapping for cutter in cutters)
            counts[Reason.WAITING] = sum(cutter.waiting for cutter in cutters)
            counts[Reason.BETWEEN] = sum(cutter.between for cutter in cutters)
            counts[Reason.UNMATCHED] = self.cutters[machine].unmatched
        if awaiting := self._awaiting.get(machine):
            counts[Reason.NO_INPUT] += len(awaiting) - len(self._told(machine, awaiting))
        if (windows := self._windows(machine)) is not None:
            newest = self._newest(machine, windows)
            counts[Reason.NO_INPUT] += int((~self._has_inputs(machine, newest)).sum())
            for reason, label in REASONS.items():
                counts[reason] = int((newest.label == label).sum())
            counts[Reason.OLD] += len(windows) - len(newest)
        return +counts

    def gaps(self, machine: str) -> str:
        """Why blocks of a machine wait for the rest of a window: the gaps between them; empty if none does."""
        cutters = self.cutters[machine].cutters.items() if machine in self.cutters else ()
        for channel, cutter in cutters:
            if cutter.deviation is not None and cutter.gaps and cutter.waiting:
                of = f"{machine}, {channel}," if len(self.channels) > 1 else machine
                return (
                    f"{of} has {counted(cutter.gaps, 'gaps between blocks')}: the next block begins"
                    f" {cutter.deviation / 1000:,.3g} ms (median) from when it was due"
                )
        return ""

    def machines(self) -> list[MachineWindows]:
        """Every machine's windows so far, labelled or not, sorted by machine.

        As the stream grows, the cut between early and late moves on: windows that were late become early.
        """
        machines = []
        for name in self.senders:
            if (windows := self._windows(name)) is None:
                continue
            windows = self._seen(name, windows)
            machines.append(MachineWindows.split(name, windows, self.early_share, self.windowing.length))
        return machines

    def forget(self) -> None:
        """Forget all but the newest windows.

        Which these are depends on the labels known so far: call it at the same places of a stream, and the same
        stream leaves the same windows.
        """
        for name, parts in self._kept.items():
            windows = Windows.join(parts)
            newest = self._newest(name, windows)
            self._counts(name)[Reason.OLD] += len(windows) - len(newest)
            self._kept[name] = [newest]

    def _counts(self, machine: str) -> LeftOut:
        return self._left_out.setdefault(machine, LeftOut())

    def _cut(self, machine: str, arrived: Iterable[Arrived]) -> Iterator[Cut]:
        """The finite windows that blocks complete, about `AT_ONCE` windows of one sample rate at a time."""
        cutter = self.cutters[machine]
        parts: list[Cut] = []
        for place, channel, block in arrived:
            windows, start = cutter.update(channel, block)
            is_whole = _is_finite(windows)
            if broken := int((~is_whole).sum()):
                self._counts(machine)[Reason.NOT_FINITE] += broken
            if not is_whole.any():
                continue
            rate = self.preprocessing.rate(block.sample_rate)
            if parts and (sum(len(part.start) for part in parts) >= AT_ONCE or rate != parts[0].sample_rate):
                yield _joined(parts)
                parts = []
            parts.append(Cut(windows, start, np.full(len(start), place), rate).where(is_whole))
        if parts:
            yield _joined(parts)

    def _take(self, machine: str, cuts: Iterable[Cut], said: Said) -> None:
        """Take in windows, and what is said of their machine, in the order in which both came.

        So it does not matter how much of a stream is read at once.
        """
        needs = self.preprocessing.features.needs
        self._meanwhile.pop(machine, None)
        at = 0
        if not needs:  # what is seen beside the features is looked up when somebody looks
            at = len(said.place)
            self.inputs.add(machine, said)
        for cut in cuts:
            begin, is_final = 0, np.empty(len(cut.start), np.bool_)
            told = np.empty((len(cut.start), len(needs)), np.float32)
            last = self._last(cut.start, 1e6 / cut.sample_rate)
            while begin < len(told):
                before = max(at, int(np.searchsorted(said.place, cut.place[begin])))
                self._hear(machine, said.part(at, before))
                at, end = before, len(told)
                if at < len(said.place):
                    end = int(np.searchsorted(cut.place, said.place[at]))
                here = slice(begin, end)
                told[here] = self.inputs.at(machine, last[here], needs)
                is_final[here] = self.inputs.is_final(machine, last[here], needs) & _is_finite(told[here])
                for row in begin + np.flatnonzero(~is_final[here]):
                    self._await(machine, cut.where(slice(row, row + 1)))
                begin = end
            self._keep(machine, cut.where(is_final), told[is_final])
        self._hear(machine, said.part(at, len(said.place)))

    def _await(self, machine: str, window: Cut) -> None:
        """Let a window wait for what features need; one that waits too long is kept with what is known."""
        awaiting = self._awaiting.setdefault(machine, [])
        awaiting.append(window._replace(values=window.values.copy()))
        if len(awaiting) > MOST_AWAITING:
            self._keep_known(machine, [awaiting.pop(0)])

    def _hear(self, machine: str, said: Said) -> None:
        """Take in what is said of a machine, and keep the windows that waited for it."""
        at = 0
        while at < len(said.place) and (awaiting := self._awaiting.get(machine)):
            self.inputs.add(machine, said.part(at, at + 1))
            at += 1
            is_final = self.inputs.is_final(machine, self._ends(awaiting), self.preprocessing.features.needs)
            if is_final.any():
                self._keep_known(machine, [awaiting[row] for row in np.flatnonzero(is_final)])
                self._awaiting[machine] = [awaiting[row] for row in np.flatnonzero(~is_final)]
        self.inputs.add(machine, said.part(at, len(said.place)))

    def _keep_known(self, machine: str, windows: Sequence[Cut]) -> None:
        """Keep those of windows of which is known what features need, and count the others."""
        known = self._told(machine, windows)
        self._counts(machine)[Reason.NO_INPUT] += len(windows) - len(known)
        for window, told in known:
            self._keep(machine, window, told)

    def _told(self, machine: str, windows: Sequence[Cut]) -> list[tuple[Cut, NDArray[np.float32]]]:
        """Those of windows, each by itself, of which is known what features need, and that, (1, `len(needs)`)."""
        told = self.inputs.at(machine, self._ends(windows), self.preprocessing.features.needs)
        return [(windows[row], told[row : row + 1]) for row in np.flatnonzero(_is_finite(told)).tolist()]

    def _ends(self, windows: Sequence[Cut]) -> NDArray[np.int64]:
        """The times of the last samples of windows, each by itself, µs since 1970, (n,)."""
        return np.concatenate([self._last(window.start, 1e6 / window.sample_rate) for window in windows])

    def _keep(self, machine: str, cut: Cut, told: NDArray[np.float32]) -> None:
        """Compute the features of windows, and keep those that are finite."""
        if len(cut.start):
            windows = self._featured(cut, told)
            if broken := len(cut.start) - len(windows):
                self._counts(machine)[Reason.NOT_FINITE] += broken
            self._kept.setdefault(machine, []).append(windows)

    def _featured(self, cut: Cut, told: NDArray[np.float32]) -> Windows:
        """Windows with their features, those that are finite."""
        features = self.preprocessing.features
        values = self.preprocessing.standardized(cut.values)
        x = features.of_channels(values, cut.sample_rate, told if features.needs else None)
        is_finite = _is_finite(x)
        return Windows.of([x[is_finite]], UNLABELLED, CONDITION, cut.start[is_finite], cut.sample_rate)

    def _awaited(self, machine: str) -> Windows | None:
        """The waiting windows with what is known by now; None if nothing is of any."""
        if machine not in self._meanwhile and self._awaiting.get(machine):
            known = self._told(machine, self._awaiting[machine])
            if known:
                self._meanwhile[machine] = Windows.join([self._featured(*each) for each in known])
        return self._meanwhile.get(machine)

    def _windows(self, machine: str) -> Windows | None:
        """All windows of a machine that have features by now; None if there was none yet."""
        awaited = self._awaited(machine)
        parts = [*self._kept.get(machine, ()), *([] if awaited is None else [awaited])]
        return Windows.join(parts) if parts else None

    def _seen(self, machine: str, windows: Windows) -> Windows:
        """The windows to keep, with their inputs beside the features; without those whose inputs are not known."""
        windows = self._newest(machine, windows)
        if not self.preprocessing.inputs and self.preprocessing.standardize is None:
            return windows
        windows = windows.where(self._has_inputs(machine, windows)).compact()
        return replace(windows, chunks=(self.preprocessing.finish(windows.x, self._inputs(machine, windows)),))

    def _inputs(self, machine: str, windows: Windows) -> NDArray[np.float32]:
        """What the network sees beside the features of each window, (n, I)."""
        return self.inputs.at(machine, self._last(windows.start, windows.period), self.preprocessing.inputs)

    def _has_inputs(self, machine: str, windows: Windows) -> NDArray[np.bool_]:
        """Of which windows all of that is known, (n,)."""
        return _is_finite(self._inputs(machine, windows))

    def _last(self, start: NDArray[np.int64], period: NDArray[np.float64] | float) -> NDArray[np.int64]:
        """Times of windows' last samples, µs since 1970, (n,)."""
        return start + np.rint((self.windowing.length - 1) * period).astype(np.int64)

    def _newest(self, machine: str, windows: Windows) -> Windows:
        """The windows to keep of what is there, in order of time, with the labels known by now."""
        windows = windows.where(np.argsort(windows.start, kind="stable"))
        last = self._last(windows.start, windows.period)
        windows = replace(windows, label=self.labels.at(machine, windows.start, last))
        labels = np.unique(windows.label)
        rows = [np.flatnonzero(windows.label == label)[-self.max_windows :] for label in labels]
        return windows.where(np.sort(np.concatenate([np.empty(0, np.intp), *rows]))).compact()


def _joined(parts: Sequence[Cut]) -> Cut:
    """The windows of several parts of one sample rate."""
    values, start, place, _ = zip(*parts, strict=True)
    return Cut(np.concatenate(values), np.concatenate(start), np.concatenate(place), parts[0].sample_rate)


def _is_finite(rows: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Of which of n rows, (n, …), all numbers are finite, (n,)."""
    return np.asarray(np.isfinite(rows).all(axis=tuple(range(1, rows.ndim))), np.bool_)
