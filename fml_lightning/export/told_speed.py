"""The shaft's speed as features have it: fixed, or told of each window; the counterpart of `speeds_of`."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ToldSpeed(nn.Module):
    """Speeds, Hz, (N,), double; NaN where they are not above 0.

    Args:
        speed: the fixed one; None: it is told of each window.
    """

    fixed: Tensor

    def __init__(self, speed: float | None) -> None:
        super().__init__()
        self.register_buffer("fixed", torch.tensor([speed or 0.0], dtype=torch.double))

    def forward(self, x: Tensor, told: Tensor | None) -> Tensor:
        """Of windows (N, W), and what is told of them, (N, 1)."""
        if told is None:
            return self.fixed.expand(x.shape[0])
        speeds = told[:, 0].double()
        return torch.where((speeds > 0) & (speeds < torch.inf), speeds, torch.nan)
