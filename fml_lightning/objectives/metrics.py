"""Metrics by name: any metric of torchmetrics, or a function, taken of each task by itself.

https://lightning.ai/docs/torchmetrics
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from fml_lightning.errors import UserError

MetricFunction = Metric | Callable[..., Any]
"""Predictions and targets of one task → a number."""
NamedMetrics = Sequence[MetricFunction] | Mapping[str, MetricFunction]
"""Metrics under names derived from theirs (`MulticlassF1Score`: `f1_score`), or under names of your own."""


class TaskMetrics:
    """The metrics that a user adds to those of an objective, and which metric of both kinds decides.

    Args:
        objective: the objective's name, which its errors begin with.
        added: the metrics to add.
        metric: the name of the metric that decides.
        own: the objective's own metrics: name → whether more is better.
        inputs: what a metric takes of a task's predictions and targets; both as they are unless you say otherwise.

    Raises:
        UserError: two metrics have one name, a name is no name, or `metric` is none of the names.
    """

    higher_is_better: bool
    """Whether more of `metric` is better."""

    def __init__(
        self,
        objective: str,
        added: NamedMetrics,
        metric: str,
        own: Mapping[str, bool],
        inputs: Callable[[MetricFunction, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        self.objective = objective
        self.metric = metric
        self.inputs = inputs
        self.added: dict[str, MetricFunction] = {}
        if callable(added):
            added = [added]
        named = added.items() if isinstance(added, Mapping) else [(derived_name(each), each) for each in added]
        for name, each in named:
            if not callable(each):
                raise UserError(f"{objective}: expected metrics of torchmetrics or functions, got {each!r}")
            if name in own or name in self.added or not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII):
                raise UserError(
                    f"{objective}: the name {name!r} of a metric is taken, or no word of letters, digits and _;"
                    " give metrics names of your own, as in metrics: {my_name: {class_path: ...}}"
                )
            self.added[name] = self._made(name, each) if isinstance(each, type) else each
        self.names = frozenset({*own, *self.added})
        """What the objective's metrics are called, its own and the added ones."""
        if metric not in self.names:
            raise UserError(
                f"{objective}: expected metric to be one of {', '.join([*own, *self.added])}, got {metric!r}"
            )
        better = own[metric] if metric in own else getattr(self.added[metric], "higher_is_better", None)
        if better is None:
            raise UserError(
                f"{objective}: nothing says whether more or less of {metric!r} is better; give the function an"
                " attribute higher_is_better, True or False, or let another metric decide"
            )
        self.higher_is_better = better

    def __call__(self, predicted: Iterable[Tensor], targets: Iterable[Tensor]) -> dict[str, Tensor]:
        """The added metrics of each task: predictions and targets of T tasks → name → (T,).

        A metric that is undefined (NaN) for some task is left out.

        Raises:
            UserError: a metric refuses what it is given, gives no single number, or decides and is undefined.
        """
        pairs = list(zip(predicted, targets, strict=True)) if self.added else []
        found = {}
        for name, metric in self.added.items():
            found[name] = torch.stack([self._value(name, metric, *pair) for pair in pairs])
        return self.defined(found)

    def defined(self, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
        """The metrics that are defined (not NaN) for every task.

        Raises:
            UserError: the metric that decides is not.
        """
        left = {name: values for name, values in metrics.items() if not values.isnan().any()}
        if self.metric in metrics and self.metric not in left:
            task = int(metrics[self.metric].isnan().nonzero()[0])
            raise UserError(
                f"{self.objective}: the metric {self.metric!r} is undefined for task {task}'s query set, as where"
                " all its targets are alike; let another metric decide, or judge on other windows"
            )
        return left

    def _made(self, name: str, metric: Callable[[], MetricFunction]) -> MetricFunction:
        try:
            return metric()
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{self.objective}: the metric {name!r} needs arguments: {error}; give an instance, or init_args"
            ) from error

    def _value(self, name: str, metric: MetricFunction, predicted: Tensor, targets: Tensor) -> Tensor:
        try:
            if self.inputs is not None:
                predicted, targets = self.inputs(metric, predicted, targets)
            if isinstance(metric, nn.Module):
                metric.to(predicted.device)
            value: Any = metric(predicted, targets)
            if isinstance(metric, Metric):
                metric.reset()
        except UserError:
            raise
        except (TypeError, ValueError, RuntimeError, LookupError, AttributeError) as error:
            raise UserError(
                f"{self.objective}: the metric {name!r} failed on predictions {tuple(predicted.shape)} and targets"
                f" {tuple(targets.shape)} of one task: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(value, Tensor | float | int) or (isinstance(value, Tensor) and value.numel() != 1):
            got = f"{tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise UserError(
                f"{self.objective}: expected the metric {name!r} to give one number per task, got {got};"
                " average it over classes, or take another"
            )
        return torch.as_tensor(value, dtype=torch.float32, device=predicted.device).detach().reshape(())


def derived_name(metric: Any) -> str:
    """What a metric is called where nobody names it.

    >>> from torchmetrics.classification import BinaryAUROC, MulticlassF1Score
    >>> derived_name(MulticlassF1Score(num_classes=3)), derived_name(BinaryAUROC())
    ('f1_score', 'auroc')
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", original_name(metric)).lower()
    return words.removeprefix("multiclass_").removeprefix("binary_")


def original_name(metric: Any) -> str:
    """The name of a metric's class or function, in its author's spelling.

    >>> from functools import partial
    >>> from torchmetrics.functional.classification import multiclass_auroc
    >>> original_name(partial(multiclass_auroc, num_classes=3))
    'multiclass_auroc'
    """
    function = getattr(metric, "func", metric)  # of a functools.partial
    return str(getattr(function, "__name__", type(function).__name__))
