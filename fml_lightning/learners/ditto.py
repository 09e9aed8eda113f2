"""Ditto: a personal model at every site, held near the shared one.

Li et al., Ditto: Fair and Robust Federated Learning Through Personalization, ICML 2021.
https://arxiv.org/abs/2012.04221
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fml_lightning.adaptation.batch_norm import BatchNorm
from fml_lightning.adaptation.gradients import gradients
from fml_lightning.adaptation.inner_loop import InnerLoop
from fml_lightning.errors import UserError
from fml_lightning.learners.fedavg import FedAvg
from fml_lightning.learners.optimizers import OptimizerFactory, SchedulerFactory, adam
from fml_lightning.objectives import Objective
from fml_lightning.params import clone
from fml_lightning.types import Episode, Params


class Ditto(FedAvg):
    """The shared w trains as in FedAvg; beside it each site trains its own v −= η(∇F(v) + λ(v − w₀)).

    w₀ is the shared model as a round sends it; v begins as a copy of the first one that the site receives, and
    never leaves the site. A machine starts from v, and from w at a site that has never trained.

    Args:
        net: any `nn.Module`.
        objective: the loss and the metrics; `Classification` unless you say otherwise.
        adaptation: how a machine fine-tunes.
        proximal: λ, at least 0; 0 trains each site alone.
        optimizer: the outer loop's optimizer, made anew by every Trainer.
        scheduler: changes the outer loop's step size after every step of a plain Trainer.
        personal: patterns of the network's parameters and buffers that never leave a site.
        freeze: patterns of the network's parameters that stay as they are, in both loops.
        clip: largest norm of the gradient in a step of the optimizer; a larger one is scaled down to it.
        batch_norm: what BatchNorm layers normalize with: `batch` or `frozen`; see `Learner`.
        tasks_at_once: how many tasks run in one pass; see `Learner`.
    """

    keeps_statistics = False  # a machine would get its own parameters with the shared model's statistics

    has_own: Tensor

    def __init__(
        self,
        net: nn.Module,
        objective: Objective | None = None,
        adaptation: InnerLoop | None = None,
        proximal: float = 1.0,
        *,
        optimizer: OptimizerFactory = adam,
        scheduler: SchedulerFactory | None = None,
        personal: Sequence[str] = (),
        freeze: Sequence[str] = (),
        clip: float | None = None,
        batch_norm: BatchNorm | None = None,
        tasks_at_once: int | None = None,
    ) -> None:
        super().__init__(
            net,
            objective,
            adaptation,
            optimizer=optimizer,
            scheduler=scheduler,
            personal=personal,
            freeze=freeze,
            clip=clip,
            batch_norm=batch_norm,
            tasks_at_once=tasks_at_once,
        )
        if not proximal >= 0:
            raise UserError(f"Ditto: expected proximal >= 0, got {proximal}")
        self.proximal = proximal
        self.own = copy.deepcopy(net)
        self.register_buffer("has_own", torch.tensor(False))
        self.received: Params = {}
        """The shared parameters w₀ as training began."""

    @property
    def params(self) -> Params:
        """The site's own model where there is one, else the shared one."""
        return dict((self.own if self.has_own else self.net).named_parameters())

    @property
    def personal(self) -> frozenset[str]:
        """The site's own model."""
        return super().personal | {"has_own"} | {f"own.{name}" for name in self.own.state_dict()}

    def on_train_start(self) -> None:
        """Begin the site's own model from the first shared one it receives."""
        self.received = clone(self.shared)
        if not self.has_own:
            self.own.load_state_dict(self.net.state_dict())
            self.has_own.fill_(True)

    def chunk_gradient(self, episode: Episode) -> tuple[Tensor, Params]:
        """The loss of the site's own model, and the gradients of both."""
        loss = self.pooled_loss(self.own, episode)
        grads = gradients(loss, {n: p for n, p in self.trained.items() if n.startswith("own.")})
        for name in grads:
            anchor = self.received.get(f"net.{name.removeprefix('own.')}")
            if anchor is not None:
                grads[name] = grads[name] + self.proximal * (self.trained[name].detach() - anchor)
        shared = gradients(
            self.meta_loss(episode), {n: p for n, p in self.trained.items() if not n.startswith("own.")}
        )
        return loss.detach(), grads | shared
