"""Reconstruction: an anomaly is a window that an autoencoder, adapted to normal windows, reproduces badly."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_specificity, multiclass_recall

from fml_lightning.errors import UserError
from fml_lightning.objectives.metrics import NamedMetrics, TaskMetrics
from fml_lightning.objectives.objective import Objective, refuse_not_finite, refuse_other_than_tensor
from fml_lightning.types import Examples


class Reconstruction(Objective):
    """An autoencoder (T, N, …) → (T, N, …) for anomalies without labels.

    It adapts on normal windows alone: the support set. A window's anomaly score is its mean squared
    reconstruction error over a threshold, a quantile of the support windows' errors under the adapted network:
    above 1 it is an anomaly. Labels (0 normal, anything else an anomaly) serve only the metrics.

    Args:
        quantile: of the support errors, in (0, 1].
        margin: the threshold is this many times the quantile, greater than 0; the few windows that a network
            has adapted to are reproduced better than normal windows it has never seen.
        metrics: metrics to report beside these: of `torchmetrics` for two classes (Binary…), or functions of
            anomaly scores brought to [0, 1], score / (1 + score), and labels, both (N,), of one task's windows; a
            list, or a mapping of names of your own to them.
        metric: the metric that decides: `balanced_accuracy`, `false_alarm_rate`, `auroc`, `loss`, or one of
            `metrics`.
    """

    own_metrics: ClassVar = {"balanced_accuracy": True, "false_alarm_rate": False, "auroc": True, "loss": False}
    calibrates = True

    def __init__(
        self,
        quantile: float = 0.95,
        margin: float = 1.5,
        metrics: NamedMetrics = (),
        metric: str = "balanced_accuracy",
    ) -> None:
        if not 0 < quantile <= 1 or not margin > 0:
            raise UserError(f"Reconstruction: expected 0 < quantile <= 1 and margin > 0, got {quantile}, {margin}")
        self.quantile = quantile
        self.margin = margin
        self.added = TaskMetrics("Reconstruction", metrics, metric, self.own_metrics)
        self.metric = metric
        self.higher_is_better = self.added.higher_is_better

    def errors(self, outputs: Tensor, x: Tensor) -> Tensor:
        """Mean squared error of each window: (T, N, …) twice → (T, N).

        Raises:
            UserError: the outputs have another shape than the windows.
        """
        refuse_other_than_tensor(self, outputs)
        if outputs.shape != x.shape:
            raise UserError(
                f"Reconstruction: expected outputs of the windows' shape {tuple(x.shape)}, got"
                f" {tuple(outputs.shape)}; the network must be an autoencoder"
            )
        return ((outputs - x) ** 2).flatten(2).mean(2)

    def loss(self, outputs: Tensor, examples: Examples) -> Tensor:
        """Mean squared error of each task, (T,)."""
        return examples.mean(self.errors(outputs, examples.x))

    def calibrate(self, outputs: Tensor, support: Examples) -> Tensor:
        """The threshold on each task's errors, (T,)."""
        errors = self.errors(outputs, support.x)
        if support.mask is not None:
            errors = errors.masked_fill(~support.mask, float("nan"))
        return self.margin * errors.nanquantile(self.quantile, dim=1)

    def metrics(self, outputs: Tensor, examples: Examples, calibration: Tensor | None = None) -> dict[str, Tensor]:
        """Balanced accuracy (over the kinds of windows there are), false alarm rate, AUROC, added ones, and loss.

        The first two are taken at the threshold; the false alarm rate needs normal windows in every task, the
        area under the ROC curve both kinds, or they are left out.
        """
        y = examples.y
        if y.ndim != 2 or (y.is_floating_point() and not ((y == 0) | (y == 1)).all()):
            raise UserError(
                "Reconstruction: expected labels (T, N), 0 for normal windows and another class for anomalies,"
                f" got {y.dtype} {tuple(y.shape)}; use Regression for targets that are numbers"
            )
        scores = self.predict(outputs, examples.x, calibration)
        refuse_not_finite(self, outputs, examples.mask)
        pairs = list(zip(scores, (y != 0).long(), strict=True))
        if examples.mask is not None:
            pairs = [
                (score[own], anomaly[own]) for (score, anomaly), own in zip(pairs, examples.mask, strict=True)
            ]
        undefined = scores.new_tensor(float("nan"))
        found: dict[str, list[Tensor]] = {"balanced_accuracy": [], "false_alarm_rate": [], "auroc": []}
        for score, anomaly in pairs:
            alarm = (score > 1).long()
            kinds: Tensor = torch.unique(anomaly)
            recalls = multiclass_recall(alarm, anomaly, num_classes=2, average="none")
            found["balanced_accuracy"].append(recalls[kinds].mean())
            found["false_alarm_rate"].append(1 - binary_specificity(alarm, anomaly) if 0 in kinds else undefined)
            found["auroc"].append(binary_auroc(_chance(score), anomaly) if len(kinds) == 2 else undefined)
        return {
            **self.added.defined({name: torch.stack(values) for name, values in found.items()}),
            **self.added([_chance(score) for score, _ in pairs], [anomaly for _, anomaly in pairs]),
            "loss": self.loss(outputs, examples),
        }

    def predict(self, outputs: Tensor, x: Tensor, calibration: Tensor | None = None) -> Tensor:
        """The anomaly score of each window, above 1 for an anomaly: (T, N, …) → (T, N)."""
        if calibration is None:
            raise UserError("Reconstruction: expected the threshold that `calibrate` made of the support set")
        return self.errors(outputs, x) / calibration[:, None]

    def score(
        self,
        outputs: Tensor,
        x: Tensor,
        calibration: Tensor | None = None,
        *,
        normal: int | None = None,
        limit: float | None = None,
    ) -> Tensor:
        """The anomaly score s brought to [0, 1], s / (1 + s): 0.5 at the threshold."""
        return _chance(self.predict(outputs, x, calibration))


def _chance(score: Tensor) -> Tensor:
    """An anomaly score brought to [0, 1] in the same order, score / (1 + score): 0.5 at the threshold."""
    return torch.sigmoid(torch.log(score))
