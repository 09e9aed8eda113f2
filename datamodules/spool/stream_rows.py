"""Rows of a stream: scalars that devices send, such as ready features, aligned in time; each row is a window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.connectors.decoding.rows import Rows
from fml_lightning.connectors.quality import Quality
from fml_lightning.datamodules.machine_windows import MachineWindows
from fml_lightning.datamodules.spool.blocks import has, of_one_unit, sort_out
from fml_lightning.datamodules.spool.inputs import Inputs
from fml_lightning.datamodules.spool.labels import Labels
from fml_lightning.datamodules.spool.left_out import LeftOut, Reason
from fml_lightning.datamodules.spool.stream_windows import CONDITION, REASONS
from fml_lightning.datamodules.windows import Windows
from fml_lightning.preprocessing.preprocessing import Preprocessing
from fml_lightning.stream_timing import MAX_LATENESS, WITHIN

INSTANT = 1e6
"""Hz, so to say, of a row: it lasts a microsecond."""
NO_SCALARS = {
    Reason.NO_SCALAR: pl.col("sample_rate").is_not_null(),
    Reason.NOT_FINITE_READING: has(Quality.NOT_FINITE),
}
"""Which readings cannot be in a row, by the reason."""


@dataclass
class Aligned:
    """One machine's readings in rows. Those of rows that are complete are aligned once."""

    channels: Sequence[str]
    """In the order of the columns."""
    within: float
    """Seconds that the readings of one row may be apart."""
    readings: pl.DataFrame
    """Aligned ones, in order of time."""
    times: NDArray[np.int64]
    """Of each row's first reading, µs since 1970, (n,), ascending."""
    values: NDArray[np.float32]
    """(n, C), NaN where a row has no reading of a channel."""
    new: list[pl.DataFrame]
    """Readings that are not aligned yet."""

    @classmethod
    def none(cls, channels: Sequence[str], within: float, schema: pl.Schema) -> Aligned:
        """No readings yet."""
        empty = np.empty((0, len(channels)), np.float32)
        return cls(channels, within, pl.DataFrame(schema=schema), np.empty(0, np.int64), empty, [])

    def align(self) -> None:
        """Align what is new: rows that ended before it came stay as they are."""
        if not self.new:
            return
        new = pl.concat(self.new)
        self.new = []
        first = new["time"].to_physical().to_numpy().min()
        # Rows are filled in order of time: those before the last that begins by then have ended.
        stay = max(0, int(np.searchsorted(self.times, first, side="right")) - 1)
        again = pl.concat([self._from(stay), new])
        numbers = {channel: str(i) for i, channel in enumerate(self.channels)}
        rows = Rows.of(again.with_columns(pl.col("channel").replace(numbers), unit=None), self.within).frame
        columns = [
            rows[number].to_numpy() if number in rows.columns else np.full(len(rows), np.nan)
            for number in numbers.values()
        ]
        self.readings = pl.concat([self._until(stay), again.sort("time", "sequence", maintain_order=True)])
        self.times = np.concatenate([self.times[:stay], rows["time"].to_physical().to_numpy()])
        self.values = np.concatenate([self.values[:stay], np.stack(columns, axis=1).astype(np.float32)])

    def forget(self, rows: int) -> None:
        """Forget the first rows."""
        self.readings, self.times, self.values = self._from(rows), self.times[rows:], self.values[rows:]

    def _until(self, row: int) -> pl.DataFrame:
        """The readings of the rows before one."""
        return self.readings.head(self._count(row))

    def _from(self, row: int) -> pl.DataFrame:
        """The readings of the rows from one on."""
        return self.readings.slice(self._count(row))

    def _count(self, rows: int) -> int:
        """How many readings the first rows have: each is a value of its own."""
        return int(np.isfinite(self.values[:rows]).sum())


class StreamRows:
    """The rows of one site's machines. Like `StreamWindows`, which cuts blocks, but of scalars.

    A row has a reading of every channel, all within `within` of the first of them; one that lacks any is left out.

    Args:
        preprocessing: what the network sees of a row.
        early_share: the share of a machine's rows of each class, from the oldest on, that is early.
        channels: the channels, in the order in which they stand in a row.
        inputs: slow scalars of the machines, the last values before a row's time, which are seen beside the
            channels as `preprocessing.inputs` says; a row without one is left out.
        labels: of the site's machines; it may grow.
        max_windows: rows kept of every machine and class, the newest.
        within: seconds.
        max_lateness: seconds after its own time that a reading may be received; later ones are left out.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        early_share: float,
        channels: Sequence[str],
        inputs: Inputs,
        labels: Labels,
        max_windows: int,
        within: float = WITHIN,
        max_lateness: float = MAX_LATENESS,
    ) -> None:
        self.preprocessing = preprocessing
        self.early_share = early_share
        self.channels = tuple(channels)
        self.inputs = inputs
        self.labels = labels
        self.max_windows = max_windows
        self.within = within
        self.max_lateness = max_lateness
        self._aligned: dict[str, Aligned] = {}
        self._units: dict[str, str] = {}  # the first of each machine's channels
        self._left_out: dict[str, LeftOut] = {}

    @property
    def senders(self) -> list[str]:
        """The machines that have sent scalars of the channels, sorted."""
        return sorted(self._aligned)

    @property
    def machine_names(self) -> list[str]:
        """The machines that have sent readings of the channels, sorted."""
        return sorted({*self._aligned, *self._left_out})

    def add(self, readings: pl.DataFrame) -> None:
        """Take in readings of the channels and inputs (`READINGS`), in the order in which they came."""
        for machine, said in self.inputs.among(readings.with_row_index("place")):
            self.inputs.add(machine, said)
        readings = readings.filter(pl.col("channel").is_in(self.channels))
        sure, left_out = sort_out(readings, self.max_lateness, NO_SCALARS)
        sure, of_others = of_one_unit(sure, self._units)
        for machine, counts in (*left_out.items(), *of_others.items()):
            self._counts(machine).update(counts)
        for (name,), own in sure.group_by("machine", maintain_order=True):
            if name not in self._aligned:
                self._aligned[str(name)] = Aligned.none(self.channels, self.within, own.schema)
            self._aligned[str(name)].new.append(own)

    def units_of(self, machine: str) -> set[str | None]:
        """None: the channels of a row have units of their own."""
        return {None}

    def left_out(self, machine: str) -> LeftOut:
        """What a machine has sent and is not trained on, by reason, as labels are known by now."""
        counts = LeftOut(self._left_out.get(machine, {}))
        if machine in self._aligned:
            aligned = self._aligned[machine]
            windows = self._rows(machine)
            whole = int(np.isfinite(aligned.values).all(1).sum())
            counts[Reason.PARTIAL] += len(aligned.times) - whole
            counts[Reason.NO_INPUT] = whole - len(windows)
            kept = self._newest(windows)
            for reason, label in REASONS.items():
                counts[reason] = int((kept.label == label).sum())
            counts[Reason.OLD] += len(windows) - len(kept)
        return +counts

    def gaps(self, machine: str) -> str:
        """Nothing: rows wait for nothing."""
        return ""

    def machines(self) -> list[MachineWindows]:
        """Every machine's rows so far, labelled or not, sorted by machine."""
        found = []
        for name in self.senders:
            windows = self._newest(self._rows(name))
            found.append(MachineWindows.split(name, windows, self.early_share, 1))
        return found

    def forget(self) -> None:
        """Forget the readings of all but the newest rows."""
        for name, aligned in self._aligned.items():
            windows = self._rows(name)
            kept = self._newest(windows)
            if len(kept) < len(windows):
                oldest = kept.start.min()
                old = int(np.searchsorted(aligned.times, oldest))
                is_partial = ~np.isfinite(aligned.values[:old]).all(1)
                self._counts(name)[Reason.PARTIAL] += int(is_partial.sum())
                self._counts(name)[Reason.OLD] += int((windows.start < oldest).sum())
                aligned.forget(old)

    def _counts(self, machine: str) -> LeftOut:
        return self._left_out.setdefault(machine, LeftOut())

    def _rows(self, machine: str) -> Windows:
        """The rows of a machine that lack no channel and no input, with the labels by now."""
        aligned = self._aligned[machine]
        aligned.align()
        whole = np.isfinite(aligned.values).all(1)
        times, values = aligned.times[whole], aligned.values[whole]
        told = self.inputs.at(machine, times, self.preprocessing.needs)
        is_known = np.isfinite(told).all(1)
        times = times[is_known]
        rows = self.preprocessing.standardized(values[is_known][:, :, None])
        x = self.preprocessing(rows, INSTANT, told[is_known])
        return Windows.of([x], self.labels.at(machine, times, times), CONDITION, times, INSTANT)

    def _newest(self, windows: Windows) -> Windows:
        """Of each class the newest `max_windows`, in order of time."""
        rows = [np.flatnonzero(windows.label == label)[-self.max_windows :] for label in np.unique(windows.label)]
        return windows.where(np.sort(np.concatenate([np.empty(0, np.intp), *rows])))
