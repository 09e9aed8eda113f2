"""The remaining useful life of a machine: regression up to a cap, and the C-MAPSS score.

Saxena et al., Damage Propagation Modeling for Aircraft Engine Run-to-Failure Simulation, PHM 2008.
https://doi.org/10.1109/PHM.2008.4711414
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fml_lightning.objectives.metrics import NamedMetrics
from fml_lightning.objectives.regression import Regression
from fml_lightning.types import Examples


class RemainingUsefulLife(Regression):
    """The remaining useful life, in cycles or hours: regression up to `cap`, and the C-MAPSS score.

    Args:
        cap: lives above it count as `cap`; outputs are in units of it.
        metrics: metrics to report beside these; see `Regression`.
        metric: the metric that decides: `rmse`, `mae`, `rmse_uncapped`, `score`, `loss`, or one of `metrics`.
    """

    own_metrics: ClassVar = {**Regression.own_metrics, "rmse_uncapped": False, "score": False}
    in_unit_of_target: ClassVar = Regression.in_unit_of_target | {"rmse_uncapped"}
    quantity: ClassVar = "left"

    def __init__(self, cap: float = 125.0, metrics: NamedMetrics = (), metric: str = "rmse") -> None:
        super().__init__(scale=cap, cap=cap, metrics=metrics, metric=metric)

    def metrics(self, outputs: Tensor, examples: Examples, calibration: Tensor | None = None) -> dict[str, Tensor]:
        """Those of `Regression`, of capped targets; `rmse_uncapped`, of targets as they are; and `score`.

        `score` is the sum of each task's `cmapss_score` of capped targets, 0 at best.
        """
        metrics = super().metrics(outputs, examples)
        predicted, targets = self.predict(outputs, examples.x), self.targets(outputs, examples)
        scores = cmapss_score(predicted - targets)
        squares = (predicted - examples.y.to(targets.dtype).view(targets.shape)) ** 2
        if squares.ndim > 2:
            scores, squares = scores.flatten(2).sum(2), squares.flatten(2).mean(2)  # (T, N)
        if examples.mask is not None:
            scores = torch.where(examples.mask, scores, 0)
        return {**metrics, "rmse_uncapped": examples.mean(squares).sqrt(), "score": scores.sum(1)}

    def _is_beyond(self, predicted: Tensor, limit: float) -> Tensor:
        """Where the machine will fail before the limit has passed."""
        return predicted < limit

    def predict(self, outputs: Tensor, x: Tensor, calibration: Tensor | None = None) -> Tensor:
        """Remaining lives from 0, as a machine that runs has not failed, to `cap`, beyond which none was taught.

        >>> RemainingUsefulLife(cap=125.0).predict(torch.tensor([[-0.2, 0.4, 1.2]]), torch.zeros(1, 3))
        tensor([[  0.,  50., 125.]])
        """
        return super().predict(outputs, x, calibration).clamp(0.0, self.cap)


def cmapss_score(errors: Tensor) -> Tensor:
    """e^(−d/13) − 1 for an early warning, e^(d/10) − 1 for a late one; d = predicted − true life, in cycles.

    >>> cmapss_score(torch.tensor([-13.0, 0.0, 10.0]))
    tensor([1.7183, 0.0000, 1.7183])
    """
    return torch.where(errors < 0, torch.expm1(-errors / 13), torch.expm1(errors / 10))
