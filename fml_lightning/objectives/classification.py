"""Classification: which of C classes a window, or each token of a window, belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from fml_lightning.errors import UserError
from fml_lightning.objectives.metrics import MetricFunction, NamedMetrics, TaskMetrics, original_name
from fml_lightning.objectives.normal_windows import normal_windows
from fml_lightning.objectives.objective import Objective, refuse_not_finite, refuse_other_than_tensor
from fml_lightning.types import Episode, Examples

NO_LABEL = torch.iinfo(torch.int64).min
"""The `ignore_index` of a cross-entropy that ignores nothing: no label has this value."""


NORMAL_OR_NOT = {"false_alarm_rate": False, "found_rate": True}
"""What is reported where one class is normal: metric → whether more is better."""


class Classification(Objective):
    """One of C classes: cross-entropy on logits (T, N, C), accuracy and balanced accuracy.

    Labels are (T, N), one per window; or (T, N, L), one per token, for a network that gives (T, N, L, C). Balanced
    accuracy is the mean recall of the classes that a task's query set has: 0.5 for a network that calls each of 95
    normal and 5 faulty windows normal.

    Where a class is `normal`, the same network also says whether a window is normal at all: an alarm is a window
    whose log-odds of a fault, log((1 − p) / p) with p the probability of the normal class, exceed a threshold. The
    threshold is 0, where a fault is as likely as not, or the largest log-odds among the task's normal support
    windows if that is more, plus `margin`: it knows no query.

    Args:
        class_weights: how much a window of each class counts in the loss, C numbers greater than 0; the loss is
            the weighted mean, as in `torch.nn.functional.cross_entropy`. A label must mean the same in every task:
            set `permute_labels: false` in the data's episodes.
        label_smoothing: how much of every target goes to all classes alike, in [0, 1).
        ignore_index: the label of windows or tokens that count for nothing, such as -100 in language models.
        metrics: metrics to report beside these: of `torchmetrics` (Multiclass…; Binary… for two classes;
            Perplexity), or functions of the log-probabilities (M, C) and labels (M,) of one task's windows or
            tokens; a list, or a mapping of names of your own to them.
        metric: the metric that decides: `accuracy`, `balanced_accuracy`, `loss`, or one of `metrics`; with
            `normal` also `false_alarm_rate` or `found_rate`.
        normal: the class of normal operation, the same as the data's, for a false alarm rate (normal windows that
            raise an alarm) and a found rate (faulty windows that do); null: there is none.
        margin: how far the log-odds of an alarm must exceed 0 and those of every normal support window, in nats.
    """

    own_metrics: ClassVar = {"accuracy": True, "balanced_accuracy": True, "loss": False}

    def __init__(
        self,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int | None = None,
        metrics: NamedMetrics = (),
        metric: str = "accuracy",
        normal: int | None = None,
        margin: float = 1.0,
    ) -> None:
        if class_weights is not None and not all(0 < weight < float("inf") for weight in class_weights):
            raise UserError(
                f"{type(self).__name__}: expected class_weights greater than 0, got {list(class_weights)}"
            )
        if not 0 <= label_smoothing < 1:
            raise UserError(f"{type(self).__name__}: expected label_smoothing in [0, 1), got {label_smoothing}")
        self.class_weights = None if class_weights is None else tuple(float(weight) for weight in class_weights)
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index
        if normal is not None and normal < 0:
            raise UserError(f"{type(self).__name__}: expected normal as the number of a class, got {normal}")
        own = self.own_metrics if normal is None else {**self.own_metrics, **NORMAL_OR_NOT}
        self.normal = normal
        self.margin = margin
        self.calibrates = normal is not None
        self.added = TaskMetrics(type(self).__name__, metrics, metric, own, inputs_of)
        self.metric = metric
        self.higher_is_better = self.added.higher_is_better

    def loss(self, outputs: Tensor, examples: Examples) -> Tensor:
        """Mean cross-entropy of each task: logits (T, N, …, C), labels (T, N, …) in [0, C) → (T,).

        Raises:
            UserError: labels are no integers, logits are not one per class, or the network has too few of them.
        """
        self._refuse_other_kinds(outputs, examples.y)
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        labels = examples.y.long()
        counted = self._counted(labels, examples.mask)
        if counted is not None:
            labels = labels.where(counted, 0)
        weights = None if self.class_weights is None else outputs.new_tensor(self.class_weights)
        try:
            losses = F.cross_entropy(
                outputs.flatten(0, -2),
                labels.flatten(),
                weight=weights,
                reduction="none",
                ignore_index=NO_LABEL,
                label_smoothing=self.label_smoothing,
            ).view(labels.shape)
        except IndexError as error:
            if labels.min() < 0:
                raise UserError(
                    f"{type(self).__name__}: expected labels from 0, got {int(labels.min())}; leave windows"
                    " without a label out, mask them, or give their label as ignore_index"
                ) from error
            raise UserError(
                f"{type(self).__name__}: the labels need {int(labels.max()) + 1} classes, the network has"
                f" {outputs.shape[-1]} outputs; set the net's out_features to the number of classes"
            ) from error
        if counted is None and weights is None:
            return losses.flatten(1).mean(1)
        shares = torch.ones_like(losses) if weights is None else weights[labels]
        if counted is not None:
            losses, shares = (torch.where(counted, values, 0) for values in (losses, shares))
        return losses.flatten(1).sum(1) / shares.flatten(1).sum(1)

    def metrics(self, outputs: Tensor, examples: Examples, calibration: Tensor | None = None) -> dict[str, Tensor]:
        """Accuracy and balanced accuracy in [0, 1], added metrics, and loss of each task: name → (T,).

        With `normal` also the false alarm rate, where every task has normal windows, and the found rate, where
        every task has faulty ones.

        >>> logits = torch.tensor([[[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [2.0, 0.0]]])
        >>> examples = Examples(torch.zeros(1, 4), torch.tensor([[0, 0, 0, 1]]))
        >>> metrics = Classification().metrics(logits, examples)
        >>> metrics["accuracy"], metrics["balanced_accuracy"]
        (tensor([0.7500]), tensor([0.5000]))
        """
        loss = self.loss(outputs, examples)
        log_probabilities = torch.log_softmax(outputs, -1)
        refuse_not_finite(self, log_probabilities.amax(-1), examples.mask)
        labels = examples.y.long()
        counted = self._counted(labels, examples.mask)
        if counted is None:
            counted = torch.ones_like(labels, dtype=torch.bool)
        log_probabilities = log_probabilities.flatten(1, -2)  # (T, M, C), M = N, or N·L tokens
        labels, counted = labels.flatten(1), counted.flatten(1)  # (T, M)
        hits = counted & (log_probabilities.argmax(-1) == labels)
        added = self.added(
            (each[own] for each, own in zip(log_probabilities, counted, strict=True)),
            (each[own] for each, own in zip(labels, counted, strict=True)),
        )
        return {
            "accuracy": hits.sum(1) / counted.sum(1),
            "balanced_accuracy": balanced_accuracy(hits, labels, counted, outputs.shape[-1]),
            **added,
            **self._normal_or_not(log_probabilities, labels, counted, calibration),
            "loss": loss,
        }

    def calibrate(self, outputs: Tensor, support: Examples) -> Tensor | None:
        """The threshold on each task's log-odds of a fault, (T,); None where no class is normal.

        Raises:
            UserError: a support set has no normal window.
        """
        if self.normal is None:
            return None
        self._refuse_other_kinds(outputs, support.y)
        counted = self._counted(support.y, support.mask)
        counted = None if counted is None else counted.flatten(1)
        normal = normal_windows(support.y.flatten(1), counted, self.normal, type(self).__name__)
        odds = self._fault_odds(torch.log_softmax(outputs, -1).flatten(1, -2))
        # Windows that a network has adapted to look more normal than any it has not seen: they may only raise it.
        return odds.masked_fill(~normal, -torch.inf).amax(1).clamp(min=0) + self.margin

    def _normal_or_not(
        self, log_probabilities: Tensor, labels: Tensor, counted: Tensor, threshold: Tensor | None
    ) -> dict[str, Tensor]:
        """The rates of alarms among normal and faulty windows: (T, M, C), (T, M), (T, M), (T,) → name → (T,)."""
        if self.normal is None:
            return {}
        if threshold is None:
            raise UserError(
                f"{type(self).__name__}: expected the threshold that `calibrate` made of the support set"
            )
        alarm = self._fault_odds(log_probabilities) > threshold[:, None]
        normal = labels == self.normal
        kinds = {"false_alarm_rate": counted & normal, "found_rate": counted & ~normal}
        return self.added.defined({name: (alarm & of).sum(1) / of.sum(1) for name, of in kinds.items()})

    def _fault_odds(self, log_probabilities: Tensor) -> Tensor:
        """log((1 − p) / p), p the probability of the normal class: (T, M, C) → (T, M)."""
        assert self.normal is not None
        if self.normal >= log_probabilities.shape[-1]:
            raise UserError(
                f"{type(self).__name__}: expected normal below the network's {log_probabilities.shape[-1]}"
                f" outputs, got {self.normal}"
            )
        normal = log_probabilities[..., self.normal]
        faults = [k for k in range(log_probabilities.shape[-1]) if k != self.normal]
        return log_probabilities[..., faults].logsumexp(-1) - normal

    def predict(self, outputs: Tensor, x: Tensor, calibration: Tensor | None = None) -> Tensor:
        """Class probabilities: (…, N, C), summing to 1 over C."""
        return torch.softmax(outputs, -1)

    def score(
        self,
        outputs: Tensor,
        x: Tensor,
        calibration: Tensor | None = None,
        *,
        normal: int | None = None,
        limit: float | None = None,
    ) -> Tensor:
        """The log-odds of a fault less the threshold, as a probability: 1 / (1 + e^(threshold − odds)).

        Of an objective without `normal` it is the probability of all classes but the given normal one, if any.

        >>> logits = torch.tensor([[[0.0, 3.0]]])
        >>> Classification(normal=0).score(logits, logits, torch.tensor([3.0]))
        tensor([[0.5000]])
        >>> Classification().score(logits, logits, normal=0)
        tensor([[0.9526]])
        """
        if outputs.ndim != 3 or (self.normal is None and normal is None):
            return super().score(outputs, x)
        if self.normal is None:
            return 1 - torch.softmax(outputs, -1)[..., normal]
        if calibration is None:
            raise UserError(
                f"{type(self).__name__}: expected the threshold that `calibrate` made of the support set"
            )
        return torch.sigmoid(self._fault_odds(torch.log_softmax(outputs, -1)) - calibration[:, None])

    def check(self, episode: Episode) -> None:
        """Refuse a task whose query set has a class that its support set lacks.

        Where labels mean the same in every task (`Episode.common_labels`), other tasks may have shown it. Tokens
        may be new: their classes are a vocabulary that means the same in every task. Targets of another kind are
        refused by `loss`, which can say what the network gives for them.
        """
        support, query = episode.support, episode.query
        if episode.common_labels or any(y.ndim != 2 or y.is_floating_point() for y in (support.y, query.y)):
            return
        known = torch.ones_like(support.y, dtype=torch.bool) if support.mask is None else support.mask
        seen = (query.y[:, :, None] == support.y[:, None, :]) & known[:, None, :]  # (T, Q, S)
        strange = ~seen.any(-1)
        asked = self._counted(query.y, query.mask)
        if asked is not None:
            strange &= asked
        if strange.any():
            task, window = strange.nonzero()[0].tolist()
            where = episode.machines[task] if episode.machines else f"task {task}"
            raise UserError(
                f"{where}: class {int(query.y[task, window])} is in the query set but absent from the support set,"
                " so nothing can be learnt of it; give every class at least one support window"
            )

    def _counted(self, labels: Tensor, mask: Tensor | None) -> Tensor | None:
        """False where a label counts for nothing, in the shape of the labels; None where all count."""
        if mask is not None:
            mask = mask.view(*mask.shape, *[1] * (labels.ndim - 2)).expand(labels.shape)
        if self.ignore_index is None:
            return mask
        asked = labels != self.ignore_index
        return asked if mask is None else asked & mask

    def _refuse_other_kinds(self, outputs: Tensor, y: Tensor) -> None:
        refuse_other_than_tensor(self, outputs)
        expected = f"{type(self).__name__}: expected logits (T, N, C) and integer labels (T, N)"
        got = f"got {tuple(outputs.shape)} and {y.dtype} {tuple(y.shape)}"
        if y.shape == outputs.shape and y.ndim == 3 and (y.sum(-1) == 1).all() and y.shape[-1] > 1:
            raise UserError(f"{expected}, {got}; give each window the number of its class: y.argmax(-1)")
        if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
            raise UserError(
                f"{expected}, {got}; give class numbers as int64, or use Regression for targets that are numbers"
            )
        if y.shape == (*outputs.shape[:-1], 1):
            raise UserError(f"{expected}, {got}; give each window one number without an axis: y.squeeze(-1)")
        if outputs.ndim < 3 or y.shape != outputs.shape[:-1]:
            raise UserError(
                f"{expected}, or (T, N, L, C) and (T, N, L) for tokens, {got}; the network must give one output"
                " per class, in the last axis, for every label"
            )
        if outputs.shape[-1] < 2:
            raise UserError(
                f"{expected} of at least 2 classes, {got}; set the net's out_features to 2 for yes or no"
            )
        if self.class_weights is not None and len(self.class_weights) != outputs.shape[-1]:
            raise UserError(
                f"{type(self).__name__}: expected one of class_weights per output of the network, got"
                f" {len(self.class_weights)} for {outputs.shape[-1]} outputs"
            )


def balanced_accuracy(hits: Tensor, labels: Tensor, counted: Tensor, classes: int) -> Tensor:
    """The mean recall of the classes that occur in each task: (T, M) each → (T,).

    Args:
        hits: whether the prediction is right; False where a label does not count.
        labels: in [0, classes) where they count.
        counted: whether a label counts.
        classes: number of classes, C.
    """
    labels = labels.where(counted, 0)
    per_class = torch.zeros(len(labels), classes, device=labels.device)
    found = per_class.scatter_add(1, labels, hits.float())  # (T, C)
    shown = per_class.scatter_add(1, labels, counted.float())
    return (found / shown.clamp(min=1)).sum(1) / (shown > 0).sum(1)


def inputs_of(metric: MetricFunction, log_probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """What a metric of torchmetrics takes, made of the log-probabilities (M, C) and labels (M,) of one task.

    Those of several classes take them as they are (logits that no softmax changes), those of two classes the
    probability of class 1, and the perplexity one sequence.

    Raises:
        UserError: a metric of two classes is asked of another number.
    """
    name = original_name(metric).lower()
    if name.startswith("binary"):
        if log_probabilities.shape[-1] != 2:
            raise UserError(
                f"Classification: {original_name(metric)} needs a network of 2 outputs, got"
                f" {log_probabilities.shape[-1]}; take the metric of that name for multiclass"
            )
        return log_probabilities[:, 1].exp(), labels
    if name == "perplexity":
        return log_probabilities[None], labels[None]
    return log_probabilities, labels
