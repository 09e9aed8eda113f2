"""Screening: which normal support windows may hold a fault, which a model would then take for normal."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fml_lightning.learners.learner import Learner
from fml_lightning.names import shown
from fml_lightning.objectives import Classification
from fml_lightning.types import Episode, Examples

FEWEST = 3
"""Support windows that are needed to say that one is unlike the others."""
MOST = 32
"""Support windows up to which each is judged by a model that was adapted without it."""
MOST_FEATURES = 512
"""Numbers of a window up to which these are taken for features; of more, for the samples of a signal."""
MOST_FREEDOM = 64.0
"""The most degrees of freedom of a window's squared distance, however many features it has."""
RISK = 1e-3
"""How often a sound window may lie as far from the others as one that is called suspect; about, of features that
vary as `largest_distance` takes them to."""
CONFIDENT = 0.95
"""Probability of other classes, together, from which a model is believed that a window is no normal one."""
OWN_CLOCK = 10**15
"""Times below, µs, count from the first recording of the machine: in 1970 nobody recorded any."""


@dataclass(frozen=True)
class Suspect:
    """A support window that may not be what its label says."""

    machine: str
    window: int
    """Its place in the support set, from 0."""
    start: int | None
    """When it began, µs, as in `Episode.starts`."""
    distance: float
    """Its squared distance from the median of the other windows, over the largest such distance of these; 0 of raw
    samples, where it says nothing."""
    label: str
    """What the support set calls it."""
    called: str
    """The likeliest other class, by the model adapted to the other windows; empty where that was not asked."""
    probability: float
    """Of all other classes together, by that model; 0 where that was not asked."""
    threshold: float
    """What `distance` is above, if the distance is what makes it suspect."""

    def __str__(self) -> str:
        reasons = []
        if self.distance > self.threshold:
            reasons.append(f"its squared distance from the others is {self.distance:.1f} times theirs")
        if self.probability >= CONFIDENT:
            reasons.append(
                f"the model adapted to the others says {self.called} (not {self.label}: {self.probability:.2f})"
            )
        where = f"{shown(self.machine)}: " if self.machine else ""
        return (
            f"{where}the support window {_moment(self.window, self.start)} may be no {self.label} one:"
            f" {' and '.join(reasons)}; look at the machine, and adapt on other windows if it is right"
        )


def screen(learner: Learner, episode: Episode, classes: tuple[str, ...] = ()) -> tuple[Suspect, ...]:
    """The suspects among the support windows of one task, if all are of one class; else none.

    Each window is compared with all others: by its distance from their median, and by the class that the learner
    gives it once it has adapted (and centred) on them. A window of a fault among normal ones is unlike them by
    either. A model that doubts half of the windows does not know the machine, and is not asked. Windows of raw
    samples are judged by the model alone: their squared distance is how loud they are, which sound ones differ in.

    Args:
        learner: the trained learner, in evaluation mode.
        episode: one task (T = 1).
        classes: name of each label.
    """
    support = without_padding(episode.support)
    labels = support.y
    count = labels.shape[1]
    if labels.ndim != 2 or labels.is_floating_point() or count < FEWEST or (labels != labels[0, 0]).any():
        return ()
    rows = support.x[0].flatten(1).double().cpu().numpy()
    is_signal = support.x.ndim > 3 or rows.shape[1] > MOST_FEATURES
    distances = np.zeros(count) if is_signal else left_out_distances(rows)
    threshold = largest_distance(rows.shape[1])
    label = int(labels[0, 0])
    doubts, called = torch.zeros(count), [""] * count
    if isinstance(learner.objective, Classification) and label >= 0 and count <= MOST:
        probabilities = _left_out(learner, support, bool(episode.centre is not None and episode.centre.any()))
        doubts = 1 - probabilities[:, label]
        others = probabilities.clone()
        others[:, label] = -1
        called = [_name(k, classes) for k in others.argmax(1).tolist()]
        if (doubts >= CONFIDENT).sum() * 2 >= count:
            doubts = torch.zeros(count)
    machine = episode.machines[0] if episode.machines else ""
    return tuple(
        Suspect(
            machine,
            k,
            None if episode.starts is None else int(episode.starts[0, k]),
            float(distances[k]),
            _name(label, classes),
            called[k],
            float(doubts[k]),
            threshold,
        )
        for k in range(count)
        if distances[k] > threshold or doubts[k] >= CONFIDENT
    )


def left_out_distances(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each window's squared distance from the median of the others, over the largest of the others' own.

    Of more than `MOST` windows, the median of all serves for each.

    >>> left_out_distances(np.array([[0.0], [1.0], [-1.0], [4.0]])).tolist()[3]
    4.0

    Args:
        rows: (N, F), N of at least 3.
    """
    if len(rows) > MOST:
        middles = np.broadcast_to(np.median(rows, 0), rows.shape)
    else:
        middles = np.stack([np.median(np.delete(rows, k, 0), 0) for k in range(len(rows))])
    squares = ((rows - middles) ** 2).sum(1)
    first, second = np.argsort(squares)[[-1, -2]]
    rivals = np.full(len(rows), squares[first])
    rivals[first] = squares[second]
    return np.asarray(squares / np.maximum(rivals, np.finfo(np.float64).tiny))


def largest_distance(features: int) -> float:
    """What the distance of a sound window exceeds with a chance of `RISK`: a quantile of the F distribution.

    Its degrees of freedom are half the number of features, which vary together, and at most `MOST_FREEDOM`: the
    more features there are, the more of them say the same.

    >>> round(largest_distance(20), 2)  # F(.999; 10, 10), as tables have it
    8.75

    Args:
        features: numbers that a window has.
    """
    from scipy.special import fdtri

    freedom = min(max(1.0, features / 2), MOST_FREEDOM)
    return float(fdtri(freedom, freedom, 1 - RISK))


def _left_out(learner: Learner, support: Examples, centred: bool) -> Tensor:
    """Class probabilities of each window (N, C) by the learner adapted to the others."""
    x, y = support.x[0], support.y[0]
    count = len(x)
    others = torch.tensor([[i for i in range(count) if i != k] for k in range(count)], device=x.device)
    task = Examples(x[others], y[others])  # (N, N − 1, …)
    alone = Examples(x[:, None], y[:, None])  # (N, 1, …)
    if centred:
        middle = task.x.mean(1, keepdim=True)
        task, alone = Examples(task.x - middle, task.y), Examples(alone.x - middle, alone.y)
    adapted = learner.adapt(learner.params, task)
    with torch.no_grad():
        outputs, _ = learner.query_outputs(adapted, Episode(task, alone))
        return torch.softmax(outputs[:, 0].double(), -1)


def without_padding(examples: Examples) -> Examples:
    """The examples of one task without padding."""
    if examples.mask is None:
        return examples
    return Examples(examples.x[:, examples.mask[0]], examples.y[:, examples.mask[0]])


def _name(label: int, classes: tuple[str, ...]) -> str:
    return classes[label] if 0 <= label < len(classes) else str(label)


def _moment(window: int, start: int | None) -> str:
    """Which window it is, by its time if that is known.

    >>> _moment(2, 12_300_000), _moment(2, 1_767_225_600_000_000), _moment(2, None)
    ('12.3 s after the first recording began', 'of 2026-01-01 00:00:00 UTC', 'number 3')
    """
    if start is None:
        return f"number {window + 1}"
    if start < OWN_CLOCK:
        return f"{start / 1e6:.1f} s after the first recording began"
    return f"of {datetime.fromtimestamp(start // 10**6, UTC):%Y-%m-%d %H:%M:%S} UTC"
