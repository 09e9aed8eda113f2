"""The server's optimizer: what steps on the pseudo-gradient that a round gives.

Reddi et al., Adaptive Federated Optimization, ICLR 2021. https://arxiv.org/abs/2003.00295
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from fml_lightning.errors import UserError
from fml_lightning.learners.optimizers import OptimizerFactory, SchedulerFactory, scheduled
from fml_lightning.types import Params


def sgd(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD with step size 1: the server takes the mean delta as it is."""
    return torch.optim.SGD(params, lr=1.0)


def refuse_no_factory(server_optimizer: object, scheduler: object) -> None:
    """Refuse an optimizer, or anything else, at the place of the function that makes one.

    Raises:
        UserError: saying what was expected.
    """
    for name, factory, example in (
        ("server_optimizer", server_optimizer, "lambda params: torch.optim.Adam(params, lr=0.01)"),
        ("scheduler", scheduler, "lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 10)"),
    ):
        if not callable(factory) and not (name == "scheduler" and factory is None):
            raise UserError(
                f"Federation: expected {name} to be a function that makes one, such as `{example}`, got"
                f" {type(factory).__name__}"
            )


def made_for(
    shared: Params, server_optimizer: OptimizerFactory, scheduler: SchedulerFactory | None
) -> torch.optim.Optimizer | tuple[list[torch.optim.Optimizer], list[LRScheduler]]:
    """The optimizer of the shared parameters, and its scheduler, as Lightning takes them.

    Raises:
        UserError: there is nothing to share, or the factories make what a server cannot use.
    """
    if not shared:
        raise UserError("Federation: expected parameters to share; all of this learner's are personal or frozen")
    optimizer: object = server_optimizer(shared.values())  # type: ignore[arg-type]
    if not isinstance(optimizer, torch.optim.Optimizer):
        got = type(optimizer).__name__
        raise UserError(f"Federation: expected server_optimizer to make a torch.optim.Optimizer, got {got}")
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UserError(
            f"Federation: {type(optimizer).__name__} evaluates the loss several times in a step, which a server"
            " without data cannot do; take another server_optimizer"
        )
    if scheduler is None:
        return optimizer
    schedule: object = scheduled(scheduler, optimizer)
    if not isinstance(schedule, LRScheduler):
        got = type(schedule).__name__
        raise UserError(
            f"Federation: expected scheduler to make a torch.optim.lr_scheduler.LRScheduler, got {got}"
        )
    return [optimizer], [schedule]
