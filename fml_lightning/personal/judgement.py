"""The judgement of a personal model: its card, from the windows that it was adapted to and judged by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fml_lightning.learners.learner import Learner
from fml_lightning.names import escaped
from fml_lightning.objectives import Classification, Objective, Reconstruction
from fml_lightning.personal import interval
from fml_lightning.personal.card import Card, Current, Qualification, Windows, judged, versions
from fml_lightning.personal.interval import Interval
from fml_lightning.personal.personal_model import PersonalModel
from fml_lightning.personal.reading import THRESHOLD, normal_class
from fml_lightning.personal.screening import OWN_CLOCK, Suspect, without_padding
from fml_lightning.preprocessing.preprocessing import TOLERANCE, Preprocessing
from fml_lightning.types import Episode, Examples

RATES = {"accuracy", "balanced_accuracy"}
"""Metrics that are shares of right classes."""


def card_of(
    learner: Learner,
    episode: Episode,
    before: PersonalModel,
    model: PersonalModel,
    *,
    seconds: float,
    steps: int | None,
    suspects: tuple[Suspect, ...],
) -> Card:
    """What is known of a personal model, and the verdict.

    Args:
        learner: from which it was adapted.
        episode: of one task, which it was adapted to and judged by.
        before: the model of the initialization as it is.
        model: the adapted one.
        seconds: the adaptation took.
        steps: that were chosen; None: the learner's own.
        suspects: among the support windows.
    """
    objective = learner.objective
    support, query = without_padding(episode.support), without_padding(episode.query)
    starts = [None if each is None else each[0] for each in (episode.starts, episode.query_starts)]
    masks = [None if each.mask is None else each.mask[0] for each in (episode.support, episode.query)]
    times = [t if t is None or m is None else t[m] for t, m in zip(starts, masks, strict=True)]
    outputs = _outputs(model, query)
    confusion = _confusion(model, outputs, query)
    rates = _rates(model, outputs, query, confusion)
    return judged(
        Card(
            site=episode.site,
            machine=episode.machines[0] if episode.machines else "",
            before=_score(before, _outputs(before, query), query),
            after=_score(model, outputs, query),
            metric=objective.metric,
            higher_is_better=objective.higher_is_better,
            interval=_interval(model, outputs, query, rates),
            guess=_guess(objective, outputs, rates),
            shots=_shots(support.y[0]),
            support=_windows(support, times[0], model),
            query=_windows(query, times[1], model),
            steps=learner.adaptation.steps if steps is None else steps,
            steps_chosen=steps is not None,
            learner=f"{type(learner).__module__}.{type(learner).__qualname__}",
            adaptation=str(learner.adaptation),
            seconds=seconds,
            confusion=confusion,
            qualification=_qualification(model, query),
            warnings=tuple(escaped(str(each)) for each in suspects),
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            verdict="ship",
            versions=versions(),
        )
    )


def current_of(model: PersonalModel, version: str, new: PersonalModel, episode: Episode) -> Current:
    """How a machine's current model does on the query windows that a new one is judged by.

    Args:
        model: the current one.
        version: which it is.
        new: the new one.
        episode: of one task, whose query windows are centred as `new` centres them.
    """
    if problem := _unlike(model, new):
        return Current(version=version, problem=problem)
    query = without_padding(episode.query)
    own = Examples(query.x + (new.centre - model.centre), query.y)  # centred as the current one centres them
    value = _score(model, _outputs(model, own), own)
    if not np.isfinite(value):
        return Current(version=version, problem=f"its {new.objective.metric} is not a finite number")
    return Current(version=version, value=value)


def _unlike(model: PersonalModel, new: PersonalModel) -> str:
    """Why two models of a machine cannot be judged by the same windows; empty if they can."""
    if not _see_alike(model.preprocessing, new.preprocessing) or model.centre.shape != new.centre.shape:
        return "its windows are preprocessed otherwise"
    if model.told != new.told:
        return "other numbers were told of the machine then"
    if model.classes != new.classes:
        return f"its classes are {', '.join(model.classes)}"
    if type(model.objective) is not type(new.objective) or model.objective.metric != new.objective.metric:
        return f"it is judged by {model.objective.metric} of {type(model.objective).__name__}"
    return ""


def _see_alike(one: Preprocessing | None, other: Preprocessing | None) -> bool:
    """Whether the features of windows are the same to two preprocessings."""
    if one is None or other is None:
        return one is other
    rates = one.sample_rate, other.sample_rate
    if None not in rates and abs(rates[0] / rates[1] - 1) <= TOLERANCE:  # type: ignore[operator]
        one = replace(one, sample_rate=rates[1])  # as time stamps tell it, each time a little otherwise
    return one.describe() == other.describe()


def _windows(examples: Examples, starts: Tensor | None, model: PersonalModel) -> Windows:
    labels, times = examples.y[0], None if starts is None or not len(starts) else (starts.min(), starts.max())
    is_told = times is not None and int(times[0]) >= OWN_CLOCK
    content = hashlib.sha256()
    for each in (examples.x, examples.y):
        content.update(each.cpu().contiguous().numpy().tobytes())
    return Windows(
        count=len(labels),
        of_class=_counts(labels, model) if isinstance(model.objective, Classification) else {},
        first=_moment(times[0]) if times is not None and is_told else None,
        last=_moment(times[1]) if times is not None and is_told else None,
        sha256=content.hexdigest(),
    )


def _counts(labels: Tensor, model: PersonalModel) -> dict[str, int]:
    """How many windows there are of each class, by its name."""
    if labels.ndim != 1 or labels.is_floating_point():
        return {}
    found = zip(*(each.tolist() for each in torch.unique(labels, return_counts=True)), strict=True)
    return {model.classes[k] if 0 <= k < len(model.classes) else str(k): count for k, count in found}


def _moment(time: Tensor) -> str:
    return datetime.fromtimestamp(int(time) / 1e6, UTC).isoformat(timespec="seconds")


def _shots(targets: Tensor) -> int:
    """How many support windows there are per class, or else in all: targets (S,) or (S, …)."""
    if targets.is_floating_point() or targets.ndim > 1:
        return len(targets)
    counts = torch.unique(targets, return_counts=True)[1]
    return int(counts[0]) if (counts == counts[0]).all() else len(targets)


def _outputs(model: PersonalModel, query: Examples) -> Tensor:
    """Raw outputs on centred query windows, (1, Q, …)."""
    with torch.no_grad():
        return model.outputs(query.x[0])[None]


def _score(model: PersonalModel, outputs: Tensor, query: Examples) -> float:
    """The objective's metric on windows of one task."""
    calibration = None if model.calibration is None else model.calibration[None]
    with torch.no_grad():
        return float(model.objective.metrics(outputs, query, calibration)[model.objective.metric])


def _confusion(model: PersonalModel, outputs: Tensor, query: Examples) -> tuple[tuple[int, ...], ...]:
    """How many query windows are taken for each class, row by row of their own."""
    if not isinstance(model.objective, Classification) or query.y.ndim != 2:
        return ()
    classes = outputs.shape[-1]
    known = (query.y[0] >= 0) & (query.y[0] < classes)
    pairs = (query.y[0] * classes + outputs[0].argmax(-1))[known]
    return tuple(map(tuple, torch.bincount(pairs, minlength=classes**2).view(classes, classes).tolist()))


def _interval(
    model: PersonalModel, outputs: Tensor, query: Examples, rates: list[tuple[int, int]]
) -> Interval | None:
    """Between which two numbers the metric lies."""
    metric = model.objective.metric
    if metric == "accuracy" and rates:
        return interval.of_rate(sum(hits for hits, _ in rates), sum(count for _, count in rates))
    if metric == "balanced_accuracy" and rates:
        return interval.of_mean_rate(rates)
    if metric == "false_alarm_rate" and isinstance(model.objective, Reconstruction):
        hits, count = rates[0]  # of the normal ones, without which there is no such rate
        return interval.of_rate(count - hits, count)
    labels = query.y[0].cpu()
    are_classes = isinstance(model.objective, Classification | Reconstruction) and labels.ndim == 1
    group = labels.numpy() if are_classes else np.zeros(len(labels), np.int64)
    return interval.by_resampling(_of_places(model, outputs, query), group)


def _rates(
    model: PersonalModel, outputs: Tensor, query: Examples, confusion: tuple[tuple[int, ...], ...]
) -> list[tuple[int, int]]:
    """Of each class of query windows, or of normal ones and anomalies, how many are found, and how many there are.

    Such a count has an interval of its own: where all are found, windows that are drawn again tell of no doubt.
    """
    if not isinstance(model.objective, Reconstruction):
        return [(row[k], sum(row)) for k, row in enumerate(confusion) if sum(row)]
    calibration = None if model.calibration is None else model.calibration[None]
    with torch.no_grad():
        is_alarm = model.objective.predict(outputs, query.x, calibration)[0] > 1
    is_anomaly = query.y[0] != 0
    is_right = is_alarm == is_anomaly
    kinds = [is_right[is_anomaly == kind] for kind in (False, True)]
    return [(int(kind.sum()), len(kind)) for kind in kinds if len(kind)]


def _of_places(model: PersonalModel, outputs: Tensor, query: Examples) -> Callable[[NDArray[np.intp]], float]:
    def metric(places: NDArray[np.intp]) -> float:
        rows = torch.from_numpy(places).to(outputs.device)
        return _score(model, outputs[:, rows], Examples(query.x[:, rows], query.y[:, rows]))

    return metric


def _guess(objective: Objective, outputs: Tensor, rates: list[tuple[int, int]]) -> float | None:
    """The metric of saying the most frequent class always, or of calling all windows anomalies, or none.

    Where all windows are of one class, that of saying any of those that the model knows.
    """
    counts = [count for _, count in rates]
    if objective.metric not in RATES or not counts:
        return None
    if len(counts) == 1:
        return 1 / (outputs.shape[-1] if isinstance(objective, Classification) else 2)
    return 1 / len(counts) if objective.metric == "balanced_accuracy" else max(counts) / sum(counts)


def _qualification(model: PersonalModel, query: Examples) -> Qualification | None:
    """How often normal query windows are called faulty, where it is known which are normal."""
    labels = query.y[0]
    normal = _normal_label(model)
    if normal is None or labels.ndim != 1 or labels.is_floating_point() or not (rows := labels == normal).any():
        return None
    score = model.reading_of_features(query.x[0][rows] + model.centre).score
    if score.isnan().any():
        return None
    alarms, count = int((score > THRESHOLD).sum()), len(score)
    return Qualification(
        windows=count, alarms=alarms, rate=alarms / count, interval=interval.of_rate(alarms, count)
    )


def _normal_label(model: PersonalModel) -> int | None:
    """The label of normal operation: among classes, or 0 where a target says whether a window is an anomaly."""
    if isinstance(model.objective, Reconstruction):
        return 0
    if not isinstance(model.objective, Classification):
        return None
    own = model.objective.normal
    return normal_class(model.classes, model.normal) if own is None else own
