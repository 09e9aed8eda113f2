"""What a site allows: which work its data are used for, and what of it may leave the site.

Everything here is a pure function of what the site's own configuration says. The server's word is checked against
it, and so is the site's own answer: code of a learner or of a data set may put a machine's name, a file's path or
a value of the data into a metric's name or an error, and neither asks the plant first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import msgspec

from fml_lightning.errors import UserError
from fml_lightning.executors.agreement import Agreement, differences, differing
from fml_lightning.executors.work import STAGES, SiteFailure, SiteUpdate, Verb, Work
from fml_lightning.learners.learner import Learner
from fml_lightning.names import shown, unquoted
from fml_lightning.objectives.metrics import TaskMetrics

VERBS: tuple[Verb, ...] = tuple(verb for verb in get_args(Verb) if verb != "sums")
"""What `Consent.verbs` may name; sums have a setting of their own."""
REPEATS = 2
"""How often a site trains in all, as a multiple of `rounds`: a run that is resumed repeats some of its rounds."""
NOT_YET = "it has too few windows yet; its own log says what is missing"
REFUSED = "its data or its learner refuse this work; its own log says why"
FAILED = "its own code failed; its own log says where, and why"
"""What a site says of a failure that it keeps to itself."""
OURS = "fml_lightning."
"""How the paths of classes begin that everybody has."""
LONGEST = 2_000
"""Characters of a sentence that leaves."""
MOST_NAMES = 10
"""Names of settings in a sentence."""
DIGITS = 16
"""Hexadecimal digits of a digest."""


@dataclass(frozen=True)
class Consent:
    """What the site lets happen, and what of it may leave.

    The shared parameters' update, counts of windows, times and the names of classes leave the site whenever it
    works. Where machines' names may leave, so do the sentences of errors, which may name files too, and what the
    site's learner has that the server's has not; else a failure is told in words that are the same at every site,
    and of the learner only names of settings that the server has sent itself. The mean over a single machine is
    that machine's.
    """

    verbs: tuple[Verb, ...] = VERBS
    """What the server may ask for: `fit` trains; `validate` and `test` measure; `rehearse` tries out whether
    machines can adapt, and tells that alone."""
    rounds: int = 1000
    """How many rounds of one run the site trains in; at least 1."""
    runs: tuple[str, ...] = ()
    """Ids of the runs that the site takes part in; none: any. `fml fit` prints a run's id, and `sent.jsonl` has
    it."""
    metrics: Literal["machines", "mean"] = "machines"
    """Whether metrics of each machine leave the site, or only their mean over its machines."""
    machines: Literal["names", "aliases"] = "aliases"
    """By which name the server hears of a machine: its own, or an alias, `machine-1`, that means nothing outside
    the site."""
    statistics: bool = False
    """Whether the sums over the site's training windows leave, of each feature and of its square, where its data
    say `standardize` without statistics. They tell the mean and deviation of each feature in plain, and at a site
    with few machines those of a machine."""

    def __post_init__(self) -> None:
        if strange := [verb for verb in self.verbs if verb not in VERBS]:
            raise UserError(f"consent.verbs: expected some of {', '.join(VERBS)}, got {strange[0]!r}")
        if self.rounds < 1:
            raise UserError(
                f"consent.rounds: expected at least 1, got {self.rounds}; to refuse, leave fit out of verbs"
            )
        if "" in self.runs:
            raise UserError("consent.runs: expected ids of runs, got an empty one; leave runs out, to allow any")

    @property
    def names_leave(self) -> bool:
        """Whether the server may read machines' names; if not, no sentence leaves that may hold one."""
        return self.metrics == "machines" and self.machines == "names"

    def refusal(self, work: Work, trained: int = 0) -> str | None:
        """Why the site does not do this work; None: it does.

        Args:
            work: what the server asks.
            trained: how often the site has trained in this run.
        """
        if work.verb == "sums" and not self.statistics:
            return (
                "its site.yaml does not allow that sums over its windows leave (consent.statistics); allow it, or"
                " give standardize.statistics in the data of all sites"
            )
        if work.verb != "sums" and work.verb not in self.verbs:
            return f"its site.yaml does not allow {work.verb} (consent.verbs)"
        if self.runs and work.run not in self.runs:
            return f"its site.yaml does not name the run {work.run or 'without an id'} (consent.runs)"
        if work.verb == "fit" and work.round >= self.rounds:
            return f"its site.yaml allows {self.rounds} rounds of a run (consent.rounds), and this is another one"
        if work.verb == "fit" and trained >= REPEATS * self.rounds:
            return (
                f"its site.yaml allows {self.rounds} rounds of a run (consent.rounds), and the site has trained"
                f" {trained} times in this one"
            )
        return None

    def disagreement(self, theirs: Agreement, ours: Agreement) -> str:
        """What the server may hear of how its learner differs from the site's; empty where it does not.

        Args:
            theirs: the server's learner.
            ours: the site's, the settings of which may name machines and files.
        """
        if self.names_leave or theirs == ours:
            return shown(differences(theirs, ours), LONGEST)
        names = [name for name in differing(theirs, ours) if name in theirs]
        if not names:
            return "it has settings that the server's lacks; its own log says which"
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        return shown(f"it differs in {', '.join(names[:MOST_NAMES])}{more}; its own log says how", LONGEST)

    def machines_named(self, outcome: SiteUpdate | SiteFailure, verb: str, learner: Learner) -> list[str]:
        """The machines whose metrics leave with an outcome, and which need an alias where names are kept."""
        if isinstance(outcome, SiteFailure):
            return []
        told = self._told_metrics(outcome.metrics, verb, learner)
        return list(dict.fromkeys(unquoted(machine) for _, machine, _ in told if machine))

    def leaving(
        self, outcome: SiteUpdate | SiteFailure, verb: str, learner: Learner, aliases: Mapping[str, str]
    ) -> SiteUpdate | SiteFailure:
        """The outcome with nothing in it but what may leave.

        Args:
            outcome: of the site's work.
            verb: of the work.
            learner: which says what its metrics are called.
            aliases: of the machines that `machines_named` names, by their names; only where aliases leave.
        """
        if isinstance(outcome, SiteFailure):
            said = shown(outcome.reason, LONGEST) if self.names_leave else _own_sentence(outcome)
            return replace(outcome, reason=said)
        metrics = {}
        for metric, machine, value in self._told_metrics(outcome.metrics, verb, learner):
            name = machine if self.machines == "names" else machine and aliases[unquoted(machine)]
            metrics[f"{metric}/{name}" if name else metric] = value
        # Trainers log machines in the order of their names, which would tell one alias from another.
        metrics = metrics if self.names_leave else dict(sorted(metrics.items()))
        delta, sums = outcome.delta if verb == "fit" else {}, outcome.sums if verb == "sums" else None
        return replace(outcome, delta=delta, metrics=metrics, sums=sums)

    def _told_metrics(
        self, metrics: Mapping[str, float], verb: str, learner: Learner
    ) -> Iterator[tuple[str, str, float]]:
        """Metric, machine (quoted, empty for the site as a whole) and value, of the metrics that may leave.

        Those are of the verb's own stage; where names are kept, only those that the learner is known to have.
        """
        known = None if self.names_leave else known_metrics(learner)
        for name, value in metrics.items():
            stage, _, rest = name.partition("/")
            metric, _, machine = rest.partition("/")
            is_known = metric and (known is None or metric in known)
            if stage == STAGES.get(verb) and is_known and not (machine and self.metrics == "mean"):
                yield f"{stage}/{metric}", machine, value


def known_metrics(learner: Learner) -> frozenset[str]:
    """What a learner of ours may call its metrics, behind the stage: those of its objective, and the meta-loss."""
    objective = learner.objective
    added = getattr(objective, "added", None)
    names = {objective.metric, *objective.own_metrics, *(added.names if isinstance(added, TaskMetrics) else ())}
    return frozenset({"meta_loss", *(f"{name}_{moment}" for name in names for moment in ("before", "after"))})


def told_preprocessing(description: Mapping[str, Any]) -> dict[str, Any]:
    """How windows are made, setting by setting, so that sites can be compared and none tells more than it must.

    Numbers and classes of ours are told as they are. Of whatever else a plant may have named itself, such as a
    channel, a file or a class of its own, a digest is told, as of means and deviations of features: equal ones are
    equal, and that is all.

    >>> told_preprocessing({"unit": None, "windowing": {"length": 512}, "channels": ["pump 7, drive end"]})
    {'unit': None, 'windowing.length': 512, 'channels': 'sha256:2827a6c23bd8c1d6'}

    Args:
        description: as `Preprocessing.describe` gives it.
    """
    told: dict[str, Any] = {}
    for name, value in description.items():
        if isinstance(value, Mapping):
            for inner, each in value.items():
                if inner == "init_args" and isinstance(each, Mapping):
                    told |= {f"{name}.{argument}": _told(setting) for argument, setting in each.items()}
                else:
                    told[name if inner == "class_path" else f"{name}.{inner}"] = _told(each)
        else:
            told[name] = _told(value)
    return told


def _told(value: Any) -> bool | int | float | str | None:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str) and value.startswith(OURS):
        return value
    if isinstance(value, list | tuple) and not value:
        return "none"
    return f"sha256:{hashlib.sha256(msgspec.json.encode(value, order='deterministic')).hexdigest()[:DIGITS]}"


def _own_sentence(failure: SiteFailure) -> str:
    if failure.not_yet:
        return NOT_YET
    return REFUSED if failure.permanent else FAILED


def next_aliases(known: Mapping[str, str], machines: Collection[str]) -> dict[str, str]:
    """The aliases with those of machines that had none: the next numbers, in the order given.

    >>> next_aliases({"press": "machine-1"}, ["press", "fan"])
    {'press': 'machine-1', 'fan': 'machine-2'}
    """
    new = [machine for machine in machines if machine not in known]
    return {**known, **{machine: f"machine-{len(known) + i}" for i, machine in enumerate(new, 1)}}
