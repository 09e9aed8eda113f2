"""Windows of a stream: cut as blocks arrive, kept as features, labelled as far as labels are known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.connectors.readings import Quality
from fml_lightning.datamodules.spool.labels import CHANGING, UNLABELLED, Labels
from fml_lightning.datamodules.windows import Machine, Windows
from fml_lightning.preprocessing.features import Features
from fml_lightning.preprocessing.window_cutter import Block, CutWindows, WindowCutter
from fml_lightning.preprocessing.windowing import Windowing

DOUBTFUL = Quality.RETAINED | Quality.LATE | Quality.IMPLAUSIBLE_TIME
"""Readings that say nothing certain of when they were measured."""

CONDITION = "any"
"""The operating condition of every window: a stream does not tell."""

TOGETHER = 1024
"""Windows whose features are computed at once."""


@dataclass(frozen=True)
class Kept:
    """One machine's windows, in order of time."""

    x: NDArray[np.float32]
    """Features, (n, F)."""
    start: NDArray[np.int64]
    """Time of the first sample, µs since 1970, UTC, (n,)."""
    period: NDArray[np.float64]
    """µs from sample to sample, (n,)."""

    def where(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> Kept:
        """The windows that a mask (n,) or row numbers (m,) select."""
        return Kept(self.x[rows], self.start[rows], self.period[rows])


class StreamWindows:
    """The windows of one site's machines, from one channel of a stream.

    Of every machine and class the newest `max_windows` are kept, and as many without a label, which may come late.

    Args:
        windowing: how stretches become windows, and which share is early.
        features: what the network sees of a window; computed once, when it is complete.
        labels: of the site's machines; it may grow.
        max_windows: as above.
    """

    def __init__(self, windowing: Windowing, features: Features, labels: Labels, max_windows: int) -> None:
        self.windowing = windowing
        self.features = features
        self.labels = labels
        self.max_windows = max_windows
        self.doubtful = 0
        """Readings left out because their time is `DOUBTFUL`."""
        self.broken = 0
        """Windows left out because they, or their features, are not finite."""
        self.cutters: dict[str, WindowCutter] = {}
        """The open end of every machine that sent blocks."""
        self._kept: dict[str, list[Kept]] = {}

    def add(self, readings: pl.DataFrame) -> None:
        """Take in readings of the channel, in the order in which they came (`READINGS`)."""
        certain = readings.filter((pl.col("quality") & int(DOUBTFUL)) == 0)
        self.doubtful += len(readings) - len(certain)
        blocks = certain.filter(pl.col("sample_rate").is_not_null(), pl.col("values").list.len() > 0)
        for (machine,), own in blocks.group_by("machine", maintain_order=True):
            cutter = self.cutters.setdefault(str(machine), WindowCutter(self.windowing))
            cuts = (cut for block in _blocks(own) if len((cut := cutter.update(block)).start))
            for group in _grouped(cuts):
                self._keep(str(machine), group)

    def machines(self) -> list[Machine]:
        """Every machine's labelled windows so far, sorted by name.

        Of each class the first `windowing.early_share` in time is early. The rest, after a gap of one window, is
        late: as the stream grows, the cut moves, and windows that were late become early.
        """
        return [
            Machine(name, *self._split(kept, self._labels(name, kept)))
            for name in sorted(self._kept)
            for kept in [self._newest(name)]
        ]

    def forget(self) -> None:
        """Forget all but the newest windows.

        Which these are depends on the labels known so far: call it at the same places of a stream, and the same
        stream leaves the same windows.
        """
        self._kept = {name: [self._newest(name)] for name in self._kept}

    def unlabelled(self, machine: str) -> int:
        """How many windows of a machine wait for a label."""
        if machine not in self._kept:
            return 0
        return int((self._labels(machine, self._newest(machine)) == UNLABELLED).sum())

    def _keep(self, machine: str, cuts: list[CutWindows]) -> None:
        windows = np.concatenate([cut.windows for cut in cuts])
        start = np.concatenate([cut.start for cut in cuts])
        whole = np.isfinite(windows).all(1)
        x = self.features(windows[whole], cuts[0].sample_rate)
        finite = np.isfinite(x).all(1)
        self.broken += len(windows) - int(finite.sum())
        new = Kept(x[finite], start[whole][finite], np.full(int(finite.sum()), 1e6 / cuts[0].sample_rate))
        self._kept.setdefault(machine, []).append(new)

    def _newest(self, machine: str) -> Kept:
        """The windows to keep of what is there."""
        parts = self._kept[machine]
        every = Kept(
            np.concatenate([part.x for part in parts]),
            np.concatenate([part.start for part in parts]),
            np.concatenate([part.period for part in parts]),
        )
        every = every.where(np.argsort(every.start, kind="stable"))
        label = self._labels(machine, every)
        rows = [np.flatnonzero(label == k)[-self.max_windows :] for k in np.unique(label) if k != CHANGING]
        return every.where(np.sort(np.concatenate([np.empty(0, np.intp), *rows])))

    def _labels(self, machine: str, kept: Kept) -> NDArray[np.int64]:
        last = kept.start + np.rint((self.windowing.length - 1) * kept.period).astype(np.int64)
        return self.labels.at(machine, kept.start, last)

    def _split(self, kept: Kept, label: NDArray[np.int64]) -> tuple[Windows, Windows]:
        early, late = [np.empty(0, np.intp)], [np.empty(0, np.intp)]
        for k in np.unique(label[label >= 0]):
            rows = np.flatnonzero(label == k)
            middle = int(len(rows) * self.windowing.early_share)
            early.append(rows[:middle])
            late.append(rows[middle:])
            if middle:
                last = rows[middle - 1]
                border = kept.start[last] + (2 * self.windowing.length - 0.5) * kept.period[last]
                late[-1] = late[-1][kept.start[late[-1]] >= border]
        both = [np.concatenate(early), np.concatenate(late)]
        first, second = (Windows(kept.x[r], label[r], np.full(len(r), CONDITION)) for r in both)
        return first, second


def _grouped(cuts: Iterable[CutWindows]) -> Iterator[list[CutWindows]]:
    """Cuts of the same sample rate, about `TOGETHER` windows at a time."""
    group: list[CutWindows] = []
    size = 0
    for cut in cuts:
        if group and (size >= TOGETHER or cut.sample_rate != group[0].sample_rate):
            yield group
            group, size = [], 0
        group.append(cut)
        size += len(cut.start)
    if group:
        yield group


def _blocks(readings: pl.DataFrame) -> Iterator[Block]:
    values = readings["values"].explode().to_numpy()
    ends = readings["values"].list.len().cum_sum().to_list()
    times = readings["time"].to_physical().to_list()
    timed = ((readings["quality"] & int(Quality.NO_DEVICE_TIME)) == 0).to_list()
    begins = [0, *ends[:-1]]
    for begin, end, time, rate, own in zip(begins, ends, times, readings["sample_rate"], timed, strict=True):
        yield Block(time, rate, values[begin:end], own)
