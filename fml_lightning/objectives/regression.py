"""Regression: numbers per window, such as a temperature or a wear."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics.functional import mean_absolute_error, mean_squared_error

from fml_lightning.errors import UserError
from fml_lightning.objectives.metrics import NamedMetrics, TaskMetrics
from fml_lightning.objectives.objective import Objective, refuse_not_finite, refuse_other_than_tensor
from fml_lightning.types import Examples


class Regression(Objective):
    """A number per window: mean squared error; RMSE and MAE in the target's unit.

    The network's output times `scale` is the prediction, so that outputs and gradients are of the order of 1
    whatever the unit; the loss is taken on that order.

    Args:
        scale: the target's typical size, in its unit; greater than 0.
        cap: targets above it count as `cap`, because a healthy machine shows no sign of how long it will last.
        metrics: metrics to report beside these: of `torchmetrics`, or functions of predictions and targets of one
            task's windows in the target's unit, (N,), or (N, D) for several targets; a list, or a mapping of names
            of your own to them.
        metric: the metric that decides: `rmse`, `mae`, `loss`, or one of `metrics`.
    """

    own_metrics: ClassVar = {"rmse": False, "mae": False, "loss": False}
    in_unit_of_target: ClassVar = frozenset({"rmse", "mae"})
    takes_limit: ClassVar = True

    def __init__(
        self, scale: float = 1.0, cap: float | None = None, metrics: NamedMetrics = (), metric: str = "rmse"
    ) -> None:
        name = type(self).__name__
        if not scale > 0 or (cap is not None and not cap > 0):
            raise UserError(f"{name}: expected scale > 0 and cap > 0, got {scale} and {cap}")
        self.scale = scale
        self.cap = cap
        self.added = TaskMetrics(name, metrics, metric, self.own_metrics)
        self.metric = metric
        self.higher_is_better = self.added.higher_is_better

    def targets(self, outputs: Tensor, examples: Examples) -> Tensor:
        """The capped targets in the shape of the outputs, (T, N) or (T, N, D).

        Raises:
            UserError: targets are class numbers, or there is not one output per target.
        """
        refuse_other_than_tensor(self, outputs)
        if not examples.y.is_floating_point():
            raise UserError(
                f"{type(self).__name__}: expected targets that are numbers (float), the data has class numbers"
                f" ({examples.y.dtype}); use Classification, or data whose targets are float"
            )
        y = examples.y.to(outputs.dtype)
        if y.numel() != outputs.numel() or y.shape[:2] != outputs.shape[:2]:
            raise UserError(
                f"{type(self).__name__}: expected one output per target, got outputs {tuple(outputs.shape)} for"
                f" targets {tuple(examples.y.shape)}; set the net's out_features to the number of targets"
            )
        y = y.view(outputs.shape)
        return y if self.cap is None else y.clamp(max=self.cap)

    def loss(self, outputs: Tensor, examples: Examples) -> Tensor:
        """Mean of ((output − target / scale)²) of each task: (T, N) or (T, N, D) → (T,)."""
        errors = (outputs - self.targets(outputs, examples) / self.scale) ** 2
        return examples.mean(errors.flatten(2).mean(2) if errors.ndim > 2 else errors)

    def metrics(self, outputs: Tensor, examples: Examples, calibration: Tensor | None = None) -> dict[str, Tensor]:
        """RMSE and MAE in the target's unit, added metrics, and the loss, of each task: name → (T,).

        >>> examples = Examples(torch.zeros(1, 2), torch.tensor([[3.0, 0.0]]))
        >>> Regression(scale=10.0).metrics(torch.tensor([[0.0, 0.4]]), examples)["rmse"]
        tensor([3.5355])
        """
        targets = self.targets(outputs, examples)
        refuse_not_finite(self, outputs, examples.mask)
        pairs = list(zip(self.predict(outputs, examples.x), targets, strict=True))
        if examples.mask is not None:
            pairs = [(p[own], y[own]) for (p, y), own in zip(pairs, examples.mask, strict=True)]
        flat = [(p.flatten(), y.flatten()) for p, y in pairs]
        several = outputs.shape[2:].numel() > 1
        judged = [(p.flatten(1), y.flatten(1)) for p, y in pairs] if several else flat
        return {
            "rmse": torch.stack([mean_squared_error(p, y, squared=False) for p, y in flat]),
            "mae": torch.stack([mean_absolute_error(p, y) for p, y in flat]),
            **self.added([p for p, _ in judged], [y for _, y in judged]),
            "loss": self.loss(outputs, examples),
        }

    def score(
        self,
        outputs: Tensor,
        x: Tensor,
        calibration: Tensor | None = None,
        *,
        normal: int | None = None,
        limit: float | None = None,
    ) -> Tensor:
        """1 where any prediction is beyond the limit, else 0; NaN without a limit, and where one is NaN.

        >>> Regression(scale=10.0).score(torch.tensor([[0.5, 0.7]]), torch.zeros(1, 2), limit=6.0)
        tensor([[0., 1.]])
        """
        if limit is None:
            return super().score(outputs, x)
        predicted = self.predict(outputs, x, calibration).reshape(*outputs.shape[:2], -1)
        beyond = self._is_beyond(predicted, limit).any(-1).to(predicted.dtype)
        return beyond.masked_fill(predicted.isnan().any(-1), torch.nan)

    def _is_beyond(self, predicted: Tensor, limit: float) -> Tensor:
        """Where a prediction is a sign of a fault: above the limit, as of a temperature or a wear."""
        return predicted > limit

    def predict(self, outputs: Tensor, x: Tensor, calibration: Tensor | None = None) -> Tensor:
        """Predictions in the target's unit."""
        return outputs * self.scale
