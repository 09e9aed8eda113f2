"""The objective made of a user's own loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vmap

from fml_lightning.errors import UserError
from fml_lightning.objectives.objective import Objective
from fml_lightning.types import Examples


class Loss(Objective):
    """Any loss of your own, such as `torch.nn.functional.mse_loss`.

    Args:
        loss: outputs (N, …) and targets (N, …) of one task → a scalar.

    Raises:
        UserError: an episode is padded; a function of whole sets cannot leave padding out.
    """

    metric = "loss"
    higher_is_better = False

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.function = loss

    def loss(self, outputs: Tensor, examples: Examples) -> Tensor:
        """The loss of each task, (T,)."""
        if examples.mask is not None:
            raise UserError("Loss: expected tasks of equal size, got padded ones; use an Objective of your own")
        if len(outputs) == 1:
            return self.function(outputs[0], examples.y[0]).view(1)
        try:
            each: Tensor = vmap(self.function)(outputs, examples.y)
        except RuntimeError as error:
            if "vmap" not in str(error):
                raise
            each = torch.stack([self.function(o, y) for o, y in zip(outputs, examples.y, strict=True)])
        return each

    def metrics(self, outputs: Tensor, examples: Examples, calibration: Tensor | None = None) -> dict[str, Tensor]:
        """The loss of each task, (T,)."""
        return {"loss": self.loss(outputs, examples)}
