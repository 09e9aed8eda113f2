"""The objective made of a loss of the user's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import vmap

from fml_lightning.errors import UserError
from fml_lightning.objectives.metrics import NamedMetrics, TaskMetrics, original_name
from fml_lightning.objectives.objective import Objective, refuse_not_finite, refuse_other_than_tensor
from fml_lightning.types import Examples


class Loss(Objective):
    """Any loss: a loss class, such as `torch.nn.HuberLoss`, or a function, such as `torch.nn.functional.mse_loss`.

    In YAML: `loss: {class_path: torch.nn.HuberLoss, init_args: {delta: 0.5}}`, or `loss: torch.nn.HuberLoss`.

    Args:
        loss: outputs (N, …) and targets (N, …) of one task → a scalar. Weights that a loss class keeps follow the
            outputs to their device.
        metrics: metrics to report beside the loss: of `torchmetrics`, or functions of outputs (N, …) and targets
            (N, …) of one task's windows; a list, or a mapping of names of your own to them.
        metric: the metric that decides: `loss`, or one of `metrics`.

    Raises:
        UserError: the loss has parameters of its own, which nothing would train.
    """

    own_metrics: ClassVar = {"loss": False}

    def __init__(
        self,
        loss: nn.Module | Callable[..., Any],
        metrics: NamedMetrics = (),
        metric: str = "loss",
    ) -> None:
        if isinstance(loss, type):
            loss = loss()
        if isinstance(loss, nn.Module) and any(p.requires_grad for p in loss.parameters()):
            raise UserError(
                f"Loss: {type(loss).__name__} has parameters of its own, which no learner trains; make them a part"
                " of the network, or freeze them with requires_grad_(False)"
            )
        self.function = loss
        self.added = TaskMetrics("Loss", metrics, metric, self.own_metrics)
        self.metric = metric
        self.higher_is_better = self.added.higher_is_better

    def loss(self, outputs: Tensor, examples: Examples) -> Tensor:
        """The loss of each task, (T,).

        Raises:
            UserError: the loss refuses outputs and targets, or gives no scalar that depends on the outputs.
        """
        refuse_other_than_tensor(self, outputs)
        self._follow(outputs.device)
        each = self._stacked(outputs, examples)
        if torch.is_grad_enabled() and outputs.requires_grad and not each.requires_grad:
            raise UserError(
                f"Loss: the value of {self.name} cannot be differentiated; compute it with operations of torch,"
                " not with detach, item, argmax or NumPy"
            )
        return each

    def metrics(self, outputs: Tensor, examples: Examples, calibration: Tensor | None = None) -> dict[str, Tensor]:
        """Added metrics and the loss of each task, (T,)."""
        loss = self.loss(outputs, examples)
        refuse_not_finite(self, outputs.masked_fill(outputs.isinf(), 0), examples.mask)  # log 0 is a fair output
        return {**self.added(*_unpadded(outputs, examples)), "loss": loss}

    def arguments(self) -> dict[str, Any]:
        """The loss beside what every objective tells."""
        return {**super().arguments(), "loss": self.function}

    @property
    def name(self) -> str:
        """The name of the loss, in its author's spelling."""
        return original_name(self.function)

    def _stacked(self, outputs: Tensor, examples: Examples) -> Tensor:
        """The loss of all tasks in one pass; what cannot be vmapped, and padded tasks, run one by one."""
        if examples.mask is None and examples.tasks > 1:
            try:
                each: Tensor = vmap(self._of_task)(outputs, examples.y)
            except (UserError, RuntimeError):  # task by task it works, or says what is wrong
                pass
            else:
                return each
        return torch.stack([self._of_task(*task) for task in zip(*_unpadded(outputs, examples), strict=True)])

    def _of_task(self, outputs: Tensor, targets: Tensor) -> Tensor:
        broadcast = outputs.shape != targets.shape and outputs.numel() == targets.numel()
        try:
            with _no_broadcast() if broadcast else nullcontext():
                loss: Any = self.function(outputs, targets)
        except (torch.cuda.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            raise UserError(
                f"Loss: {self.name} refuses outputs {tuple(outputs.shape)} and targets {targets.dtype}"
                f" {tuple(targets.shape)} of one task: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = f"a tensor {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise UserError(f"Loss: expected {self.name} to give a scalar tensor, got {got}; let it take the mean")
        return loss.reshape(())

    def _follow(self, device: torch.device) -> None:
        """Move the weights of a loss class, if it has any, to where the outputs are."""
        if isinstance(self.function, nn.Module):
            kept = next(chain(self.function.buffers(), self.function.parameters()), None)
            if kept is not None and kept.device != device:
                self.function.to(device)


def _unpadded(outputs: Tensor, examples: Examples) -> tuple[list[Tensor], list[Tensor]]:
    """Each task's outputs and targets without padding."""
    if examples.mask is None:
        return list(outputs), list(examples.y)
    pairs = zip(outputs, examples.y, examples.mask, strict=True)
    kept = [(each[own], y[own]) for each, y, own in pairs]
    return [each for each, _ in kept], [y for _, y in kept]


@contextmanager
def _no_broadcast() -> Iterator[None]:
    """Make an error of torch's warning that outputs (N, 1) and targets (N,) became (N, N): no loss means that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Using a target size")
        yield
