"""Prototypical networks: a window belongs to the class whose mean embedding is nearest.

Snell et al., Prototypical Networks for Few-shot Learning, NeurIPS 2017. https://arxiv.org/abs/1703.05175
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from fml_lightning.adaptation.batch_norm import BatchNorm
from fml_lightning.adaptation.inner_loop import InnerLoop
from fml_lightning.adaptation.stacking import stacked
from fml_lightning.errors import UserError
from fml_lightning.learners.episode_checks import refuse_other_examples
from fml_lightning.learners.learner import Learner
from fml_lightning.learners.optimizers import OptimizerFactory, SchedulerFactory, adam
from fml_lightning.objectives import Objective
from fml_lightning.params import stack
from fml_lightning.types import Episode, Examples, Params

PROTOTYPES = "prototypes"
"""The name of the prototypes among a task's adapted parameters."""


def nearness(embeddings: Tensor, prototypes: Tensor) -> Tensor:
    """Minus the squared distance of each embedding to each prototype: (N, E), (C, E) → (N, C)."""
    return -((embeddings[:, None] - prototypes) ** 2).sum(-1)


class NearestPrototype(nn.Module):
    """An embedding network with one task's prototypes.

    Args:
        net: the embedding, (N, …) → (N, E).
        prototypes: (C, E).
    """

    prototypes: Tensor

    def __init__(self, net: nn.Module, prototypes: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer(PROTOTYPES, prototypes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits: (N, …) → (N, C)."""
        return nearness(self.net(x), self.prototypes)


class Prototypical(Learner):
    """The network embeds; to adapt is to average each class's support embeddings, without a gradient step.

    The softmax over minus squared distances is trained by cross-entropy on the query sets.

    Args:
        net: any `nn.Module` (N, …) → (N, E); its last layer needs no classes.
        ways: number of classes of a task, C.
        objective: the loss and the metrics; `Classification` unless you say otherwise.
        optimizer: the outer loop's optimizer, made anew by every Trainer.
        scheduler: changes the outer loop's step size after every step of a plain Trainer.
        personal: patterns of the network's parameters and buffers that never leave a site.
        freeze: patterns of the network's parameters that stay as they are, in both loops.
        clip: largest norm of the gradient in a step of the optimizer; a larger one is scaled down to it.
        batch_norm: what BatchNorm layers normalize with: `batch` or `frozen`; see `Learner`.
        tasks_at_once: how many tasks run in one pass; see `Learner`.
        compile: compile the meta-gradient with `torch.compile`; see `Learner`.
    """

    learns_from_support = True

    def __init__(
        self,
        net: nn.Module,
        ways: int,
        objective: Objective | None = None,
        *,
        optimizer: OptimizerFactory = adam,
        scheduler: SchedulerFactory | None = None,
        personal: Sequence[str] = (),
        freeze: Sequence[str] = (),
        clip: float | None = None,
        batch_norm: BatchNorm | None = None,
        tasks_at_once: int | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__(
            net,
            objective,
            optimizer=optimizer,
            scheduler=scheduler,
            personal=personal,
            freeze=freeze,
            clip=clip,
            batch_norm=batch_norm,
            tasks_at_once=tasks_at_once,
            compile=compile,
        )
        if ways < 2:
            raise UserError(f"Prototypical: expected ways of at least 2, got {ways}")
        self.ways = ways

    @property
    def params(self) -> Params:
        """The embedding, and prototypes that know nothing: every class is equally near."""
        return {**super().params, PROTOTYPES: next(self.net.parameters()).new_zeros(self.ways, 1)}

    def forward(self, params: Params, x: Tensor) -> Tensor:
        """The logits of one task: (params, (N, …)) → (N, C)."""
        prototypes = params[PROTOTYPES]
        embedding = {name: p for name, p in params.items() if name != PROTOTYPES}
        return nearness(self._embed(embedding, x), prototypes)

    def _embed(self, embedding: Params, x: Tensor) -> Tensor:
        return super().forward(embedding, x).flatten(1)

    def adapted_names(self, params: Params, inner_loop: InnerLoop) -> list[str]:
        """The prototypes alone; `inner_loop` is not used."""
        return [PROTOTYPES]

    def reads_labels(self, inner_loop: InnerLoop) -> bool:
        """Prototypes are all that labels mean, however many steps the inner loop has."""
        return True

    def trajectory(
        self, params: Params, support: Examples, inner_loop: InnerLoop, *, create_graph: bool = False
    ) -> Iterator[Params]:
        """The parameters with the prototypes of each task's support set.

        Raises:
            UserError: a label is not in [0, ways), or a class has no support.
        """
        with torch.set_grad_enabled(create_graph):
            embedding = {name: p for name, p in params.items() if name != PROTOTYPES}
            embedding = stack(embedding, support.tasks)
            embedded = stacked(self._embed)(embedding, support.x)  # (T, S, E)
            members = (support.y[..., None] == torch.arange(self.ways).to(support.y)).to(embedded)  # (T, S, C)
            if support.mask is not None:
                members = members * support.mask[..., None]
            prototypes = members.mT @ embedded / members.sum(1)[..., None]  # (T, C, E)
            yield {**embedding, PROTOTYPES: prototypes}

    def meta_loss(self, episode: Episode) -> Tensor:
        """Mean cross-entropy of the query sets by the prototypes of the support sets."""
        (adapted,) = self.trajectory(self.params, episode.support, self.adaptation, create_graph=True)
        return self.objective.loss(self.outputs(adapted, episode.query.x), episode.query).mean()

    def check(self, episode: Episode) -> None:
        """Refuse also a task without support windows of every class."""
        super().check(episode)
        self._check_support(episode.support)

    def adapt(self, params: Params, support: Examples) -> Params:
        """The parameters with the prototypes of each task: name → (T, …).

        Raises:
            UserError: a label is not in [0, ways), or a class has no support.
        """
        self._check_support(refuse_other_examples(support, type(self).__name__))
        return super().adapt(params, support)

    def personal_net(self, adapted: Params) -> nn.Module:
        """The embedding with the task's prototypes."""
        return NearestPrototype(copy.deepcopy(self.net), adapted[PROTOTYPES]).eval()

    def _check_support(self, support: Examples) -> None:
        for task in range(support.tasks):
            labels = support.y[task] if support.mask is None else support.y[task][support.mask[task]]
            if set(labels.tolist()) != set(range(self.ways)):
                raise UserError(
                    f"Prototypical: expected support windows of each of the {self.ways} classes 0 to"
                    f" {self.ways - 1}, task {task} has {sorted(set(labels.tolist()))}; set ways to the number of"
                    " classes of a task"
                )
