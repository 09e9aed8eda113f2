"""Per-FedAvg: each site takes MAML steps on three independent batches, the server averages.

Fallah et al., Personalized Federated Learning: A Meta-Learning Approach, NeurIPS 2020.
https://arxiv.org/abs/2002.07948
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from fml_lightning.adaptation.batch_norm import BatchNorm
from fml_lightning.adaptation.gradients import gradients
from fml_lightning.adaptation.inner_loop import InnerLoop, last
from fml_lightning.errors import UserError
from fml_lightning.learners.meta_learner import MetaLearner
from fml_lightning.learners.optimizers import OptimizerFactory, SchedulerFactory
from fml_lightning.objectives import Objective
from fml_lightning.params import inner as inner_product
from fml_lightning.params import scale
from fml_lightning.types import Episode, Examples, Params


def sgd(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD with step size 0.01."""
    return torch.optim.SGD(params, lr=0.01)


class PerFedAvg(MetaLearner):
    """w −= β·g − αβ·∇²f(w; D″)·g with g = ∇f(w − α∇f(w; D); D′), the Hessian product dropped or by differences.

    D is the support set, D′ and D″ are every other window of the query set (so let it have at least two of each
    class); β is the optimizer's step size. `first_order` drops the second term; `hessian_free` takes
    ∇²f(w; D″)·g ≈ (∇f(w + δg; D″) − ∇f(w − δg; D″)) / 2δ.

    Args:
        net: any `nn.Module`.
        objective: the loss and the metrics; `Classification` unless you say otherwise.
        inner_loop: the inner loop, of a single step with rate α.
        adaptation: how a machine adapts; as `inner_loop` unless you say otherwise.
        variant: `first_order` or `hessian_free`.
        delta: length of the difference δ‖g‖, greater than 0; relative to it, rounding and curvature must be small.
        optimizer: the local optimizer; SGD with β = 0.01 unless you say otherwise.
        scheduler: changes the outer loop's step size after every step of a plain Trainer.
        personal: patterns of the network's parameters and buffers that never leave a site.
        freeze: patterns of the network's parameters that stay as they are, in both loops.
        clip: largest norm of the gradient in a step of the optimizer; a larger one is scaled down to it.
        batch_norm: what BatchNorm layers normalize with: `batch` or `frozen`; see `Learner`.
        tasks_at_once: how many tasks run in one pass; see `Learner`.
        compile: compile the meta-gradient with `torch.compile`; see `Learner`.
    """

    def __init__(
        self,
        net: nn.Module,
        objective: Objective | None = None,
        inner_loop: InnerLoop | None = None,
        adaptation: InnerLoop | None = None,
        variant: Literal["first_order", "hessian_free"] = "hessian_free",
        delta: float = 1e-2,
        optimizer: OptimizerFactory = sgd,
        *,
        scheduler: SchedulerFactory | None = None,
        personal: Sequence[str] = (),
        freeze: Sequence[str] = (),
        clip: float | None = None,
        batch_norm: BatchNorm | None = None,
        tasks_at_once: int | None = None,
        compile: bool = False,
    ) -> None:
        inner_loop = inner_loop or InnerLoop(steps=1)
        super().__init__(
            net,
            objective,
            inner_loop,
            adaptation,
            optimizer=optimizer,
            scheduler=scheduler,
            personal=personal,
            freeze=freeze,
            clip=clip,
            batch_norm=batch_norm,
            tasks_at_once=tasks_at_once,
            compile=compile,
        )
        altered = inner_loop.optimizer != "sgd" or inner_loop.proximal or inner_loop.clip is not None
        if inner_loop.steps != 1 or altered or not delta > 0:
            raise UserError(
                "PerFedAvg: expected an inner_loop of one plain sgd step (adaptation may have more) and delta > 0,"
                f" got {inner_loop} and {delta}"
            )
        self.variant = variant
        self.delta = delta

    def chunk_gradient(self, episode: Episode) -> tuple[Tensor, Params]:
        """The mean loss of the adapted parameters on D′, and the first-order or Hessian-free gradient."""
        if episode.query.x.shape[1] < 2:
            raise UserError("PerFedAvg: expected at least two query windows per task, for two independent batches")
        # Windows often come sorted by class: halves would show each gradient other classes.
        first = episode.query.map(lambda tensor: tensor[:, ::2])
        second = episode.query.map(lambda tensor: tensor[:, 1::2])
        found = last(self.trajectory(self.params, episode.support, self.inner_loop))
        loss, grads = self._slopes(found, first)
        if self.variant == "hessian_free":
            free = self.adapted_names(self.params, self.inner_loop)
            own = {name: grads[name] for name in free}
            length = inner_product(own, own).sqrt()
            delta = self.delta / length.clamp(min=torch.finfo(length.dtype).tiny)
            start = found | {name: self.params[name].detach().expand_as(found[name]) for name in free}
            step = scale(own, delta)
            _, ahead = self._slopes(start | {n: start[n] + step[n] for n in free}, second)
            _, behind = self._slopes(start | {n: start[n] - step[n] for n in free}, second)
            curved = scale({n: ahead[n] - behind[n] for n in ahead}, 1 / (2 * delta))
            grads = {n: grad - self.inner_loop.lr * curved[n] for n, grad in grads.items()}
        return loss, {f"net.{name}": grad.mean(0) for name, grad in grads.items()}

    def _slopes(self, params: Params, examples: Examples) -> tuple[Tensor, Params]:
        """The mean loss over tasks, and each task's own gradient in the trained parameters, name → (T, …)."""
        trained = self.net_trained
        live = params | {name: params[name].detach().clone().requires_grad_() for name in trained}
        losses = self.objective.loss(self.outputs(live, examples.x), examples)
        return losses.mean().detach(), gradients(losses.sum(), {name: live[name] for name in trained})
