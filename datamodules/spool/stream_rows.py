"""Rows of a stream: scalars that devices send, such as ready features, aligned in time; each row is a window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import polars as pl

from fml_lightning.connectors.decoding.rows import Rows
from fml_lightning.connectors.quality import Quality
from fml_lightning.datamodules.machine_windows import MachineWindows
from fml_lightning.datamodules.spool.blocks import MAX_LATENESS, has, sort_out
from fml_lightning.datamodules.spool.inputs import Inputs
from fml_lightning.datamodules.spool.labels import UNKNOWN, UNLABELLED, Labels
from fml_lightning.datamodules.spool.left_out import LeftOut, Reason
from fml_lightning.datamodules.spool.stream_windows import CONDITION
from fml_lightning.datamodules.windows import Windows
from fml_lightning.preprocessing.preprocessing import Preprocessing

WITHIN = 1.0
"""Seconds that readings of one row may be apart, unless a user says otherwise."""
INSTANT = 1e6
"""Hz, so to say, of a row: it lasts a microsecond."""
NO_SCALARS = {
    Reason.NO_SCALAR: pl.col("sample_rate").is_not_null(),
    Reason.NOT_FINITE_READING: has(Quality.NOT_FINITE),
}
"""Which readings cannot be in a row, by the reason."""


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
        aliases: the machines' names by names that they had before.
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
        aliases: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.preprocessing = preprocessing
        self.early_share = early_share
        self.channels = tuple(channels)
        self.inputs = inputs
        self.labels = labels
        self.max_windows = max_windows
        self.within = within
        self.max_lateness = max_lateness
        self.aliases = dict(aliases)
        self._readings: dict[str, pl.DataFrame] = {}
        self._left_out: dict[str, LeftOut] = {}

    @property
    def senders(self) -> list[str]:
        """The machines that have sent scalars of the channels, sorted."""
        return sorted(self._readings)

    @property
    def machine_names(self) -> list[str]:
        """The machines that have sent readings of the channels, sorted."""
        return sorted({*self._readings, *self._left_out})

    def add(self, readings: pl.DataFrame) -> None:
        """Take in readings of the channels and inputs (`READINGS`), in the order in which they came."""
        if self.aliases:
            readings = readings.with_columns(pl.col("machine").replace(self.aliases))
        self.inputs.add(readings)
        readings = readings.filter(pl.col("channel").is_in(self.channels))
        sure, left_out = sort_out(readings, self.max_lateness, NO_SCALARS)
        for machine, counts in left_out.items():
            self._left_out.setdefault(machine, LeftOut()).update(counts)
        for (name,), own in sure.group_by("machine", maintain_order=True):
            before = self._readings.get(str(name))
            self._readings[str(name)] = own if before is None else pl.concat([before, own])

    def left_out(self, machine: str) -> LeftOut:
        """What a machine has sent and is not trained on, by reason, as labels are known by now."""
        counts = LeftOut(self._left_out.get(machine, {}))
        if machine in self._readings:
            counts[Reason.PARTIAL], counts[Reason.NO_INPUT], windows = self._rows(machine)
            kept = self._newest(windows)
            counts[Reason.NO_LABEL] = int((kept.label == UNLABELLED).sum())
            counts[Reason.UNKNOWN_LABEL] = int((kept.label == UNKNOWN).sum())
            counts[Reason.OLD] += len(windows) - len(kept)
        return +counts

    def gaps(self, machine: str) -> str:
        """Nothing: rows wait for nothing."""
        return ""

    def machines(self) -> list[MachineWindows]:
        """Every machine's labelled rows so far, sorted by machine."""
        found = []
        for name in self.senders:
            windows = self._newest(self._rows(name)[2])
            labelled = windows.where(windows.label >= 0)
            found.append(MachineWindows.split(name, labelled, self.early_share, 1))
        return found

    def forget(self) -> None:
        """Forget the readings of all but the newest rows."""
        for name, readings in self._readings.items():
            windows = self._rows(name)[2]
            kept = self._newest(windows)
            if len(kept) < len(windows):
                oldest = pl.Series([int(kept.start.min())]).cast(readings["time"].dtype)
                self._left_out.setdefault(name, LeftOut())[Reason.OLD] += int(
                    (windows.start < kept.start.min()).sum()
                )
                self._readings[name] = readings.filter(pl.col("time") >= oldest.item())

    def _rows(self, machine: str) -> tuple[int, int, Windows]:
        """How many rows of a machine lack a channel, and how many an input; the others, with the labels by now."""
        rows = Rows.of(self._readings[machine], self.within).frame
        present = [channel for channel in self.channels if channel in rows.columns]
        whole = rows.drop_nulls(present) if len(present) == len(self.channels) else rows.clear()
        times = whole["time"].to_physical().to_numpy()
        inputs = self.inputs.at(machine, times)
        known = np.isfinite(inputs).all(1)
        values = np.stack(
            [
                whole[channel].to_numpy() if channel in whole.columns else np.empty(0, np.float32)
                for channel in self.channels
            ],
            axis=1,
        )
        times = times[known]
        x = self.preprocessing(values[known].astype(np.float32)[:, :, None], INSTANT, inputs[known])
        windows = Windows.of([x], UNLABELLED, CONDITION, times, INSTANT)
        windows = replace(windows, label=self.labels.at(machine, times, times))
        return len(rows) - len(whole), int((~known).sum()), windows

    def _newest(self, windows: Windows) -> Windows:
        """Of each class the newest `max_windows`, in order of time."""
        rows = [np.flatnonzero(windows.label == label)[-self.max_windows :] for label in np.unique(windows.label)]
        return windows.where(np.sort(np.concatenate([np.empty(0, np.intp), *rows])))
