"""The federated loop: one training step of this LightningModule is one round.

So the outer loop is an ordinary `lightning.Trainer`: `max_epochs` (or `max_steps`) counts rounds, checkpoints
resume by round, EarlyStopping and loggers see the personalized metrics.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from fml_lightning.errors import NotYetError, UserError
from fml_lightning.executors import Executor, SerialExecutor, SiteMemory
from fml_lightning.executors.agreement import agreement
from fml_lightning.executors.kept_statistics import keep_statistics, kept_statistics
from fml_lightning.executors.work import SiteFailure, SiteUpdate, Work
from fml_lightning.federation.aggregators import Aggregator, WeightedMean, aggregate
from fml_lightning.federation.batch import Sites, as_sites, refuse_bare_sites, weight_of
from fml_lightning.federation.cohort import Cohort
from fml_lightning.federation.gathering import Standardized, gather, statistics_of, with_sums
from fml_lightning.federation.machine_result import MachineResult
from fml_lightning.federation.one_process import refuse_several_processes
from fml_lightning.federation.outcomes import Limits, by_site, sort_outcomes
from fml_lightning.federation.server_optimizer import made_for, refuse_no_factory, sgd
from fml_lightning.federation.waiting import Waiting, reasons
from fml_lightning.learners.learner import Learner
from fml_lightning.learners.optimizers import (
    Factory,
    OptimizerFactory,
    SchedulerFactory,
    refuse_true_precision,
)
from fml_lightning.names import escaped, key, shown, unquoted
from fml_lightning.params import clone, norm
from fml_lightning.preprocessing.statistics import Statistics
from fml_lightning.seeds import derive_seed
from fml_lightning.types import Episode, Prediction

AUTOMATIC_LOG_SITES = 20
"""Most sites whose curves are logged unless the user says so."""

log = logging.getLogger(__name__)


class Federation(LightningModule):
    """Sites train a learner together without sharing their data.

    In every round a cohort is drawn, the executor lets each of its sites take `local_steps` steps from the
    shared parameters, the aggregator combines their deltas, and the server optimizer steps on the negative of
    the result (the pseudo-gradient; Reddi et al. 2021, https://arxiv.org/abs/2003.00295). The batch of a round
    is a mapping of site names to sites, as a `Fleet` yields it.

    Args:
        learner: what the sites train: `MAML`, `FedAvg`, …
        local_steps: optimizer steps each site takes in a round.
        cohort: how many sites take part in a round; all unless you say otherwise.
        executor: where the sites' work runs; one after another in this process unless you say otherwise.
        aggregator: combines the updates; the mean weighted by the windows that each site has, unless you say
            otherwise.
        server_optimizer: any of `torch.optim`.
        scheduler: changes the server's step size after every round, any of `torch.optim.lr_scheduler`.
        quorum: fewest sites that must reply; with fewer the round is abandoned and changes nothing.
        patience: how many rounds in a row may be abandoned before the run ends with an error. It counts rounds,
            not time, which is what `max_wait` counts.
        max_wait: seconds that a round waits for its quorum where sites cannot answer yet: their data grow and are
            too few so far, or they are not connected. Only these sites are asked again, for the same work, so that
            no number depends on the wait. Then the round is abandoned; or the run ends with an error, if another
            round would wait for the same sites again. A measurement waits as long for its first site.
        max_examples: the most windows that a site may claim to have, so that none outweighs the others by a
            number that it made up. An update that claims more is refused.
        max_update_norm: largest norm of a site's update, as a multiple of the norm of the shared parameters (of 1,
            where that is smaller). A larger update would replace what was learned so far, not improve it, and is
            refused; null takes any finite one.
        log_sites: log each site's metrics too, as `site/NAME/train/meta_loss`; unless you say so, where there are
            at most 20 sites.
    """

    rounds: Tensor
    """How many rounds the parameters have been through."""

    def __init__(
        self,
        learner: Learner,
        local_steps: int = 10,
        cohort: Cohort | None = None,
        executor: Executor | None = None,
        aggregator: Aggregator | None = None,
        server_optimizer: OptimizerFactory = sgd,
        scheduler: SchedulerFactory | None = None,
        quorum: int = 1,
        patience: int = 3,
        max_wait: float = 60.0,
        max_examples: int = Limits.max_examples,
        max_update_norm: float | None = Limits.max_update_norm,
        log_sites: bool | None = None,
    ) -> None:
        super().__init__()
        if local_steps < 1 or quorum < 1 or patience < 1:
            raise UserError(
                "Federation: expected local_steps, quorum and patience of at least 1, got"
                f" {local_steps}, {quorum} and {patience}"
            )
        if not max_wait >= 0:
            raise UserError(f"Federation: expected max_wait >= 0 seconds, got {max_wait}")
        refuse_no_factory(server_optimizer, scheduler)
        self.automatic_optimization = False
        self.learner = learner
        self.local_steps = local_steps
        self.cohort = cohort or Cohort()
        self.executor: Executor = executor or SerialExecutor()
        self.aggregator: Aggregator = aggregator or WeightedMean()
        self.server_optimizer: OptimizerFactory = Factory(server_optimizer, "server_optimizer")
        self.scheduler: SchedulerFactory | None = scheduler and Factory(scheduler, "scheduler")
        self.quorum = quorum
        self.patience = patience
        self.max_wait = max_wait
        self.limits = Limits(max_examples, max_update_norm)
        self.log_sites = log_sites
        self.stateful_sites: set[str] = set()
        """The sites that have trained a learner with personal parameters, and so keep these in their memory."""
        self.revisitable: frozenset[int] = frozenset()
        """Rounds that there are checkpoints of; sites keep the personal state that these began with."""
        self.takes_seed = True
        """Whether a resumed run goes on with its checkpoint's seed, as it must to end with the same bits."""
        self.results: list[MachineResult] = []
        """Every machine measured by the last validation or test."""
        self.register_buffer("rounds", torch.tensor(0))
        self.run_id = ""
        """Under which sites keep what is personal; a run that is resumed goes on with its own."""
        self.statistics: Statistics | None = None
        """What features are standardized by in this run, where that is by the training sites: by the sums that
        these told before the first round."""
        self._seed = 0
        self._abandoned = 0
        self._gathered = False
        """Whether sites have told, since this training began, what features are standardized by."""
        self._rehearsed = False
        """Whether a site has shown that it can adapt, since this training began."""
        self._proven: set[str] = set()
        """The sites that have trained since this training began."""
        self._last_reasons: dict[tuple[str, str], str] = {}
        """Why a site last failed at a verb, without the digits. A site that fails again for the same reason is not
        reported again until it has succeeded once."""

    @property
    def memory(self) -> SiteMemory:
        """What simulated sites keep of their own between rounds, below the Trainer's `default_root_dir`."""
        return SiteMemory.below(self.trainer.default_root_dir, frozenset(self.stateful_sites), self.revisitable)

    def setup(self, stage: str) -> None:
        """Take the run's seed: what `seed_everything` or `torch.manual_seed` was last given."""
        refuse_true_precision(self.trainer)
        refuse_bare_sites(self.trainer)
        refuse_several_processes(self.trainer)
        self._seed = torch.initial_seed()
        self.standardize(getattr(self.trainer, "datamodule", None))

    def standardize(self, fleet: object) -> None:
        """Have a fleet that is set up use the statistics of this run, if it is standardized by training sites."""
        known = self.statistics
        if known is not None and isinstance(fleet, Standardized) and not fleet.standardize_by(known):
            self.statistics = None  # its configuration says otherwise

    def on_train_start(self) -> None:
        """Clear what sites of another run kept in the same folder, and have this run's sites rehearse."""
        self._gathered = self._rehearsed = False
        self._proven.clear()
        self.run_id = self.run_id or secrets.token_hex(8)
        if self.global_step == 0 and self.learner.personal:
            self.memory.clear()

    def training_step(self, batch: Sites, batch_idx: int) -> None:
        """One round."""
        began = time.perf_counter()
        sites = as_sites(batch)
        round_ = self.global_step
        size = self.cohort.size(len(sites))
        if self.quorum > size:
            raise UserError(
                f"Federation: expected a quorum of 1 to {size}, the size of a cohort, got {self.quorum}"
            )
        drawn = self.cohort.draw(list(sites), derive_seed(self._seed, "cohort", round_))
        cohort = {name: sites[name] for name in drawn}
        if not self._gathered:
            self._gather(sites)
        if not self._rehearsed:
            self._rehearse(cohort, sites)
        shared, statistics = clone(self.learner.shared), self.statistics
        work = Work("fit", round_, shared, self._seed, self.local_steps, self.run_id, statistics)
        updates, failures = self._run(work, cohort, sites, self.quorum, size if self.cohort.spare else None)
        # Not those that were not needed: whether they have trained, nobody knows.
        replied = {update.site for update in updates}
        self._proven |= replied
        if self.learner.personal:
            self.stateful_sites |= replied

        optimizer = self.optimizers()
        optimizer.zero_grad()  # type: ignore[union-attr]
        metrics: dict[str, float | Tensor] = {"round/sites": len(updates), "round/failures": len(failures)}
        if self.cohort.spare:
            metrics["round/not_needed"] = len(cohort.keys() - replied - {failure.site for failure in failures})
        if len(updates) >= self.quorum:
            self._abandoned = 0
            delta = aggregate(self.aggregator, updates, self.learner.shared)
            for name, p in self.learner.shared.items():
                p.grad = -delta[name]
            metrics["round/update_norm"] = norm(delta)
            metrics |= _mean([update.metrics for update in updates])
            metrics |= self._metrics_by_site(updates, len(sites))
        else:
            self._abandon(round_, len(updates), failures, asked_all=len(cohort) == len(sites))
        self.rounds.fill_(round_ + 1)
        # Without gradients the step changes nothing, but it still counts the round.
        optimizer.step()  # type: ignore[union-attr]
        if self.scheduler is not None:
            self.lr_schedulers().step()  # type: ignore[union-attr]
        metrics["round/seconds"] = time.perf_counter() - began
        self.log_dict(metrics, batch_size=1)

    def validation_step(self, batch: Sites, batch_idx: int) -> None:
        """Measure every site of the batch: mean over sites, and the worst site."""
        self._measure("validate", "val", as_sites(batch))

    def test_step(self, batch: Sites, batch_idx: int) -> None:
        """Measure every site of the batch: mean over sites, and the worst site."""
        self._measure("test", "test", as_sites(batch))

    def predict_step(self, batch: Episode, batch_idx: int = 0) -> Prediction:
        """Adapt on support, then predict the query windows."""
        return self.learner.predict_step(batch)

    def configure_optimizers(self) -> Any:
        """The server optimizer over the shared parameters, and its scheduler.

        Raises:
            UserError: there is nothing to share, or the factories make nothing that a server can use.
        """
        return made_for(self.learner.shared, self.server_optimizer, self.scheduler)

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Take the parameters of a checkpoint, and what else of the run the sites' work depends on."""
        self.load_state_dict(checkpoint["state_dict"])
        self._take_memory(checkpoint)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the seed, so that a resumed run draws what the interrupted one would have drawn.

        Also save which sites keep personal state: with a checkpoint whose folder `personal` is gone, `SiteMemory`
        then says what is missing, where it would otherwise start these sites anew. And what features are
        standardized by: data that have changed since would give other statistics than the network knows.
        """
        keep_statistics(checkpoint, self.statistics)
        checkpoint["federation_seed"] = self._seed
        checkpoint["federation_run"] = self.run_id
        checkpoint["federation_learner"] = agreement(self.learner)
        checkpoint["federation_stateful_sites"] = sorted(self.stateful_sites)
        _complete_epoch(checkpoint["loops"]["fit_loop"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the interrupted run's seed."""
        self._take_memory(checkpoint)
        self.standardize(getattr(self._trainer, "datamodule", None))
        if self.takes_seed and self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING:
            self._seed = checkpoint["federation_seed"]

    def _take_memory(self, checkpoint: dict[str, Any]) -> None:
        """Take which sites keep personal state, and under which run, and what features are standardized by."""
        self.statistics = kept_statistics(checkpoint)
        self.stateful_sites = set(checkpoint.get("federation_stateful_sites", ()))
        self.run_id = checkpoint.get("federation_run", "")

    def _ask(
        self, work: Work, sites: Sites, enough: int | None = None
    ) -> tuple[list[SiteUpdate], list[SiteFailure]]:
        """Ask sites once, and take what they answer until there are `enough` updates."""
        outcomes = self.executor.run(self.learner, work, sites, self.memory)
        metric = self.learner.objective.metric
        try:
            updates, failures = sort_outcomes(outcomes, work, sites, metric, self.limits, enough)
        finally:
            if isinstance(outcomes, Generator):
                outcomes.close()
        return [replace(u, weight=weight_of(u.site, sites[u.site])) for u in updates], failures

    def _ask_until(
        self, work: Work, sites: Sites, quorum: int, enough: int | None
    ) -> tuple[list[SiteUpdate], list[SiteFailure]]:
        """Ask sites, and while fewer than `quorum` have replied, ask those again that could not answer yet."""
        updates, failures = self._ask(work, sites, enough)
        with Waiting(self.max_wait) as waiting:
            while len(updates) < quorum and (late := [failure for failure in failures if failure.not_yet]):
                if not waiting.pause(reasons(late)):
                    break
                again = {failure.site: sites[failure.site] for failure in late}
                more, failed = self._ask(work, again, None if enough is None else enough - len(updates))
                updates = sorted([*updates, *more], key=by_site)
                failures = sorted([*(f for f in failures if not f.not_yet), *failed], key=by_site)
        return updates, failures

    def _gather(self, sites: Sites) -> None:
        """Ask sites for the sums that features are standardized by, unless the run has its statistics.

        A site that comes later, or keeps its sums to itself, is standardized by those of at least `quorum` others.
        Where none are needed, a site that does not answer is passed over without a word: its work will tell.

        Raises:
            NotYetError: too few sites can answer yet.
            UserError: too few sites answer, and waiting would not help.
        """
        telling = {name: data for name, data in sites.items() if getattr(data, "tells_sums", False)}
        self._gathered = self.statistics is not None or not telling
        if self._gathered:
            return
        work = Work("sums", self.global_step, {}, self._seed, run=self.run_id)
        updates, failures = gather(
            lambda some, quorum: self._ask_until(work, some, quorum, None), telling, self.quorum, self.patience
        )
        late = [failure for failure in failures if failure.not_yet]
        told = with_sums(updates)
        if late and (not updates or 0 < len(told) < self.quorum):
            raise NotYetError(
                f"round {work.round}: {len(told)} of {self.quorum} sites (quorum) could tell what features are"
                f" standardized by after {self.max_wait:g} s (max_wait); {reasons(late)}"
            )
        if not updates:
            raise UserError(
                f"every site failed in round {work.round}, before training, when it was asked what features are"
                f" standardized by; {_first_reason(failures)}"
            )
        if told:
            statistics, whose, strange = statistics_of(updates, telling)
            failures = sorted([*failures, *strange], key=by_site)
            if len(whose) < self.quorum:
                raise UserError(
                    f"round {work.round}: {len(whose)} of {self.quorum} sites (quorum) told what features are"
                    f" standardized by; {reasons(failures)}; mend these sites, or lower model.quorum"
                )
            self.statistics = statistics
            log.info("features are standardized by the sums of %s", ", ".join(map(shown, whose)))
            self._report(work, failures, "%s told no sums before round %d: %s")
        self._gathered = True

    def _rehearse(self, cohort: Sites, fleet: Sites) -> None:
        """Ask one site after another whether its machines can adapt, until one can; nothing of it is kept.

        A training that nobody can use would otherwise be found out when all its rounds are over. Sites that cannot
        answer yet are passed over, and asked again before the next round: it is the round that waits for what it
        needs, which may be less.

        Raises:
            UserError: no site of the cohort can adapt, and trying again would not help.
        """
        shared, run, statistics = clone(self.learner.shared), self.run_id, self.statistics
        work = Work("rehearse", self.global_step, shared, self._seed, run=run, statistics=statistics)
        failures: list[SiteFailure] = []
        for name, data in cohort.items():
            updates, failed = self._ask(work, {name: data})
            self._rehearsed = bool(updates)
            if self._rehearsed:
                return
            failures += failed
            self._report(work, failed, "%s could not adapt before round %d: %s")
        if self._hopeless(failures, fleet):
            raise UserError(
                f"every site failed in round {work.round}, before training, when it tried to adapt;"
                f" {_first_reason(failures)}"
            )

    def _run(
        self, work: Work, cohort: Sites, fleet: Sites, quorum: int = 1, enough: int | None = None
    ) -> tuple[list[SiteUpdate], list[SiteFailure]]:
        """Let the sites do their work; report those that sat it out."""
        updates, failures = self._ask_until(work, cohort, quorum, enough)
        if not updates and self._hopeless(failures, fleet):
            raise UserError(f"every site failed in round {work.round}; {_first_reason(failures)}")
        for update in updates:
            self._last_reasons.pop((work.verb, update.site), None)
        self._report(work, failures, "%s sat round %d out: %s")
        return updates, failures

    def _hopeless(self, failures: Sequence[SiteFailure], fleet: Sites) -> bool:
        """Whether trying again is of no use: every site that was asked says so, and there is no other to rely on.

        One site's word does not end the run of a fleet that has others; nor does that of several, once one of the
        others has trained.
        """
        others = fleet.keys() - {failure.site for failure in failures}
        is_alone = len(failures) == 1 and len(fleet) > 1
        return all(f.permanent for f in failures) and not is_alone and not others & self._proven

    def _report(self, work: Work, failures: list[SiteFailure], sentence: str) -> None:
        for failure in failures:
            reason = re.sub(r"\d+", "", failure.reason)
            again = self._last_reasons.get((work.verb, failure.site)) == reason
            self._last_reasons[work.verb, failure.site] = reason
            # That a site has no data yet is no news before it is asked to train.
            minor = again or (work.verb == "rehearse" and not failure.permanent)
            level = logging.DEBUG if minor else logging.WARNING
            log.log(level, sentence, shown(failure.site), work.round, escaped(failure.reason))

    def _metrics_by_site(self, updates: list[SiteUpdate], sites: int) -> dict[str, float]:
        """`site/NAME/METRIC` of every site, without those of single machines."""
        if not (self.log_sites if self.log_sites is not None else sites <= AUTOMATIC_LOG_SITES):
            return {}
        return {
            f"site/{key(update.site)}/{name}": value
            for update in updates
            for name, value in update.metrics.items()
            if name.count("/") <= 1
        }

    def _abandon(self, round_: int, replied: int, failures: list[SiteFailure], asked_all: bool) -> None:
        """Count an abandoned round.

        Raises:
            NotYetError: another round would wait for the same sites, or patience is over with waiting.
            UserError: patience is over.
        """
        self._abandoned += 1
        is_late = any(failure.not_yet for failure in failures)
        if is_late and asked_all and all(failure.not_yet or failure.permanent for failure in failures):
            raise NotYetError(
                f"round {round_}: {replied} of {self.quorum} sites (quorum) could work after {self.max_wait:g} s"
                f" (max_wait); {reasons(failures)}"
            )
        if self._abandoned >= self.patience:
            missed = (
                f"{self._abandoned} rounds in a row missed the quorum of {self.quorum} sites, the last was round"
            )
            if is_late:
                raise NotYetError(f"{missed} {round_}, after {self.max_wait:g} s (max_wait); {reasons(failures)}")
            raise UserError(f"{missed} {round_}; {_first_reason(failures)}")
        log.warning("round %d abandoned: fewer than %d sites replied", round_, self.quorum)

    def _measure(self, verb: Literal["validate", "test"], stage: str, sites: Sites) -> None:
        with torch.inference_mode(False):
            shared, run, statistics = clone(self.learner.shared), self.run_id, self.statistics
            work = Work(verb, int(self.rounds), shared, self._seed, run=run, statistics=statistics)
        updates, failures = self._run(work, sites, sites)
        counts = {f"{stage}/sites": float(len(updates)), f"{stage}/failures": float(len(failures))}
        self.results = []
        if not updates:
            self.log_dict(counts, batch_size=1)
            if self.trainer.state.fn == TrainerFn.FITTING:  # the next round may find them again
                return
            if any(failure.not_yet for failure in failures):
                raise NotYetError(
                    f"{verb}: no site could be measured after {self.max_wait:g} s (max_wait); {reasons(failures)}"
                )
            raise UserError(f"{verb}: no site could be measured; {_first_reason(failures)}")
        metric, best_first = self.learner.objective.metric, self.learner.objective.higher_is_better
        after = f"{stage}/{metric}_after"
        of_sites = [{k: v for k, v in u.metrics.items() if k.count("/") == 1} for u in updates]
        worst = (min if best_first else max)(site[after] for site in of_sites)
        # What is counted here comes last: a site may have reported something under the same name.
        metrics = _mean(of_sites) | self._metrics_by_site(updates, len(sites))
        self.log_dict(metrics | {f"{after}_worst_site": worst} | counts, batch_size=1)
        self.results = [result for update in updates for result in _results(update, f"{stage}/{metric}")]


def _results(update: SiteUpdate, metric: str) -> list[MachineResult]:
    """Of each machine of a site; of a site that keeps these to itself, the mean over its machines."""
    before, after = f"{metric}_before", f"{metric}_after"
    machines = [name.removeprefix(after) for name in update.metrics if name.startswith(f"{after}/")]
    return [
        MachineResult(
            update.site,
            unquoted(machine[1:]) if machine else f"mean of {update.site}",
            update.metrics[before + machine],
            update.metrics[after + machine],
        )
        for machine in machines or [""]
    ]


def _complete_epoch(fit_loop: dict[str, Any]) -> None:
    """Mark the epoch that has just ended as completed in the progress that a checkpoint saves.

    `RoundCheckpoint` saves at the end of an epoch, before Lightning's counters say that the epoch is completed. A
    run resumed from such counters would count one epoch twice, so validation, and the end by `max_epochs`, would
    come in other rounds than in an uninterrupted run.
    """
    progress = fit_loop["epoch_progress"]
    if progress["total"]["processed"] != progress["total"]["started"]:
        return  # saved in the middle of an epoch
    for counts in (progress["total"], progress["current"]):
        counts["completed"] = counts["processed"]
    batches = fit_loop["epoch_loop.batch_progress"]
    batches["current"] = dict.fromkeys(batches["current"], 0)
    batches["is_last_batch"] = False


def _first_reason(failures: list[SiteFailure]) -> str:
    return f"{shown(failures[0].site)} said: {failures[0].reason}" if failures else "there is no site"


def _mean(of_sites: list[Mapping[str, float]] | list[dict[str, float]]) -> dict[str, Any]:
    """Each metric's mean over the sites that reported it."""
    names = dict.fromkeys(name for metrics in of_sites for name in metrics)
    return {
        name: sum(values) / len(values)
        for name in names
        if (values := [metrics[name] for metrics in of_sites if name in metrics])
    }
