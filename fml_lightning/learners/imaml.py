"""iMAML: the meta-gradient of a proximal inner loop by the implicit function theorem, not through its steps.

Rajeswaran et al., Meta-Learning with Implicit Gradients, NeurIPS 2019. https://arxiv.org/abs/1909.04630
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fml_lightning.adaptation.batch_norm import BatchNorm
from fml_lightning.adaptation.gradients import gradients
from fml_lightning.adaptation.inner_loop import InnerLoop, last
from fml_lightning.errors import UserError
from fml_lightning.learners.meta_learner import MetaLearner
from fml_lightning.learners.optimizers import OptimizerFactory, SchedulerFactory, adam
from fml_lightning.objectives import Objective
from fml_lightning.params import inner, scale, subtract
from fml_lightning.types import Episode, Params


class IMAML(MetaLearner):
    """φ ≈ argmin L_S(φ) + λ/2‖φ − θ‖²; the meta-gradient is (I + ∇²L_S(φ)/λ)⁻¹ ∇L_Q(φ), by conjugate gradients.

    Memory does not grow with the inner steps, and the path to φ does not matter; but φ must be near the proximal
    optimum, so take steps enough.

    Args:
        net: any `nn.Module`.
        objective: the loss and the metrics; `Classification` unless you say otherwise.
        inner_loop: the inner loop, whose `proximal` is λ > 0.
        adaptation: how a machine adapts; as `inner_loop` unless you say otherwise.
        cg_steps: steps of the conjugate gradients, at least 1; as many as there are parameters are exact.
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
        objective: Objective | None = None,
        inner_loop: InnerLoop | None = None,
        adaptation: InnerLoop | None = None,
        cg_steps: int = 5,
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
        inner_loop = inner_loop or InnerLoop(steps=16, proximal=2.0)
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
        if not inner_loop.proximal > 0 or cg_steps < 1:
            raise UserError(
                "IMAML: expected inner_loop.proximal > 0 and cg_steps >= 1, got"
                f" {inner_loop.proximal} and {cg_steps}"
            )
        self.cg_steps = cg_steps

    def chunk_gradient(self, episode: Episode) -> tuple[Tensor, Params]:
        """The mean query loss at φ, and the implicit gradient."""
        support, query = episode.support, episode.query
        found = last(self.trajectory(self.params, support, self.inner_loop))
        free = self.adapted_names(self.params, self.inner_loop)
        trained = self.net_trained
        live = found | {name: found[name].requires_grad_() for name in {*free, *trained}}
        loss = self.objective.loss(self.outputs(live, query.x), query).mean()
        grads = gradients(loss, {name: live[name] for name in trained})
        own = {name: live[name] for name in free}
        support_grads = gradients(
            self.objective.loss(self.outputs(live, support.x), support).sum(), own, create_graph=True
        )

        def hessian_times(vector: Params) -> Params:
            product: Tensor = torch.stack([(support_grads[n] * vector[n]).sum() for n in free]).sum()
            curved = torch.autograd.grad(product, list(own.values()), retain_graph=True)
            return {n: vector[n] + c / self.inner_loop.proximal for n, c in zip(free, curved, strict=True)}

        implicit = conjugate_gradients(hessian_times, {n: grads[n] for n in free}, self.cg_steps)
        # What does not adapt moves the proximal optimum too.
        fixed = {name: live[name] for name in trained if name not in free}
        if fixed:
            pull = torch.stack([(support_grads[n] * implicit[n]).sum() for n in free]).sum()
            mixed = torch.autograd.grad(pull, list(fixed.values()), materialize_grads=True)
            grads |= {n: grads[n] - m / self.inner_loop.proximal for n, m in zip(fixed, mixed, strict=True)}
        return loss.detach(), {f"net.{name}": (grads | implicit)[name].sum(0) for name in trained}


def conjugate_gradients(matrix: Callable[[Params], Params], right: Params, steps: int) -> Params:
    """Solve A·x = b for each of T tasks, A symmetric and positive definite.

    Hestenes and Stiefel, Methods of Conjugate Gradients for Solving Linear Systems, 1952.
    https://doi.org/10.6028/jres.049.044

    Args:
        matrix: x → A·x, each name → (T, …).
        right: b, name → (T, …).
        steps: how many; a task that is solved before stays as it is.
    """
    solution = {name: torch.zeros_like(p) for name, p in right.items()}
    residual = direction = right
    square = inner(residual, residual)
    for _ in range(steps):
        product = matrix(direction)
        curvature = inner(direction, product)
        open_ = curvature > 0
        size = torch.where(open_, square / torch.where(open_, curvature, 1), 0)
        step = scale(direction, size)
        solution = {name: solution[name] + step[name] for name in right}
        residual = subtract(residual, scale(product, size))
        following = inner(residual, residual)
        grown = torch.where(square > 0, following / torch.where(square > 0, square, 1), 0)
        carried = scale(direction, grown)
        direction = {name: residual[name] + carried[name] for name in right}
        square = following
    return solution
