"""The state of a watch: what follows from its journal's records, and nothing else.

The same records give the same state, the same changes with the same numbers, and the same messages, in whatever
groups they were written, before and after a restart. Nothing here has a clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

from fml_lightning.live.alarm import Alarm, AlarmRule
from fml_lightning.live.attempt import Attempt, told
from fml_lightning.live.board import MachineView
from fml_lightning.live.data_clock import DataClock
from fml_lightning.live.drift import Drift
from fml_lightning.live.event import Event, What
from fml_lightning.live.health import FAILURE, MAINTENANCE_REQUIRED, WORST_FIRST, health
from fml_lightning.live.past import Past, Trend
from fml_lightning.live.records import Began, Modelled, Record, Ruled, Said, Scored, Scores, Stale, Tried, Trying
from fml_lightning.live.rules import Rules
from fml_lightning.stream_timing import StreamTiming

TREND, HISTORY = 120, 2000
"""Points of a machine's trend, and of its history, at most."""
MOST_STRANGERS = 500
"""Machines of a site that were only heard, and have no model, at most: who makes up names fills no memory."""


class Machine(msgspec.Struct):
    """What is known of one machine."""

    site: str
    name: str
    clock: DataClock = msgspec.field(default_factory=DataClock)
    alarm: Alarm = msgspec.field(default_factory=Alarm)
    drift: Drift = msgspec.field(default_factory=Drift)
    version: str = ""
    doubt: str = ""
    problem: str = ""
    """Why nothing of it can be scored, whatever comes; empty if it can."""
    blind: str = ""
    """Why its windows are read, and no score comes of them; empty if one does."""
    failed: str = ""
    """Why the model could say nothing of the newest window; empty if it could."""
    judged_by: tuple[str, str] | None = None
    """Of the model whose scores and baseline these are, the version and a hash of the preprocessing; None: nobody
    knows."""
    stale: str = ""
    """Why no windows come; empty while they do."""
    fault: str = ""
    """The likeliest fault of the newest window."""
    confidence: float | None = None
    estimate: float | None = None
    """Of the newest window, where the model estimates a number."""
    quantity: str = ""
    """What that number is."""
    timing: StreamTiming = StreamTiming()
    """By which windows are cut."""
    windows: int = 0
    """That were scored."""
    last_data: int | None = None
    health: str = ""
    reason: str = ""
    since: int | None = None
    attempt: Attempt | None = None
    """The newest to make a model of what it has become; None while it does not drift, or before the first."""
    trend: Trend = msgspec.field(default_factory=lambda: Trend(TREND))
    history: Past = msgspec.field(default_factory=lambda: Past(HISTORY))

    @property
    def is_stranger(self) -> bool:
        """Whether it was only heard: no model has watched it, and nothing of it has a number."""
        return not self.version and not self.problem and not self.alarm.number

    def ahead(self) -> Machine:
        """The same as far as scores depend on it, to be moved on without moving this one."""
        return Machine(
            self.site,
            self.name,
            msgspec.structs.replace(self.clock),
            msgspec.structs.replace(self.alarm),
            msgspec.structs.replace(self.drift),
        )

    def view(self) -> MachineView:
        """As a board shows it."""
        is_on = self.alarm.state in ("pending", "firing")  # what is over says nothing of how likely it was
        return MachineView(
            site=self.site,
            machine=self.name,
            health=self.health,
            reason=self.reason,
            since=self.since,
            fault="" if self.alarm.is_calm else self.alarm.fault,
            confidence=self.confidence if is_on and self.fault == self.alarm.fault else None,
            score=self.alarm.mean,
            trend=self.trend.points(),
            last_data=self.last_data,
            version=self.version,
            alarm=self.alarm.state,
            last_alarm=self.alarm.raised,
            acknowledged=self.alarm.acknowledged,
            shelved_until=self.alarm.shelved_until,
            shelved_reason=self.alarm.shelved_reason,
            estimate=self.estimate,
            quantity=self.quantity,
            stale=bool(self.stale),
        )

    def begin_anew(self) -> None:
        """Forget what the model before has seen, which another one is not compared with; an alarm stays."""
        self.drift.reset(0, self.clock.seconds)
        self.alarm.recent = []
        if self.attempt is not None and not self.attempt.is_open:
            self.attempt = None

    def judge(self, rules: Rules, time: int | None) -> None:
        """Find the word of its health, and since when it is that."""
        waiting = "no window has come yet" if self.version and not self.windows else ""
        drift = self.drift.reason
        if drift and rules.repersonalize != "never":
            drift = f"{drift}; {told(self.attempt, rules, self.site, self.name, self.drift.since)}"
        word, reason = health(
            self.alarm.state,
            self.alarm.fault,
            drift,
            self.problem or self.stale or self.failed or self.blind or waiting,
            self.version,
            self.doubt,
            self.alarm.shelved_until,
            self.alarm.shelved_reason,
        )
        if word != self.health:
            is_sick = word in (FAILURE, MAINTENANCE_REQUIRED) and self.alarm.state == "firing"
            self.since = self.alarm.raised if is_sick else time  # which a shelf that is over does not change
        self.health, self.reason = word, reason


class Change(msgspec.Struct, frozen=True):
    """What a record has changed of a machine."""

    machine: Machine
    """As it is now."""
    scores: Scores | None
    """The windows that the record tells of."""
    changes: list[Event]


class State(msgspec.Struct):
    """What is known of all machines, and how far spools and commands are read."""

    rules: Rules = Rules()
    """By which the next records are judged."""
    positions: dict[str, int] = {}
    """Of each site's spool, the sequence number of the last message whose windows are scored."""
    commands: int = 0
    """Bytes of commands.jsonl that are obeyed."""
    machines: dict[str, dict[str, Machine]] = {}
    """By site and name; strangers in the order in which they were heard last."""
    forgotten: dict[str, int] = {}
    """How many strangers of each site were forgotten because newer ones came, `MOST_STRANGERS` in number."""

    def every(self) -> Iterator[Machine]:
        """All machines."""
        for site in self.machines.values():
            yield from site.values()

    def get(self, site: str, name: str) -> Machine | None:
        """A machine that has sent anything, or has a model; else None."""
        return self.machines.get(site, {}).get(name)

    def apply(self, record: Record) -> list[Change]:
        """Take in the next record.

        Returns:
            The machines that it tells of.
        """
        rules = self.rules
        if isinstance(record, Ruled):
            self.rules = record.rules
            return []
        if isinstance(record, Began):
            self.positions[record.site] = record.position
            return []
        if isinstance(record, Scored):
            return self._score(record)
        if isinstance(record, Said) and record.offset is not None:
            self.commands = record.offset
        if isinstance(record, Said) and self.get(record.site, record.machine) is None:
            return []  # of nobody that is watched
        machine = self._machine(record.site, record.machine)
        if isinstance(record, Modelled):
            changes = self._model(machine, record)
        elif isinstance(record, Trying):
            changes, machine.attempt = [], Attempt.after(machine.attempt, record.time, record.newest)
        elif isinstance(record, Tried):
            changes = self._tried(machine, record)
        elif isinstance(record, Stale):
            changes = [] if machine.stale else [machine.alarm.note(record.time, "stale", record.reason)]
            machine.stale = record.reason
        else:
            changes = self._say(machine, record, rules.alarm)
        machine.judge(rules, record.time)
        return [Change(machine, None, changes)]

    def _machine(self, site: str, name: str) -> Machine:
        return self.machines.setdefault(site, {}).setdefault(name, Machine(site, name))

    def _score(self, record: Scored) -> list[Change]:
        self.positions[record.site] = record.position
        told: list[Change] = []
        for name in record.heard:
            machine = self._machine(record.site, name)
            if machine.is_stranger:
                own = self.machines[record.site]
                own[name] = own.pop(name)
            if not machine.health:
                machine.judge(self.rules, record.received)
                told.append(Change(machine, None, []))
        if told:
            self._forget_strangers(record.site)
            told = [change for change in told if self.get(record.site, change.machine.name) is not None]
        if record.missed:
            told += self._note_missed(record)
        for scores in record.machines:
            machine = self._machine(record.site, scores.machine)
            told.append(Change(machine, scores, take_scores(machine, scores, self.rules)))
        return told

    def _forget_strangers(self, site: str) -> None:
        """Forget the strangers that were not heard for longest, where there are too many."""
        strangers = [machine.name for machine in self.machines[site].values() if machine.is_stranger]
        for name in strangers[: max(0, len(strangers) - MOST_STRANGERS)]:
            del self.machines[site][name]
            self.forgotten[site] = self.forgotten.get(site, 0) + 1

    def _note_missed(self, record: Scored) -> list[Change]:
        """Tell of every machine that is watched: of whom the messages were, nobody knows."""
        reason = f"messages of the spool that were deleted before they were watched: {record.missed:,}"
        watched = [machine for machine in self.machines.get(record.site, {}).values() if machine.version]
        return [
            Change(machine, None, [machine.alarm.note(record.received, "missed", reason)]) for machine in watched
        ]

    @staticmethod
    def _model(machine: Machine, record: Modelled) -> list[Event]:
        before, machine.version = machine.version, record.version
        drifted = machine.drift.reason
        machine.doubt, machine.problem, machine.blind = record.doubt, record.problem, record.blind
        machine.estimate, machine.quantity = None, record.quantity
        machine.timing = record.timing
        machine.failed = ""
        if not record.problem:  # a model that cannot watch judges nothing
            judge = record.version, record.preprocessing_hash
            former, machine.judged_by = machine.judged_by or (before, judge[1]), judge
            if former != judge:
                machine.begin_anew()
        events = []
        if before != record.version:
            events.append(machine.alarm.note(record.time, "model", record.version or "none"))
        if drifted and not machine.drift.reason:
            events.append(machine.alarm.note(record.time, "drift over", "another model watches"))
        return events

    @staticmethod
    def _tried(machine: Machine, record: Tried) -> list[Event]:
        attempt = machine.attempt
        if attempt is None or not attempt.is_open:
            return []
        is_news = attempt.end(record.outcome, record.reason, record.time)
        if not machine.drift.reason:
            machine.attempt = None
        return [machine.alarm.note(record.time, "personalized", record.reason)] if is_news else []

    @staticmethod
    def _say(machine: Machine, record: Said, rule: AlarmRule) -> list[Event]:
        alarm = machine.alarm
        if record.what == "acknowledge":
            return alarm.acknowledge(rule, machine.clock.seconds, record.time, record.who)
        if record.what == "nothing":
            return []
        until = record.until if record.what == "shelve" else None
        return alarm.shelve(record.time, until, record.reason, record.who)


def take_scores(machine: Machine, scores: Scores, rules: Rules) -> list[Event]:
    """Let windows move a machine's clock, alarm and drift, one after the other."""
    changes = []
    estimates = scores.estimate or [None] * len(scores.end)
    failures = scores.failed or [""] * len(scores.end)
    for end, score, label, confidence, level, estimate, failed in zip(
        scores.end, scores.score, scores.label, scores.confidence, scores.level, estimates, failures, strict=True
    ):
        seconds = machine.clock.add(end, scores.duration)
        if machine.stale:
            machine.stale = ""
            changes.append(machine.alarm.note(end, "data again", ""))
        machine.windows += 1
        machine.last_data = end
        machine.fault, machine.confidence, machine.estimate = label, confidence, estimate
        machine.failed = failed
        change = machine.alarm.add(rules.alarm, seconds, end, math.nan if score is None else score, label)
        if change is not None:
            changes.append(change)
        begin = end - round(scores.duration * 1e6)
        if machine.drift.add(rules.drift, seconds, level, scores.channels, machine.alarm.is_calm, begin):
            what: What = "drift" if machine.drift.reason else "drift over"
            changes.append(machine.alarm.note(end, what, machine.drift.reason))
            if not machine.drift.reason and machine.attempt is not None and not machine.attempt.is_open:
                machine.attempt = None
        if score is not None and machine.alarm.mean is not None:
            machine.trend.add(end, machine.alarm.mean)
            machine.history.add(end, score)
        machine.judge(rules, end)
    return changes


def worst_first(machines: list[MachineView]) -> list[MachineView]:
    """Views in the order in which they are shown."""
    rank = {word: place for place, word in enumerate(WORST_FIRST)}
    return sorted(machines, key=lambda m: (rank[m.health], -(m.score or 0.0), m.site, m.machine))
