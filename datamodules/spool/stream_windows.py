"""Windows of a stream: cut as blocks arrive, kept as features, labelled as far as labels are known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.datamodules.machine_windows import AT_ONCE, MachineWindows
from fml_lightning.datamodules.spool.blocks import MAX_LATENESS, blocks, no_blocks, of_first_unit, sort_out
from fml_lightning.datamodules.spool.inputs import Inputs
from fml_lightning.datamodules.spool.labels import CHANGING, UNKNOWN, UNLABELLED, Labels
from fml_lightning.datamodules.spool.left_out import LeftOut, Reason, counted
from fml_lightning.datamodules.windows import Windows
from fml_lightning.preprocessing.block import Block
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


class StreamWindows:
    """The windows of one site's machines, from one or several channels of a stream.

    Of every machine and class the newest `max_windows` are kept, and as many each without a label, under a label
    that is no class, and in which the label changes: labels may come late, and be corrected.

    Args:
        preprocessing: what turns stretches into what the network sees; computed once, when a window is complete.
        early_share: the share of a machine's windows of each class, from the oldest on, that is early.
        channels: the channels, in the order in which they stand in a window.
        labels: of the site's machines; it may grow.
        inputs: slow scalars of the machines, which are seen beside the features as `preprocessing.inputs` says.
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
        self._units: dict[str, str] = {}  # the first of each machine's channels
        self._left_out: dict[str, LeftOut] = {}  # what is known when it is left out

    def add(self, readings: pl.DataFrame) -> None:
        """Take in readings of the channels and inputs (`READINGS`), in the order in which they came."""
        readings = readings.with_columns(source="machine")
        if self.aliases:
            readings = readings.with_columns(pl.col("machine").replace(self.aliases))
        self.inputs.add(readings)
        readings = readings.filter(pl.col("channel").is_in(self.channels))
        sure, left_out = sort_out(readings, self.max_lateness, no_blocks(self.preprocessing.sample_rate))
        sure, of_others = of_first_unit(sure, self._units)
        for machine, counts in (*left_out.items(), *of_others.items()):
            self._counts(machine).update(counts)
        for machine, own in blocks(sure):
            cutter = self.cutters.setdefault(machine, ChannelsCutter(self.windowing, self.channels))
            for windows, start, sample_rate in _cut(cutter, own):
                self._keep(machine, windows, start, sample_rate)

    @property
    def senders(self) -> list[str]:
        """The machines that have sent blocks, sorted."""
        return sorted(self.cutters)

    @property
    def machine_names(self) -> list[str]:
        """The machines that have sent readings, sorted."""
        return sorted({*self.cutters, *self._left_out})

    def left_out(self, machine: str) -> LeftOut:
        """What a machine has sent and is not trained on, by reason, as labels are known by now."""
        counts = LeftOut(self._left_out.get(machine, {}))
        if machine in self.cutters:
            cutters = self.cutters[machine].cutters.values()
            counts[Reason.OVERLAPPING] = sum(cutter.overlapping for cutter in cutters)
            counts[Reason.WAITING] = sum(cutter.waiting for cutter in cutters)
            counts[Reason.BETWEEN] = sum(cutter.between for cutter in cutters)
            counts[Reason.UNMATCHED] = self.cutters[machine].unmatched
        if machine in self._kept:
            newest = self._newest(machine)
            inputs = self.inputs.at(machine, self._last(newest))
            counts[Reason.NO_INPUT] = int(np.isnan(inputs).any(1).sum())
            for reason, label in REASONS.items():
                counts[reason] = int((newest.label == label).sum())
            counts[Reason.OLD] += sum(map(len, self._kept[machine])) - len(newest)
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
        """Every machine's labelled windows so far, sorted by machine.

        As the stream grows, the cut between early and late moves on: windows that were late become early.
        """
        machines = []
        for name in sorted(self._kept):
            windows = self._seen(name)
            machines.append(
                MachineWindows.split(
                    name, windows.where(windows.label >= 0), self.early_share, self.windowing.length
                )
            )
        return machines

    def forget(self) -> None:
        """Forget all but the newest windows.

        Which these are depends on the labels known so far: call it at the same places of a stream, and the same
        stream leaves the same windows.
        """
        for name, parts in self._kept.items():
            newest = self._newest(name)
            self._counts(name)[Reason.OLD] += sum(map(len, parts)) - len(newest)
            self._kept[name] = [newest]

    def _counts(self, machine: str) -> LeftOut:
        return self._left_out.setdefault(machine, LeftOut())

    def _keep(
        self, machine: str, windows: NDArray[np.float32], start: NDArray[np.int64], sample_rate: float
    ) -> None:
        whole = np.isfinite(windows).all((1, 2))
        x = self.preprocessing.features.of_channels(windows[whole], sample_rate)
        finite = np.isfinite(x).reshape(len(x), -1).all(1)
        if broken := len(windows) - int(finite.sum()):
            self._counts(machine)[Reason.NOT_FINITE] += broken
        new = Windows.of([x[finite]], UNLABELLED, CONDITION, start[whole][finite], sample_rate)
        self._kept.setdefault(machine, []).append(new)

    def _seen(self, machine: str) -> Windows:
        """The windows to keep, with their inputs beside the features; without those whose inputs are not known."""
        windows = self._newest(machine)
        if not self.inputs.channels and self.preprocessing.standardize is None:
            return windows
        inputs = self.inputs.at(machine, self._last(windows))
        known = np.flatnonzero(np.isfinite(inputs).all(1))
        windows = windows.where(known).compact()
        return replace(windows, chunks=(self.preprocessing.finish(windows.x, inputs[known]),))

    def _last(self, windows: Windows) -> NDArray[np.int64]:
        """Times of the windows' last samples, µs since 1970, (n,)."""
        return windows.start + np.rint((self.windowing.length - 1) * windows.period).astype(np.int64)

    def _newest(self, machine: str) -> Windows:
        """The windows to keep of what is there, in order of time, with the labels known by now."""
        windows = Windows.join(self._kept[machine])
        windows = windows.where(np.argsort(windows.start, kind="stable"))
        windows = replace(windows, label=self.labels.at(machine, windows.start, self._last(windows)))
        labels = np.unique(windows.label)
        rows = [np.flatnonzero(windows.label == label)[-self.max_windows :] for label in labels]
        return windows.where(np.sort(np.concatenate([np.empty(0, np.intp), *rows]))).compact()


def _cut(
    cutter: ChannelsCutter, arrived: Iterable[tuple[str, Block]]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64], float]]:
    """Windows, their times and their sample rate, about `AT_ONCE` windows of one sample rate at a time."""
    windows: list[NDArray[np.float32]] = []
    starts: list[NDArray[np.int64]] = []
    size, rate = 0, 0.0
    for channel, block in arrived:
        some, start = cutter.update(channel, block)
        if not len(some):
            continue
        if windows and (size >= AT_ONCE or block.sample_rate != rate):
            yield np.concatenate(windows), np.concatenate(starts), rate
            windows, starts, size = [], [], 0
        windows.append(some)
        starts.append(start)
        size, rate = size + len(some), block.sample_rate
    if windows:
        yield np.concatenate(windows), np.concatenate(starts), rate
