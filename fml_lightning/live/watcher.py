"""The watcher: follows spools, scores windows, and says which machines are sick.

What it reads from spools, registry, commands and clocks becomes records; what it knows follows from the records
(`state`), but for the spectra, of which a kill loses those since the snapshot. Windows count when their record is
on disk. So a watch that is killed at any moment goes on as if it had not been: no window is lost or scored twice,
and no change has two numbers.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from fml_lightning.datamodules.nameplates import Nameplates
from fml_lightning.datamodules.spool.aliases import resolve_aliases
from fml_lightning.errors import UserError
from fml_lightning.live import commands_file
from fml_lightning.live.attempt import is_due
from fml_lightning.live.board import MachineDetail, MachineView
from fml_lightning.live.commands_file import Command
from fml_lightning.live.event import Event
from fml_lightning.live.follower import Follower, LiveWindows, Read
from fml_lightning.live.journal import COMMANDS, OUTBOX, PUBLISHED, Journal
from fml_lightning.live.log import Place
from fml_lightning.live.messages import Topics, outgoing
from fml_lightning.live.outbox import Outbox, Outgoing
from fml_lightning.live.records import (
    Began,
    Modelled,
    Record,
    Ruled,
    Said,
    Scored,
    Scores,
    Stale,
    Tried,
    Trying,
)
from fml_lightning.live.repersonalizer import Repersonalizer, failed
from fml_lightning.live.rules import Rules
from fml_lightning.live.scoring import Models, Scorer, Watching
from fml_lightning.live.shelves import Shelves
from fml_lightning.live.silence import Silence
from fml_lightning.live.spectrum import Spectra
from fml_lightning.live.state import MOST_STRANGERS, Machine, State, worst_first
from fml_lightning.live.unread import Unread
from fml_lightning.names import shown
from fml_lightning.personal.personal_model import PersonalModel
from fml_lightning.preprocessing.preprocessing import Preprocessing
from fml_lightning.stream_timing import StreamTiming

log = logging.getLogger(__name__)

POLL = 0.03
"""Seconds between two looks at the spools."""
LOOK, LIST = 0.5, 5.0
"""Seconds between two looks at the models of machines that are known, and at which machines have models."""
SNAPSHOT = 300.0
"""Seconds between two snapshots."""
RETRY = 1.0
"""Seconds after which a disk that was full is tried again."""
LONGEST_WAIT = 60.0
"""Seconds, at most, between two tries to load a model that could not be loaded; each failure doubles the wait."""


class Settings(msgspec.Struct, frozen=True):
    """How a watch works."""

    rules: Rules = Rules()
    stale: float = 60.0
    """Seconds without a window after which a machine's sensor is stale."""
    channel: str = "vibration"
    """The channel of machines whose model names none."""
    normal: str = ""
    """The class of normal operation, of models that do not say; empty: one called normal, healthy or ok."""
    limit: float | None = None
    """Where models estimate a number, such as the remaining life, beyond which of them a machine is sick."""
    aliases: dict[str, str] = {}
    """New names of machines by old ones, as a fleet of spools has them: MACHINE, or SITE/MACHINE."""
    max_lateness: float | None = None
    """Of `StreamTiming`, whatever models say; None: what they say."""
    max_age: float | None = None
    """Likewise."""
    within: float | None = None
    """Likewise."""
    nameplates: dict[str, dict[str, Any]] = {}
    """Of machines, as a fleet of spools has them: where fault lines are drawn, if no model knows it."""

    def timing(self, model: PersonalModel) -> StreamTiming:
        """By which a model's windows are cut."""
        return model.timing.overridden(self.max_lateness, self.max_age, self.within)

    def __post_init__(self) -> None:
        if self.limit is not None and not math.isfinite(self.limit):
            raise UserError(f"limit: expected a number, got {self.limit:g}")
        if not 0 < self.stale < math.inf:
            raise UserError(f"alarm.stale: expected a time above 0 s, got {self.stale:g}")


class Watcher:
    """Watches the machines of spools; a `Board`.

    Args:
        folder: of the watch, which nobody else may write to (`FolderLock`).
        spools: folder of each site's spool, by the site's name.
        models: which model watches which machine.
        settings: how.
        topics: where health is published; None: it is not.
        repersonalizer: makes new models of machines that drift; None: nobody does.

    Raises:
        UserError: what is in the folder cannot be read, a spool is another one than before, or aliases go round in
            a circle.
    """

    def __init__(
        self,
        folder: Path,
        spools: Mapping[str, str | Path],
        models: Models,
        settings: Settings = Settings(),  # noqa: B008
        topics: Topics | None = None,
        repersonalizer: Repersonalizer | None = None,
    ) -> None:
        self.folder = folder
        self.models = models
        self.settings = settings
        self.topics = topics
        self.repersonalizer = repersonalizer
        self.problem: str | None = None
        """Why nothing can be scored now, such as a full disk; None if it can."""
        self.publishing: Callable[[], str | None] = lambda: None
        """Says why nothing is published now; told by whoever publishes."""
        self.journal = Journal(folder)
        self.outbox = None if topics is None else Outbox(folder / OUTBOX, folder / PUBLISHED)
        self._changed = threading.Condition()
        self._revision, self._viewed = 0, -1
        self._views: list[MachineView] = []  # of the revision that was viewed last
        self._scorers: dict[tuple[str, str], Scorer] = {}
        self._looked: dict[tuple[str, str], _Looked] = {}
        self._told: dict[tuple[str, str], Mapping[str, float]] = {}
        self._nameplates = Nameplates("watch", settings.nameplates)
        self._silence = Silence(settings.stale)
        self._waiting: list[Record] = []  # that could not be written
        self._unsent: list[Outgoing] = []  # likewise
        self._shelves = Shelves()
        self._unheard: str | None = None  # why what others ask for cannot be read
        self._unread = Unread()
        # Of sites whose spools could not be read since the start: models that are to cut, each after a message.
        self._behind: dict[str, list[tuple[int, Modelled]]] = {}
        self._forgotten: dict[str, int] = {}  # strangers, as far as that is told
        self._until: dict[str, int] = {}  # where reading ends, of spools where it does
        self._ended: set[str] = set()  # sites whose spools the newest step has read to their ends, or nobody reads
        self._unjudged: set[str] = set()  # sites of which it is to be seen next whose machines are stale
        self._next_look = self._next_list = self._next_snapshot = self._next_stale = 0.0
        self._recover(spools)

    # Restarts -----------------------------------------------------------------------------------------------

    def _recover(self, spools: Mapping[str, str | Path]) -> None:
        """Be where the journal ends: the state, and what followers have cut and not cut yet."""
        snapshot = self.journal.take_snapshot()
        self.state = State() if snapshot is None else snapshot.state
        self._spectra = {} if snapshot is None else snapshot.spectra
        kept = {} if snapshot is None else snapshot.followers
        aliases = {site: resolve_aliases(self.settings.aliases, site, list(spools)) for site in spools}
        self.followers = {
            site: Follower(site, folder, kept.get(site), self.settings.channel, aliases[site])
            for site, folder in spools.items()
        }
        behind = {} if snapshot is None else snapshot.behind
        self._behind = {site: behind.get(site, []) for site in self.followers}
        for place, record in self.journal.records():
            if isinstance(record, Modelled) and record.site in self.followers:
                self._behind[record.site].append((self.state.positions.get(record.site, -1), record))
            with contextlib.suppress(OSError):  # the disk is full: what is to be published waits
                self._apply([record], [place])
        if self.state.rules != self.settings.rules:
            self._write([Ruled(self.settings.rules)])
        for site, follower in self.followers.items():
            follower.check(self.state.positions.get(site, -1))
            if site not in self.state.positions:
                self._write([Began(site, -1)])
        for machine in self.state.every():
            self._silence.begin((machine.site, machine.name))
        self._next_snapshot = time.monotonic() + SNAPSHOT
        self._catch_up()

    def _catch_up(self) -> None:
        """Cut again what was scored since the snapshot, and forget it, of all spools that can be read."""
        for site in [each for each in self._behind if not self._unread.is_waiting(each)]:
            follower, models = self.followers[site], self._behind[site]
            position = self.state.positions.get(site, -1)
            try:
                follower.check(position)
                while models:
                    after, record = models[0]
                    follower.catch_up(after)
                    self._cut_as(record)
                    del models[0]
                follower.catch_up(position)
            except (UserError, OSError) as error:
                self._unread.add(site, str(error))
                continue
            del self._behind[site]
            self._unread.remove(site)
            self._next_look = self._next_list = 0.0  # its models watch from the next message on

    # One look -----------------------------------------------------------------------------------------------

    def step(self, stop: threading.Event) -> bool:
        """Look once at everything, and score what has come.

        Args:
            stop: ends it between two groups of messages.

        Returns:
            Whether anything has come.
        """
        self._ended = set()
        if not self._write_waiting():
            stop.wait(RETRY)
            return False
        self._obey()
        if self._waiting:
            return False
        self._catch_up()
        if time.monotonic() >= self._next_look:
            if not self._look_for_models():
                return False  # what a model that is not known yet should score is not read
            self._repersonalize()
            self._next_look = time.monotonic() + LOOK
        has_come, ended = False, set(self.state.machines) - self.followers.keys()
        for site, follower in self.followers.items():
            for read in self._read(follower):
                has_come = True
                self._score(follower, read)
                if self._waiting or stop.is_set():
                    return has_come
                if time.monotonic() >= self._next_look:
                    break  # so that one spool's past keeps nobody from what is asked for
            else:
                ended.add(site)
        if over := self._shelves.over(self.state.every(), _now()):
            self._write(over)
        self._ended = ended
        if time.monotonic() >= self._next_snapshot:
            self.keep()
        return has_come

    def look(self, stop: threading.Event) -> bool:
        """The same, and a moment's rest if nothing has come."""
        has_come = self.step(stop)
        self._note_stale()
        if not has_come:
            stop.wait(POLL)
        return has_come

    def end_with_newest(self) -> None:
        """Read no message that is newer than the newest of each spool now."""
        for site, follower in self.followers.items():
            with contextlib.suppress(UserError, OSError):  # it is told when it is read
                self._until[site] = follower.newest()

    def keep(self) -> None:
        """Write a snapshot."""
        try:
            behind = [
                Scored(site, follower.position, 0, [], [])
                for site, follower in self.followers.items()
                if follower.position > self.state.positions.get(site, -1)
            ]
            if self._waiting or self._unsent or (behind and not self._write(behind)):
                return
            if self.outbox is not None:
                self.outbox.log.sync()
            followers = {site: follower.state() for site, follower in self.followers.items()}
            self.journal.keep(self.state, followers, self._spectra, self._behind)
            self._next_snapshot = time.monotonic() + SNAPSHOT
        except OSError as error:
            log.warning("%s: no snapshot can be written (%s); a restart reads more", self.folder, error.strerror)
            self._next_snapshot = time.monotonic() + (SNAPSHOT if error.errno == errno.EFBIG else RETRY)

    def _read(self, follower: Follower) -> Iterator[Read]:
        """What has come into a spool; one that cannot be read keeps no other from being read."""
        site = follower.site
        if site in self._behind or self._unread.is_waiting(site):
            return
        if not follower.is_there:
            why = f"there is no spool in {follower.folder}; start fml record, or mend the path"
            self._unread.add(site, why, again=0.0)
            return
        try:
            for read in follower.read(self._until.get(site)):
                self._unread.remove(site)
                yield read
            self._unread.remove(site)
        except (UserError, OSError) as error:
            self._unread.add(site, str(error))

    def _score(self, follower: Follower, read: Read) -> None:
        """Score windows of some messages, and write it down."""
        found: list[Scores] = []
        by_machine: dict[str, list[LiveWindows]] = {}
        for windows in read.windows:
            by_machine.setdefault(windows.machine, []).append(windows)
        for name, some in by_machine.items():
            if (scoring := self._scorers.get((follower.site, name))) is not None:
                found += self._scores(follower.site, name, some, scoring)
        for name in read.heard:
            self._silence.hear((follower.site, name))
        for scores in found:
            self._silence.hear_windows((follower.site, scores.machine))
        if read.missed:
            log.warning(
                "spool %s: %d messages were deleted before they were watched, and their windows are not scored;"
                " let the recorder keep messages for longer, or the watch pause for less",
                follower.folder,
                read.missed,
            )
        if read.heard or read.missed:
            scored = Scored(follower.site, read.position, read.received, read.heard, found, read.missed)
            self._write([scored])

    def _scores(self, site: str, name: str, some: Sequence[LiveWindows], scoring: Scorer) -> list[Scores]:
        """What a model says of windows of a machine."""
        machine = self.state.get(site, name) or Machine(site, name)
        ahead = machine.ahead()
        own = self._spectra.setdefault(site, {})
        if not machine.drift.channels:  # a model judges from here on that has seen nothing yet
            own[name] = Spectra()
        spectra = own.setdefault(name, Spectra())
        is_baseline = machine.drift.frozen is None and machine.alarm.is_calm
        with np.errstate(over="ignore", invalid="ignore"):  # samples too large to be squared make no score
            found = [scoring.scores(windows, ahead, self.settings.rules) for windows in some]
            spectra.add(some[-1].values[-1], some[-1].sample_rate, is_baseline)
        return found

    # Records ------------------------------------------------------------------------------------------------

    def _write(self, new: Sequence[Record]) -> bool:
        """Make records durable, then let them count; false if the disk is full: then they wait."""
        self._waiting += new
        return self._write_waiting()

    def _write_waiting(self) -> bool:
        try:
            if self._unsent and self.outbox is not None:
                self.outbox.put(self._unsent)
                self._unsent = []
            if self._waiting:
                places = self.journal.append(self._waiting)
                written, self._waiting = self._waiting, []
                self._apply(written, places)
        except OSError as error:
            remedy = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "mend that"
            problem = f"nothing is scored: {self.folder}: {error.strerror or error}; {remedy}, and it goes on"
            if problem != self.problem:
                log.error("%s", problem)
            self.problem = problem
            return False
        if self.problem is not None:
            log.warning("%s: it can be written to again; scoring goes on", self.folder)
        self.problem = None
        return True

    def _apply(self, written: Iterable[Record], places: Iterable[Place]) -> None:
        """Let records count that are on disk."""
        for record, place in zip(written, places, strict=True):
            with self._changed:
                changes = self.state.apply(record)
                if self.state.forgotten != self._forgotten:
                    self._note_forgotten()
                if changes:
                    self._revision += 1
                    self._changed.notify_all()
            if self.topics is not None and self.outbox is not None:
                self._unsent += outgoing(self.topics, changes, place)
        if self._unsent and self.outbox is not None:
            self.outbox.put(self._unsent)
            self._unsent = []

    def _note_forgotten(self) -> None:
        """Say once that strangers are forgotten, and forget what else is kept of them."""
        for site in self.state.forgotten.keys() - self._forgotten.keys():
            log.warning(
                "%s: more than %d machines have sent and have no model; those that were not heard for longest are"
                " no longer listed: see whether the topics' {machine} is the machine's name",
                site,
                MOST_STRANGERS,
            )
        self._forgotten = dict(self.state.forgotten)
        self._silence.forget(lambda place: self.state.get(*place) is None)
        self._looked = {each: version for each, version in self._looked.items() if self.state.get(*each)}

    # What else becomes records --------------------------------------------------------------------------------

    def _look_for_models(self) -> bool:
        """Let new current models watch, from the next message on; false if the disk is full."""
        lists = time.monotonic() >= self._next_list
        listed = self.models.machines(self.followers) if lists else {}
        for site, follower in self.followers.items():
            if site in self._behind:
                continue
            for name in sorted({*self.state.machines.get(site, {}), *listed.get(site, ())}):
                if not self._look_at_model(follower, name):
                    return False
        self._next_list = time.monotonic() + LIST if lists else self._next_list
        return True

    def _look_at_model(self, follower: Follower, name: str) -> bool:
        """Let a machine's current model watch it, if it does not yet; false if the disk is full."""
        place = follower.site, name
        looked, machine = self._looked.get(place), self.state.get(*place)
        version = (machine.version if machine is not None else "") or "?"
        try:
            version = self.models.version(*place)
            if looked is not None and looked.version == version and time.monotonic() < looked.again:
                return True
            watching = self.models.current(*place)
            self._model(follower, name, watching)
            self._looked[place] = _Looked("" if watching is None else watching.version)
        except (UserError, OSError) as error:
            self._looked[place] = _Looked.failed(version, looked)
            self._scorers.pop(place, None)
            problem = f"its model cannot be used: {error}"
            self._note_model(follower, Modelled(*place, version, _now(), problem=problem))
        return not self._waiting

    def _model(self, follower: Follower, name: str, watching: Watching | None) -> None:
        """Let a model watch a machine from here on, and write that down, unless it is written.

        Raises:
            UserError: the model cannot watch a stream.
        """
        site = follower.site
        self._silence.begin((site, name))
        if watching is None:
            self._scorers.pop((site, name), None)
            self._told.pop((site, name), None)
            self._note_model(follower, Modelled(site, name, "", _now()))
            return
        scoring = Scorer(watching, self.settings.normal, self.settings.limit)
        channels = scoring.preprocessing.channels or (self.settings.channel,)
        described = replace(scoring.preprocessing, channels=channels).describe()
        told = watching.model.told
        record = Modelled(
            site,
            name,
            watching.version,
            _now(),
            watching.doubt,
            "",
            described,
            told,
            scoring.blind,
            scoring.quantity,
            self.settings.timing(watching.model),
        )
        self._note_model(follower, record)
        self._scorers[site, name], self._told[site, name] = scoring, told

    def _note_model(self, follower: Follower, record: Modelled) -> None:
        """Cut a machine's windows as a model wants from here on, and write it down, unless it is so already.

        While the disk is full, the record waits with those before it, and nothing is read.

        Raises:
            UserError: they cannot be cut so.
        """
        machine = self.state.get(record.site, record.machine)
        as_before = machine is not None and all(
            getattr(machine, name) == getattr(record, name)
            for name in ("version", "problem", "doubt", "blind", "timing")
        )
        before = follower.cut_as(record.machine)
        self._cut_as(record)
        if as_before and follower.cut_as(record.machine) == before:
            return
        # The record must come after those of all messages that the model before has scored.
        behind = follower.position > self.state.positions.get(follower.site, -1)
        self._write([*([Scored(follower.site, follower.position, 0, [], [])] if behind else []), record])

    def _cut_as(self, record: Modelled) -> None:
        """Let the follower of a machine cut as its model wants."""
        follower = self.followers[record.site]
        if record.preprocessing:
            preprocessing = Preprocessing.from_description(record.preprocessing)
            follower.watch(record.machine, preprocessing, record.told, record.timing)
        else:
            follower.leave(record.machine)

    def _repersonalize(self) -> None:
        """Begin to make a new model of a machine that drifts, or write down what has come of it; one at a time."""
        if self.repersonalizer is None or self._waiting:
            return
        for machine in self.state.every():
            if machine.attempt is None or not machine.attempt.is_open:
                continue
            if not machine.alarm.is_calm:
                self.repersonalizer.stop("there may be a fault, which must not be taken for normal")
            ended = self.repersonalizer.outcome(machine.site, machine.name, machine.attempt.newest)
            if ended is not None:
                self._write([Tried(machine.site, machine.name, _now(), *ended)])
            return
        now = _now()
        due = [
            each
            for each in self.state.every()
            if each.site in self.followers
            and each.drift.since is not None
            and is_due(each.attempt, each.drift.reason, each.alarm.state, now)
        ]
        for machine in sorted(due, key=lambda each: 0 if each.attempt is None else each.attempt.time)[:1]:
            try:
                newest = self.repersonalizer.prepare(machine.site, machine.name)
            except OSError as error:
                tried = Tried(machine.site, machine.name, now, *failed(error))
                self._write([Trying(machine.site, machine.name, now, {}), tried])
                return
            since = machine.drift.since
            assert since is not None
            if not self._write([Trying(machine.site, machine.name, now, newest)]):
                return
            try:
                self.repersonalizer.start(machine.site, machine.name, since)
            except (UserError, OSError) as error:
                self._write([Tried(machine.site, machine.name, _now(), *failed(error))])

    def _obey(self) -> None:
        """Write down what others ask for."""
        try:
            asked = list(commands_file.read(self.folder / COMMANDS, self.state.commands))
        except OSError as error:  # such as a file that belongs to another user
            unheard = f"nothing is acknowledged or shelved: {error}; mend that, and it is"
            if unheard != self._unheard:
                log.error("%s", unheard)
            self._unheard = unheard
            return
        self._unheard = None
        said: list[Record] = []
        for offset, command in asked:
            if command is None:
                said.append(Said("", "", _now(), "nothing", offset=offset))
                continue
            until = self._shelves.begin(command, _now()) if command.what == "shelve" else None
            said.append(
                Said(
                    command.site,
                    command.machine,
                    command.time,
                    command.what,
                    command.who,
                    command.reason,
                    until,
                    offset,
                )
            )
        if said and self._write(said):
            try:
                commands_file.shorten(self.folder / COMMANDS, self.state.commands)
            except OSError as error:  # it is tried again after the next command
                log.warning("%s: commands.jsonl cannot be shortened: %s", self.folder, error.strerror)

    def _note_stale(self) -> None:
        """Write down of which machines no windows come, where no message is left that may have brought some."""
        stale = []
        if time.monotonic() >= self._next_stale:
            self._unjudged, self._next_stale = set(self.state.machines), time.monotonic() + LOOK
        sites = self._unjudged & self._ended
        self._unjudged -= sites
        for site in sites:
            names = [
                machine.name
                for machine in self.state.machines.get(site, {}).values()
                if machine.version
                and not machine.problem
                and not machine.stale
                and self._silence.is_stale((site, machine.name))
            ]
            nothing = self._why_nothing(site) if names else ""
            for name in names:
                reason = self._why_no_windows(site, name) if self._silence.is_heard((site, name)) else nothing
                stale.append(Stale(site, name, _now(), reason))
        if stale:
            self._write(stale)

    def _why_no_windows(self, site: str, name: str) -> str:
        """Why no windows come of what a machine sends, as far as one can say."""
        why = self.followers[site].why_nothing(name)
        return f"what it sends makes no windows{f': {why}' if why else ''}"

    def _why_nothing(self, site: str) -> str:
        """Why nothing comes of machines of a site, as far as one can say."""
        nothing = f"no data for {self.settings.stale:g} s"
        if (unread := self._unread.why(site)) is not None:
            return f"{nothing}: {unread}"
        try:
            if site in self.followers:
                self.followers[site].check(self.state.positions.get(site, -1))
        except UserError as error:
            return f"{nothing}: {error}"
        return nothing

    # The board ----------------------------------------------------------------------------------------------

    def views(self) -> list[MachineView]:
        """All machines, worst first."""
        with self._changed:
            if self._viewed != self._revision:
                self._views = worst_first([machine.view() for machine in self.state.every()])
                self._viewed = self._revision
            return list(self._views)

    def detail(self, site: str, machine: str) -> MachineDetail | None:
        """One machine's own view; None if there is no such machine."""
        with self._changed:
            found = self.state.get(site, machine)
            if found is None:
                return None
            spectra = self._spectra.get(site, {}).get(machine, Spectra())
            changes: list[Event] = found.alarm.changes[::-1]
            return MachineDetail(
                view=found.view(),
                scores=found.history.points(),
                frequencies=spectra.frequencies(),
                spectrum=Spectra.decibels(spectra.newest),
                baseline=Spectra.decibels(spectra.baseline),
                fault_lines=Spectra.fault_lines(
                    {**self._nameplates.of(site, machine), **self._told.get((site, machine), {})}
                ),
                alarms=tuple(changes),
            )

    def acknowledge(self, site: str, machine: str, who: str) -> None:
        """Say that somebody knows of a machine's alarm.

        Raises:
            UserError: there is no such machine, or it has no alarm.
        """
        self._ask(Command(site, machine, "acknowledge", who, _now()))

    def shelve(self, site: str, machine: str, seconds: float, reason: str, who: str) -> None:
        """Keep a machine's alarms from being told for so many seconds; 0 ends that.

        Raises:
            UserError: there is no such machine, or the time is none, or too long.
        """
        what: Literal["shelve", "unshelve"] = "unshelve" if seconds == 0 else "shelve"
        self._ask(Command(site, machine, what, who, _now(), reason, seconds))

    def problems(self) -> list[str]:
        """Why something is not scored now, obeyed or published, a sentence each; empty if all is well."""
        others = self._unheard, self.publishing()
        return [*self.unscored(), *(problem for problem in others if problem is not None)]

    def unscored(self) -> list[str]:
        """Why something is not scored now, a sentence each."""
        problem = self.problem
        others = [
            f"site {shown(site)} is not scored: {follower.of_others}"
            for site, follower in self.followers.items()
            if follower.of_others
        ]
        return [*([] if problem is None else [problem]), *self._unread.sentences(), *others]

    def wait(self, revision: int, timeout: float) -> int:
        """Wait until there is a newer revision than this one, or `timeout` seconds pass; returns the newest."""
        with self._changed:
            self._changed.wait_for(lambda: self._revision > revision, timeout)
            return self._revision

    def _ask(self, command: Command) -> None:
        with self._changed:
            commands_file.write(self.folder / COMMANDS, command, self.state)


class _Looked(NamedTuple):
    """What came of the newest try to let a machine's current model watch."""

    version: str
    """That was current."""
    again: float = math.inf
    """When the same version is tried again, monotonic seconds: never, if it watches."""
    wait: float = 0.0
    """Seconds after the try before that."""

    @classmethod
    def failed(cls, version: str, before: _Looked | None) -> _Looked:
        """Of a try that failed: the first one is repeated at the next look, later ones less and less often."""
        if before is None or before.version != version or before.again == math.inf:
            return cls(version, time.monotonic())
        wait = min(LONGEST_WAIT, max(LOOK, 2 * before.wait))
        return cls(version, time.monotonic() + wait, wait)


def _now() -> int:
    """µs since 1970."""
    return time.time_ns() // 1000
