"""What has come of one site so far: its spool, read while it fills."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import polars as pl
from tqdm import tqdm

from fml_lightning.connectors.readings import Batch
from fml_lightning.connectors.spool.folder import has_topics
from fml_lightning.connectors.spool.source import SpoolSource
from fml_lightning.datamodules.machine_windows import MachineWindows
from fml_lightning.datamodules.spool.aliases import renamed
from fml_lightning.datamodules.spool.inputs import Inputs
from fml_lightning.datamodules.spool.labels import Labels
from fml_lightning.datamodules.spool.left_out import ORDINARY, LeftOut, counted, told, told_of_all
from fml_lightning.datamodules.spool.live_spool import LiveSpool
from fml_lightning.datamodules.spool.stream_rows import StreamRows
from fml_lightning.datamodules.spool.stream_windows import StreamWindows
from fml_lightning.errors import UserError
from fml_lightning.preprocessing.preprocessing import Preprocessing
from fml_lightning.stream_timing import StreamTiming

STEP = 10_000
"""Messages of a spool after which all but the newest windows are forgotten. The places are fixed, so that the same
spool gives the same windows, however often it is looked at and however its segments are merged meanwhile."""


class SpoolStream:
    """What has come of one site so far: its labels and windows, read from its spool.

    The spool need not be there yet: until it is, nothing has come.

    Args:
        site: the site's name; readings and labels of other sites in the spool are not its own.
        folder: the spool's.
        channels: the channels that windows are cut from, in their order.
        classes: the labels that count.
        preprocessing: what turns stretches of the channel into what the network sees.
        early_share: the share of a machine's windows of each class that is learnt from.
        max_windows: windows kept of every machine and class, the newest.
        timing: how late readings may be, how long values of inputs hold, and how far apart a row's numbers may be.
        aliases: the machines' names by names that they had before.
        nameplate: what is known of a machine, by its name: numbers by name.
        since: µs since 1970 from which on windows and labels count; None: all count.
    """

    def __init__(
        self,
        site: str,
        folder: str | Path,
        channels: Sequence[str],
        classes: Sequence[str],
        preprocessing: Preprocessing,
        early_share: float,
        max_windows: int,
        timing: StreamTiming = StreamTiming(),  # noqa: B008
        aliases: Mapping[str, str] = MappingProxyType({}),
        nameplate: Callable[[str], Mapping[str, float]] = lambda machine: {},
        since: int | None = None,
    ) -> None:
        self.site = site
        self.folder = Path(folder)
        self.channels = tuple(channels)
        self.labels = Labels(site, classes, since)
        self.aliases = dict(aliases)
        if preprocessing.shaft_speed is not None:
            raise UserError(
                f"{site}: expected no shaft_speed for a stream, whose windows are complete before the seconds of"
                " signal that an estimate is made of; tell the speed by a channel or in nameplates"
            )
        self.preprocessing = preprocessing
        self.timing = timing
        self.nameplate = nameplate
        inputs = Inputs(preprocessing.needs, timing.max_age, nameplate)
        self.windows: StreamWindows | StreamRows
        if preprocessing.windowing is None:
            self.windows = StreamRows(
                preprocessing,
                early_share,
                self.channels,
                inputs,
                self.labels,
                max_windows,
                timing.within,
                timing.max_lateness,
            )
        else:
            self.windows = StreamWindows(
                preprocessing,
                early_share,
                self.channels,
                self.labels,
                inputs,
                max_windows,
                timing.max_lateness,
            )
        self.seen: set[str] = set()
        """Names under which machines have sent readings or were labelled, before aliases."""
        self.recorder: LiveSpool | None = None
        """Who records into the spool, where this process does."""
        self._source: SpoolSource | None = None
        self._machines: list[MachineWindows] | None = None
        self._others: set[str] = set()
        self._step = 0

    @property
    def machine_names(self) -> list[str]:
        """The machines that have sent blocks of the channels, sorted."""
        return self.windows.senders

    def take_in(self) -> None:
        """Read what has arrived since the last call.

        Raises:
            UserError: the spool cannot be read, or its recording has ended with an error.
        """
        if self.recorder is not None:
            self.recorder.check()
        try:
            self._take_in()
        except PermissionError as error:
            raise UserError(
                f"{self.site}: this process's user may not read {error.filename}; run it as the user who records"
                f" into the spool {self.folder}, or let this one read it"
            ) from error

    def _take_in(self) -> None:
        if self._source is None:
            if not has_topics(self.folder):
                return
            self._source = SpoolSource(self.folder)
        own = pl.col("site") == self.site
        batches = tqdm(self._source.new(), f"reading {self.folder}", unit=" batches", leave=False, delay=2.0)
        for step, batch in _in_steps(batches):
            if step > self._step:
                self.windows.forget()
                self._step = step
            self.add_labels(batch.labels.filter(own))
            mine = batch.readings.filter(own)
            self.seen.update(mine["machine"].unique())
            self.windows.add(renamed(mine, self.aliases))
            self._machines = None
            if not self.windows.senders:
                names = batch.readings.select(pl.concat_str("site", pl.lit(": "), "channel")).unique().to_series()
                self._others.update(names)

    def add_labels(self, labels: pl.DataFrame) -> None:
        """Take in labels (`Labels.add`) of the machines, by any name that they had."""
        self.seen.update(labels["machine"].unique())
        self.labels.add(labels.with_columns(pl.col("machine").replace(self.aliases)) if self.aliases else labels)
        self._machines = None

    def machines(self) -> list[MachineWindows]:
        """Every machine's windows so far, labelled or not, sorted by name."""
        if self._machines is None:
            self._machines = self.windows.machines()
        return self._machines

    def left_out(self) -> LeftOut:
        """What the machines have sent and is not trained on, by reason."""
        counts = LeftOut()
        for machine in self.windows.machine_names:
            counts.update(self.windows.left_out(machine))
        return counts

    @property
    def is_doubtful(self) -> bool:
        """Whether a machine has no window with a label, or more is left out than is `ORDINARY`."""
        cut = {machine.name for machine in self.machines() if len(machine.early) + len(machine.late)}
        return not cut.issuperset(self.windows.machine_names) or not self.left_out().keys() <= ORDINARY

    def summary(self) -> str:
        """What has come so far, in one line."""
        names = self.windows.machine_names
        cut = {machine.name for machine in self.machines()}
        labelled = sum(len(machine.early) + len(machine.late) for machine in self.machines())
        corrected = self.labels.corrected
        parts = [
            f"{counted(len(names), 'machines')}, {counted(labelled, 'windows with a label')}",
            told_of_all({name: self.windows.left_out(name) for name in names}),
            *(self.windows.gaps(name) for name in names if name not in cut),
            counted(corrected, "labels corrected later") if corrected else "",
        ]
        return f"{self.site}: {'; '.join(part for part in parts if part)}"

    @property
    def _kind(self) -> str:
        """What windows are made of."""
        return "single numbers" if self.preprocessing.windowing is None else "blocks (samples with a sample rate)"

    def why_empty(self) -> str:
        """Why there is no machine yet."""
        if self._source is None:
            return f"there is no spool in {self.folder} yet; start `fml record`, or mend the path"
        if left_out := told(self.left_out()):
            channels = ", ".join(self.channels)
            return f"of {self.site}: {channels}, all that has come in the spool {self.folder} is {left_out}"
        found = f"; it has {', '.join(sorted(self._others)[:8])}" if self._others else ", it is empty"
        return f"the spool {self.folder} has no {self._kind} of {self.site}: {', '.join(self.channels)} yet{found}"


def _in_steps(batches: Iterable[Batch]) -> Iterator[tuple[int, Batch]]:
    """Batches cut at every multiple of `STEP`, each with the number of that multiple."""
    for batch in batches:
        steps = pl.concat([batch.readings["sequence"], batch.labels["sequence"]]).unique() // STEP
        for step in steps.unique().sort().to_list():
            here = pl.col("sequence") // STEP == step
            yield step, Batch(batch.readings.filter(here), batch.labels.filter(here))
