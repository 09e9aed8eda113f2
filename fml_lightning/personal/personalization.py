"""Personalization: adapt the trained initialization to one machine, judge the result, and keep it."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec
import torch

from fml_lightning.adaptation.batch_norm import keep_statistics
from fml_lightning.errors import UserError
from fml_lightning.learners.learner import Learner
from fml_lightning.objectives import Classification, Objective
from fml_lightning.params import stack
from fml_lightning.personal.card import Card, Current
from fml_lightning.personal.judgement import card_of, current_of
from fml_lightning.personal.personal_model import PersonalModel
from fml_lightning.personal.reading import normal_class
from fml_lightning.personal.registry import Version
from fml_lightning.personal.screening import Suspect, screen, without_padding
from fml_lightning.personal.steps import chosen_steps
from fml_lightning.preprocessing.preprocessing import Preprocessing
from fml_lightning.stream_timing import StreamTiming
from fml_lightning.types import Episode, Params


@dataclass(frozen=True)
class Personalization:
    """A machine's model, and how it came about."""

    model: PersonalModel
    card: Card
    """What is known of the model, and whether to trust it."""
    suspects: tuple[Suspect, ...] = ()
    """Support windows, all of one class, that may not be of it: such as a fault among normal ones."""

    @property
    def site(self) -> str:
        """The machine's site; empty where nobody says."""
        return self.card.site

    @property
    def machine(self) -> str:
        """The machine's name."""
        return self.card.machine

    @property
    def before(self) -> float:
        """The objective's metric on query windows with the shared initialization."""
        return self.card.before

    @property
    def after(self) -> float:
        """The same with the machine's own model."""
        return self.card.after


def personalize(
    learner: Learner,
    episode: Episode,
    classes: tuple[str, ...],
    *,
    preprocessing: Preprocessing | None = None,
    told: Mapping[str, float] | None = None,
    normal: str = "",
    limit: float | None = None,
    timing: StreamTiming = StreamTiming(),  # noqa: B008
    current: Version | None = None,
) -> Personalization:
    """Adapt to the support set of an episode of one task, and judge on its query set.

    Both scores are of personal models: `before` of the one made from the initialization as it is, `after` of the
    adapted one. Support windows of a single class are screened for what may not belong to it (`screen`). Of
    several classes a share chooses the number of inner steps, where there are enough (`chosen_steps`).

    Args:
        learner: the trained learner; it stays as it is.
        episode: one task (T = 1).
        classes: name of each label.
        preprocessing: what the episode's windows were made with, for the model's file; None: nobody says.
        told: numbers of the machine by name that the preprocessing needs, such as its bearing's orders.
        normal: the name of the class of normal operation; empty where nobody says.
        limit: where targets are numbers, beyond which of them the machine is sick; None where nobody says.
        timing: by which windows of a stream are cut, for the model's file.
        current: the model that watches the machine, to be judged by the same query windows; None: there is none.

    Raises:
        UserError: the episode has several tasks, or cannot be adapted to or judged; or there is a limit, and
            targets are no numbers.
    """
    check_limit(limit, learner.objective)
    learner.check_queries(episode)
    if episode.tasks != 1:
        raise UserError(f"personalize: expected an episode of one task, got {episode.tasks}")
    learner = copy.deepcopy(learner).eval()
    steps = chosen_steps(learner, episode)
    if steps is not None:
        learner.adaptation = replace(learner.adaptation, steps=steps)
    began = time.perf_counter()
    adapted = learner.adapt(learner.params, episode.support)
    seconds = time.perf_counter() - began
    before, model = (_model(learner, params, episode, classes) for params in (stack(learner.params, 1), adapted))
    model.preprocessing, model.told, model.normal = preprocessing, dict(told or {}), normal
    model.limit, model.timing = limit, timing
    suspects = screen(learner, episode, classes)
    card = card_of(learner, episode, before, model, seconds=seconds, steps=steps, suspects=suspects)
    if current is not None:
        card = msgspec.structs.replace(card, current=_judged_current(current, model, episode))
    model.card = card.to_json()
    return Personalization(model.cpu(), card, suspects)


def check_limit(limit: float | None, objective: Objective) -> None:
    """See that a limit, where there is one, is a number, and that the objective compares numbers with it.

    Raises:
        UserError: it is none, or the objective does not.
    """
    if limit is None:
        return
    if not math.isfinite(limit):
        raise UserError(f"limit: expected a number, got {limit}")
    if not objective.takes_limit:
        raise UserError(
            f"limit: expected targets that are numbers, such as a remaining life, got {type(objective).__name__};"
            " leave the limit out"
        )


def check_normal(normal: str, objective: Objective, classes: tuple[str, ...]) -> None:
    """See that a class of normal operation, where it is named, is one, and the one that the objective knows.

    Raises:
        UserError: it is not.
    """
    if not normal:
        return
    if not isinstance(objective, Classification):
        raise UserError(
            f"normal: expected labels that are classes, got {type(objective).__name__}; leave normal out"
        )
    named = normal_class(classes, normal)
    if objective.normal not in (None, named):
        raise UserError(
            f"normal: expected {classes[objective.normal]}, as the objective of the run has it, got {normal};"
            " leave normal out"
        )


def _judged_current(current: Version, model: PersonalModel, episode: Episode) -> Current:
    """How the current model does on the windows that a new one is judged by."""
    try:
        loaded = current.load()
    except UserError as error:
        return Current(version=current.name, problem=f"it cannot be read ({error})")
    return current_of(loaded.to(model.centre.device), current.name, model, episode)


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
