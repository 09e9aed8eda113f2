"""The learned loss: a small network says what the inner loop minimizes, and is itself meta-learned.

Bechtle et al., Meta-Learning via Learned Loss, 2019. https://arxiv.org/abs/1906.05374 (ML³);
Antoniou and Storkey, Learning to Learn via Self-Critique, NeurIPS 2019. https://arxiv.org/abs/1905.10295
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fml_lightning.errors import UserError
from fml_lightning.objectives.support_objective import SupportObjective, perceptron
from fml_lightning.types import Examples


class LearnedLoss(SupportObjective):
    """A perceptron of what the network says of a window, and of the window itself, to one number; needs no label.

    Its last layer is 0 at first, so that training starts from an inner loop that does nothing, or does what
    `objective_weight` of the objective does. The outer loop then finds the loss whose steps help the queries.

    Args:
        outputs: numbers that the network gives for a window, C.
        features: numbers that a window has, F, for a loss that sees the window too; 0: it sees the outputs alone.
        hidden: width of each hidden layer; none makes a loss that is linear in the outputs.
        objective_weight: how much of the learner's own objective is added; at least 0.
    """

    def __init__(
        self, outputs: int, features: int = 0, hidden: Sequence[int] = (32,), objective_weight: float = 0.0
    ) -> None:
        super().__init__(objective_weight)
        if min([outputs, *hidden]) < 1 or features < 0:
            raise UserError(
                "LearnedLoss: expected outputs and hidden of at least 1 and features of at least 0, got"
                f" {outputs}, {list(hidden)} and {features}"
            )
        self.sizes = (outputs, features)
        # Without a bias: a constant has no influence on any step.
        self.critic = perceptron(outputs + features, hidden, 1, bias=False)
        *_, last = self.critic.parameters()
        nn.init.zeros_(last)

    def loss(self, outputs: Tensor, support: Examples) -> Tensor:
        """Mean over windows, (T,).

        Raises:
            UserError: the loss was made for other outputs or features.
        """
        said, x = outputs.flatten(2), support.x.flatten(2)
        got = said.shape[-1], x.shape[-1] if self.sizes[1] else 0
        if got != self.sizes:
            raise UserError(
                f"LearnedLoss: expected {self.sizes[0]} outputs and {self.sizes[1]} features of a window, got"
                f" {got[0]} and {x.shape[-1]}; set its outputs and features to these"
            )
        seen = torch.cat([said, x], -1) if self.sizes[1] else said
        return support.mean(self.critic(seen).squeeze(-1))
