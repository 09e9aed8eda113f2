"""The learner: a network, how a machine adapts it, and what it is trained for."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from fml_lightning.adaptation.batch_norm import BatchNorm, apply_policy, tracking
from fml_lightning.adaptation.compiled import CompiledGradient
from fml_lightning.adaptation.first_pass import FirstPass
from fml_lightning.adaptation.gradients import explain_second_derivative, gradients
from fml_lightning.adaptation.inner_loop import InnerLoop, last, trajectory
from fml_lightning.adaptation.learned_rates import LearnedRates
from fml_lightning.adaptation.network import Network, in_mode
from fml_lightning.errors import UserError
from fml_lightning.learners.episode_checks import (
    not_finite,
    refuse_other_batches,
    refuse_other_examples,
    refuse_padding,
)
from fml_lightning.learners.episode_module import EpisodeModule
from fml_lightning.learners.optimizers import OptimizerFactory, SchedulerFactory, adam
from fml_lightning.objectives import Classification, Objective, SupportObjective
from fml_lightning.objectives.support_objective import StackedLoss
from fml_lightning.params import finite, select, stack
from fml_lightning.types import Episode, Examples, Params, Prediction, StackedForward


class Learner(EpisodeModule):
    """A LightningModule that every machine can personalize.

    It trains under a plain `lightning.Trainer` on episodes (centralized meta-learning), or inside a `Federation`.
    A subclass says in `meta_loss` what it minimizes, or in `chunk_gradient` how it descends.

    Training runs the network in training mode, inner loops included, so dropout is on. `adapt`, `evaluate`,
    `query_outputs` and `predict` run it in evaluation mode, whatever the mode of the module, as a personal model
    will run.

    The network's buffers are constants, equal at every site; a network whose forward pass changes one is refused,
    except in training where `keeps_statistics` and the buffer is `personal`.

    Args:
        net: any `nn.Module`.
        objective: the loss and the metrics; `Classification` unless you say otherwise.
        adaptation: how a machine adapts the trained network.
        optimizer: the outer loop's optimizer, made anew by every Trainer.
        scheduler: changes the outer loop's step size after every step of a plain Trainer.
        personal: shell-style patterns of the network's parameters and buffers that never leave a site. Of a
            tensor with several names (tied weights) the patterns must match all, here as in every other setting.
        freeze: shell-style patterns of the network's parameters that stay as they are, in both loops.
        clip: largest norm of the gradient in a step of the optimizer; a larger one is scaled down to it.
        batch_norm: what BatchNorm layers normalize with: `batch` (the statistics of the set of windows at hand)
            or `frozen` (those the network came with); needed only where a layer keeps running statistics.
        tasks_at_once: how many tasks run, and are differentiated, in one pass; 1 is a plain loop over tasks,
            which needs the least memory. Unless you say otherwise all of them, but 1 where convolutions adapt
            and in networks with recurrent or attention layers.
        compile: compile the meta-gradient with `torch.compile`: about a minute before the first step of each
            shape of episode, then faster.
        support_objective: what a machine's adaptation minimizes at its support set in place of `objective`, such
            as `Consistency`, which needs normal windows only.
    """

    keeps_statistics: ClassVar[bool] = False
    """Whether training may change personal buffers, such as running statistics. True of learners whose training
    runs the module itself, not a pure function of its parameters."""
    learns_from_support: ClassVar[bool] = False
    """Whether a label means what the support set shows of it, so that queries ask only for classes shown there."""
    trains_support_objective: ClassVar[bool] = False
    """Whether training moves the parameters that a `support_objective` may have."""

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
        support_objective: SupportObjective | None = None,
    ) -> None:
        super().__init__(optimizer, scheduler, clip)
        if tasks_at_once is not None and tasks_at_once < 1:
            raise UserError(f"{type(self).__name__}: expected tasks_at_once of at least 1, got {tasks_at_once}")
        if lazy := [name for name, p in net.named_parameters() if isinstance(p, UninitializedParameter)]:
            raise UserError(
                f"{type(self).__name__}: the parameters {', '.join(lazy)} have no shape yet; run the network once"
                " on a window before you pass it, or use layers that are not lazy"
            )
        self.net = net
        self.network = Network(net, tasks_at_once)
        """The network as a pure function of its parameters."""
        tied = self.network.tied
        personal_names = select(_first_names(net), personal, "personal", tied)
        self._personal_names = frozenset(
            f"net.{each}" for name in personal_names for each in tied.get(name, (name,))
        )
        apply_policy(net, batch_norm, self._changeable())
        for name in select(dict(net.named_parameters()), freeze, "freeze", tied):
            net.get_parameter(name).requires_grad_(False)
        self.objective: Objective = objective or Classification()
        self.adaptation = adaptation or InnerLoop()
        if support_objective is not None and support_objective.is_learned and not self.trains_support_objective:
            raise UserError(
                f"{type(self).__name__}: {type(support_objective).__name__} has parameters that this learner does"
                " not train; use MAML or one of its relatives, or a support_objective without parameters"
            )
        self.support_objective = support_objective
        self.batch_norm = batch_norm
        self.tasks_at_once = tasks_at_once
        self.rates: LearnedRates | None = None
        """Step sizes of the inner loop, where they are learned."""
        self._compiled = CompiledGradient() if compile else None
        self._first_pass = FirstPass(net, self._changeable(), type(self).__name__)
        self.adaptation.adapted_names(dict(net.named_parameters()), tied)
        self.train()

    # What the network knows -------------------------------------------------------------------------------

    @property
    def params(self) -> Params:
        """The parameters that a machine starts from, by their names in the network (`0.weight`).

        In `shared`, `trained` and `personal` they have their names in the learner (`net.0.weight`): an algorithm
        may have parameters beside the network's. A tied parameter goes by its first name alone, except in
        `personal`, which has all of them.
        """
        return dict(self.net.named_parameters())

    @property
    def personal(self) -> frozenset[str]:
        """Names in the learner's state that never leave a site: parameters and buffers."""
        return self._personal_names

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
    def graph_key(self) -> tuple[object, ...]:
        """Settings that are built into a compiled graph: when one of them changes, another graph is compiled."""
        return ()

    # How it adapts ----------------------------------------------------------------------------------------

    def forward(self, params: Params, x: Tensor) -> Tensor:
        """The network as a pure function, for one task: (params, (N, …)) → (N, C)."""
        return self.network(params, x)

    def outputs(self, adapted: Params, x: Tensor) -> Tensor:
        """Raw outputs of each task's own parameters: (T, N, …) → (T, N, C)."""
        overridden = type(self).forward is not Learner.forward
        return self.network.outputs(adapted, x, self.forward if overridden else None)

    def tasks_per_pass(self, adapting: Iterable[str]) -> int | None:
        """How many tasks run in one pass if these parameters adapt; None for all."""
        return self.network.tasks_per_pass(adapting)

    def adapted_names(self, params: Params, inner_loop: InnerLoop) -> list[str]:
        """Names of the parameters that adapt."""
        return inner_loop.adapted_names(params, self.network.tied)

    def trajectory(
        self, params: Params, support: Examples, inner_loop: InnerLoop, *, create_graph: bool = False
    ) -> Iterator[Params]:
        """Adapt `params` to each task's support set: the parameters after 0, 1, …, K steps, name → (T, …).

        Every adaptation of this learner comes through here, in training, in evaluation and at a machine. It
        descends on `support_objective`, if there is one.
        """
        outputs: StackedForward = self.outputs
        loss: StackedLoss = self.objective.loss
        if self.support_objective is not None:
            outputs, loss = self.support_objective.in_place_of(self.objective, self.outputs, support)
        yield from trajectory(
            outputs,
            loss,
            params,
            support,
            inner_loop,
            adapted_names=self.adapted_names(params, inner_loop),
            rates=self.rates,
            create_graph=create_graph,
        )

    def adapt(self, params: Params, support: Examples) -> Params:
        """Adapt as a machine does, with `adaptation` and without a graph: name → (T, …).

        Works under `no_grad` and `inference_mode` alike.

        Raises:
            UserError: a parameter became NaN or infinite, or the network cannot run on the windows.
        """
        refuse_other_examples(support, type(self).__name__)
        refuse_padding(support, self.net)
        own = self.adapted_names(params, self.adaptation)
        size = self.tasks_per_pass(own) or support.tasks
        self._first_pass(self, False, support.x)
        with in_mode(self, training=False), torch.inference_mode(False), torch.enable_grad():
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
                + (not_finite(support) or "lower its lr")
            )
        return adapted

    def evaluate(self, episode: Episode) -> dict[str, Tensor]:
        """Query metrics before and after adaptation: `accuracy_before`, `accuracy_after`, … → (T,).

        Raises:
            UserError: a query set cannot be judged from its support set, or holds values that are not finite.
        """
        self.check_queries(episode)
        adapted = self.adapt(self.params, episode.support)
        metrics = {}
        with torch.no_grad():
            for moment, params in (("before", stack(self.params, episode.tasks)), ("after", adapted)):
                outputs, calibration = self.query_outputs(params, episode)
                for name, value in self.objective.metrics(outputs, episode.query, calibration).items():
                    metrics[f"{name}_{moment}"] = value
        return metrics

    def check_queries(self, episode: Episode) -> None:
        """Refuse an episode whose query sets cannot be judged after adapting to its support sets.

        Raises:
            UserError: saying why.
        """
        refuse_other_batches(episode, type(self).__name__)
        if self.reads_labels(self.adaptation):
            self.objective.check(episode)
        refuse_padding(episode.query, self.net)
        if fault := not_finite(episode.query):
            raise UserError(f"{type(self).__name__}: the query set cannot be judged; {fault}")

    def query_outputs(self, adapted: Params, episode: Episode) -> tuple[Tensor, Tensor | None]:
        """Raw outputs on the query sets, and what the objective remembers of the support sets to read them.

        The network runs over `ELEMENTS_PER_PASS` numbers of input at a time, not over all windows at once.
        """
        refuse_other_batches(episode, type(self).__name__)
        with in_mode(self, training=False):
            calibration = None
            if self.objective.calibrates:
                said = self.network.outputs_in_parts(self.outputs, adapted, episode.support.x)
                calibration = self.objective.calibrate(said, episode.support)
            return self.network.outputs_in_parts(self.outputs, adapted, episode.query.x), calibration

    def predict(self, episode: Episode) -> Prediction:
        """Adapt on support, then predict the query windows."""
        refuse_other_batches(episode, type(self).__name__)
        adapted = self.adapt(self.params, episode.support)
        with torch.no_grad():
            outputs, calibration = self.query_outputs(adapted, episode)
            predicted = self.objective.predict(outputs, episode.query.x, calibration)
        return Prediction(
            episode.machines, episode.query.y, predicted, episode.query.mask, episode.site, episode.query_starts
        )

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
        with explain_second_derivative(self.net, episode.support.x[0]):
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
        """Refuse an episode, or a network, that cannot be trained on it. Nothing changes.

        Raises:
            UserError: saying why.
        """
        refuse_other_batches(episode, type(self).__name__)
        refuse_padding(episode.support, self.net)
        refuse_padding(episode.query, self.net)
        if self.reads_labels(self.training_loop):
            self.objective.check(episode)
        for training in (False, True):
            self._first_pass(self, training, episode.support.x, episode.query.x)

    @property
    def training_loop(self) -> InnerLoop:
        """The inner loop of training; of a learner that trains without one, how a machine adapts."""
        return self.adaptation

    def reads_labels(self, inner_loop: InnerLoop) -> bool:
        """Whether adapting like this learns from support what a label means."""
        labelled = self.support_objective is None or self.support_objective.objective_weight > 0
        return self.learns_from_support and labelled and inner_loop.steps > 0

    def setup(self, stage: str) -> None:
        """Keep Lightning from warning of layers that are frozen on purpose."""
        super().setup(stage)
        if self.batch_norm == "frozen":
            warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")

    def train(self, mode: bool = True) -> Learner:
        """Set training mode; frozen BatchNorm layers stay as they are."""
        super().train(mode)
        if self.batch_norm == "frozen":
            for layer in tracking(self).values():
                layer.eval()
        return self

    def _changeable(self) -> frozenset[str]:
        """Names in the network of the buffers that training may change."""
        kept = self._personal_names if self.keeps_statistics else frozenset()
        return frozenset(name.removeprefix("net.") for name in kept)


def _first_names(net: nn.Module) -> list[str]:
    """The first name of every parameter and of every buffer in the network's state."""
    names = [name for name, _ in net.named_parameters()] + [name for name, _ in net.named_buffers()]
    state = net.state_dict()
    return [name for name in names if name in state]
