"""The learner: a network, how a machine adapts it, and what it is trained for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.func import functional_call

from fml_lightning.errors import UserError
from fml_lightning.inner_loop import (
    InnerLoop,
    forward_stacked,
    last,
    refuse_running_statistics,
    stack,
    trajectory,
)
from fml_lightning.objectives import Classification, Objective
from fml_lightning.params import finite
from fml_lightning.types import Episode, Examples, Params, Prediction

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
"""A torch optimizer without its parameters; in YAML a `class_path` with `init_args`."""


def adam(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam with step size 1e-3."""
    return torch.optim.Adam(params, lr=1e-3)


class Learner(LightningModule):
    """A LightningModule that every machine can personalize.

    It trains under a plain `lightning.Trainer` on the episodes of one site (centralized meta-learning), or
    inside a `Federation`. A subclass says what it minimizes in `meta_loss`.

    Args:
        net: any `nn.Module` without running statistics.
        objective: the loss and the metrics; `Classification` unless you say otherwise.
        adaptation: how a machine adapts the trained network.
        optimizer: the outer loop's optimizer, made anew by every Trainer.
    """

    def __init__(
        self,
        net: nn.Module,
        objective: Objective | None = None,
        adaptation: InnerLoop | None = None,
        optimizer: OptimizerFactory = adam,
    ) -> None:
        super().__init__()
        self.net = net
        self.objective: Objective = objective or Classification()
        self.adaptation = adaptation or InnerLoop()
        self.optimizer = optimizer
        self.examples_seen = 0
        """Windows trained on so far, counted as often as they were used."""
        refuse_running_statistics(net)

    @property
    def params(self) -> Params:
        """The initial parameters of the inner loop; training improves them and a round sends them."""
        return dict(self.net.named_parameters())

    def forward(self, params: Params, x: Tensor) -> Tensor:
        """The network as a pure function, for one task: (params, (N, …)) → (N, C)."""
        output: Tensor = functional_call(self.net, params, (x,))
        return output

    @abstractmethod
    def meta_loss(self, episode: Episode) -> Tensor:
        """The scalar that training minimizes."""

    def trajectory(
        self, params: Params, support: Examples, inner_loop: InnerLoop, *, create_graph: bool = False
    ) -> Iterator[Params]:
        """Adapt `params` to each task's support set: the parameters after 0, 1, …, K steps, name → (T, …).

        Every adaptation of this learner comes through here, in training, in judging and at a machine.
        """
        yield from trajectory(
            self.forward, self.objective.loss, params, support, inner_loop, create_graph=create_graph
        )

    def adapt(self, params: Params, support: Examples) -> Params:
        """Adapt as a machine does, with `adaptation` and without a graph: name → (T, …).

        Works under `no_grad` and `inference_mode` alike.

        Raises:
            UserError: a parameter became NaN or infinite.
        """
        with torch.inference_mode(False), torch.enable_grad():
            normal = Examples(_normal(support.x), _normal(support.y))
            adapted = last(self.trajectory(params, normal, self.adaptation))
        if not finite(adapted):
            raise UserError(
                f"{type(self).__name__}: adaptation diverged ({self.adaptation}); lower its lr, or look for"
                " non-finite values in the data"
            )
        return adapted

    def outputs(self, adapted: Params, x: Tensor) -> Tensor:
        """Raw outputs of each task's own parameters: (T, N, …) → (T, N, C)."""
        return forward_stacked(self.forward, adapted, x)

    def judge(self, episode: Episode, adapted: Params | None = None) -> dict[str, Tensor]:
        """Query metrics before and after adaptation: `accuracy_before`, `accuracy_after`, … → (T,).

        Args:
            episode: support and query sets.
            adapted: what `adapt` made of the support sets, if it has run already.
        """
        adapted = adapted or self.adapt(self.params, episode.support)
        with torch.no_grad():
            before = self.outputs(stack(self.params, episode.tasks), episode.query.x)
            after = self.outputs(adapted, episode.query.x)
            metrics = {}
            for moment, outputs in (("before", before), ("after", after)):
                for name, value in self.objective.metrics(outputs, episode.query.y).items():
                    metrics[f"{name}_{moment}"] = value
        return metrics

    def training_step(self, batch: Episode, batch_idx: int) -> Tensor:
        """The meta-loss of one episode."""
        loss = self.meta_loss(batch)
        if not torch.isfinite(loss):
            raise UserError(
                f"{type(self).__name__}: train/meta_loss is {loss.item()} at step {batch_idx}; lower the"
                " step sizes (of optimizer and inner loop), or look for non-finite values in the data"
            )
        self.examples_seen += batch.windows
        self.log("train/meta_loss", loss, on_step=False, on_epoch=True, batch_size=batch.tasks)
        return loss

    def validation_step(self, batch: Episode, batch_idx: int) -> None:
        """Log query metrics before and after adaptation."""
        self._log_judgement("val", batch)

    def test_step(self, batch: Episode, batch_idx: int) -> None:
        """Log query metrics before and after adaptation."""
        self._log_judgement("test", batch)

    def predict_step(self, batch: Episode, batch_idx: int = 0) -> Prediction:
        """Adapt on support, then predict the query windows."""
        adapted = self.adapt(self.params, batch.support)
        with torch.no_grad():
            outputs = self.objective.predict(self.outputs(adapted, batch.query.x))
        return Prediction(batch.machines, batch.query.y, outputs)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The outer loop's optimizer over the initial parameters."""
        return self.optimizer(self.net.parameters())

    def _log_judgement(self, stage: str, episode: Episode) -> None:
        judgement = self.judge(episode)
        options: dict[str, Any] = {"on_step": False, "on_epoch": True}
        for name, per_task in judgement.items():
            self.log(f"{stage}/{name}", per_task.mean(), batch_size=episode.tasks, **options)
            for machine in sorted(set(episode.machines)):
                own = [i for i, m in enumerate(episode.machines) if m == machine]
                self.log(f"{stage}/{name}/{machine}", per_task[own].mean(), batch_size=len(own), **options)


def _normal(tensor: Tensor) -> Tensor:
    """The tensor, or a copy that autograd accepts if it was made in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor
