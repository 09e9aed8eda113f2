"""Personalization: adapt the trained initialization to one machine, judge the result, and keep it."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fml_lightning.adaptation.batch_norm import keep_statistics
from fml_lightning.errors import UserError
from fml_lightning.learners.learner import Learner
from fml_lightning.objectives import Classification
from fml_lightning.params import stack
from fml_lightning.personal.personal_model import PersonalModel
from fml_lightning.personal.screening import Suspect, screen, without_padding
from fml_lightning.preprocessing.preprocessing import Preprocessing
from fml_lightning.types import Episode, Examples, Params


@dataclass(frozen=True)
class Personalization:
    """A machine's model, and how it came about."""

    machine: str
    shots: int
    """Support windows per class; in all, where targets are no classes or some have more windows than others."""
    model: PersonalModel
    before: float
    """The objective's metric on query windows with the shared initialization."""
    after: float
    """The same with the machine's own model."""
    seconds: float
    """Time the adaptation took to compute."""
    site: str = ""
    """The machine's site; empty where nobody says."""
    confusion: tuple[tuple[int, ...], ...] = ()
    """Query windows of each class (rows) that the machine's own model takes for each class (columns); empty where
    windows have no class."""
    suspects: tuple[Suspect, ...] = ()
    """Support windows, all of one class, that may not be of it: such as a fault among normal ones."""


def personalize(
    learner: Learner,
    episode: Episode,
    classes: tuple[str, ...],
    *,
    preprocessing: Preprocessing | None = None,
    told: Mapping[str, float] | None = None,
    normal: str = "",
) -> Personalization:
    """Adapt to the support set of an episode of one task, and judge on its query set.

    Both scores are of personal models: `before` of the one made from the initialization as it is, `after` of the
    adapted one. Support windows of a single class are screened for what may not belong to it (`screen`).

    Args:
        learner: the trained learner; it stays as it is.
        episode: one task (T = 1).
        classes: name of each label.
        preprocessing: what the episode's windows were made with, for the model's file; None: nobody says.
        told: numbers of the machine by name that the preprocessing needs, such as its bearing's orders.
        normal: the name of the class of normal operation; empty where nobody says.

    Raises:
        UserError: the episode has several tasks, or cannot be adapted to or judged.
    """
    learner.check_queries(episode)
    if episode.tasks != 1:
        raise UserError(f"personalize: expected an episode of one task, got {episode.tasks}")
    learner = copy.deepcopy(learner).eval()
    began = time.perf_counter()
    adapted = learner.adapt(learner.params, episode.support)
    seconds = time.perf_counter() - began
    before, model = (_model(learner, params, episode, classes) for params in (stack(learner.params, 1), adapted))
    model.preprocessing, model.told, model.normal = preprocessing, dict(told or {}), normal
    suspects = screen(learner, episode, classes)
    labels = without_padding(episode.support).y[0]
    return Personalization(
        machine=episode.machines[0] if episode.machines else "",
        shots=_shots(labels),
        before=_score(before, episode.query),
        after=_score(model, episode.query),
        confusion=_confusion(model, episode.query),
        model=model.cpu(),
        seconds=seconds,
        site=episode.site,
        suspects=suspects,
    )


def _shots(targets: Tensor) -> int:
    """How many support windows there are per class, or else in all: targets (S,) or (S, …)."""
    if targets.is_floating_point() or targets.ndim > 1:
        return len(targets)
    counts = torch.unique(targets, return_counts=True)[1]
    return int(counts[0]) if (counts == counts[0]).all() else len(targets)


def _model(learner: Learner, params: Params, episode: Episode, classes: tuple[str, ...]) -> PersonalModel:
    """The personal model with parameters (1, …), with BatchNorm statistics and calibration of the support set."""
    net = learner.personal_net({name: p[0].detach() for name, p in params.items()})
    support = without_padding(episode.support)
    keep_statistics(net, support.x[0])
    centre = torch.zeros_like(support.x[0, 0]) if episode.centre is None else episode.centre[0]
    machine = episode.machines[0] if episode.machines else ""
    model = PersonalModel(
        net,
        learner.objective,
        centre,
        None,
        classes,
        site=episode.site,
        machine=machine,
        batch_norm=learner.batch_norm,
    )
    if learner.objective.calibrates:
        with torch.no_grad():
            calibration = learner.objective.calibrate(model.outputs(support.x[0])[None], support)
        model.calibration = None if calibration is None else calibration[0]
    return model


def _confusion(model: PersonalModel, query: Examples) -> tuple[tuple[int, ...], ...]:
    """How many query windows of one task are taken for each class, row by row of their own."""
    query = without_padding(query)
    if not isinstance(model.objective, Classification) or query.y.ndim != 2:
        return ()
    with torch.no_grad():
        outputs = model.outputs(query.x[0])
    classes = outputs.shape[-1]
    known = (query.y[0] >= 0) & (query.y[0] < classes)
    pairs = (query.y[0] * classes + outputs.argmax(-1))[known]
    return tuple(map(tuple, torch.bincount(pairs, minlength=classes**2).view(classes, classes).tolist()))


def _score(model: PersonalModel, query: Examples) -> float:
    """The objective's metric of a personal model on the query set of one task."""
    objective = model.objective
    calibration: Tensor | None = None if model.calibration is None else model.calibration[None]
    with torch.no_grad():
        metrics = objective.metrics(model.outputs(query.x[0])[None], query, calibration)
    return float(metrics[objective.metric])
