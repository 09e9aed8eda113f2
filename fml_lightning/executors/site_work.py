"""One site's work in a round: its own Lightning Trainer, on its own data, from its own seed.

Every executor calls `work_at_site`, wherever it runs it, so that all of them give the same numbers.
"""

from __future__ import annotations

import copy
import logging
import random
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden

from fml_lightning.errors import NotYetError, UserError
from fml_lightning.executors.isolation import isolated
from fml_lightning.executors.signals import noted_signals
from fml_lightning.executors.site_memory import SiteMemory
from fml_lightning.executors.work import SiteFailure, SiteUpdate, Work
from fml_lightning.learners.learner import Learner
from fml_lightning.names import escaped, shown
from fml_lightning.params import clone, finite, subtract
from fml_lightning.personal.personalization import personalize
from fml_lightning.preprocessing.statistics import Statistics, Sums
from fml_lightning.seeds import derive_seed
from fml_lightning.types import Episode

MEASUREMENT = "measurement"
"""What takes the round's place in the seed of a measurement."""

PASSING = (OSError, MemoryError)
"""What may not happen again if the same is tried later."""

log = logging.getLogger(__name__)


@runtime_checkable
class TellsSums(Protocol):
    """Data that may be standardized by the training sites, as `SiteData` are; others standardize by themselves."""

    tells_sums: bool
    """Whether they are, rather than by given statistics or not at all."""

    def early_sums(self) -> Sums:
        """What this site adds to the statistics."""
        ...

    def standardize_by(self, statistics: Statistics) -> None:
        """Use these statistics from now on."""
        ...


def work_at_site(
    learner: Learner, work: Work, site: str, data: LightningDataModule, memory: SiteMemory, **trainer_options: Any
) -> SiteUpdate | SiteFailure:
    """Do `work` at one site, on a copy of `learner`; every fault of the site becomes a `SiteFailure`.

    That includes `SystemExit`, `KeyboardInterrupt` and whatever else its data or its network raise.

    Args:
        learner: the template; it stays as it is.
        work: what the server asks.
        site: the site's name.
        data: the site's data. Its attribute `num_examples`, if it has one, says how many windows there are to
            train on. `TellsSums`, if it is that, says how it is standardized by the training sites.
        memory: where the site keeps what is personal between rounds.
        **trainer_options: accelerator and precision of the site's Trainer.

    Raises:
        KeyboardInterrupt: the user pressed Ctrl-C, which no site can keep from ending the run.
        SystemExit: the process was asked to end (SIGTERM).
    """
    began = time.perf_counter()
    outcome: SiteUpdate | SiteFailure
    with noted_signals() as noted:
        try:
            # A measurement is seeded without the round: the same support sets every time, comparable over rounds.
            moment = str(work.round) if work.verb == "fit" else MEASUREMENT
            with isolated(work.params), seeded(derive_seed(work.seed, moment, site)), _quiet():
                outcome = _work(learner, work, site, data, memory, **trainer_options)
        except BaseException as error:
            if noted and not isinstance(error, Exception):
                # Lightning makes a SystemExit of what Ctrl-C raises inside a site's Trainer.
                raise (KeyboardInterrupt() if signal.SIGINT in noted else error) from error
            outcome = _failure(error, work, site)
    if signal.SIGINT in noted:  # and the site's code has caught what it raised
        raise KeyboardInterrupt
    return replace(outcome, seconds=time.perf_counter() - began)


def _work(
    learner: Learner, work: Work, site: str, data: LightningDataModule, memory: SiteMemory, **trainer_options: Any
) -> SiteUpdate | SiteFailure:
    standardized = data if isinstance(data, TellsSums) else None
    if work.verb == "sums":
        sums = standardized.early_sums() if standardized is not None and standardized.tells_sums else None
        return SiteUpdate(site, work.round, {}, 0, sums=sums)
    if standardized is not None and work.statistics is not None:
        standardized.standardize_by(work.statistics)
    local = copy.deepcopy(learner).cpu()
    local.examples_seen = 0
    local.round = work.round
    memory.restore(local, site, work.round)
    with torch.no_grad():
        for name, p in local.shared.items():
            p.copy_(work.params[name])
    if work.verb == "rehearse":
        if is_overridden("val_dataloader", data):
            trainer = _trainer(**trainer_options, limit_val_batches=1, callbacks=[_Rehearsal()])
            trainer.validate(local, datamodule=data, verbose=False)
        return SiteUpdate(site, work.round, {}, 0)
    if work.verb != "fit":
        trainer = _trainer(**trainer_options)
        measure = trainer.validate if work.verb == "validate" else trainer.test
        measure(local, datamodule=data, verbose=False)
        return SiteUpdate(site, work.round, {}, 0, _metrics(trainer))

    local.train()
    before = clone(local.shared)
    trainer = _trainer(**trainer_options, max_steps=work.local_steps, limit_val_batches=0)
    trainer.fit(local, datamodule=data)
    delta = subtract(clone(local.to("cpu").shared), before)
    state = local.state_dict()
    if not finite(delta | {name: state[name] for name in local.personal}):
        return SiteFailure(site, work.round, "its update is not finite; lower the step sizes")
    memory.keep(local, site, work.round)
    seen = local.examples_seen
    examples = getattr(data, "num_examples", None)
    return SiteUpdate(
        site, work.round, delta, seen if examples is None else examples, _metrics(trainer), examples_seen=seen
    )


class _Rehearsal(Callback):
    """Personalizes the first task of a validation batch; what comes of it is not kept."""

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adapt and judge one task, as `fml personalize` will."""
        if isinstance(pl_module, Learner) and isinstance(batch, Episode):
            personalize(pl_module, next(batch.chunks(1)), ())


def _failure(error: BaseException, work: Work, site: str) -> SiteFailure:
    """What the server may know of an exception at a site: see `executors/work.py`."""
    if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
        error = error.__context__  # which Lightning has turned into an exit
    try:
        message = str(error)
    except BaseException as fault:  # it is the site's code that says how its exceptions read
        message = f"(its message cannot be read: {type(fault).__name__})"
    if isinstance(error, UserError):
        not_yet = isinstance(error, NotYetError)
        return SiteFailure(site, work.round, message, permanent=not not_yet, not_yet=not_yet)
    kind = type(error).__name__
    log.warning("%s failed in round %d: %s: %s", shown(site), work.round, kind, escaped(message))
    log.debug("%s failed in round %d", shown(site), work.round, exc_info=error)
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    place = f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}, line {line}"
    return SiteFailure(
        site,
        work.round,
        f"{kind} in {place}; its message is in the site's own log",
        # Before the first round, an error in the code would come back in every round; a lost connection might not.
        permanent=work.verb == "rehearse" and isinstance(error, Exception) and not isinstance(error, PASSING),
    )


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
