"""Plain supervised training: with a Federation this is FedAvg, then fine-tuning at each machine.

McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017.
https://arxiv.org/abs/1602.05629
"""

from __future__ import annotations

import torch
from torch import Tensor

from fml_lightning.learners.base import Learner
from fml_lightning.types import Episode


class Supervised(Learner):
    """Minimize the loss of the shared parameters on every window of an episode, support and query alike.

    A machine fine-tunes with the same inner loop as any other learner (`adaptation`). The labels must mean the
    same in every task: set `permute_labels: false` in the data's episodes (see
    `configs/cwru_unseen_machine_fedavg.yaml`).
    """

    def meta_loss(self, episode: Episode) -> Tensor:
        """Mean loss over all windows of the episode."""
        x = torch.cat([episode.support.x, episode.query.x], 1).flatten(0, 1)  # (T·(S+Q), …)
        y = torch.cat([episode.support.y, episode.query.y], 1).flatten(0, 1)
        return self.objective.loss(self.net(x)[None], y[None]).mean()
