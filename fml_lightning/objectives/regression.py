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


class RemainingUsefulLife(Regression):
    """The remaining useful life, in cycles or hours: regression up to `cap`, and the C-MAPSS score.

    Saxena et al., Damage Propagation Modeling for Aircraft Engine Run-to-Failure Simulation, PHM 2008.
    https://doi.org/10.1109/PHM.2008.4711414

    Args:
        cap: lives above it count as `cap`; outputs are in units of it.
    """

    def __init__(self, cap: float = 125.0) -> None:
        super().__init__(scale=cap, cap=cap)

    def metrics(self, outputs: Tensor, examples: Examples, calibration: Tensor | None = None) -> dict[str, Tensor]:
        """Those of `Regression`, and `score`: the sum of each task's `cmapss_score`, 0 at best."""
        errors = self.predict(outputs, examples.x) - self.targets(outputs, examples)
        if errors.ndim > 2:
            errors = errors.squeeze(-1)
        scores = cmapss_score(errors)
        if examples.mask is not None:
            scores = torch.where(examples.mask, scores, 0)
        return {**super().metrics(outputs, examples), "score": scores.sum(1)}


def cmapss_score(errors: Tensor) -> Tensor:
    """e^(−d/13) − 1 for an early warning, e^(d/10) − 1 for a late one; d = predicted − true life, in cycles.

    >>> cmapss_score(torch.tensor([-13.0, 0.0, 10.0]))
    tensor([1.7183, 0.0000, 1.7183])
    """
    return torch.where(errors < 0, torch.expm1(-errors / 13), torch.expm1(errors / 10))
