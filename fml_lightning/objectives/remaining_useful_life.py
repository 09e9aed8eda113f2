"""The remaining useful life of a machine: regression up to a cap, and the C-MAPSS score.

Saxena et al., Damage Propagation Modeling for Aircraft Engine Run-to-Failure Simulation, PHM 2008.
https://doi.org/10.1109/PHM.2008.4711414
"""

from __future__ import annotations

import torch
from torch import Tensor

from fml_lightning.objectives.regression import Regression
from fml_lightning.types import Examples


class RemainingUsefulLife(Regression):
    """The remaining useful life, in cycles or hours: regression up to `cap`, and the C-MAPSS score.

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
