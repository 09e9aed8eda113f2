"""Personalization: adapt the trained initialization to one machine, judge the result, and keep it."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import torch

from fml_lightning.errors import UserError
from fml_lightning.learners.learner import Learner
from fml_lightning.personal.personal_model import PersonalModel
from fml_lightning.types import Episode


@dataclass(frozen=True)
class Personalization:
    """A machine's model, and how it came about."""

    machine: str
    shots: int
    """Support windows per class, or in all where targets are no classes."""
    model: PersonalModel
    before: float
    """The objective's metric on query windows with the shared initialization."""
    after: float
    """The same with the machine's own model."""
    seconds: float
    """Time the adaptation took to compute."""


def personalize(learner: Learner, episode: Episode, classes: tuple[str, ...]) -> Personalization:
    """Adapt to the support set of an episode of one task, and judge on its query set.

    Args:
        learner: the trained learner; it stays as it is.
        episode: one task (T = 1).
        classes: name of each label.
    """
    learner = copy.deepcopy(learner).eval()
    if episode.tasks != 1:
        raise UserError(f"personalize: expected an episode of one task, got {episode.tasks}")
    began = time.perf_counter()
    adapted = learner.adapt(learner.params, episode.support)
    seconds = time.perf_counter() - began

    metric = learner.objective.metric
    metrics = learner.evaluate(episode, adapted)
    with torch.no_grad():
        _, calibration = learner.query_outputs(adapted, episode)
    support = episode.support
    labels = support.y[0] if support.mask is None else support.y[0][support.mask[0]]
    centre = torch.zeros_like(support.x[0, 0]) if episode.centre is None else episode.centre[0]
    return Personalization(
        machine=episode.machines[0] if episode.machines else "",
        shots=len(labels) if labels.is_floating_point() else int(torch.bincount(labels).max()),
        model=PersonalModel(
            learner.personal_net({name: p[0] for name, p in adapted.items()}).cpu(),
            learner.objective,
            centre.cpu(),
            None if calibration is None else calibration[0].cpu(),
            classes,
        ),
        before=float(metrics[f"{metric}_before"]),
        after=float(metrics[f"{metric}_after"]),
        seconds=seconds,
    )
