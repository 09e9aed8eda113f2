"""Learned rates: the inner loop's step sizes as meta-parameters.

Li et al., Meta-SGD, 2017. https://arxiv.org/abs/1707.09835 (one for every element);
Antoniou et al., How to Train Your MAML, ICLR 2019. https://arxiv.org/abs/1810.09502 (per layer and step).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from fml_lightning.adaptation.inner_loop import InnerLoop
from fml_lightning.types import Params

Granularity = Literal["tensor", "tensor_per_step", "element"]
"""One learned rate for each parameter tensor; one for each tensor and step; one for each element."""


class LearnedRates(nn.Module):
    """Rates for the adapting parameters of a network, all `inner_loop.lr` at first; they may become negative.

    Calling it with a step k = 0, 1, … gives the rates of that step, name → a tensor of the parameter's shape or
    a scalar. Steps beyond those trained use the last one's.

    Args:
        params: the initial parameters that adapt.
        inner_loop: in how many steps, and the first value of each rate.
        granularity: how many rates there are.
    """

    def __init__(self, params: Params, inner_loop: InnerLoop, granularity: Granularity) -> None:
        super().__init__()
        self.names = list(params)
        self.per_step = granularity == "tensor_per_step"
        steps = max(1, inner_loop.steps)
        self.values = nn.ParameterList(
            torch.full_like(params[name], inner_loop.lr)
            if granularity == "element"
            else params[name].new_full((steps,) if self.per_step else (), inner_loop.lr)
            for name in self.names
        )

    def forward(self, step: int) -> Params:
        """The rates of a step."""
        return {
            name: value[min(step, len(value) - 1)] if self.per_step else value
            for name, value in zip(self.names, self.values, strict=True)
        }
