"""The outcomes of a round: what sites sent, checked before anything is aggregated.

Whoever holds a site's key can send anything, so each outcome is checked as if a stranger had sent it. Nonsense
costs its site the turn, never the run. The reason says what was expected and what came, but no value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fml_lightning.errors import UserError
from fml_lightning.executors.work import STAGES, SiteFailure, SiteUpdate, Work
from fml_lightning.names import shown
from fml_lightning.preprocessing.statistics import Sums
from fml_lightning.types import Params

RESERVED = {*STAGES.values(), "round", "site", "step", "epoch"}
"""First parts of the names of metrics: a site uses its stage's own, or one that is not in here. (Lightning takes a
`step` or `epoch` among metrics for its own.)"""
MAX_METRICS = 1_000
"""Metrics of a site as a whole."""
MAX_MACHINE_METRICS = 100_000
"""Metrics of single machines that a site may send."""
MAX_NAMES = 10_000_000
"""Characters that the names of a site's metrics may have, all together."""
MAX_NAME = 200
"""Characters that the name of a metric may have, without the machine's."""
ROWS_OF_A_WINDOW = 1_000
"""How many rows a site may have summed for each window that it may claim: where channels are standardized, rows
are samples."""
MAX_REASON = 2_000
"""Characters of a reason that are kept."""
COUNTS = frozenset({int, *(kind for kind in np.sctypeDict.values() if issubclass(kind, np.integer))})
"""Types of whole numbers. Not their subclasses, which may compare and convert as they like."""
NUMBERS = COUNTS | {float, np.float16, np.float32, np.float64}
"""Types of numbers, likewise."""
MAX_METRIC = torch.finfo(torch.float32).max
"""Loggers and callbacks get float32."""


@dataclass(frozen=True)
class Limits:
    """The most that a site may claim."""

    max_examples: int = 10_000_000
    """Largest number of windows."""
    max_update_norm: float | None = 1000.0
    """Largest norm of an update, as a multiple of the norm of the shared parameters, or of 1 where that is
    smaller; None: any finite one."""

    def __post_init__(self) -> None:
        norm = self.max_update_norm
        if self.max_examples < 1 or (norm is not None and not norm > 0):
            raise UserError(f"Federation: expected max_examples >= 1 and max_update_norm > 0, got {self}")


def sort_outcomes(
    outcomes: Iterable[object],
    work: Work,
    asked: Iterable[str],
    metric: str,
    limits: Limits,
    enough: int | None = None,
) -> tuple[list[SiteUpdate], list[SiteFailure]]:
    """Updates and failures, each sorted by site, so that the order of arrival changes no number.

    A site that answers twice has failed, since nothing says which answer is its own. An outcome of a site
    that was not asked becomes a failure under the name that it gives.

    Args:
        outcomes: what the executor yielded; it should be `SiteUpdate` or `SiteFailure`, but may be anything.
        work: what was asked.
        asked: the sites that were asked.
        metric: the metric that a measurement must report.
        limits: what a site may claim.
        enough: how many updates that hold are needed. After them no outcome is taken, and the sites that have not
            answered have not failed. None: those of all.
    """
    answers = dict.fromkeys(asked, 0)
    checked: dict[str, SiteUpdate | SiteFailure] = {}
    failures: list[SiteFailure] = []
    is_complete = False
    for outcome in outcomes:
        try:
            site = _site(outcome)
        except Exception:  # it may be an object with code of its own
            site = None
        if site in answers:
            answers[site] += 1
            checked[site] = (
                _checked(outcome, site, work, metric, limits)
                if answers[site] == 1
                else SiteFailure(site, work.round, f"expected one answer, got {answers[site]}")
            )
            is_complete = enough is not None and sum(map(_is_update, checked.values())) >= enough
            if is_complete:
                break
        else:
            who = "somebody" if site is None else shown(site, MAX_NAME)
            failures.append(
                SiteFailure(who, work.round, f"expected an answer of a site that was asked, got {_kind(outcome)}")
            )
    if not is_complete:
        silent = [site for site, came in answers.items() if not came]
        failures += [SiteFailure(site, work.round, "it did not answer") for site in silent]
    updates = [outcome for outcome in checked.values() if isinstance(outcome, SiteUpdate)]
    failures += [outcome for outcome in checked.values() if isinstance(outcome, SiteFailure)]
    return sorted(updates, key=by_site), sorted(failures, key=by_site)


def by_site(outcome: SiteUpdate | SiteFailure) -> str:
    """What outcomes are sorted by."""
    return outcome.site


def _is_update(outcome: SiteUpdate | SiteFailure) -> bool:
    return isinstance(outcome, SiteUpdate)


def _site(outcome: object) -> str | None:
    site = outcome.site if isinstance(outcome, SiteUpdate | SiteFailure) else None
    return site if type(site) is str else None


def _checked(outcome: object, site: str, work: Work, metric: str, limits: Limits) -> SiteUpdate | SiteFailure:
    """The outcome with nothing in it but what was expected, or the failure that it is."""
    try:
        if isinstance(outcome, SiteFailure):
            return _plain_failure(outcome, site, work)
        assert isinstance(outcome, SiteUpdate)
        fault = _fault(outcome, work, metric, limits)
        if fault is None:
            return _plain_update(outcome, site, work)
    except Exception as error:  # objects with code of their own, and numbers that no float can hold
        fault = f"its answer cannot be read ({type(error).__name__})"
    return SiteFailure(site, work.round, shown(fault, MAX_REASON))


def _plain_failure(failure: SiteFailure, site: str, work: Work) -> SiteFailure:
    reason = failure.reason
    said = shown(reason, MAX_REASON) if type(reason) is str else f"expected a reason, got {_kind(reason)}"
    seconds = float(failure.seconds) if _is_number(failure.seconds) else 0.0
    permanent = failure.permanent is True
    return SiteFailure(site, work.round, said, seconds, permanent, not permanent and failure.not_yet is True)


def _plain_update(update: SiteUpdate, site: str, work: Work) -> SiteUpdate:
    """A copy in plain types."""
    if work.verb in ("rehearse", "sums"):
        return SiteUpdate(site, work.round, {}, 0, sums=update.sums if work.verb == "sums" else None)
    seen = update.examples_seen
    return SiteUpdate(
        site,
        work.round,
        dict(update.delta) if work.verb == "fit" else {},
        int(update.examples),
        {str(name): float(value) for name, value in update.metrics.items()},
        float(update.seconds),
        None if seen is None else int(seen),
    )


def _fault(update: SiteUpdate, work: Work, metric: str, limits: Limits) -> str | None:
    """What is wrong with an update, if anything is."""
    most = limits.max_examples
    fewest = 1 if work.verb == "fit" else 0
    fields: tuple[tuple[str, Any, str, Callable[[Any], bool]], ...] = (
        ("round", update.round, "the round that it was asked for", lambda n: _is_count(n) and n == work.round),
        ("seconds", update.seconds, "a number of at least 0", lambda t: _is_number(t) and t >= 0),
        (
            "examples",
            update.examples,
            f"{fewest} to {most} windows",
            lambda n: _is_count(n) and fewest <= n <= most,
        ),
        (
            "examples_seen",
            update.examples_seen,
            f"{fewest} to {most} windows",
            lambda n: n is None or (_is_count(n) and fewest <= n <= most),
        ),
        ("metrics", update.metrics, "numbers by name", lambda metrics: type(metrics) is dict),
        ("delta", update.delta, "tensors by name", lambda delta: type(delta) is dict),
    )
    for name, value, expected, holds in fields[: 1 if work.verb in ("rehearse", "sums") else None]:
        if not holds(value):
            return f"{name}: expected {expected}, got {_kind(value)}"
    if work.verb == "rehearse":
        return None
    if work.verb == "sums":
        return _sums_fault(update.sums, limits)
    if fault := _metrics_fault(update.metrics, STAGES[work.verb]):
        return f"metrics: {fault}"
    if work.verb == "fit":
        return _delta_fault(update.delta, work.params, limits)
    lacking = _lacking(set(update.metrics), f"{STAGES[work.verb]}/{metric}")
    return f"metrics: expected {shown(lacking, MAX_NAME)} too" if lacking else None


def _sums_fault(sums: object, limits: Limits) -> str | None:
    if sums is None:
        return None
    if type(sums) is not Sums:
        return f"sums: expected sums, got {_kind(sums)}"
    fault = sums.fault(ROWS_OF_A_WINDOW * limits.max_examples)
    return f"sums: {fault}" if fault else None


def _metrics_fault(metrics: Mapping[Any, Any], stage: str) -> str | None:
    if any(type(name) is not str for name in metrics):
        return "expected names that are text"
    machine_metrics = sum(name.count("/") > 1 for name in metrics)
    if len(metrics) - machine_metrics > MAX_METRICS or machine_metrics > MAX_MACHINE_METRICS:
        return f"expected at most {MAX_METRICS}, and {MAX_MACHINE_METRICS} of single machines"
    if sum(len(name) for name in metrics) > MAX_NAMES:
        return f"expected names of at most {MAX_NAMES} characters together"
    for name, value in metrics.items():
        first, *others = name.split("/", 2)
        # The rest is a machine's name, which comes from its payloads and may be anything.
        own = name if stage == "train" else "/".join([first, *others[:1]])
        if not (own and own.isprintable() and len(own) <= MAX_NAME) or "/dataloader_idx_" in own:
            return f"expected names of 1 to {MAX_NAME} characters that can be printed"
        if first in RESERVED - {stage}:
            return f"expected names that begin with {stage}/, got one that begins with {first}"
        if not (_is_number(value) and abs(value) <= MAX_METRIC):
            return f"expected finite float32 numbers, got {_kind(value)}"
    return None


def _lacking(names: set[str], metric: str) -> str | None:
    """A name that a measurement lacks: the metric before or after adaptation, of the site or of one machine."""
    before, after = f"{metric}_before", f"{metric}_after"
    machines = [name.removeprefix(after) for name in names if name.startswith(f"{after}/")]
    needed = [before, after, *(before + machine for machine in machines)]
    return next((name for name in needed if name not in names), None)


def _delta_fault(delta: Mapping[Any, Any], params: Params, limits: Limits) -> str | None:
    if set(delta) != set(params):
        return f"delta: expected the {len(params)} parameters that it was sent, got others"
    for name, p in params.items():
        got = delta[name]
        expected = f"delta of {name}: expected a plain {_dtype(p)} tensor of shape {tuple(p.shape)} on the CPU"
        if type(got) is not Tensor:
            return f"{expected}, got {_kind(got)}"
        if got.layout != torch.strided or got.device.type != "cpu" or got.dtype != p.dtype or got.shape != p.shape:
            return (
                f"{expected}, got a {_dtype(got)} tensor of shape {tuple(got.shape)} on {got.device.type}"
                f" ({str(got.layout).removeprefix('torch.')})"
            )
        if got.requires_grad:
            return f"{expected} without a graph, got one that requires a gradient"
        if not torch.isfinite(got).all():
            return f"delta of {name}: expected finite numbers, got NaN or infinity; lower the step sizes"
    most = limits.max_update_norm
    if most is not None and _norm(delta) > most * max(_norm(params), 1.0):
        return (
            f"delta: expected a norm of at most {most:g} times that of the shared parameters, got a larger one;"
            " lower the step sizes, or raise max_update_norm"
        )
    return None


def _norm(params: Mapping[str, Tensor]) -> float:
    """Euclidean norm of all parameters as one vector, without overflow."""
    return math.hypot(*(float(torch.linalg.vector_norm(p, dtype=torch.float64)) for p in params.values()))


def _is_count(value: object) -> bool:
    return type(value) in COUNTS


def _is_number(value: object) -> bool:
    return type(value) in NUMBERS and math.isfinite(value)  # type: ignore[arg-type]


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _kind(value: object) -> str:
    """What kind of thing came, without its value.

    >>> _kind(10**18), _kind([1.0]), _kind(float("nan"))
    ('an int out of range', 'a list', 'a NaN')
    """
    if _is_count(value):
        return "an int out of range"
    if type(value) is float:
        return "a NaN" if math.isnan(value) else "an infinity" if math.isinf(value) else "a float"
    name = type(value).__name__
    return f"{'an' if name[:1] in 'aeiouAEIOU' else 'a'} {name}"
