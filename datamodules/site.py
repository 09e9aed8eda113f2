"""One site: a LightningDataModule that turns its machines' recordings into windows, features and episodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from lightning.pytorch import LightningDataModule

from fml_lightning.datamodules.episodes import Episodes
from fml_lightning.datamodules.loaders import EpisodeLoader, common_generator
from fml_lightning.datamodules.machine_windows import MachineWindows, cut_machines, early_sums
from fml_lightning.datamodules.recordings import Recording
from fml_lightning.datamodules.stacked_tasks import (
    count_examples,
    evaluation_episodes,
    stack_tasks,
    training_episodes,
)
from fml_lightning.datamodules.tasks import (
    Task,
    by_condition,
    evaluation_task,
    own_orders,
    prediction_task,
    task_name,
)
from fml_lightning.errors import UserError
from fml_lightning.preprocessing.preprocessing import TOLERANCE, Preprocessing
from fml_lightning.preprocessing.statistics import Statistics, Sums
from fml_lightning.stream_timing import StreamTiming
from fml_lightning.types import Episode


class SiteData(LightningDataModule):
    """The machines of one site: what a Federation trains on through the site's own Trainer.

    What is drawn follows from torch's global generator, which a Federation seeds for each round and site, and
    `seed_everything` for a plain Trainer. Where several processes train together (`strategy: ddp`), each draws
    training episodes of its own; all of them evaluate the same ones.

    Args:
        name: the site's name, unique in a fleet.
        recordings: what its machines recorded; cut and turned into features when first needed.
        preprocessing: what turns recordings into what the network sees.
        episodes: how episodes are drawn.

    Raises:
        UserError: an argument is of another kind.
    """

    name: str
    weight: float = 1.0
    """How much each of its windows counts beside those of other sites, in training; above 0."""

    def __init__(
        self,
        name: str,
        recordings: Sequence[Recording],
        preprocessing: Preprocessing,
        episodes: Episodes,
    ) -> None:
        super().__init__()
        if not isinstance(name, str) or not name:
            raise UserError(f"SiteData: expected the site's name as text, got {name!r}")
        if not isinstance(recordings, Sequence) or isinstance(recordings, str):
            raise UserError(f"{name}: expected a list of Recordings, got {type(recordings).__name__}")
        for i, recording in enumerate(recordings):
            if not isinstance(recording, Recording):
                raise UserError(f"{name}: expected a Recording at place {i}, got {type(recording).__name__}")
        for value, kind in ((preprocessing, Preprocessing), (episodes, Episodes)):
            if not isinstance(value, kind):
                raise UserError(f"{name}: expected {kind.__name__}, got {value!r}")
        self.name = name
        self.recordings = recordings
        self.preprocessing = preprocessing
        self.episodes = episodes
        standardize = preprocessing.standardize
        self.tells_sums = standardize is not None and standardize.statistics is None
        """Whether it is standardized by the training sites, to which it belongs or from which it takes statistics;
        not where these are given, or nothing is standardized."""
        self._early_sums: Sums | None = None

    @cached_property
    def machines(self) -> list[MachineWindows]:
        """Each machine's windows and features, sorted by name; computed when first needed.

        Raises:
            UserError: there are no recordings, or one cannot be cut.
        """
        if not self.recordings:
            raise UserError(f"{self.name}: the site has no recordings; give it some, or leave the site out")
        machines = cut_machines(self.recordings, self.preprocessing, self.episodes.early_share)
        machines = own_orders(machines) if self.episodes.own_order else machines
        return by_condition(machines) if self.episodes.tasks_of == "conditions" else machines

    def early_sums(self) -> Sums:
        """What this site tells of the early parts that it trains on, by which `preprocessing` is standardized.

        Where anomalies are detected, these are of normal operation alone. Each row counts once, whatever `weight`
        is.

        Raises:
            UserError: a recording cannot be cut.
        """
        is_anomaly, normal = self.episodes.is_anomaly, self.episodes.normal
        if self._early_sums is None:
            trained = [each for each in self.recordings if not is_anomaly or each.label == normal]
            self._early_sums = early_sums(trained, self.preprocessing, self.episodes.early_share)
        return self._early_sums

    def standardize_by(self, statistics: Statistics) -> None:
        """Standardize by these statistics of the training sites from now on.

        Raises:
            UserError: this site gives statistics of its own, or standardizes nothing.
        """
        standardize = self.preprocessing.standardize
        if standardize is None or not self.tells_sums:
            raise UserError(
                f"{self.name}: expected standardize without statistics, as this run standardizes by its training"
                f" sites, got {'none' if standardize is None else 'one that gives them'}; configure the data of"
                " all sites alike"
            )
        if standardize.statistics != statistics:
            self.preprocessing = replace(
                self.preprocessing, standardize=replace(standardize, statistics=statistics)
            )
            vars(self).pop("machines", None)  # what was computed with others

    @property
    def machine_names(self) -> list[str]:
        """The machines that recorded anything, sorted; under each condition, where these are tasks."""
        return sorted({self.machine_of(recording) for recording in self.recordings})

    def machine_of(self, recording: Recording) -> str:
        """The machine that a recording is of; under the recording's condition, where that is a task."""
        if self.episodes.tasks_of == "conditions":
            return task_name(recording.machine, recording.condition)
        return recording.machine

    def class_names(self, machine: str, classes: Sequence[str]) -> tuple[str, ...]:
        """The name of each of a machine's labels, out of the fleet's classes: in its own order, if it has one.

        Raises:
            UserError: the site has no such machine.
        """
        return self._evaluated(machine).class_names(classes)

    def preprocessing_of(self, machine: str) -> Preprocessing:
        """The preprocessing with the sample rate and the unit of a machine's own recordings, where these have one.

        So a model of the machine knows them, though the fleet takes any.
        """
        own = [recording for recording in self.recordings if self.machine_of(recording) == machine]
        rates = [self.preprocessing.rate(recording.sample_rate) for recording in own]
        return of_machine(self.preprocessing, rates, {recording.unit for recording in own})

    def nameplate_of(self, machine: str) -> dict[str, float]:
        """The numbers that `preprocessing.needs` and that are the same in all recordings of a machine, by name."""
        own = [recording.inputs for recording in self.recordings if self.machine_of(recording) == machine]
        told = {name: {inputs.get(name) for inputs in own} for name in self.preprocessing.needs}
        return {
            name: float(value)
            for name, values in told.items()
            for value in values
            if len(values) == 1 and value is not None
        }

    @property
    def timing(self) -> StreamTiming:
        """By which windows of the machines are cut where they come as a stream."""
        return StreamTiming()

    @property
    def num_examples(self) -> int:
        """The windows that training draws from: what a Federation weighs the site by."""
        return count_examples(self.training_machines(), self.episodes)

    def training_machines(self) -> list[MachineWindows]:
        """The machines that training tasks are drawn from."""
        return self.machines

    def evaluated_machines(self) -> list[MachineWindows]:
        """The machines that validation, test and personalization judge."""
        return self.machines

    def train_dataloader(self) -> Iterable[Episode]:
        """Episodes of tasks from all machines, from their early windows."""
        return EpisodeLoader(self._train)

    def val_dataloader(self) -> Iterable[Episode]:
        """Episodes that judge each machine in turn: early support windows, late query windows."""
        return EpisodeLoader(self._evaluate, common_generator)

    test_dataloader = val_dataloader

    def predict_dataloader(self) -> Iterable[Episode]:
        """One episode of one task per machine; labels below 0 are of query windows that have none."""
        return EpisodeLoader(self._predict, common_generator)

    def personal_episode(self, machine: str, seed: int) -> Episode:
        """One machine's episode of one task: `shots` early support windows per class, all late ones as query.

        Raises:
            UserError: the site has no such machine.
        """
        return self._stacked(evaluation_task(self._evaluated(machine), self.episodes, np.random.default_rng(seed)))

    def _evaluated(self, machine: str) -> MachineWindows:
        for candidate in self.evaluated_machines():
            if candidate.name == machine:
                return candidate
        raise UserError(f"{self.name}: expected one of the machines {self.machine_names}; got {machine!r}")

    def _train(self, rng: np.random.Generator) -> Iterator[Episode]:
        return training_episodes(self.training_machines(), self.episodes, rng)

    def _evaluate(self, rng: np.random.Generator) -> Iterator[Episode]:
        for machine in self.evaluated_machines():
            yield from evaluation_episodes(machine, self.episodes, rng)

    def _predict(self, rng: np.random.Generator) -> Iterator[Episode]:
        for machine in self.evaluated_machines():
            yield self._stacked(prediction_task(machine, self.episodes, rng))

    def _stacked(self, task: Task) -> Episode:
        episode = stack_tasks([task], centre=self.episodes.centre, common_labels=self.episodes.of == "normal only")
        return replace(episode, site=self.name)


def of_machine(
    preprocessing: Preprocessing, rates: Sequence[float], units: Collection[str | None]
) -> Preprocessing:
    """A preprocessing with the sample rate and unit of a machine, where it has one; rows have none."""
    if preprocessing.windowing is None:
        return preprocessing
    is_one = bool(rates) and max(rates) / min(rates) - 1 <= TOLERANCE
    return replace(
        preprocessing,
        sample_rate=Counter(rates).most_common(1)[0][0] if is_one else preprocessing.sample_rate,
        unit=preprocessing.unit or (next(iter(units)) if len(units) == 1 else None),
    )
