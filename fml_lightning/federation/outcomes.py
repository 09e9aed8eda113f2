"""The outcomes of a round: what sites sent, checked before anything is aggregated."""

from __future__ import annotations

from collections.abc import Iterable

from fml_lightning.executors.work import SiteFailure, SiteUpdate, Work
from fml_lightning.params import finite


def sort_outcomes(
    outcomes: Iterable[SiteUpdate | SiteFailure], work: Work, asked: Iterable[str], metric: str
) -> tuple[list[SiteUpdate], list[SiteFailure]]:
    """Updates and failures, each sorted by site, so that the order of arrival changes no number.

    An update that does not answer `work` is nonsense, whoever sent it, and becomes a failure.

    Args:
        outcomes: what the executor yielded.
        work: what was asked.
        asked: the sites that were asked.
        metric: the metric that a measurement must report.
    """
    cohort = set(asked)
    updates, failures = [], []
    for outcome in sorted(outcomes, key=lambda outcome: outcome.site):
        if isinstance(outcome, SiteFailure):
            failures.append(outcome)
        elif fault := _fault(outcome, work, cohort, metric):
            failures.append(SiteFailure(outcome.site, work.round, fault, outcome.seconds))
        else:
            cohort.discard(outcome.site)
            updates.append(outcome)
    failures += [SiteFailure(site, work.round, "it did not answer") for site in sorted(cohort - _heard(failures))]
    return updates, sorted(failures, key=lambda failure: failure.site)


def _heard(failures: Iterable[SiteFailure]) -> set[str]:
    return {failure.site for failure in failures}


def _fault(update: SiteUpdate, work: Work, waiting: set[str], metric: str) -> str | None:
    if update.site not in waiting:
        return "it was not asked, or has answered before"
    if update.round != work.round:
        return f"its update is for round {update.round}"
    if work.verb != "fit":
        stage = "val" if work.verb == "validate" else "test"
        lacking = {f"{stage}/{metric}_before", f"{stage}/{metric}_after"} - set(update.metrics)
        return f"its measurement lacks {', '.join(sorted(lacking))}" if lacking else None
    expected = {name: p.shape for name, p in work.params.items()}
    if {name: p.shape for name, p in update.delta.items()} != expected:
        return "its update has other parameters than it was sent"
    if update.examples < 1:
        return f"it trained on {update.examples} windows"
    return None if finite(update.delta) else "its update is not finite; lower the step sizes"
