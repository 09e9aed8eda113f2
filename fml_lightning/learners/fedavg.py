"""FedAvg: every site trains one shared model on its own data; machines fine-tune it.

McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017.
https://arxiv.org/abs/1602.05629
"""

from __future__ import annotations

from torch import Tensor, nn

from fml_lightning.adaptation.network import refuse_other_outputs
from fml_lightning.learners.learner import Learner
from fml_lightning.types import Episode, Examples


class FedAvg(Learner):
    """Minimize the loss of the shared parameters on every window of an episode, support and query alike.

    Under a plain Trainer this is supervised training. A machine fine-tunes with the same inner loop as any other
    learner (`adaptation`). The labels must mean the same in every task: set `permute_labels: false` in the data's
    episodes (see `configs/cwru_unseen_machine_fedavg.yaml`).
    """

    keeps_statistics = True

    def meta_loss(self, episode: Episode) -> Tensor:
        """Mean loss over all windows of the episode."""
        return self.pooled_loss(self.net, episode)

    def tasks_per_training_pass(self) -> int | None:
        """None: an episode is one batch, whatever the tasks."""
        return None

    def pooled_loss(self, net: nn.Module, episode: Episode) -> Tensor:
        """The mean loss of a network over all windows of all tasks taken as one set."""
        pooled = episode.pooled().map(lambda tensor: tensor.flatten(0, 1)[None])  # (1, T·(S+Q), …)
        if pooled.mask is not None:
            pooled = Examples(pooled.x[:, pooled.mask[0]], pooled.y[:, pooled.mask[0]])
        return self.objective.loss(refuse_other_outputs(net, net(pooled.x[0]))[None], pooled).mean()
