"""The learner: a network, how a machine adapts it, and what it is trained for."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.func import functional_call

from fml_lightning.adaptation.batch_norm import BatchNorm, apply_policy, batch_statistics, tracking
from fml_lightning.adaptation.compiled import CompiledGradient
from fml_lightning.adaptation.gradients import explain_second_derivative, gradients, with_gradients
from fml_lightning.adaptation.inner_loop import InnerLoop, last, trajectory
from fml_lightning.adaptation.learned_rates import LearnedRates
from fml_lightning.adaptation.stacking import StackingRule, chained, stacked
from fml_lightning.errors import UserError
from fml_lightning.learners.optimizers import (
    OptimizerFactory,
    SchedulerFactory,
    adam,
    refuse_true_precision,
    scheduled,
)
from fml_lightning.objectives import Classification, Objective
from fml_lightning.params import finite, own_names, select, stack
from fml_lightning.types import Episode, Examples, Params, Prediction


class Learner(LightningModule):
    """A LightningModule that every machine can personalize.

    It trains under a plain `lightning.Trainer` on episodes (centralized meta-learning), or inside a `Federation`.
    A subclass says in `meta_loss` what it minimizes, or in `chunk_gradient` how it descends.

    Args:
        net: any `nn.Module`.
        objective: the loss and the metrics; `Classification` unless you say otherwise.
        adaptation: how a machine adapts the trained network.
        optimizer: the outer loop's optimizer, made anew by every Trainer.
        scheduler: changes the outer loop's step size after every step of a plain Trainer.
        personal: shell-style patterns of the network's parameters and buffers that never leave a site.
        freeze: shell-style patterns of the network's parameters that stay as they are, in both loops.
        clip: largest norm of the gradient in a step of the optimizer; a larger one is scaled down to it.
        batch_norm: what BatchNorm layers normalize with: `batch` (the statistics of the set of windows at hand)
            or `frozen` (those the network came with); needed only where a layer keeps running statistics.
        tasks_at_once: how many tasks run, and are differentiated, in one pass; 1 is a plain loop over tasks,
            which needs the least memory. Unless you say otherwise all of them, but 1 where convolutions adapt
            and in networks with recurrent or attention layers.
        compile: compile the meta-gradient with `torch.compile`: about a minute before the first step of each
            shape of episode, then faster.
    """

    keeps_statistics: ClassVar[bool] = False
    """Whether BatchNorm layers may learn running statistics, because they are personal."""
    learns_from_support: ClassVar[bool] = False
    """Whether training asks of query sets only what support sets have shown."""

    def __init__(
        self,
        net: nn.Module,
        objective: Objective | None = None,
        adaptation: InnerLoop | None = None,
        optimizer: OptimizerFactory = adam,
        scheduler: SchedulerFactory | None = None,
        personal: Sequence[str] = (),
        freeze: Sequence[str] = (),
        clip: float | None = None,
        batch_norm: BatchNorm | None = None,
        tasks_at_once: int | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if tasks_at_once is not None and tasks_at_once < 1:
            raise UserError(f"{type(self).__name__}: expected tasks_at_once of at least 1, got {tasks_at_once}")
        if not self.keeps_statistics:
            apply_policy(net, batch_norm)
        if clip is not None and not clip > 0:
            raise UserError(f"{type(self).__name__}: expected clip > 0, got {clip}")
        for name in select(dict(net.named_parameters()), freeze, "freeze"):
            net.get_parameter(name).requires_grad_(False)
        self.net = net
        self.objective: Objective = objective or Classification()
        self.adaptation = adaptation or InnerLoop()
        self.adaptation.adapted_names(dict(net.named_parameters()))
        # Functions of our own: those of a parsed YAML hold on to the command line, so copies would copy it too.
        self.optimizer: OptimizerFactory = lambda params: optimizer(params)
        self.scheduler: SchedulerFactory | None = scheduler and (lambda optimizer: scheduler(optimizer))
        self.clip = clip
        self.batch_norm = batch_norm
        self.tasks_at_once = tasks_at_once
        self.rates: LearnedRates | None = None
        """Step sizes of the inner loop, where they are learned."""
        self.round: int | None = None
        """The round of a Federation in which this learner trains at a site."""
        self.examples_seen = 0
        """Windows trained on so far, counted as often as they were used."""
        self._kept = frozenset(f"net.{n}" for n in select(net.state_dict(), personal, "personal"))
        self._rule = StackingRule(net)
        names = [len(list(net.named_parameters(remove_duplicate=once))) for once in (True, False)]
        self._tied = names[0] != names[1]
        self._compiled = CompiledGradient() if compile else None
        self.train()

    # What the network knows -------------------------------------------------------------------------------

    @property
    def params(self) -> Params:
        """The parameters that a machine starts from, by their names in the network (`0.weight`).

        In `shared`, `trained` and `personal` they have their names in the learner (`net.0.weight`): an algorithm
        may have parameters beside the network's.
        """
        return dict(self.net.named_parameters())

    @property
    def personal(self) -> frozenset[str]:
        """Names in the learner's state that never leave a site: parameters and buffers."""
        return self._kept

    @property
    def shared(self) -> Params:
        """The parameters that a round sends and improves, by their names in the learner."""
        return {name: p for name, p in self.trained.items() if name not in self.personal}

    @property
    def trained(self) -> Params:
        """The parameters that the optimizer moves: all that require a gradient, shared and personal."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    @property
    def net_trained(self) -> list[str]:
        """The names in the network of those of its parameters that are trained."""
        return [name for name, p in self.net.named_parameters() if p.requires_grad]

    @property
    def progress(self) -> int:
        """How far the training is, for what is annealed: rounds in a Federation, steps in a plain Trainer."""
        return self.global_step if self.round is None else self.round

    @property
    def graph_key(self) -> tuple[object, ...]:
        """What a compiled meta-gradient depends on, beside shapes."""
        return ()

    # How it adapts ----------------------------------------------------------------------------------------

    def forward(self, params: Params, x: Tensor) -> Tensor:
        """The network as a pure function, for one task: (params, (N, …)) → (N, C)."""
        output: Tensor = functional_call(self.net, params, (x,), tie_weights=self._tied)
        return output

    def outputs(self, adapted: Params, x: Tensor) -> Tensor:
        """Raw outputs of each task's own parameters: (T, N, …) → (T, N, C)."""
        size = self.tasks_per_pass(own_names(adapted)) or len(x)
        if size >= len(x):
            return self._stacked(adapted, x)
        parts = [slice(begin, begin + size) for begin in range(0, len(x), size)]
        return torch.cat([self._stacked({n: p[i] for n, p in adapted.items()}, x[i]) for i in parts])

    def _stacked(self, adapted: Params, x: Tensor) -> Tensor:
        by_vmap = stacked(self.forward)
        forward = by_vmap if type(self).forward is not Learner.forward else chained(self.net, by_vmap)
        return forward(adapted, x)

    def tasks_per_pass(self, adapting: Iterable[str]) -> int | None:
        """How many tasks run in one pass if these parameters adapt; None for all."""
        if self.tasks_at_once is not None:
            return self.tasks_at_once
        return None if self._rule.stacks(adapting) else 1

    def adapted_names(self, params: Params, inner_loop: InnerLoop) -> list[str]:
        """Names of the parameters that adapt."""
        return inner_loop.adapted_names(params)

    def trajectory(
        self, params: Params, support: Examples, inner_loop: InnerLoop, *, create_graph: bool = False
    ) -> Iterator[Params]:
        """Adapt `params` to each task's support set: the parameters after 0, 1, …, K steps, name → (T, …).

        Every adaptation of this learner comes through here, in training, in judging and at a machine.
        """
        yield from trajectory(
            self.outputs,
            self.objective.loss,
            params,
            support,
            inner_loop,
            rates=self.rates,
            create_graph=create_graph,
        )

    def adapt(self, params: Params, support: Examples) -> Params:
        """Adapt as a machine does, with `adaptation` and without a graph: name → (T, …).

        Works under `no_grad` and `inference_mode` alike.

        Raises:
            UserError: a parameter became NaN or infinite.
        """
        self._refuse_padding(support)
        own = self.adapted_names(params, self.adaptation)
        size = self.tasks_per_pass(own) or support.tasks
        with torch.inference_mode(False), torch.enable_grad():
            normal = support.map(lambda tensor: tensor.clone() if tensor.is_inference() else tensor)
            parts = [
                last(self.trajectory(params, normal.part(slice(begin, begin + size)), self.adaptation))
                for begin in range(0, support.tasks, size)
            ]
        adapted = parts[0]
        if len(parts) > 1:
            adapted = {name: torch.cat([part[name] for part in parts]) for name in own}
            adapted = stack(params, support.tasks) | adapted
        if not finite(adapted):
            raise UserError(
                f"{type(self).__name__}: adaptation diverged ({self.adaptation}); "
                + (_not_finite(support) or "lower its lr")
            )
        return adapted

    def evaluate(self, episode: Episode, adapted: Params | None = None) -> dict[str, Tensor]:
        """Query metrics before and after adaptation: `accuracy_before`, `accuracy_after`, … → (T,).

        Args:
            episode: support and query sets.
            adapted: what `adapt` made of the support sets, if it has run already.

        Raises:
            UserError: a query set cannot be judged from its support set, or holds values that are not finite.
        """
        self.objective.check(episode)
        self._refuse_padding(episode.query)
        if fault := _not_finite(episode.query):
            raise UserError(f"{type(self).__name__}: the query set cannot be judged; {fault}")
        adapted = adapted or self.adapt(self.params, episode.support)
        metrics = {}
        with torch.no_grad():
            for moment, params in (("before", stack(self.params, episode.tasks)), ("after", adapted)):
                outputs, calibration = self.query_outputs(params, episode)
                for name, value in self.objective.metrics(outputs, episode.query, calibration).items():
                    metrics[f"{name}_{moment}"] = value
        return metrics

    def query_outputs(self, adapted: Params, episode: Episode) -> tuple[Tensor, Tensor | None]:
        """Raw outputs on the query sets, and what the objective remembers of the support sets to read them."""
        calibration = None
        if self.objective.calibrates:
            calibration = self.objective.calibrate(self.outputs(adapted, episode.support.x), episode.support)
        return self.outputs(adapted, episode.query.x), calibration

    def personal_net(self, adapted: Params) -> nn.Module:
        """The network of one task with its adapted parameters (name → (…), without a task axis)."""
        net = copy.deepcopy(self.net)
        net.load_state_dict(adapted, strict=False)
        return net.eval()

    # How it trains ----------------------------------------------------------------------------------------

    def meta_loss(self, episode: Episode) -> Tensor:
        """The scalar that training minimizes: a mean over the episode's tasks."""
        raise NotImplementedError(f"{type(self).__name__} defines neither meta_loss nor chunk_gradient")

    def chunk_gradient(self, episode: Episode) -> tuple[Tensor, Params]:
        """The meta-loss of as many tasks as run at once, and its gradient in the `trained` parameters."""
        loss = self.meta_loss(episode)
        return loss.detach(), gradients(loss, self.trained)

    def tasks_per_training_pass(self) -> int | None:
        """How many tasks are differentiated at once; None for all."""
        return self.tasks_at_once

    def meta_gradient(self, episode: Episode) -> tuple[Tensor, Params]:
        """The mean meta-loss of all tasks and its gradient; memory is that of the tasks that run at once."""
        gradient = self._compiled.of(self) if self._compiled else self.chunk_gradient
        size = self.tasks_per_training_pass() or episode.tasks
        if size >= episode.tasks:
            return gradient(episode)
        loss, total = torch.zeros((), device=self.device), Params()
        for chunk in episode.chunks(size):
            share = chunk.tasks / episode.tasks
            part, grads = gradient(chunk)
            loss = loss + share * part
            total = {n: total[n].add_(g, alpha=share) if total else g * share for n, g in grads.items()}
        return loss, total

    def check(self, episode: Episode) -> None:
        """Refuse an episode that cannot be trained on.

        Raises:
            UserError: saying why.
        """
        self._refuse_padding(episode.support)
        self._refuse_padding(episode.query)
        if self.learns_from_support:
            self.objective.check(episode)

    def training_step(self, batch: Episode, batch_idx: int) -> Tensor:
        """The meta-loss of one episode; its `backward` gives the meta-gradient."""
        self.check(batch)
        with explain_second_derivative(self.net, batch.support.x[0]):
            loss, grads = self.meta_gradient(batch)
        if not torch.isfinite(loss):
            fault = _not_finite(batch.support) or _not_finite(batch.query)
            raise UserError(
                f"{type(self).__name__}: train/meta_loss is {loss.item()} at step {batch_idx}; "
                + (fault or "lower the step sizes (of optimizer and inner loop)")
            )
        self.examples_seen += batch.windows
        self.log("train/meta_loss", loss, on_step=False, on_epoch=True, batch_size=batch.tasks)
        return with_gradients(loss, self.trained, grads)

    def validation_step(self, batch: Episode, batch_idx: int) -> None:
        """Log query metrics before and after adaptation."""
        self._log_evaluation("val", batch)

    def test_step(self, batch: Episode, batch_idx: int) -> None:
        """Log query metrics before and after adaptation."""
        self._log_evaluation("test", batch)

    def predict_step(self, batch: Episode, batch_idx: int = 0) -> Prediction:
        """Adapt on support, then predict the query windows."""
        adapted = self.adapt(self.params, batch.support)
        with torch.no_grad():
            outputs, calibration = self.query_outputs(adapted, batch)
            predicted = self.objective.predict(outputs, batch.query.x, calibration)
        return Prediction(batch.machines, batch.query.y, predicted, batch.query.mask)

    def configure_optimizers(self) -> Any:
        """The outer loop's optimizer over the trained parameters, and its scheduler."""
        optimizer = self.optimizer(self.trained.values())  # type: ignore[arg-type]
        if self.scheduler is None:
            return optimizer
        scheduler = scheduled(self.scheduler, optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Scale the gradient of a step down to `clip`; without one, to what the Trainer says."""
        self.clip_gradients(optimizer, self.clip or gradient_clip_val, gradient_clip_algorithm)

    def setup(self, stage: str) -> None:
        """Refuse a precision of parameters; keep Lightning from warning of layers that are frozen on purpose.

        Raises:
            UserError: the Trainer would convert data and parameters.
        """
        refuse_true_precision(self.trainer)
        if self.batch_norm == "frozen":
            warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")

    def train(self, mode: bool = True) -> Learner:
        """Set training mode; frozen BatchNorm layers stay as they are."""
        super().train(mode)
        if self.batch_norm == "frozen":
            for layer in tracking(self).values():
                layer.eval()
        return self

    def _refuse_padding(self, examples: Examples) -> None:
        if examples.mask is not None and (layer := batch_statistics(self.net)) is not None:
            raise UserError(
                f"{type(self.net).__name__}: layer {layer!r} normalizes with the statistics of the set at hand,"
                " which padding of ragged tasks would falsify; use batch_norm: frozen, LayerNorm or GroupNorm"
            )

    def _log_evaluation(self, stage: str, episode: Episode) -> None:
        metrics = self.evaluate(episode)
        options: dict[str, Any] = {"on_step": False, "on_epoch": True}
        for name, per_task in metrics.items():
            self.log(f"{stage}/{name}", per_task.mean(), batch_size=episode.tasks, **options)
            for machine in sorted(set(episode.machines)):
                own = [i for i, m in enumerate(episode.machines) if m == machine]
                self.log(f"{stage}/{name}/{machine}", per_task[own].mean(), batch_size=len(own), **options)


def _not_finite(examples: Examples) -> str | None:
    """Where windows or targets hold a NaN or an infinity, if they do."""
    for what, values in (("features", examples.x), ("targets", examples.y)):
        bad = ~torch.isfinite(values)
        if bad.any():
            task, window, *_ = bad.nonzero()[0].tolist()
            where = f"the {what} of task {task}, window {window}"
            return f"{where} hold NaN or infinite values; repair or drop the window"
    return None
