"""Episodes of stacked tasks, as a Trainer iterates them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fml_lightning.datamodules.episodes import Episodes
from fml_lightning.datamodules.machine_windows import MachineWindows
from fml_lightning.datamodules.tasks import Task, check, evaluation_task, training_task
from fml_lightning.datamodules.windows import Windows
from fml_lightning.errors import UserError
from fml_lightning.types import Episode, Examples

STACKED_BYTES = 2**26
"""Most bytes of query windows that validation and test stack in one episode; at least one task is stacked."""


def training_episodes(
    machines: Sequence[MachineWindows], episodes: Episodes, rng: np.random.Generator
) -> Iterator[Episode]:
    """`episodes.batches` episodes of tasks from the machines' early windows.

    Raises:
        UserError: a machine has too few windows of a class, or too few classes.
    """
    if not machines:
        raise UserError("Episodes: the site has no machines to draw tasks from")
    episodes = episodes.while_training
    for machine in machines:
        check(machine, machine.early, episodes, episodes.shots + episodes.queries)
    for _ in range(episodes.batches):
        drawn = [machines[i] for i in rng.integers(len(machines), size=episodes.tasks)]
        tasks = [training_task(machine, episodes, rng) for machine in drawn]
        yield stack_tasks(tasks, centre=episodes.centre, common_labels=episodes.of == "normal only")


def count_examples(machines: Sequence[MachineWindows], episodes: Episodes) -> int:
    """The windows of these machines that training tasks are drawn from."""
    labels = [machine.early.label for machine in machines]
    return sum(int((own == episodes.normal).sum()) if episodes.is_anomaly else len(own) for own in labels)


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
            yield stack_tasks(
                alike[begin : begin + together],
                centre=episodes.centre,
                common_labels=episodes.of == "normal only",
            )


def stack_tasks(tasks: Sequence[Task], *, centre: bool, common_labels: bool = False) -> Episode:
    """Tasks as one episode; those with fewer windows than others are padded and masked.

    Args:
        tasks: at least one.
        centre: subtract each task's mean support window from all its windows.
        common_labels: labels mean the same in every task; see `Episode`.
    """
    middle = np.zeros((len(tasks), *tasks[0].support.shape[1:]), np.float32)
    if centre:
        middle = np.stack([task.support.x.mean(0) for task in tasks])
    return Episode(
        support=_pad([task.support for task in tasks], middle),
        query=_pad([task.query for task in tasks], middle),
        machines=tuple(task.machine for task in tasks),
        centre=torch.from_numpy(middle),
        common_labels=common_labels,
        starts=_starts([task.support for task in tasks]),
        query_starts=_starts([task.query for task in tasks]),
    )


def _starts(parts: Sequence[Windows]) -> torch.Tensor:
    """When each window began, µs, (T, N); padding is 0."""
    starts = np.zeros((len(parts), max(map(len, parts))), np.int64)
    for part, own in zip(parts, starts, strict=True):
        own[: len(part)] = part.start
    return torch.from_numpy(starts)


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
