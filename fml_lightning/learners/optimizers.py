"""The outer loop's optimizer and scheduler, as factories, and the precision that they work in."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from fml_lightning.errors import UserError

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
"""A torch optimizer without its parameters; in YAML a `class_path` with `init_args`."""

SchedulerFactory = Callable[[torch.optim.Optimizer], LRScheduler]
"""A torch learning rate scheduler without its optimizer; in YAML a `class_path` with `init_args`."""


def adam(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam with step size 1e-3."""
    return torch.optim.Adam(params, lr=1e-3)


def scheduled(factory: SchedulerFactory, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """The scheduler of an optimizer.

    Raises:
        UserError: it waits for a metric, which no step has.
    """
    scheduler = factory(optimizer)
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise UserError("scheduler: ReduceLROnPlateau waits for a metric; take one that counts steps")
    return scheduler


def refuse_true_precision(trainer: Trainer) -> None:
    """Refuse a Trainer that would convert parameters and data to another precision.

    Raises:
        UserError: saying what to do.
    """
    if str(trainer.precision).endswith("-true") and trainer.precision != "32-true":
        raise UserError(
            f"Trainer(precision={trainer.precision!r}): expected 32-true, which takes parameters and data as they"
            " are (float64 ones too), or a mixed precision such as bf16-mixed"
        )
