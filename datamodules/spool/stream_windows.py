"""Windows of a stream: cut as blocks arrive, kept as features, labelled as far as labels are known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.datamodules.machine_windows import AT_ONCE, MachineWindows
from fml_lightning.datamodules.spool.blocks import blocks, certain
from fml_lightning.datamodules.spool.labels import CHANGING, UNLABELLED, Labels
from fml_lightning.datamodules.windows import Windows
from fml_lightning.preprocessing.block import Block
from fml_lightning.preprocessing.features import Features
from fml_lightning.preprocessing.window_cutter import WindowCutter
from fml_lightning.preprocessing.windowing import Windowing

CONDITION = "any"
"""The operating condition of every window: a stream does not tell."""


class StreamWindows:
    """The windows of one site's machines, from one channel of a stream.

    Of every machine and class the newest `max_windows` are kept, and as many without a label, which may come late.

    Args:
        windowing: how stretches become windows, and which share is early.
        features: what the network sees of a window; computed once, when the window is complete.
        labels: of the site's machines; it may grow.
        max_windows: as above, at least 1.
    """

    def __init__(self, windowing: Windowing, features: Features, labels: Labels, max_windows: int) -> None:
        self.windowing = windowing
        self.features = features
        self.labels = labels
        self.max_windows = max_windows
        self.doubtful = 0
        """Readings left out because their time is doubtful."""
        self.broken = 0
        """Windows left out because they, or their features, are not finite."""
        self.cutters: dict[str, WindowCutter] = {}
        """Of every machine that sent blocks, by its name."""
        self._kept: dict[str, list[Windows]] = {}

    def add(self, readings: pl.DataFrame) -> None:
        """Take in readings of the channel (`READINGS`), in the order in which they came."""
        sure = certain(readings)
        self.doubtful += len(readings) - len(sure)
        for machine, own in blocks(sure):
            cutter = self.cutters.setdefault(machine, WindowCutter(self.windowing))
            for windows, start, sample_rate in _cut(cutter, own):
                self._keep(machine, windows, start, sample_rate)

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
        self._kept = {name: [self._newest(name)] for name in self._kept}

    def unlabelled(self, machine: str) -> int:
        """How many windows of a machine wait for a label."""
        if machine not in self._kept:
            return 0
        return int((self._newest(machine).label == UNLABELLED).sum())

    def _keep(
        self, machine: str, windows: NDArray[np.float32], start: NDArray[np.int64], sample_rate: float
    ) -> None:
        whole = np.isfinite(windows).all(1)
        x = self.features(windows[whole], sample_rate)
        finite = np.isfinite(x).all(1)
        self.broken += len(windows) - int(finite.sum())
        new = Windows.of([x[finite]], UNLABELLED, CONDITION, start[whole][finite], sample_rate)
        self._kept.setdefault(machine, []).append(new)

    def _newest(self, machine: str) -> Windows:
        """The windows to keep of what is there, in order of time, with the labels known by now."""
        windows = Windows.join(self._kept[machine])
        windows = windows.where(np.argsort(windows.start, kind="stable"))
        last = windows.start + np.rint((self.windowing.length - 1) * windows.period).astype(np.int64)
        windows = replace(windows, label=self.labels.at(machine, windows.start, last))
        labels = [label for label in np.unique(windows.label) if label != CHANGING]
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
