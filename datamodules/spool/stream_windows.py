"""Windows of a stream: cut as blocks arrive, kept as features, labelled as far as labels are known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.datamodules.machine_windows import AT_ONCE, MachineWindows
from fml_lightning.datamodules.spool.blocks import MAX_LATENESS, blocks, of_first_unit, sort_out
from fml_lightning.datamodules.spool.labels import CHANGING, UNKNOWN, UNLABELLED, Labels
from fml_lightning.datamodules.spool.left_out import LeftOut, Reason, counted
from fml_lightning.datamodules.windows import Windows
from fml_lightning.preprocessing.block import Block
from fml_lightning.preprocessing.features import Features
from fml_lightning.preprocessing.window_cutter import WindowCutter
from fml_lightning.preprocessing.windowing import Windowing

CONDITION = "any"
"""The operating condition of every window: a stream does not tell."""
REASONS = {
    Reason.NO_LABEL: UNLABELLED,
    Reason.UNKNOWN_LABEL: UNKNOWN,
    Reason.LABEL_CHANGES: CHANGING,
}
"""What windows have for a label that are left out for its sake."""


class StreamWindows:
    """The windows of one site's machines, from one channel of a stream.

    Of every machine and class the newest `max_windows` are kept, and as many each without a label, under a label
    that is no class, and in which the label changes: labels may come late, and be corrected.

    Args:
        windowing: how stretches become windows, and which share is early.
        features: what the network sees of a window; computed once, when the window is complete.
        labels: of the site's machines; it may grow.
        max_windows: as above, at least 1.
        max_lateness: seconds after its own time that a reading may be received; later ones are left out.
        aliases: the machines' names by names that they had before.
    """

    def __init__(
        self,
        windowing: Windowing,
        features: Features,
        labels: Labels,
        max_windows: int,
        max_lateness: float = MAX_LATENESS,
        aliases: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.windowing = windowing
        self.features = features
        self.labels = labels
        self.max_windows = max_windows
        self.max_lateness = max_lateness
        self.aliases = dict(aliases)
        self.cutters: dict[str, WindowCutter] = {}
        """Of every machine that sent blocks, by its name."""
        self._kept: dict[str, list[Windows]] = {}
        self._units: dict[str, str] = {}  # the first of each machine
        self._left_out: dict[str, LeftOut] = {}  # what is known when it is left out

    def add(self, readings: pl.DataFrame) -> None:
        """Take in readings of the channel (`READINGS`), in the order in which they came."""
        readings = readings.with_columns(source="machine")
        if self.aliases:
            readings = readings.with_columns(pl.col("machine").replace(self.aliases))
        sure, left_out = sort_out(readings, self.max_lateness)
        sure, of_others = of_first_unit(sure, self._units)
        for machine, counts in (*left_out.items(), *of_others.items()):
            self._counts(machine).update(counts)
        for machine, own in blocks(sure):
            cutter = self.cutters.setdefault(machine, WindowCutter(self.windowing))
            for windows, start, sample_rate in _cut(cutter, own):
                self._keep(machine, windows, start, sample_rate)

    @property
    def machine_names(self) -> list[str]:
        """The machines that have sent readings, sorted."""
        return sorted({*self.cutters, *self._left_out})

    def left_out(self, machine: str) -> LeftOut:
        """What a machine has sent and is not trained on, by reason, as labels are known by now."""
        counts = LeftOut(self._left_out.get(machine, {}))
        if cutter := self.cutters.get(machine):
            counts[Reason.OVERLAPPING] = cutter.overlapping
            counts[Reason.WAITING] = cutter.waiting
            counts[Reason.BETWEEN] = cutter.between
        if machine in self._kept:
            newest = self._newest(machine)
            for reason, label in REASONS.items():
                counts[reason] = int((newest.label == label).sum())
            counts[Reason.OLD] += sum(map(len, self._kept[machine])) - len(newest)
        return +counts

    def gaps(self, machine: str) -> str:
        """Why blocks of a machine wait for the rest of a window: the gaps between them; empty if none does."""
        cutter = self.cutters.get(machine)
        if cutter is None or cutter.deviation is None or not cutter.gaps or not cutter.waiting:
            return ""
        return (
            f"{machine} has {counted(cutter.gaps, 'gaps between blocks')}: the next block begins"
            f" {cutter.deviation / 1000:,.3g} ms (median) from when it was due"
        )

    def machines(self) -> list[MachineWindows]:
        """Every machine's labelled windows so far, sorted by machine.

        As the stream grows, the cut between early and late moves on: windows that were late become early.
        """
        machines = []
        for name in sorted(self._kept):
            windows = self._newest(name)
            machines.append(MachineWindows.split(name, windows.where(windows.label >= 0), self.windowing))
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
        whole = np.isfinite(windows).all(1)
        x = self.features(windows[whole], sample_rate)
        finite = np.isfinite(x).all(1)
        if broken := len(windows) - int(finite.sum()):
            self._counts(machine)[Reason.NOT_FINITE] += broken
        new = Windows.of([x[finite]], UNLABELLED, CONDITION, start[whole][finite], sample_rate)
        self._kept.setdefault(machine, []).append(new)

    def _newest(self, machine: str) -> Windows:
        """The windows to keep of what is there, in order of time, with the labels known by now."""
        windows = Windows.join(self._kept[machine])
        windows = windows.where(np.argsort(windows.start, kind="stable"))
        last = windows.start + np.rint((self.windowing.length - 1) * windows.period).astype(np.int64)
        windows = replace(windows, label=self.labels.at(machine, windows.start, last))
        labels = np.unique(windows.label)
        rows = [np.flatnonzero(windows.label == label)[-self.max_windows :] for label in labels]
        return windows.where(np.sort(np.concatenate([np.empty(0, np.intp), *rows]))).compact()


def _cut(
    cutter: WindowCutter, arrived: Iterable[Block]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64], float]]:
    """Windows, their times and their sample rate, about `AT_ONCE` windows of one sample rate at a time."""
    windows: list[NDArray[np.float32]] = []
    starts: list[NDArray[np.int64]] = []
    size, rate = 0, 0.0
    for block in arrived:
        some, start = cutter.update(block)
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
