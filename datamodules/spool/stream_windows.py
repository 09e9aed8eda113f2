"""Windows of a stream: cut as blocks arrive, kept as features, labelled as far as labels are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.datamodules.machine_windows import MachineWindows
from fml_lightning.datamodules.spool.inputs import Inputs
from fml_lightning.datamodules.spool.labels import CHANGING, EARLIER, UNCONFIRMED, UNKNOWN, UNLABELLED, Labels
from fml_lightning.datamodules.spool.left_out import LeftOut, Reason, counted
from fml_lightning.datamodules.spool.stream_cutter import Cut, StreamCutter, is_finite, last_samples
from fml_lightning.datamodules.windows import Windows
from fml_lightning.preprocessing.preprocessing import Preprocessing
from fml_lightning.stream_timing import MAX_LATENESS

CONDITION = "any"
"""The operating condition of every window: a stream does not tell."""
REASONS = {
    Reason.NO_LABEL: UNLABELLED,
    Reason.UNKNOWN_LABEL: UNKNOWN,
    Reason.LABEL_CHANGES: CHANGING,
    Reason.EARLIER: EARLIER,
    Reason.UNCONFIRMED: UNCONFIRMED,
}
"""What windows have for a label that are left out for its sake."""


class StreamWindows:
    """The windows of one site's machines, from one or several channels of a stream.

    Of every machine and class the newest `max_windows` are kept, and as many of each of `REASONS`, such as without
    a label: labels may come late, and be corrected.

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
    ) -> None:
        self.preprocessing = preprocessing
        self.early_share = early_share
        self.labels = labels
        self.inputs = inputs
        self.max_windows = max_windows
        self.cutter = StreamCutter(preprocessing, channels, preprocessing.features.needs, inputs, max_lateness)
        """Which cuts the blocks."""
        self._kept: dict[str, list[Windows]] = {}
        self._meanwhile: dict[str, Windows] = {}  # of windows that wait, with what is known

    def add(self, readings: pl.DataFrame) -> None:
        """Take in readings of the channels and inputs (`READINGS`), in the order in which they came."""
        self._meanwhile.clear()
        for machine, cut, told in self.cutter.add(readings):
            windows = self._featured(cut, told)
            if broken := len(cut.start) - len(windows):
                self.cutter.counts(machine)[Reason.NOT_FINITE] += broken
            self._kept.setdefault(machine, []).append(windows)

    @property
    def senders(self) -> list[str]:
        """The machines that have sent blocks, sorted."""
        return sorted(self.cutter.cutters)

    @property
    def machine_names(self) -> list[str]:
        """The machines that have sent readings, sorted."""
        return sorted({*self.cutter.cutters, *self.cutter.left_out})

    def units_of(self, machine: str) -> set[str | None]:
        """The units of a machine's channels; None of one of which nobody has said it."""
        return {self.cutter.units.get(f"{machine}\0{channel}") for channel in self.cutter.channels}

    def left_out(self, machine: str) -> LeftOut:
        """What a machine has sent and is not trained on, by reason, as labels are known by now."""
        counts = self.cutter.left_out_of(machine)
        if (windows := self._windows(machine)) is not None:
            newest = self._newest(machine, windows)
            counts[Reason.NO_INPUT] += int((~self._has_inputs(machine, newest)).sum())
            for reason, label in REASONS.items():
                counts[reason] = int((newest.label == label).sum())
            counts[Reason.OLD] += len(windows) - len(newest)
        return +counts

    def gaps(self, machine: str) -> str:
        """Why blocks of a machine wait for the rest of a window: the gaps between them; empty if none does."""
        cutters = self.cutter.cutters[machine].cutters.items() if machine in self.cutter.cutters else ()
        for channel, cutter in cutters:
            if cutter.deviation is not None and cutter.gaps and cutter.waiting:
                of = f"{machine}, {channel}," if len(cutters) > 1 else machine
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
            machines.append(MachineWindows.split(name, windows, self.early_share, self.cutter.windowing.length))
        return machines

    def forget(self) -> None:
        """Forget all but the newest windows.

        Which these are depends on the labels known so far: call it at the same places of a stream, and the same
        stream leaves the same windows.
        """
        for name, parts in self._kept.items():
            windows = Windows.join(parts)
            newest = self._newest(name, windows)
            self.cutter.counts(name)[Reason.OLD] += len(windows) - len(newest)
            self._kept[name] = [newest]

    def _featured(self, cut: Cut, told: NDArray[np.float32]) -> Windows:
        """Windows with their features, those that are finite."""
        features = self.preprocessing.features
        values = self.preprocessing.standardized(cut.values)
        x = features.of_channels(values, cut.sample_rate, told if features.needs else None)
        whole = is_finite(x)
        return Windows.of([x[whole]], UNLABELLED, CONDITION, cut.start[whole], cut.sample_rate)

    def _awaited(self, machine: str) -> Windows | None:
        """The waiting windows with what is known by now; None if nothing is of any."""
        if machine not in self._meanwhile and (awaiting := self.cutter.awaiting.get(machine)):
            known = self.cutter.told(machine, awaiting)
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
        return is_finite(self._inputs(machine, windows))

    def _last(self, start: NDArray[np.int64], period: NDArray[np.float64] | float) -> NDArray[np.int64]:
        """Times of windows' last samples, µs since 1970, (n,)."""
        return last_samples(start, self.cutter.windowing.length, period)

    def _newest(self, machine: str, windows: Windows) -> Windows:
        """The windows to keep of what is there, in order of time, with the labels known by now."""
        windows = windows.where(np.argsort(windows.start, kind="stable"))
        last = self._last(windows.start, windows.period)
        windows = replace(windows, label=self.labels.at(machine, windows.start, last))
        labels = np.unique(windows.label)
        rows = [np.flatnonzero(windows.label == label)[-self.max_windows :] for label in labels]
        return windows.where(np.sort(np.concatenate([np.empty(0, np.intp), *rows]))).compact()
