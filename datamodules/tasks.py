"""Tasks: what one machine adapts on, and what it is judged by, drawn from its windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fml_lightning.datamodules.episodes import Episodes
from fml_lightning.datamodules.machine_windows import MachineWindows
from fml_lightning.datamodules.windows import Windows
from fml_lightning.errors import UserError
from fml_lightning.seeds import derive_seed

Rows = NDArray[np.intp]


class Task(NamedTuple):
    """What one machine adapts on, and what it is judged by then."""

    machine: str
    """The machine's name."""
    support: Windows
    query: Windows


def training_task(machine: MachineWindows, episodes: Episodes, rng: np.random.Generator) -> Task:
    """A task of early windows alone, of which there must be enough (`check`); none is in support and query."""
    windows = machine.early
    if episodes.of == "normal only":
        return _normal_task(machine, episodes, rng)
    groups = episodes.groups(windows)
    names = np.unique(windows.label)
    renamed = names
    if episodes.is_anomaly:
        renamed = np.where(names == episodes.normal, 0, 1)
    elif episodes.permute_labels:
        order = rng.permutation(names)
        if episodes.of == "each class":
            groups = [groups[k] for k in np.searchsorted(names, order[: episodes.ways])]
        renamed = np.empty_like(names)
        renamed[np.searchsorted(names, order)] = np.arange(len(names))
    drawn = [draw(windows, rows, episodes, episodes.queries, rng) for rows in groups]
    support, query = (windows.where(np.concatenate(rows)) for rows in zip(*drawn, strict=True))
    return Task(machine.name, *(_relabelled(side, names, renamed) for side in (support, query)))


def evaluation_task(machine: MachineWindows, episodes: Episodes, rng: np.random.Generator, turn: int = 0) -> Task:
    """A task with early windows as support and all late ones as query; labels keep their meaning.

    Args:
        machine: where the windows come from.
        episodes: number of shots, and whether query windows come from other conditions than support.
        rng: draws the support windows.
        turn: which operating condition supports, counted around, where `query_condition` is `other`.

    Raises:
        UserError: the machine has too little of a class.
    """
    early, late = machine.early, machine.late
    conditions = sorted(set(early.condition.tolist()))
    if episodes.query_condition == "other" and len(conditions) > 1:
        condition = conditions[turn % len(conditions)]
        early = early.where(early.condition == condition)
        late = late.where(late.condition != condition)
    check(machine, early, episodes, episodes.shots)
    if not len(late):
        raise UserError(f"{machine.name}: no late windows to judge by; record more")
    drawn = [draw(early, rows, episodes, 0, rng)[0] for rows in episodes.groups(early)]
    support = early.where(np.concatenate(drawn))
    if episodes.is_anomaly:
        support, late = (replace(w, label=(w.label != episodes.normal).astype(np.int64)) for w in (support, late))
    return Task(machine.name, support, late)


def prediction_task(machine: MachineWindows, episodes: Episodes, rng: np.random.Generator) -> Task:
    """What `evaluation_task` draws, with the machine's later windows that have no label among the query windows.

    Later are those that began after the last window which may be support, whichever are drawn. Their labels stay
    below 0.

    Raises:
        UserError: the machine has too little of a class.
    """
    task = evaluation_task(machine, episodes, rng)
    if machine.unlabelled is None:
        return task
    last = max(machine.early.start[rows].max() for rows in episodes.groups(machine.early))
    later = machine.unlabelled.where(machine.unlabelled.start > last)
    return task._replace(query=Windows.join([task.query, later]))


def draw(
    windows: Windows, rows: Rows, episodes: Episodes, queries: int, rng: np.random.Generator
) -> tuple[Rows, Rows]:
    """Rows of `episodes.shots` support windows, or recordings, out of some rows, and of `queries` others."""
    units: Rows = rows
    if episodes.per == "recording":
        units, places = np.unique(windows.recording[rows], return_index=True)
        if episodes.support == "first":
            units = units[np.argsort(places)]  # rows are in order of time
    if episodes.support == "random":
        chosen = rng.choice(units, episodes.shots + queries, replace=False)
        support, query = chosen[: episodes.shots], chosen[episodes.shots :]
    else:
        support = units[: episodes.shots]
        query = rng.choice(units[episodes.shots :], queries, replace=False)
    if episodes.per == "window":
        return support, query
    first, second = (rows[np.isin(windows.recording[rows], side)] for side in (support, query))
    return first, second


def check(machine: MachineWindows, windows: Windows, episodes: Episodes, enough: int) -> None:
    """See that windows suffice for support sets.

    Args:
        machine: whose they are.
        windows: from which support is drawn.
        episodes: how.
        enough: how many of each group are needed.

    Raises:
        UserError: they do not.
    """
    groups = episodes.groups(windows)
    if not groups:
        of = "" if episodes.normal is None else f" of the normal class {episodes.normal}"
        raise UserError(f"{machine.name}: no early windows{of} to draw support from; record more")
    if episodes.ways is not None and len(groups) < episodes.ways:
        raise UserError(
            f"{machine.name}: expected {episodes.ways} classes for ways, got {len(groups)}; lower episodes.ways"
        )
    counts = [episodes.count(windows, rows) for rows in groups]
    if min(counts) < enough:
        fewest = int(np.argmin(counts))
        kind = f"{episodes.per}s"
        of = f" of every class ({episodes.shots} shots, {episodes.queries} queries while training), class"
        which = f" {windows.label[groups[fewest][0]]} has"
        if episodes.of == "as they come" or windows.target is not None:
            of, which = f" ({episodes.shots} shots, {episodes.queries} queries while training),", " there are"
        raise UserError(
            f"{machine.name}: expected at least {enough} early {kind}{of}{which} {counts[fewest]}; lower"
            " episodes.shots or windowing.hop"
        )


def _normal_task(machine: MachineWindows, episodes: Episodes, rng: np.random.Generator) -> Task:
    """A task whose support is normal, and whose queries are of every class; labels keep their meaning."""
    windows = machine.early
    (normal,) = episodes.groups(windows)
    support, _ = draw(windows, normal, episodes, 0, rng)
    queries: list[Rows] = []
    for label in np.unique(windows.label):
        rest = np.setdiff1d(np.flatnonzero(windows.label == label), support)
        queries.append(rng.choice(rest, min(episodes.queries, len(rest)), replace=False))
    return Task(machine.name, windows.where(support), windows.where(np.concatenate(queries)))


def _relabelled(windows: Windows, old: NDArray[np.int64], new: NDArray[np.int64]) -> Windows:
    return replace(windows, label=new[np.searchsorted(old, windows.label)])


def own_orders(machines: Sequence[MachineWindows], classes: int | None = None) -> list[MachineWindows]:
    """The machines, each with an order of labels of its own, which follows from its name alone.

    Args:
        machines: whose labels are the fleet's.
        classes: how many classes are numbered anew, for an order that does not change when a machine shows another
            class later; None: those that a machine has.
    """
    renamed = []
    for machine in machines:
        old = np.unique(np.concatenate([machine.early.label, machine.late.label]))
        old = old if classes is None else np.arange(classes)
        new = np.random.default_rng(derive_seed(0, machine.name)).permutation(old)
        renamed.append(
            replace(
                machine,
                early=_relabelled(machine.early, old, new),
                late=_relabelled(machine.late, old, new),
                meanings=dict(zip(new.tolist(), old.tolist(), strict=True)),
            )
        )
    return renamed


def task_name(machine: str, condition: str) -> str:
    """What a machine under one of its operating conditions is called, as a task of its own."""
    return f"{machine}, {condition}"


def by_condition(machines: Sequence[MachineWindows]) -> list[MachineWindows]:
    """Each machine under each of its operating conditions as a machine of its own."""
    parts = []
    for machine in machines:
        for condition in sorted({*machine.early.condition.tolist(), *machine.late.condition.tolist()}):
            early, late = (side.where(side.condition == condition) for side in (machine.early, machine.late))
            parts.append(replace(machine, name=task_name(machine.name, condition), early=early, late=late))
    return parts
