"""MAML: train an initialization from which a few gradient steps lead to a good model of any task.

Finn et al., Model-Agnostic Meta-Learning, ICML 2017. https://arxiv.org/abs/1703.03400

Its relatives are settings of it, and presets by name: FOMAML, ANIL, MetaSGD and MAMLPlusPlus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from fml_lightning.adaptation.batch_norm import BatchNorm
from fml_lightning.adaptation.inner_loop import InnerLoop
from fml_lightning.adaptation.learned_rates import Granularity, LearnedRates
from fml_lightning.errors import UserError
from fml_lightning.learners.meta_learner import MetaLearner
from fml_lightning.learners.optimizers import OptimizerFactory, SchedulerFactory, adam
from fml_lightning.objectives import Objective, SupportObjective
from fml_lightning.types import Episode


class MAML(MetaLearner):
    """Minimize the query loss *after* adapting to support: min_θ Σ_tasks L_Q(θ − α∇L_S(θ) …).

    With `before_weight` w, the initialization is to be good as it is, too: (1 − w) L_Q(θ') + w L_Q(θ), which is
    MAML++'s multi-step loss with a step 0 that keeps its weight. It helps where support can show little, as
    normal windows alone do, and where labels mean the same in every task.

    Args:
        net: any `nn.Module`.
        objective: the loss and the metrics; `Classification` unless you say otherwise.
        inner_loop: the inner loop that training differentiates through; `first_order: true` is FOMAML,
            `parameters: [head.*]` is ANIL.
        adaptation: how a machine adapts the trained network, often with more steps than in training;
            as `inner_loop` unless you say otherwise.
        learned_rates: learn the inner loop's step sizes too, from `inner_loop.lr` on: one for every `tensor`,
            one for every `tensor_per_step` (MAML++), or one for every `element` (Meta-SGD).
        multi_step_until: minimize the query loss after *every* inner step at first, and shift the weight to the
            last step until this much progress (MAML++); progress is steps in a plain Trainer, rounds in a
            Federation.
        second_order_from: stay first-order, which is cheaper, until this much progress (MAML++).
        before_weight: the share of the query loss before any step in what is minimized, in [0, 1); 0 is MAML.
        support_objective: what the inner loop minimizes at a support set in place of `objective`, such as
            `Consistency` or `LearnedLoss`, which need normal windows only.
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
    trains_support_objective = True

    def __init__(
        self,
        net: nn.Module,
        objective: Objective | None = None,
        inner_loop: InnerLoop | None = None,
        adaptation: InnerLoop | None = None,
        learned_rates: Granularity | None = None,
        multi_step_until: int = 0,
        second_order_from: int = 0,
        *,
        before_weight: float = 0.0,
        support_objective: SupportObjective | None = None,
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
            inner_loop,
            adaptation,
            support_objective=support_objective,
            optimizer=optimizer,
            scheduler=scheduler,
            personal=personal,
            freeze=freeze,
            clip=clip,
            batch_norm=batch_norm,
            tasks_at_once=tasks_at_once,
            compile=compile,
        )
        name = type(self).__name__
        if multi_step_until < 0 or second_order_from < 0:
            raise UserError(
                f"{name}: expected multi_step_until and second_order_from of at least 0, got"
                f" {multi_step_until} and {second_order_from}"
            )
        if not 0 <= before_weight < 1:
            raise UserError(f"{name}: expected before_weight in [0, 1), got {before_weight}")
        if compile and multi_step_until:
            raise UserError(f"{name}: multi_step_until changes the meta-loss every step; set compile: false")
        first_order = self.inner_loop.first_order or second_order_from > 0 or self.inner_loop.steps == 0
        if support_objective is not None and support_objective.is_learned and first_order:
            raise UserError(
                f"{name}: {type(support_objective).__name__} learns through the inner loop's steps, which needs"
                " inner_loop.first_order: false, inner_loop.steps of at least 1 and second_order_from: 0"
            )
        self.multi_step_until = multi_step_until
        self.second_order_from = second_order_from
        self.before_weight = before_weight
        if learned_rates is not None:
            adapted = self.adapted_names(self.params, self.inner_loop)
            if self.adapted_names(self.params, self.adaptation) != adapted:
                raise UserError(
                    f"{name}: with learned rates, adaptation and inner_loop must adapt the same parameters"
                )
            if self.adaptation.lr != self.inner_loop.lr:
                raise UserError(
                    f"{name}: learned rates take the place of adaptation.lr, which is {self.adaptation.lr};"
                    f" set it to inner_loop's {self.inner_loop.lr}"
                )
            self.rates = LearnedRates({n: self.params[n] for n in adapted}, self.inner_loop, learned_rates)

    @property
    def current_inner_loop(self) -> InnerLoop:
        """The inner loop as it is at this progress."""
        if self.progress < self.second_order_from:
            return replace(self.inner_loop, first_order=True)
        return self.inner_loop

    @property
    def graph_key(self) -> tuple[object, ...]:
        """The order of the inner loop."""
        return (self.current_inner_loop,)

    def step_weights(self) -> list[float]:
        """The weight of the query loss after 1, …, K steps: all alike at first, at last only the last one."""
        steps = self.inner_loop.steps
        early = (
            max(0.0, 1 - self.progress / self.multi_step_until) / steps if self.multi_step_until and steps else 0.0
        )
        return [early] * (steps - 1) + [1 - early * max(0, steps - 1)]

    def meta_loss(self, episode: Episode) -> Tensor:
        """Mean query loss over the episode's tasks: of what it adapts to, and of the initialization by weight."""
        path = self.trajectory(self.params, episode.support, self.current_inner_loop, create_graph=True)
        weights = self.step_weights()
        if self.inner_loop.steps:
            weights = [self.before_weight, *((1 - self.before_weight) * weight for weight in weights)]
        weighted = [
            weight * self.objective.loss(self.outputs(params, episode.query.x), episode.query).mean()
            for weight, params in zip(weights, path, strict=True)
            if weight
        ]
        return sum(weighted[1:], start=weighted[0])
