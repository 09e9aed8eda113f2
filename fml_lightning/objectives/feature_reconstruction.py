"""Feature reconstruction: what the network says of a damaged window should tell what the whole one was.

Vincent et al., Extracting and Composing Robust Features with Denoising Autoencoders, ICML 2008.
https://doi.org/10.1145/1390156.1390294
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fml_lightning.errors import UserError
from fml_lightning.objectives.support_objective import SupportObjective, perceptron
from fml_lightning.types import Examples


class FeatureReconstruction(SupportObjective):
    """The mean squared error of features that a small decoder finds in the network's outputs; needs no label.

    The decoder is trained by the outer loop, through the inner loop's steps: it learns which reconstruction helps.

    Args:
        outputs: numbers that the network gives for a window, C.
        features: numbers that a window has, F.
        hidden: width of each hidden layer of the decoder.
        drop: share of the features that the network goes without (they are 0), in [0, 1).
        objective_weight: how much of the learner's own objective is added; at least 0.
    """

    def __init__(
        self,
        outputs: int,
        features: int,
        hidden: Sequence[int] = (64,),
        drop: float = 0.25,
        objective_weight: float = 0.0,
    ) -> None:
        super().__init__(objective_weight)
        if min(outputs, features, *hidden) < 1 or not 0 <= drop < 1:
            raise UserError(
                "FeatureReconstruction: expected outputs, features and hidden of at least 1 and drop in [0, 1),"
                f" got {outputs}, {features}, {list(hidden)} and {drop}"
            )
        self.sizes = (outputs, features)
        self.drop = drop
        self.decoder = perceptron(outputs, hidden, features)

    def views(self, x: Tensor) -> Tensor:
        """The windows, without some of their features."""
        return torch.where(self.drawn(torch.rand, x) < self.drop, 0, x) if self.drop else x

    def loss(self, outputs: Tensor, support: Examples) -> Tensor:
        """Mean over windows and features, (T,).

        Raises:
            UserError: the decoder was made for other outputs or features.
        """
        said, x = outputs.flatten(2), support.x.flatten(2)
        if (got := (said.shape[-1], x.shape[-1])) != self.sizes:
            raise UserError(
                f"FeatureReconstruction: expected {self.sizes[0]} outputs and {self.sizes[1]} features of a"
                f" window, got {got[0]} and {got[1]}; set its outputs and features to these"
            )
        return support.mean(((self.decoder(said) - x) ** 2).mean(2))
