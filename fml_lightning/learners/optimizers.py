"""The outer loop's optimizer and scheduler, as factories, and the precision that they work in."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from fml_lightning.errors import UserError

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
"""A torch optimizer without its parameters; in YAML a `class_path` with `init_args`."""

SchedulerFactory = Callable[[torch.optim.Optimizer], LRScheduler]
"""A torch learning rate scheduler without its optimizer; in YAML a `class_path` with `init_args`."""

Argument = TypeVar("Argument")
Made = TypeVar("Made")


class Factory(Generic[Argument, Made]):
    """A factory of optimizers or schedulers that can be copied, and pickled if what it calls can be.

    Args:
        make: makes one from the parameters or the optimizer.
        setting: where it comes from, for the error.
    """

    def __init__(self, make: Callable[[Argument], Made], setting: str) -> None:
        self.make: Callable[[Argument], Made] = make.make if isinstance(make, Factory) else _without_parser(make)
        self.setting = setting

    def __call__(self, argument: Argument) -> Made:
        """An optimizer of these parameters, or a scheduler of this optimizer."""
        made: Made = self.make(argument)
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Factory[Argument, Made]:
        return self

    def __getstate__(self) -> dict[str, Any]:
        try:
            pickle.dumps(self.make)
        except Exception as error:  # whatever a function's own state makes of pickle
            raise UserError(
                f"{self.setting}: {self.make!r} cannot be pickled, which sending it to another process or saving"
                " it needs; use functools.partial(torch.optim.SGD, lr=0.1), or a function defined at the top of a"
                " module, in place of a lambda or an inner function"
            ) from error
        return self.__dict__


def _without_parser(make: Any) -> Any:
    """What a parsed `class_path` makes, as a partial of the class alone.

    jsonargparse's own partial holds the parser, and with it the command line, in every copy.
    """
    if not isinstance(make, functools.partial):
        return make
    classes = [argument for argument in make.args if isinstance(argument, type)]
    if not str(getattr(make.func, "__module__", "")).startswith("jsonargparse") or len(classes) != 1:
        return make
    return functools.partial(classes[0], **{name: _without_parser(value) for name, value in make.keywords.items()})


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
