"""What a Trainer was given in place of dataloaders, as long as it runs the verb that it was given for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn


def given_loaders(trainer: Trainer) -> Iterator[object]:
    """Each thing that the current verb takes for a dataloader, or for several; a datamodule is one too."""
    fit = trainer.fit_loop
    loops: dict[object, list[Any]] = {
        TrainerFn.FITTING: [fit, fit.epoch_loop.val_loop],
        TrainerFn.VALIDATING: [trainer.validate_loop],
        TrainerFn.TESTING: [trainer.test_loop],
        TrainerFn.PREDICTING: [trainer.predict_loop],
    }
    for loop in loops.get(trainer.state.fn, []):
        yield loop._data_source.instance
