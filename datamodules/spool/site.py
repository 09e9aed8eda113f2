"""A site whose data grow: its windows come from a spool that is followed while it fills."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import polars as pl
from tqdm import tqdm

from fml_lightning.connectors.readings import Batch
from fml_lightning.connectors.spool.source import TOPICS, SpoolSource
from fml_lightning.datamodules.episodes import Episodes, count_examples
from fml_lightning.datamodules.site import SiteData
from fml_lightning.datamodules.spool.labels import Labels
from fml_lightning.datamodules.spool.stream_windows import StreamWindows
from fml_lightning.datamodules.windows import Machine
from fml_lightning.errors import NotYetError
from fml_lightning.preprocessing.features import Features
from fml_lightning.preprocessing.windowing import Windowing
from fml_lightning.types import Episode

STEP = 10_000
"""Messages of a spool after which all but the newest windows are forgotten: fixed places, so that the same spool
gives the same windows, however its segments are merged meanwhile and however often it is looked at."""


class LiveSpool(Protocol):
    """A connector that records into a spool while it is open, such as `MQTT`."""

    @property
    def folder(self) -> Path:
        """The spool's."""
        ...

    def __enter__(self) -> Any:
        """Begin to record."""
        ...

    def __exit__(self, *error: object) -> None:
        """End recording; nothing that was acknowledged is lost."""
        ...

    def check(self) -> None:
        """Raise a `UserError` if the recording cannot go on."""
        ...


class SpoolStream:
    """What has come of one site so far. It reads a spool batch by batch, and may begin before there is one.

    Args:
        site: the site's name; readings and labels of other sites in the spool are not its own.
        folder: the spool's.
        channel: the channel that windows are cut from.
        classes: the labels that count.
        windowing: how stretches of the channel become windows.
        features: what the network sees of a window.
        max_windows: windows kept of every machine and class, the newest.
    """

    def __init__(
        self,
        site: str,
        folder: str | Path,
        channel: str,
        classes: Sequence[str],
        windowing: Windowing,
        features: Features,
        max_windows: int,
    ) -> None:
        self.site = site
        self.folder = Path(folder)
        self.channel = channel
        self.labels = Labels(site, classes)
        self.windows = StreamWindows(windowing, features, self.labels, max_windows)
        self.recorder: LiveSpool | None = None
        """Who records into the spool, where this process does."""
        self._source: SpoolSource | None = None
        self._machines: list[Machine] | None = None
        self._others: set[str] = set()
        self._step = 0

    @property
    def machine_names(self) -> list[str]:
        """The machines that have sent blocks of the channel, sorted."""
        return sorted(self.windows.cutters)

    def take_in(self) -> None:
        """Read what has arrived since the last call.

        Raises:
            UserError: the spool cannot be read, or its recording has ended with an error.
        """
        if self.recorder is not None:
            self.recorder.check()
        if self._source is None:
            if not (self.folder / TOPICS).is_file():
                return
            self._source = SpoolSource(self.folder)
        own = pl.col("site") == self.site
        batches = tqdm(self._source.new(), f"reading {self.folder}", unit=" batches", leave=False, delay=2.0)
        for step, batch in _in_steps(batches):
            if step > self._step:
                self.windows.forget()
                self._step = step
            self.labels.add(batch.labels.filter(own))
            mine = batch.readings.filter(own, pl.col("channel") == self.channel)
            self.windows.add(mine)
            self._machines = None
            if not self.windows.cutters:
                names = batch.readings.select(pl.concat_str("site", pl.lit(": "), "channel")).unique().to_series()
                self._others.update(names)

    def machines(self) -> list[Machine]:
        """Every machine's labelled windows so far, sorted by name."""
        if self._machines is None:
            self._machines = self.windows.machines()
        return self._machines

    def nothing(self) -> str:
        """Why there is no machine yet."""
        if self._source is None:
            return f"there is no spool in {self.folder} yet; start `fml record`, or mend the path"
        found = f"; it has {', '.join(sorted(self._others)[:8])}" if self._others else ", it is empty"
        doubt = (
            f"; {self.windows.doubtful} readings are left out because their time is late, retained or implausible"
            if self.windows.doubtful
            else ""
        )
        return (
            f"the spool {self.folder} has no blocks (samples with a sample rate) of {self.site}: {self.channel}"
            f" yet{found}{doubt}"
        )


class SpoolSite(SiteData):
    """Machines of a site whose data grow. Whenever its episodes are drawn, it takes in first what has arrived.

    So in a Federation round k trains on what has arrived by round k. Tasks are drawn from the machines, and the
    classes, that have enough windows by then; the others wait. As data grow, the cut between early and late
    windows moves on: windows that judged a round may be trained on in a later one.

    Args:
        name: the site's name, unique in a fleet.
        stream: what comes; sites may share one.
        holds: which machines of the stream are this site's, by name.
        episodes: how episodes are drawn.
    """

    def __init__(self, name: str, stream: SpoolStream, holds: Callable[[str], bool], episodes: Episodes) -> None:
        super().__init__(name, (), stream.windows.windowing, stream.windows.features, episodes)
        self.stream = stream
        self.holds = holds

    @property
    def machines(self) -> list[Machine]:
        """Each machine's labelled windows so far, sorted by name."""
        return [machine for machine in self.stream.machines() if self.holds(machine.name)]

    @property
    def machine_names(self) -> list[str]:
        """The machines that have sent anything so far, sorted."""
        return [name for name in self.stream.machine_names if self.holds(name)]

    @property
    def num_examples(self) -> int:
        """The windows that training drew from when it last began; what has arrived since is not taken in."""
        return count_examples(self._ready(self.episodes.shots + self.episodes.queries, 0), self.episodes)

    def training_machines(self) -> list[Machine]:
        """The machines that have enough early windows by now.

        Raises:
            NotYetError: there is none.
        """
        return self._drawable(self.episodes.shots + self.episodes.queries, 0)

    def evaluated_machines(self) -> list[Machine]:
        """The machines that have enough early windows to adapt on, and later ones, by now.

        Raises:
            NotYetError: there is none.
        """
        return self._drawable(self.episodes.shots, 1)

    def personal_episode(self, machine: str, seed: int) -> Episode:
        """One machine's episode of one task: `shots` early support windows per class, all late ones as query.

        Raises:
            NotYetError: the machine has too few windows yet.
            UserError: the site has no such machine.
        """
        if machine in self.machine_names and machine not in {m.name for m in self.evaluated_machines()}:
            raise NotYetError(f"{machine}: {self._lack([machine], self.episodes.shots, 1)}")
        return super().personal_episode(machine, seed)

    def _drawable(self, early: int, late: int) -> list[Machine]:
        self.stream.take_in()
        ready = self._ready(early, late)
        if not ready:
            raise NotYetError(f"{self.name}: {self._lack(self.machine_names, early, late)}")
        return ready

    def _ready(self, early: int, late: int) -> list[Machine]:
        found = [self.episodes.drawable(machine, early, late) for machine in self.machines]
        return [machine for machine in found if machine is not None]

    def _lack(self, names: Sequence[str], early: int, late: int) -> str:
        """What is missing before tasks can be drawn from one of some machines."""
        if not self.stream.machine_names:
            return self.stream.nothing()
        if not names:
            return f"none of its machines so far is to be used here ({', '.join(self.stream.machine_names)})"
        classes, normal = self.stream.labels.classes, self.episodes.normal
        of = f"each of {self.episodes.ways or 2} classes" if normal is None else f"class {classes[normal]}"
        need = f"{early} early windows" + (f" and {late} late one" if late else "") + f" of {of}"
        counts = {name: (Counter[int](), Counter[int]()) for name in names}
        for machine in self.machines:
            if machine.name in counts:
                counts[machine.name] = Counter(machine.early.label.tolist()), Counter(machine.late.label.tolist())
        best = max(counts, key=lambda name: counts[name][0].total())
        has = ", ".join(f"{label} {counts[best][0][k]} + {counts[best][1][k]}" for k, label in enumerate(classes))
        return (
            f"expected a machine with {need}; {best} has (early + late) {has},"
            f" and {self.stream.windows.unlabelled(best)} without a label"
            + (f"; {self.stream.windows.broken} were not finite" if self.stream.windows.broken else "")
        )


def _in_steps(batches: Iterable[Batch]) -> Iterator[tuple[int, Batch]]:
    """Batches cut at every multiple of `STEP`, each with the number of that multiple."""
    for batch in batches:
        steps = pl.concat([batch.readings["sequence"], batch.labels["sequence"]]).unique() // STEP
        for step in steps.unique().sort().to_list():
            here = pl.col("sequence") // STEP == step
            yield step, Batch(batch.readings.filter(here), batch.labels.filter(here))
