"""The LightningModule of a learner: what a Trainer calls, on batches that are episodes."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from fml_lightning.adaptation.gradients import with_gradients
from fml_lightning.errors import UserError
from fml_lightning.learners.episode_checks import not_finite, refuse_bare_episodes, refuse_other_batches
from fml_lightning.learners.optimizers import (
    Factory,
    OptimizerFactory,
    SchedulerFactory,
    refuse_true_precision,
    scheduled,
)
from fml_lightning.names import quoted
from fml_lightning.types import Episode, Params, Prediction


class EpisodeModule(LightningModule):
    """Trains by meta-gradients, and logs query metrics before and after adaptation.

    Args:
        optimizer: the outer loop's optimizer, made anew by every Trainer.
        scheduler: changes the outer loop's step size after every step of a plain Trainer.
        clip: largest norm of the gradient in a step of the optimizer; a larger one is scaled down to it.
    """

    def __init__(
        self, optimizer: OptimizerFactory, scheduler: SchedulerFactory | None = None, clip: float | None = None
    ) -> None:
        super().__init__()
        if clip is not None and not clip > 0:
            raise UserError(f"{type(self).__name__}: expected clip > 0, got {clip}")
        self.optimizer: OptimizerFactory = Factory(optimizer, "optimizer")
        self.scheduler: SchedulerFactory | None = scheduler and Factory(scheduler, "scheduler")
        self.clip = clip
        self.round: int | None = None
        """The round of a Federation in which this learner trains at a site."""
        self.examples_seen = 0
        """Windows trained on so far, counted as often as they were used."""

    @property
    def progress(self) -> int:
        """What annealed settings follow: rounds trained in a Federation, steps taken under a plain Trainer."""
        return self.global_step if self.round is None else self.round

    @property
    @abstractmethod
    def trained(self) -> Params:
        """The parameters that the optimizer moves."""

    @abstractmethod
    def check(self, episode: Episode) -> None:
        """Refuse an episode that cannot be trained on."""

    @abstractmethod
    def meta_gradient(self, episode: Episode) -> tuple[Tensor, Params]:
        """The mean meta-loss of all tasks, and its gradient in the `trained` parameters."""

    @abstractmethod
    def evaluate(self, episode: Episode) -> dict[str, Tensor]:
        """Query metrics before and after adaptation: `accuracy_before`, `accuracy_after`, … → (T,)."""

    @abstractmethod
    def predict(self, episode: Episode) -> Prediction:
        """Adapt on support, then predict the query windows."""

    def training_step(self, batch: Episode, batch_idx: int) -> Tensor:
        """The meta-loss of one episode; its `backward` gives the meta-gradient."""
        name = type(self).__name__
        refuse_other_batches(batch, name)
        self.check(batch)
        loss, grads = self.meta_gradient(batch)
        if not torch.isfinite(loss):
            fault = not_finite(batch.support) or not_finite(batch.query)
            raise UserError(
                f"{name}: train/meta_loss is {loss.item()} at step {batch_idx}; "
                + (fault or "lower the step sizes (of optimizer and inner loop)")
            )
        self.examples_seen += batch.windows
        self.log("train/meta_loss", loss, on_step=False, on_epoch=True, batch_size=batch.tasks)
        return with_gradients(loss, self.trained, grads)

    def validation_step(self, batch: Episode, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log query metrics before and after adaptation."""
        self._log_evaluation("val", batch)

    def test_step(self, batch: Episode, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log query metrics before and after adaptation."""
        self._log_evaluation("test", batch)

    def predict_step(self, batch: Episode, batch_idx: int = 0, dataloader_idx: int = 0) -> Prediction:
        """Adapt on support, then predict the query windows."""
        return self.predict(batch)

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
        """Scale the gradient of a step down to `clip`, then do what the Trainer says."""
        if self.clip is not None:
            params = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(params, self.clip)
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def setup(self, stage: str) -> None:
        """Refuse a precision of parameters, and episodes without a dataloader.

        Raises:
            UserError: the Trainer would convert data and parameters, or could not iterate over the episodes.
        """
        refuse_true_precision(self.trainer)
        refuse_bare_episodes(self.trainer, type(self).__name__)

    def _log_evaluation(self, stage: str, episode: Episode) -> None:
        metrics = self.evaluate(episode)
        options: dict[str, Any] = {"on_step": False, "on_epoch": True}
        for name, per_task in metrics.items():
            self.log(f"{stage}/{name}", per_task.mean(), batch_size=episode.tasks, **options)
            for machine in sorted(set(episode.machines)):
                own = [i for i, m in enumerate(episode.machines) if m == machine]
                self.log(f"{stage}/{name}/{quoted(machine)}", per_task[own].mean(), batch_size=len(own), **options)
