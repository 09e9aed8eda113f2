"""Plain supervised training: with a Federation this is FedAvg, then fine-tuning at each machine.

McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017.
https://arxiv.org/abs/1602.05629
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fml_lightning.adaptation.inner_loop import InnerLoop
from fml_lightning.errors import UserError
from fml_lightning.learners.learner import Learner
from fml_lightning.objectives import Objective
from fml_lightning.params import clone
from fml_lightning.types import Episode, Examples, Params


class Supervised(Learner):
    """Minimize the loss of the shared parameters on every window of an episode, support and query alike.

    A machine fine-tunes with the same inner loop as any other learner (`adaptation`). The labels must mean the
    same in every task: set `permute_labels: false` in the data's episodes (see
    `configs/cwru_unseen_machine_fedavg.yaml`).

    Args:
        net: any `nn.Module`.
        objective: the loss and the metrics; `Classification` unless you say otherwise.
        adaptation: how a machine fine-tunes.
        proximal: μ of a pull back to the parameters as training began (in a Federation: as received from the
            server), μ/2‖w − w₀‖², at least 0; above it this is FedProx.
        **options: as of `Learner`.
    """

    def __init__(
        self,
        net: nn.Module,
        objective: Objective | None = None,
        adaptation: InnerLoop | None = None,
        proximal: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(net, objective, adaptation, **options)
        if not proximal >= 0:
            raise UserError(f"{type(self).__name__}: expected proximal >= 0, got {proximal}")
        if proximal and options.get("compile"):
            raise UserError(f"{type(self).__name__}: proximal changes with every round; set compile: false")
        self.proximal = proximal
        self.received: Params = {}
        """The shared parameters as training began."""

    def on_train_start(self) -> None:
        """Remember the shared parameters as they were received."""
        self.received = clone(self.shared)

    def meta_loss(self, episode: Episode) -> Tensor:
        """Mean loss over all windows of the episode."""
        loss = self.pooled_loss(self.net, episode)
        if self.proximal and self.received:
            own = self.shared
            squares = [((own[name] - p) ** 2).sum() for name, p in self.received.items()]
            loss = loss + self.proximal / 2 * torch.stack(squares).sum()
        return loss

    def tasks_per_training_pass(self) -> int | None:
        """None: an episode is one batch, whatever the tasks."""
        return None

    def pooled_loss(self, net: nn.Module, episode: Episode) -> Tensor:
        """The mean loss of a network over all windows of all tasks taken as one set."""
        pooled = episode.pooled().map(lambda tensor: tensor.flatten(0, 1)[None])  # (1, T·(S+Q), …)
        if pooled.mask is not None:
            pooled = Examples(pooled.x[:, pooled.mask[0]], pooled.y[:, pooled.mask[0]])
        return self.objective.loss(net(pooled.x[0])[None], pooled).mean()
