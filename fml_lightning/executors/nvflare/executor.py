"""The executor whose sites are other hosts: it asks them through NVFlare's server on this host."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from lightning.pytorch import LightningDataModule

from fml_lightning.errors import UserError
from fml_lightning.executors.agreement import Agreement, agreement
from fml_lightning.executors.executor import Executor
from fml_lightning.executors.messages import Answered, Asked, outcome_of, request
from fml_lightning.executors.nvflare.envelope import (
    WORK,
    Answer,
    Ask,
    Connected,
    EnvelopeError,
    Failure,
    Forget,
    FromHub,
    Who,
    decode,
    encode,
)
from fml_lightning.executors.nvflare.local_link import MOST_BYTES, SERVER_SOCKET, Link, connect
from fml_lightning.executors.site_memory import SiteMemory
from fml_lightning.executors.wire import WireError, unpack
from fml_lightning.executors.work import SiteFailure, SiteUpdate, Work
from fml_lightning.learners.learner import Learner
from fml_lightning.names import shown

LONGEST_BENCH = 300.0
"""Seconds that a silent site is not asked, at most."""
POLL = 0.3
"""Seconds between looks for a server or a site that is not there."""
GRACE = 2.0
"""Seconds beyond the deadline in which ServerHub says who did not answer."""
TOLD = 64 * 2**20
"""Bytes of an answer beside its parameters: metrics, and the names of machines."""
GREATEST_STAMP = 2**62
"""Beyond any clock; a site that says it has seen a greater one is not believed."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Bench:
    """A site that did not answer is left alone for a while, so that it does not cost a deadline in every round."""

    times: int
    """How often in a row it did not answer."""
    since: float
    """When it last did not, by `time.monotonic`."""
    until: float
    """When it is asked again, unless it shows itself before."""


_Kind = Mapping[str, Any]
"""How a site's windows are made and what its labels mean, the same at all sites of a run: the preprocessing's
settings, and the classes."""


class NVFlareExecutor(Executor):
    """Lets sites work on their own hosts, each in its `fml site`; NVFlare's server, in `fml server`, carries all.

    A site that does not answer is not asked again for `deadline` seconds, twice as long after every further time
    in a row and at most five minutes, unless it is heard of before.

    All sites must make their windows alike and have the same classes: as most of those have that answered by the
    end of the first round of training, and of as many, as the first of them by name. Until then each asking waits
    for all its answers, so that it is not their order that decides. A site that differs fails.

    Args:
        folder: the server's folder, as in `fml server --folder`.
        deadline: seconds that a site has for its work in a round, with the way there and back.
        max_wait: seconds to wait for the server, and then for the first site to be connected.
    """

    def __init__(self, folder: str = "server", deadline: float = 60.0, max_wait: float = 120.0) -> None:
        if not (0 < deadline <= 86_400 and max_wait >= 0):
            raise UserError(
                "NVFlareExecutor: expected a deadline of more than 0 s and at most a day, and max_wait >= 0, got"
                f" {deadline} and {max_wait}"
            )
        self.folder = folder
        self.deadline = deadline
        self.max_wait = max_wait
        self._link: Link | None = None
        self._is_lost = False
        """Whether the loss of the server has been told, and not yet its return."""
        self._awaits_first = True
        """Whether no site has been seen since the server was found."""
        self._number = 0
        """Of the last asking; answers to others come too late."""
        self._stamp = 0
        self._newest: dict[str, int] = {}
        """The newest stamp that a site has seen, where it has told so."""
        self._benched: dict[str, _Bench] = {}
        self._refused: dict[str, str] = {}
        """Why the server lets sites take no part that are there."""
        self._run_id = ""
        self._kinds: dict[str, _Kind] = {}
        """What sites of the run have told, by the end of `_first_round`."""
        self._first_round: int | None = None
        """The first one that a site has trained in."""
        self._told: tuple[Learner, Agreement] | None = None
        """What the sites of the run are told of which learner: its settings stay the same over rounds."""

    def run(
        self, learner: Learner, work: Work, sites: Mapping[str, LightningDataModule], memory: SiteMemory
    ) -> Iterator[SiteUpdate | SiteFailure]:
        """Ask the sites that are connected, and yield what they answer until the deadline.

        Raises:
            UserError: NVFlare's server is not there.
        """
        if work.run != self._run_id:
            self._run_id, self._first_round, self._told = work.run, None, None
            self._kinds.clear()
        asked: list[str] = []
        members = self._members()
        for name in sites:
            if (reason := self._absence(name, members)) is None:
                asked.append(name)
            else:
                yield SiteFailure(name, work.round, reason, not_yet=True)
        if asked:
            round_ = _Round(self, learner, work, memory)
            classes = {name: _classes(sites[name]) for name in asked}
            try:
                yield from self._alike(round_.ask(asked), work, classes)
            finally:
                round_.forget()

    def close(self) -> None:
        """Let go of the server; the next round finds it again."""
        if self._link is not None:
            self._link.close()
        self._link = None

    def _agreement(self, learner: Learner) -> Agreement:
        """What sites are told of a learner."""
        if self._told is None or self._told[0] is not learner:
            self._told = learner, agreement(learner)
        return self._told[1]

    def _absence(self, name: str, members: Mapping[str, float]) -> str | None:
        """Why a site is not asked, if it is not."""
        if name not in members:
            return shown(self._refused.get(name, "it is not connected"), 300)
        bench, now = self._benched.get(name), time.monotonic()
        if bench is None or now >= bench.until or now - members[name] > bench.since:
            return None
        return (
            f"it has not answered {bench.times} times in a row: it is asked again in {bench.until - now:.0f} s, or"
            " as soon as it is heard of"
        )

    def _bench(self, name: str) -> None:
        before = self._benched.get(name)
        times = before.times + 1 if before else 1
        seconds = min(self.deadline * 2.0 ** min(times - 1, 30), LONGEST_BENCH)
        now = time.monotonic()
        self._benched[name] = _Bench(times, now, now + seconds)
        log.log(
            logging.WARNING if times == 1 else logging.DEBUG,
            "%s does not answer: it is not asked for %.0f s, or until it is heard of",
            shown(name),
            seconds,
        )

    def _members(self) -> dict[str, float]:
        """The connected sites, and how many seconds ago each was last heard of; waits for the server.

        Raises:
            UserError: the server is not there.
        """
        began = time.monotonic()
        while True:
            members = self._who()
            waited = time.monotonic() - began
            if members is not None and (members or not self._awaits_first or waited >= self.max_wait):
                self._awaits_first = False
                return members
            if members is None and waited >= self.max_wait:
                raise UserError(
                    f"NVFlareExecutor: no server answers in {self.folder} within {self.max_wait:.0f} s; start it"
                    " with fml server --kit KIT --folder FOLDER, and give executor.folder the same folder"
                )
            time.sleep(POLL)

    def _who(self) -> dict[str, float] | None:
        """The connected sites; None where the server does not answer."""
        try:
            if self._link is None:
                self._link = connect(Path(self.folder), SERVER_SOCKET)
                self._awaits_first = True
            self._link.send(encode(Who()))
            while not isinstance(said := self._heard(10.0), Connected):
                pass  # what comes too late of an earlier round
        except (OSError, EnvelopeError) as error:
            self._lose(error)
            return None
        if self._is_lost:
            log.warning("the federation's server is back")
            self._is_lost = False
        self._refused = said.refused
        return {member.name: member.seen for member in said.clients}

    def _lose(self, error: Exception) -> None:
        self.close()
        if not self._is_lost:
            log.warning(
                "the federation's server does not answer in %s; it is waited for, %.0f s",
                self.folder,
                self.max_wait,
            )
            log.debug("%s: %s", type(error).__name__, error)
        self._is_lost = True

    def _heard(self, patience: float) -> FromHub:
        """What ServerHub says next; it may be a late answer of an earlier asking, and as long as any is."""
        assert self._link is not None
        said: FromHub = decode(self._link.receive(patience, MOST_BYTES + TOLD), FromHub)
        return said

    def _alike(
        self,
        answers: Iterator[tuple[str, Answered | SiteFailure]],
        work: Work,
        classes: Mapping[str, tuple[str, ...]],
    ) -> Iterator[SiteUpdate | SiteFailure]:
        """The outcomes; failures of sites whose windows and labels are not those of the other sites."""
        is_settled = self._first_round is not None and work.round > self._first_round
        held: dict[str, SiteUpdate] = {}
        for name, answered in answers:
            outcome = answered.outcome if isinstance(answered, Answered) else answered
            if isinstance(outcome, SiteFailure) or not isinstance(answered, Answered):
                yield outcome
                continue
            kind = {**answered.preprocessing, "classes": list(answered.classes)}
            if classes[name] and list(classes[name]) != kind["classes"]:
                fault = _difference("classes", kind["classes"], "the server's RemoteFleet", list(classes[name]))
                yield _refused(name, work, fault)
            elif is_settled:
                yield self._fitting(outcome, name, kind, work)
            else:
                held[name], self._kinds[name] = outcome, kind
        if held and work.verb == "fit" and self._first_round is None:
            self._first_round = work.round
        for name, outcome in held.items():
            yield self._fitting(outcome, name, self._kinds[name], work)

    def _fitting(self, outcome: SiteUpdate, name: str, kind: _Kind, work: Work) -> SiteUpdate | SiteFailure:
        """The outcome, if the site's windows and labels are those of most sites."""
        fault = _unlike(kind, *_usual(self._kinds))
        return _refused(name, work, fault) if fault else outcome


class _Round:
    """One asking of sites: what was sent to whom, and what comes back."""

    def __init__(self, executor: NVFlareExecutor, learner: Learner, work: Work, memory: SiteMemory) -> None:
        self.executor = executor
        self.learner = executor._agreement(learner)
        self.work = work
        self.memory = memory
        self.most_bytes = TOLD + 2 * sum(p.numel() * p.element_size() for p in work.params.values())
        self.ends = time.monotonic() + executor.deadline
        self.waiting: dict[str, tuple[int, Asked]] = {}
        """The sites whose answer is awaited: to which asking, and what they were asked."""
        self.again: set[str] = set()
        """The sites that were asked a second time, under a newer stamp."""

    def ask(self, sites: list[str]) -> Iterator[tuple[str, Answered | SiteFailure]]:
        """Send the work to sites; yield each site's name with what it has answered, or why it has not."""
        try:
            self._send(sites)
            while self.waiting and (left := self.ends + GRACE - time.monotonic()) > 0:
                try:
                    said = self.executor._heard(left)
                except TimeoutError:
                    break
                if not isinstance(said, Answer | Failure) or self.waiting.get(said.client, (0,))[0] != said.number:
                    continue
                if (outcome := self._outcome(said)) is not None:
                    yield said.client, outcome
        except (OSError, EnvelopeError) as error:
            self.executor._lose(error)
            for name in list(self.waiting):
                yield name, self._failure(name, "the federation's server was lost while the site was at work")
        for name in list(self.waiting):
            self.executor._bench(name)
            yield name, self._failure(name, f"it did not answer within {self.executor.deadline:.0f} s")

    def forget(self) -> None:
        """Let ServerHub drop what is still on its way."""
        link = self.executor._link
        try:
            for number in {number for number, _ in self.waiting.values()}:
                if link is not None:
                    link.send(encode(Forget(number=number)))
        except OSError as error:
            self.executor._lose(error)

    def _send(self, sites: list[str]) -> None:
        """Ask; sites that are asked the same share one message."""
        executor = self.executor
        executor._stamp = max(time.time_ns(), executor._stamp + 1)
        groups: dict[tuple[int, bool], list[str]] = {}
        for name in sites:
            stamp = max(executor._stamp, executor._newest.get(name, 0) + 1)
            groups.setdefault((stamp, name in self.memory.expected), []).append(name)
        for (stamp, is_stateful), names in groups.items():
            left = max(0.001, self.ends - time.monotonic())
            asked = Asked(self.work, self.learner, stamp, left, is_stateful, self.memory.revisitable)
            executor._number += 1
            ask = Ask(
                number=executor._number,
                clients=names,
                topic=WORK,
                deadline=left,
                most_bytes=self.most_bytes,
                data=request(asked),
                run=self.work.run,
                round=self.work.round,
            )
            for name in names:
                self.waiting[name] = executor._number, asked
            assert executor._link is not None
            executor._link.send(encode(ask))

    def _outcome(self, said: Answer | Failure) -> Answered | SiteFailure | None:
        """What a site answered; None where it is asked again."""
        name, executor = said.client, self.executor
        if isinstance(said, Failure):
            if said.silent:
                executor._bench(name)
            else:
                executor._benched.pop(name, None)
            return self._failure(name, shown(said.reason, 300))
        executor._benched.pop(name, None)
        try:
            answered = self._checked(name, said.data)
        except WireError as error:
            return self._failure(name, f"its answer cannot be read: {error}")
        except Exception as error:  # a stranger's bytes, whatever they make of the reader
            return self._failure(name, f"its answer cannot be read ({type(error).__name__})")
        if isinstance(answered, Answered) and self._is_outrun(name, answered):
            self.again.add(name)
            self._send([name])
            return None
        self.waiting.pop(name)
        return answered

    def _checked(self, name: str, data: bytes) -> Answered | SiteFailure:
        """An answer that belongs to what was asked.

        Raises:
            WireError: it is no answer, or one to something else.
        """
        asked = self.waiting[name][1]
        head, params = unpack(data)
        answered = outcome_of(head, params, name, self.work.round)
        if isinstance(answered, SiteFailure):
            return answered
        for field, got, expected in (
            ("stamp", answered.stamp, asked.stamp),
            ("run", answered.run, self.work.run),
            ("verb", answered.verb, self.work.verb),
            ("round", answered.outcome.round, self.work.round),
        ):
            if got != expected:
                raise WireError(f"expected the {field} that it was asked with, got another")
        return answered

    def _is_outrun(self, name: str, answered: Answered) -> bool:
        """Whether the site has seen newer stamps than this host's clock gives, as after a move to another host."""
        newest, asked = answered.newest, self.waiting[name][1]
        if newest is None or not asked.stamp <= newest < GREATEST_STAMP or name in self.again:
            return False
        self.executor._newest[name] = newest
        return isinstance(answered.outcome, SiteFailure)

    def _failure(self, name: str, reason: str) -> SiteFailure:
        self.waiting.pop(name, None)
        return SiteFailure(name, self.work.round, reason, self.executor.deadline - (self.ends - time.monotonic()))


def _classes(site: LightningDataModule) -> tuple[str, ...]:
    return tuple(getattr(site, "classes", ()))


def _refused(name: str, work: Work, fault: str) -> SiteFailure:
    return SiteFailure(name, work.round, f"{shown(name)}: {fault}", permanent=True)


def _usual(kinds: Mapping[str, _Kind]) -> tuple[str, _Kind]:
    """What most sites have told, and the first of these by name; of as many, what the first site by name has."""
    told = {name: _encoded(kinds[name]) for name in sorted(kinds)}
    ((usual, _),) = Counter(told.values()).most_common(1)
    first = next(name for name, kind in told.items() if kind == usual)
    return first, kinds[first]


def _unlike(kind: _Kind, whose: str, usual: _Kind) -> str | None:
    """The first setting of a site that is another one than usual, as a sentence."""
    for setting in dict.fromkeys([*usual, *kind]):
        got, expected = kind.get(setting), usual.get(setting)
        if _encoded(got) != _encoded(expected):
            return _difference(setting, got, shown(whose), expected)
    return None


def _encoded(told: Any) -> bytes:
    """In msgpack NaN equals itself, and lists in lists break no comparison."""
    return msgspec.msgpack.encode(told, order="deterministic")


def _difference(setting: str, got: Any, whose: str, expected: Any) -> str:
    return (
        f"{shown(setting)} is {shown(repr(got), 200)} there and {shown(repr(expected), 200)} at {whose}, and must"
        " be the same; mend the data of site.yaml"
    )
