"""One site's work in a round: its own Lightning Trainer, on its own data, from its own seed.

Every executor calls `work_at_site`, wherever it runs it, so that all of them give the same numbers.
"""

from __future__ import annotations

import copy
import logging
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, Trainer

from fml_lightning.errors import NotYetError, UserError
from fml_lightning.executors.site_memory import SiteMemory
from fml_lightning.executors.work import SiteFailure, SiteUpdate, Work
from fml_lightning.learners.learner import Learner
from fml_lightning.params import clone, finite, subtract
from fml_lightning.seeds import derive_seed

MEASUREMENT = "measurement"
"""What takes the round's place in the seed of a measurement."""

log = logging.getLogger(__name__)


def work_at_site(
    learner: Learner, work: Work, site: str, data: LightningDataModule, memory: SiteMemory, **trainer_options: Any
) -> SiteUpdate | SiteFailure:
    """Do `work` at one site, on a copy of `learner`; every fault of the site becomes a `SiteFailure`.

    Args:
        learner: the template; it stays as it is.
        work: what the server asks.
        site: the site's name.
        data: the site's data.
        memory: where the site keeps what is personal between rounds.
        **trainer_options: accelerator and precision of the site's Trainer.
    """
    began = time.perf_counter()

    def seconds() -> float:
        return time.perf_counter() - began

    try:
        # A measurement is seeded without the round: the same support sets every time, comparable over rounds.
        moment = str(work.round) if work.verb == "fit" else MEASUREMENT
        with torch.inference_mode(False), seeded(derive_seed(work.seed, moment, site)), _quiet():
            local = copy.deepcopy(learner).cpu()
            local.examples_seen = 0
            local.round = work.round
            memory.restore(local, site, work.round)
            with torch.no_grad():
                for name, p in local.shared.items():
                    p.copy_(work.params[name])
            if work.verb != "fit":
                trainer = _trainer(**trainer_options)
                measure = trainer.validate if work.verb == "validate" else trainer.test
                measure(local, datamodule=data, verbose=False)
                return SiteUpdate(site, work.round, {}, 0, _metrics(trainer), seconds())

            local.train()
            before = clone(local.shared)
            trainer = _trainer(**trainer_options, max_steps=work.local_steps, limit_val_batches=0)
            trainer.fit(local, datamodule=data)
            delta = subtract(clone(local.to("cpu").shared), before)
            state = local.state_dict()
            if not finite(delta | {name: state[name] for name in local.personal}):
                return SiteFailure(site, work.round, "its update is not finite; lower the step sizes", seconds())
            memory.keep(local, site, work.round)
    except UserError as error:
        permanent = not isinstance(error, NotYetError)
        return SiteFailure(site, work.round, str(error), seconds(), permanent)
    except Exception as error:
        log.debug("site %s failed in round %d", site, work.round, exc_info=True)
        return SiteFailure(site, work.round, f"{type(error).__name__}: {error}", seconds())
    return SiteUpdate(site, work.round, delta, local.examples_seen, _metrics(trainer), seconds())


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed all generators inside, restore them after, and leave the run's own `seed_everything` alone."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        try:
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def _trainer(**options: Any) -> Trainer:
    return Trainer(
        devices=1,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        inference_mode=False,
        **options,
    )


def _metrics(trainer: Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep a site's Trainer from announcing its hardware in every round."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
