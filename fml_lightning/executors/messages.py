"""The messages between `fml fit` and `fml site`, as `wire` packs them; NVFlare and the hubs pass them on unread.

A message's head says which kind it is, so that kinds yet to come (keys, masked sums) need no other way. What is
read here may come from a stranger: every field's type is checked, fields that nobody knows are passed over, and
another version is refused. What the values mean (whether an update fits, whether a site allows it) is checked
where it is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import torch

from fml_lightning.errors import UserError
from fml_lightning.executors.agreement import Agreement
from fml_lightning.executors.wire import WireError, pack
from fml_lightning.executors.work import SiteFailure, SiteUpdate, Verb, Work
from fml_lightning.names import shown
from fml_lightning.preprocessing.statistics import Statistics, Sums
from fml_lightning.types import Params

VERSION = 1
"""Of these messages. Another one is refused; a new optional field needs no new one."""

Count = Annotated[int, msgspec.Meta(ge=0)]
RunId = Annotated[str, msgspec.Meta(pattern=r"\A[0-9A-Za-z_-]{0,64}\Z")]
"""A run's id, which names a folder at the site; empty before training."""


class _Request(msgspec.Struct, kw_only=True):
    kind: Literal["work"] = "work"
    version: int = VERSION
    verb: Verb
    round: Count
    seed: int
    local_steps: Count
    run: RunId
    learner: Agreement
    stamp: Count
    deadline: Annotated[float, msgspec.Meta(gt=0)]
    stateful: bool = False
    revisitable: list[Count] = []
    statistics: Statistics | None = None


class _Answer(msgspec.Struct, kw_only=True):
    kind: Literal["update", "failure"]
    version: int = VERSION
    verb: str
    round: Count
    run: str
    stamp: Count
    seconds: float = 0.0
    # of an update
    examples: int = 0
    examples_seen: int | None = None
    metrics: dict[str, float] = {}
    # of a failure
    reason: str = ""
    permanent: bool = False
    not_yet: bool = False
    newest: Count | None = None
    # of the site
    preprocessing: dict[str, Any] = {}
    classes: list[str] = []


class _Refusal(msgspec.Struct, kw_only=True):
    kind: Literal["refusal"] = "refusal"
    version: int = VERSION
    reason: str


_Head = TypeVar("_Head", _Request, _Answer, _Refusal)


@dataclass(frozen=True)
class Asked:
    """What the server asks of a site."""

    work: Work
    learner: Agreement
    """The server's learner; the site compares it with its own."""
    stamp: int
    """Greater in every request than in the one before: so a copy, or what comes late, is told from what is new."""
    deadline: float
    """Seconds that the server waits for the answer."""
    stateful: bool = False
    """The site has trained in this run before; if it has no personal state, that state is lost."""
    revisitable: frozenset[int] = frozenset()
    """Rounds that there are checkpoints of: the site keeps the personal state that these began with."""


@dataclass(frozen=True)
class Answered:
    """What a site answers."""

    outcome: SiteUpdate | SiteFailure
    stamp: int
    """Of the request that this answers."""
    run: str
    verb: str
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    """How the site's windows are made (`Preprocessing.describe`): the same at all sites of a run."""
    classes: tuple[str, ...] = ()
    """What the site's labels mean."""
    newest: int | None = None
    """The newest stamp that the site has seen, where it refuses an older one."""


def request(asked: Asked) -> bytes:
    """The message that asks a site for work."""
    work = asked.work
    head = _Request(
        verb=work.verb,
        round=work.round,
        seed=work.seed,
        local_steps=work.local_steps,
        run=work.run,
        learner=asked.learner,
        stamp=asked.stamp,
        deadline=asked.deadline,
        stateful=asked.stateful,
        revisitable=sorted(asked.revisitable),
        statistics=work.statistics,
    )
    return pack(msgspec.to_builtins(head), work.params)


def work_of(head: Mapping[str, Any], params: Params) -> Asked:
    """What a message asks, of the head and the parameters that `wire.unpack` found in it.

    Raises:
        WireError: it asks for no work, or comes from another version.
    """
    told = _read(head, _Request, "work")
    work = Work(told.verb, told.round, params, told.seed, told.local_steps, told.run, told.statistics)
    return Asked(work, told.learner, told.stamp, told.deadline, told.stateful, frozenset(told.revisitable))


def answer(
    asked: Asked,
    outcome: SiteUpdate | SiteFailure,
    *,
    preprocessing: Mapping[str, Any],
    classes: Iterable[str],
    newest: int | None = None,
) -> bytes:
    """The message with a site's outcome. The site's name is not in it: the server knows whom it asked.

    Args:
        asked: what it answers.
        outcome: of the site's work.
        preprocessing: how the site's windows are made, as `Preprocessing.describe` says.
        classes: what its labels mean.
        newest: the newest stamp that the site has seen, where `asked` has an older one.
    """
    head = _Answer(
        kind="update" if isinstance(outcome, SiteUpdate) else "failure",
        verb=asked.work.verb,
        round=outcome.round,
        run=asked.work.run,
        stamp=asked.stamp,
        seconds=outcome.seconds,
        newest=newest,
        preprocessing=dict(preprocessing),
        classes=list(classes),
    )
    if isinstance(outcome, SiteFailure):
        head.reason, head.permanent, head.not_yet = outcome.reason, outcome.permanent, outcome.not_yet
        return pack(msgspec.to_builtins(head))
    seen = outcome.examples_seen
    # A data module of the user's may count with numpy.
    head.examples, head.examples_seen = int(outcome.examples), None if seen is None else int(seen)
    head.metrics = dict(outcome.metrics)
    if outcome.sums is None:
        return pack(msgspec.to_builtins(head), outcome.delta)
    sums = {name: torch.from_numpy(array) for name, array in outcome.sums.arrays().items()}
    return pack(msgspec.to_builtins(head), Params(sums))


def refusal(reason: str) -> bytes:
    """The answer to a message that a site cannot read, and so cannot tell which request it is."""
    return pack(msgspec.to_builtins(_Refusal(reason=reason)))


def outcome_of(head: Mapping[str, Any], params: Params, site: str, round_: int) -> Answered | SiteFailure:
    """What a site has answered, of the head and the parameters that `wire.unpack` found in its message.

    Args:
        head: of the message.
        params: of the message.
        site: the name that the site's certificate bears.
        round_: the round that it was asked about; of a refusal, which does not know.

    Returns:
        The answer; of a site that could not read the request, that failure.

    Raises:
        WireError: it is no answer, or comes from another version.
    """
    if head.get("kind") == "refusal":
        return SiteFailure(site, round_, _read(head, _Refusal, "refusal").reason, permanent=True)
    told = _read(head, _Answer, "update", "failure")
    outcome: SiteUpdate | SiteFailure
    if told.kind == "failure":
        outcome = SiteFailure(site, told.round, told.reason, told.seconds, told.permanent, told.not_yet)
    elif told.verb == "sums":
        outcome = SiteUpdate(site, told.round, {}, 0, seconds=told.seconds, sums=_sums(params))
    else:
        outcome = SiteUpdate(
            site, told.round, params, told.examples, told.metrics, told.seconds, told.examples_seen
        )
    return Answered(outcome, told.stamp, told.run, told.verb, told.preprocessing, tuple(told.classes), told.newest)


def _sums(params: Params) -> Sums | None:
    """The sums of a message that answers `sums`, if there are any."""
    try:
        return Sums.from_arrays({name: p.numpy() for name, p in params.items()}) if params else None
    except UserError as error:
        raise WireError(f"message: {error}") from error


def _read(head: Mapping[str, Any], kind: type[_Head], *kinds: str) -> _Head:
    """A head's fields, checked."""
    version = head.get("version")
    if version != VERSION:
        got = version if type(version) is int else "none"
        raise WireError(
            f"message: expected version {VERSION}, got {got}; install the same version of fml-lightning at the"
            " server and at all sites"
        )
    if head.get("kind") not in kinds:
        raise WireError(f"message: expected {' or '.join(kinds)}, got another kind")
    try:
        return msgspec.convert(dict(head), kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise WireError(f"message: {shown(str(error), 200)}") from error
