"""Ditto: a personal model at every site, held near the shared one.

Li et al., Ditto: Fair and Robust Federated Learning Through Personalization, ICML 2021.
https://arxiv.org/abs/2012.04221
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from fml_lightning.adaptation.gradients import gradients
from fml_lightning.adaptation.inner_loop import InnerLoop
from fml_lightning.errors import UserError
from fml_lightning.learners.supervised import Supervised
from fml_lightning.objectives import Objective
from fml_lightning.types import Episode, Params


class Ditto(Supervised):
    """The shared w trains as in FedAvg; beside it each site trains its own v −= η(∇F(v) + λ(v − w₀)).

    w₀ is the shared model as received; v begins as a copy of the first and never leaves the site. A machine
    starts from v, and from w at a site that has never trained.

    Args:
        net: any `nn.Module`.
        objective: the loss and the metrics; `Classification` unless you say otherwise.
        adaptation: how a machine fine-tunes.
        pull: λ, at least 0; 0 trains each site alone.
        **options: as of `Learner`.
    """

    has_own: Tensor

    def __init__(
        self,
        net: nn.Module,
        objective: Objective | None = None,
        adaptation: InnerLoop | None = None,
        pull: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(net, objective, adaptation, **options)
        if not pull >= 0:
            raise UserError(f"Ditto: expected pull >= 0, got {pull}")
        if options.get("compile"):
            raise UserError("Ditto: what v is held near changes with every round; set compile: false")
        self.pull = pull
        self.own = copy.deepcopy(net)
        self.register_buffer("has_own", torch.tensor(False))

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
        super().on_train_start()
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
                grads[name] = grads[name] + self.pull * (self.trained[name].detach() - anchor)
        shared = gradients(
            self.meta_loss(episode), {n: p for n, p in self.trained.items() if not n.startswith("own.")}
        )
        return loss.detach(), grads | shared
