"""Episodes: N-way K-shot tasks drawn from machines, judged on windows later than those they adapt on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fml_lightning.datamodules.machine_windows import MachineWindows
from fml_lightning.datamodules.windows import Windows
from fml_lightning.errors import UserError
from fml_lightning.types import Episode, Examples

STACKED_BYTES = 2**26
"""Most bytes of query windows that validation and test stack in one episode; at least one task is stacked."""


@dataclass(frozen=True)
class Episodes:
    """How episodes are drawn."""

    shots: int = 1
    """Support windows per class, K, at least 1."""
    queries: int = 5
    """Query windows per class while training, at least 1. Validation and test use all late windows. Where windows
    overlap (`windowing.hop` below `length`), a training task's support and query windows may share samples; those
    of validation, test and personalization never do."""
    ways: int | None = None
    """Classes per training task, N, at least 2, drawn anew for each; null: all that a machine has. Validation,
    test and personalization always use all classes."""
    tasks: int = 8
    """Tasks stacked in one episode, T, at least 1; fewer in validation and test where their windows are large."""
    batches: int = 100
    """Batches in an epoch of a plain `lightning.Trainer`, each one episode, at least 1; a Federation counts
    `local_steps`."""
    permute_labels: bool = True
    """Give the classes of every training task a random order, so that the initialization cannot memorize what
    a label means and must learn to read it from the support set."""
    centre: bool = True
    """Subtract the mean of a task's support windows from all its windows, so that a machine's calibration drops
    out (of features on a log scale, such as `LogBandPowers`)."""
    early_share: float = 0.5
    """Share of each machine's recordings of a class, from their start, that training and support sets come from,
    in (0, 1). The rest, after a gap of one window, is for the query sets of validation, test and
    personalization."""
    repeats: int = 20
    """Support sets drawn per machine in validation and test, at least 1."""
    query_condition: Literal["any", "other"] = "any"
    """`other`: except in training, a machine's support windows come from one of its operating conditions and the
    query windows from all others. (A machine with a single condition is judged under that one.)"""
    normal: int | None = None
    """The class of normal operation, as an index into the fleet's classes, for anomalies without labels
    (`Reconstruction`): training and all support sets come from it alone, `shots` windows each; among the queries
    of validation, test and personalization it is 0, and every other class is 1, an anomaly. null: tasks have
    labelled classes."""

    def __post_init__(self) -> None:
        counts = (self.shots, self.queries, self.tasks, self.batches, self.repeats)
        if not 0 < self.early_share < 1:
            raise UserError(f"Episodes: expected 0 < early_share < 1, got {self.early_share}")
        if min(counts) < 1 or (self.ways is not None and self.ways < 2):
            raise UserError(
                f"Episodes: expected shots, queries, tasks, batches, repeats >= 1 and ways >= 2, got {self}"
            )
        if self.ways is not None and not self.permute_labels:
            raise UserError("Episodes: ways needs permute_labels, or labels would change their meaning by chance")
        if self.ways is not None and self.normal is not None:
            raise UserError(
                "Episodes: expected ways or normal, not both; anomaly detection has no classes to choose"
            )
        if self.normal is not None and self.centre and self.shots == 1:
            raise UserError(
                "Episodes: a single normal window is its own centre; raise shots, or set centre: false"
            )

    def support_labels(self, windows: Windows) -> NDArray[np.int64]:
        """The classes that support sets show, of those that a machine has."""
        labels: NDArray[np.int64] = np.unique(windows.label)
        return labels if self.normal is None else labels[labels == self.normal]

    def drawable(self, machine: MachineWindows, early: int, late: int) -> MachineWindows | None:
        """What tasks can be drawn from by now, at a machine whose data grow; None if that is too little.

        Classes with too few windows are left out, and at least `ways` classes have to be left (two where `ways` is
        null). With a `normal` class, that one needs enough windows; all other classes stay, however few windows
        they have, for they are only judged.

        Args:
            machine: all its windows so far.
            early: how many early windows of a class are enough.
            late: how many late windows of a class are enough.
        """
        counts = Counter(machine.early.label.tolist()), Counter(machine.late.label.tolist())
        enough = [label for label, count in counts[0].items() if count >= early and counts[1][label] >= late]
        if self.normal is not None:
            return machine if self.normal in enough else None
        if len(enough) < (self.ways or 2):
            return None
        first, second = (side.where(np.isin(side.label, enough)) for side in (machine.early, machine.late))
        return MachineWindows(machine.name, first, second)


class Task(NamedTuple):
    """What one machine adapts on, and what it is judged by then."""

    machine: str
    """The machine's name."""
    support: Windows
    query: Windows


def training_episodes(
    machines: Sequence[MachineWindows], episodes: Episodes, rng: np.random.Generator
) -> Iterator[Episode]:
    """`episodes.batches` episodes of tasks from the machines' early windows.

    Raises:
        UserError: a machine has too few windows of a class, or too few classes.
    """
    if not machines:
        raise UserError("Episodes: the site has no machines to draw tasks from")
    for machine in machines:
        _check(machine, episodes, per_class=episodes.shots + episodes.queries)
    for _ in range(episodes.batches):
        drawn = [machines[i] for i in rng.integers(len(machines), size=episodes.tasks)]
        yield stack_tasks([_training_task(machine, episodes, rng) for machine in drawn], centre=episodes.centre)


def count_examples(machines: Sequence[MachineWindows], episodes: Episodes) -> int:
    """The windows of these machines that training tasks are drawn from."""
    labels = [machine.early.label for machine in machines]
    return sum(len(own) if episodes.normal is None else int((own == episodes.normal).sum()) for own in labels)


def evaluation_episodes(
    machine: MachineWindows, episodes: Episodes, rng: np.random.Generator
) -> Iterator[Episode]:
    """`episodes.repeats` tasks of one machine: early support windows, all late windows as query.

    Labels keep their meaning. Every operating condition gets its share of the repeats where
    `query_condition` is `other`. As many tasks are stacked as `episodes.tasks` and `STACKED_BYTES` allow.
    """
    tasks = [evaluation_task(machine, episodes, rng, repeat) for repeat in range(episodes.repeats)]
    # Conditions may differ in their number of query windows: tasks of equal shape need no padding.
    for size in sorted({len(task.query) for task in tasks}):
        alike = [task for task in tasks if len(task.query) == size]
        together = max(1, min(episodes.tasks, STACKED_BYTES // alike[0].query.nbytes))
        for begin in range(0, len(alike), together):
            yield stack_tasks(alike[begin : begin + together], centre=episodes.centre)


def evaluation_task(machine: MachineWindows, episodes: Episodes, rng: np.random.Generator, turn: int = 0) -> Task:
    """One draw of `shots` early windows per class as support, all late windows as query.

    Args:
        machine: where the windows come from.
        episodes: number of shots, and whether query windows come from other conditions than support.
        rng: draws the support windows.
        turn: which operating condition supports, counted around, where `query_condition` is `other`.

    Raises:
        UserError: the machine has too few windows of a class.
    """
    early, late = machine.early, machine.late
    conditions = sorted(set(early.condition.tolist()))
    if episodes.query_condition == "other" and len(conditions) > 1:
        condition = conditions[turn % len(conditions)]
        early = early.where(early.condition == condition)
        late = late.where(late.condition != condition)
    _check(replace(machine, early=early), episodes, per_class=episodes.shots)
    picked = [_pick(early.label, label, episodes.shots, rng) for label in episodes.support_labels(early)]
    support = early.where(np.concatenate(picked))
    if episodes.normal is not None:
        support, late = (replace(w, label=(w.label != episodes.normal).astype(np.int64)) for w in (support, late))
    return Task(machine.name, support, late)


def stack_tasks(tasks: Sequence[Task], *, centre: bool) -> Episode:
    """Tasks as one episode; those with fewer windows than others are padded and masked.

    Args:
        tasks: at least one.
        centre: subtract each task's mean support window from all its windows.
    """
    middle = np.zeros((len(tasks), *tasks[0].support.shape[1:]), np.float32)
    if centre:
        middle = np.stack([task.support.x.mean(0) for task in tasks])
    return Episode(
        support=_pad([task.support for task in tasks], middle),
        query=_pad([task.query for task in tasks], middle),
        machines=tuple(task.machine for task in tasks),
        centre=torch.from_numpy(middle),
    )


def _pad(parts: Sequence[Windows], middle: NDArray[np.float32]) -> Examples:
    """Windows of each task, less the task's middle (T, …); padding repeats a task's first window."""
    sizes = np.array([len(part) for part in parts])
    rows = np.arange(sizes.max())
    mask = rows < sizes[:, None]  # (T, N)
    if not mask.all():
        parts = [part.where(np.where(own, rows, 0)) for part, own in zip(parts, mask, strict=True)]
    x = np.empty((len(parts), *parts[0].shape), np.float32)  # (T, N, …)
    for part, own in zip(parts, x, strict=True):
        part.copy_to(own)
    x -= middle[:, None]
    y = np.stack([part.label if part.target is None else part.target for part in parts])
    return Examples(torch.from_numpy(x), torch.from_numpy(y), None if mask.all() else torch.from_numpy(mask))


def _training_task(machine: MachineWindows, episodes: Episodes, rng: np.random.Generator) -> Task:
    windows = machine.early
    labels = episodes.support_labels(windows)
    names = labels
    if episodes.normal is not None:
        names = np.zeros(1, np.int64)
    elif episodes.permute_labels:
        labels = rng.permutation(labels)[: episodes.ways]
        names = np.arange(len(labels))
    picked = [_pick(windows.label, label, episodes.shots + episodes.queries, rng) for label in labels]
    support = np.concatenate([rows[: episodes.shots] for rows in picked])
    query = np.concatenate([rows[episodes.shots :] for rows in picked])
    return Task(
        machine.name,
        replace(windows.where(support), label=np.repeat(names, episodes.shots)),
        replace(windows.where(query), label=np.repeat(names, episodes.queries)),
    )


def _pick(labels: NDArray[np.int64], label: int, size: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Rows of `size` windows of a class, in random order, without replacement."""
    return rng.choice(np.flatnonzero(labels == label), size, replace=False)


def _check(machine: MachineWindows, episodes: Episodes, per_class: int) -> None:
    labels, counts = np.unique(machine.early.label, return_counts=True)
    if episodes.normal is not None:
        labels, counts = labels[labels == episodes.normal], counts[labels == episodes.normal]
    if not len(labels):
        of = "" if episodes.normal is None else f" of the normal class {episodes.normal}"
        raise UserError(f"{machine.name}: no early windows{of} to draw support from; record more")
    if episodes.ways is not None and len(labels) < episodes.ways:
        raise UserError(
            f"{machine.name}: expected {episodes.ways} classes for ways, got {len(labels)}; lower episodes.ways"
        )
    if counts.min() < per_class:
        raise UserError(
            f"{machine.name}: expected at least {per_class} early windows of every class"
            f" ({episodes.shots} shots, {episodes.queries} queries while training), class"
            f" {labels[counts.argmin()]} has {counts.min()}; lower episodes.shots or windowing.hop"
        )
