"""Regression: a number per window, such as the remaining useful life."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional import mean_absolute_error, mean_squared_error

from fml_lightning.errors import UserError
from fml_lightning.objectives.objective import Objective
from fml_lightning.types import Examples


class Regression(Objective):
    """A number per window: mean squared error; RMSE and MAE in the target's unit.

    The network's output times `scale` is the prediction, so that outputs and gradients are of the order of 1
    whatever the unit; the loss is taken on that order.

    Args:
        scale: the target's typical size, in its unit; greater than 0.
        cap: targets above it count as `cap`: nobody can tell that a healthy machine will last longer.
    """

    metric = "rmse"
    higher_is_better = False

    def __init__(self, scale: float = 1.0, cap: float | None = None) -> None:
        if not scale > 0 or (cap is not None and not cap > 0):
            raise UserError(f"{type(self).__name__}: expected scale > 0 and cap > 0, got {scale} and {cap}")
        self.scale = scale
        self.cap = cap

    def targets(self, outputs: Tensor, examples: Examples) -> Tensor:
        """The capped targets in the shape of the outputs, (T, N) or (T, N, 1).

        Raises:
            UserError: there is not one output per target.
        """
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
        """RMSE and MAE in the target's unit, and the loss, of each task: name → (T,).

        >>> examples = Examples(torch.zeros(1, 2), torch.tensor([[3.0, 0.0]]))
        >>> Regression(scale=10.0).metrics(torch.tensor([[0.0, 0.4]]), examples)["rmse"]
        tensor([3.5355])
        """
        predicted, targets = self.predict(outputs, examples.x), self.targets(outputs, examples)
        rows = range(len(predicted))
        pairs = [(predicted[t], targets[t]) for t in rows]
        if examples.mask is not None:
            pairs = [(p[examples.mask[t]], y[examples.mask[t]]) for t, (p, y) in enumerate(pairs)]
        return {
            "rmse": torch.stack([mean_squared_error(p.flatten(), y.flatten(), squared=False) for p, y in pairs]),
            "mae": torch.stack([mean_absolute_error(p.flatten(), y.flatten()) for p, y in pairs]),
            "loss": self.loss(outputs, examples),
        }

    def predict(self, outputs: Tensor, x: Tensor, calibration: Tensor | None = None) -> Tensor:
        """Predictions in the target's unit."""
        return outputs * self.scale
