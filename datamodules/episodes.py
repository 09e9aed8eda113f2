"""Episodes: N-way K-shot tasks drawn from machines, judged on windows later than those they adapt on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fml_lightning.datamodules.machine_windows import MachineWindows
from fml_lightning.datamodules.windows import Windows
from fml_lightning.errors import UserError


@dataclass(frozen=True)
class Episodes:
    """How episodes are drawn."""

    shots: int = 1
    """Support windows per class, K, at least 1; `of` and `per` may say otherwise."""
    training_shots: int | None = None
    """Shots of training tasks, where they are to be others than those of validation, test and personalization, as
    smaller ones are faster; null: the same."""
    queries: int = 5
    """Query windows per class while training, at least 1. Validation and test use all late windows. Where windows
    overlap (`windowing.hop` below `length`), a training task's support and query windows may share samples; those
    of validation, test and personalization never do."""
    support: Literal["random", "first"] = "random"
    """Which early windows may be support: any of them, or a machine's first ones, as at its commissioning."""
    of: Literal["each class", "normal only", "as they come"] = "each class"
    """What support sets show: `shots` of each class; of the class `normal` alone,
    while every class is judged; or `shots` in all, of whatever classes they are."""
    per: Literal["window", "recording"] = "window"
    """What shots and queries count: windows, or whole recordings, such as engines that ran to failure."""
    tasks_of: Literal["machines", "conditions"] = "machines"
    """A task is a machine, or a machine under one of its operating conditions."""
    own_order: bool = False
    """Every machine numbers its classes in an order of its own, which stays the same: codes that mean nothing
    elsewhere."""
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
    normal: int | str | None = None
    """The class of normal operation: its name, or its index among the fleet's classes. Unless `of` is
    `normal only`, it is for anomalies without labels (`Reconstruction`): training and all support sets come from
    it alone, `shots` windows each; among the queries of validation, test and personalization it is 0, and every
    other class is 1, an anomaly. null: tasks have labelled classes."""

    def __post_init__(self) -> None:
        training = self.shots if self.training_shots is None else self.training_shots
        counts = (self.shots, training, self.queries, self.tasks, self.batches, self.repeats)
        if not 0 < self.early_share < 1:
            raise UserError(f"Episodes: expected 0 < early_share < 1, got {self.early_share}")
        if min(counts) < 1 or (self.ways is not None and self.ways < 2):
            raise UserError(
                "Episodes: expected shots, training_shots, queries, tasks, batches, repeats >= 1 and ways >= 2,"
                f" got {self}"
            )
        if self.ways is not None and not self.permute_labels:
            raise UserError("Episodes: ways needs permute_labels, or labels would change their meaning by chance")
        if self.ways is not None and self.normal is not None:
            raise UserError(
                "Episodes: expected ways or normal, not both; anomaly detection has no classes to choose"
            )
        if self.of != "each class" and self.ways is not None:
            raise UserError("Episodes: expected ways with of: each class only; leave one of the two out")
        if self.of == "as they come" and self.normal is not None:
            raise UserError("Episodes: of: as they come takes windows of every class; leave normal out, or of")
        if self.of == "normal only" and self.permute_labels:
            raise UserError(
                "Episodes: of: normal only needs permute_labels: false; a class that support lacks must mean"
                " the same everywhere"
            )
        if self.of == "normal only" and self.normal is None:
            raise UserError(
                "Episodes: of: normal only needs normal, the class of normal operation, by name or index"
            )
        if self.own_order and (self.normal is not None or self.of == "normal only"):
            raise UserError(
                "Episodes: expected own_order: false where a class is normal, which has to be the same class at"
                " every machine"
            )
        if self.normal is not None and self.centre and self.shots == 1 and self.of == "each class":
            raise UserError(
                "Episodes: a single normal window is its own centre; raise shots, or set centre: false"
            )

    @property
    def while_training(self) -> Episodes:
        """The same, with the `shots` of training."""
        return self if self.training_shots is None else replace(self, shots=self.training_shots)

    def early_windows(self, trains: bool) -> int:
        """The early windows of a group that a machine needs to be judged, or to be trained on as well.

        >>> [Episodes(shots=9, training_shots=2, queries=n).early_windows(True) for n in (5, 10)]
        [9, 12]
        """
        return max(self.shots, self.while_training.shots + self.queries if trains else 0)

    @property
    def is_anomaly(self) -> bool:
        """Whether tasks are to tell anomalies from what is normal."""
        return self.normal is not None and self.of == "each class"

    def groups(self, windows: Windows) -> list[NDArray[np.intp]]:
        """The rows of windows of each group that `shots` are drawn from, in order of classes.

        Where the first windows are support, rows are in order of time.

        >>> Episodes(of="as they come").groups(Windows.of([np.zeros((3, 1))], 2, "any", np.arange(3), 1.0))
        [array([0, 1, 2])]
        """
        if not len(windows):
            return []
        rows = np.arange(len(windows))
        if self.support == "first":
            rows = np.argsort(windows.start, kind="stable")
        if self.of == "as they come":
            return [rows]
        labels = np.unique(windows.label)
        if self.of == "normal only" or self.normal is not None:
            labels = labels[labels == self.normal]
        return [rows[windows.label[rows] == label] for label in labels]

    def count(self, windows: Windows, rows: NDArray[np.intp]) -> int:
        """How many of what `shots` counts there are in some rows."""
        return len(rows) if self.per == "window" else len(np.unique(windows.recording[rows]))

    def drawable(self, machine: MachineWindows, early: int, late: int) -> MachineWindows | None:
        """What tasks can be drawn from by now, at a machine whose data grow; None if that is too little.

        Classes with too few windows are left out, and at least `ways` classes have to be left (two where `ways` is
        null). Where support is of one group only, that needs enough windows; all classes stay, however few windows
        they have, for they are only judged.

        Args:
            machine: all its windows so far.
            early: how many early windows of a class are enough.
            late: how many late windows of a class are enough.
        """
        if self.of == "as they come":
            return machine if len(machine.early) >= early and len(machine.late) >= late else None
        counts = Counter(machine.early.label.tolist()), Counter(machine.late.label.tolist())
        enough = [label for label, count in counts[0].items() if count >= early and counts[1][label] >= late]
        if self.of == "normal only" or self.normal is not None:
            return machine if self.normal in enough else None
        if len(enough) < (self.ways or 2):
            return None
        first, second = (side.where(np.isin(side.label, enough)) for side in (machine.early, machine.late))
        return replace(machine, early=first, late=second)
