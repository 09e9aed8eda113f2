"""The follower: windows of a spool's machines as the spool grows, each once, whatever interrupts it.

Which windows there are, and the message that completed each, depends on the messages alone: not on how many are
read at once, nor on when the process was ended. The follower's state can be kept, and a follower with that state
goes on with the next message.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.connectors.spool.folder import has_topics
from fml_lightning.connectors.spool.reader import SpoolReader
from fml_lightning.connectors.spool.source import SpoolSource
from fml_lightning.datamodules.spool.aliases import renamed
from fml_lightning.datamodules.spool.inputs import Inputs
from fml_lightning.datamodules.spool.left_out import told
from fml_lightning.datamodules.spool.rows_cutter import RowsCutter
from fml_lightning.datamodules.spool.stream_cutter import StreamCutter
from fml_lightning.errors import UserError
from fml_lightning.live.follower_state import FollowerState, GroupState
from fml_lightning.names import LISTED, shown
from fml_lightning.preprocessing.features import RawWindows
from fml_lightning.preprocessing.preprocessing import Preprocessing
from fml_lightning.preprocessing.spectral import LogBandPowers
from fml_lightning.stream_timing import StreamTiming

log = logging.getLogger(__name__)

MOST = 4096
"""Messages whose windows are cut at once, at most."""
JOINED = 500
"""Messages of small segments that are cut at once, if they are there."""
TIMING = "timing"
"""Under which a cutter's key has what of `StreamTiming` is not the usual."""


class LiveWindows(NamedTuple):
    """Windows of one machine and sample rate, n in number, in the order in which they were complete."""

    machine: str
    sequence: NDArray[np.int64]
    """Of the message that completed each, ascending, (n,)."""
    values: NDArray[np.float32]
    """(n, C, W)."""
    end: NDArray[np.int64]
    """Times of their last samples, µs since 1970, (n,)."""
    sample_rate: float
    """Hz."""
    told: NDArray[np.float32]
    """What `Preprocessing.needs` names, of each, (n, K)."""

    @property
    def duration(self) -> float:
        """Seconds of each."""
        return float(self.values.shape[2] / self.sample_rate)


class Read(NamedTuple):
    """What some messages of a spool have brought."""

    position: int
    """Sequence number of the last of them."""
    received: int
    """When that was received, µs since 1970."""
    heard: list[str]
    """Machines that have sent anything with these messages, sorted."""
    missed: int
    """Messages among and before them that were deleted, or put into quarantine, before they were read."""
    windows: list[LiveWindows]
    """In order of machine, then of completion."""


class Follower:
    """Follows one site's spool.

    Args:
        site: the site's name; readings of other sites in the spool are not its own.
        folder: the spool's; it need not be there yet.
        state: to go on from; None: begin with the oldest message.
        channel: the channel of machines whose model names none.
        aliases: the machines' last names by each that they had before (`resolve_aliases`).
    """

    def __init__(
        self,
        site: str,
        folder: str | Path,
        state: FollowerState | None = None,
        channel: str = "vibration",
        aliases: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.site = site
        self.folder = Path(folder)
        self.channel = channel
        self.aliases = dict(aliases)
        self.position = -1 if state is None else state.position
        """Sequence number of the last message that was read."""
        self.of_others = ""
        """That all readings are of other sites; empty if some are not, or it is not known yet."""
        self._source: SpoolSource | None = None
        self._frames: Iterator[_Frame] = iter(())
        # Other sites that there are readings of, while there are none of this one; None: there are, or it is told.
        self._others: set[str] | None = set() if state is None else None
        self._waiting: deque[_Frame] = deque()
        self._told: dict[str, dict[str, float]] = {} if state is None else dict(state.told)
        self._cut_as: dict[str, str] = {} if state is None else dict(state.cut_as)
        self._groups: dict[str, StreamCutter] = {}
        for group in () if state is None else state.groups:
            self._restore(group)

    @property
    def is_there(self) -> bool:
        """Whether there is a spool by now."""
        return has_topics(self.folder)

    def newest(self) -> int:
        """Sequence number of the newest message that is there; -1 if there is none."""
        return SpoolReader(self.folder).newest() if self.is_there else -1

    def check(self, watched: int) -> None:
        """See that the spool is the one that was followed before, as far as it can be read.

        Args:
            watched: sequence number of the last message that was.

        Raises:
            UserError: it has fewer messages.
        """
        try:
            newest = self.newest()
        except (UserError, OSError):  # which is told by whoever reads it
            return
        if -1 < newest < watched:
            raise UserError(
                f"spool {self.folder}: expected message {watched:,}, which was watched, got messages up to"
                f" {newest:,}; it is another spool: name the old one, or move the run's folder watch away"
            )

    def watch(
        self,
        machine: str,
        preprocessing: Preprocessing,
        told: Mapping[str, float],
        timing: StreamTiming = StreamTiming(),  # noqa: B008
    ) -> None:
        """Cut a machine's windows as a model wants them, from the next message on.

        Machines whose signals are cut alike share a cutter, and one whose new model cuts as the old one did goes
        on without a gap.

        Raises:
            UserError: windows of a stream cannot be cut so.
        """
        if preprocessing.shaft_speed is not None:
            raise UserError("its model finds the shaft's speed in seconds of signal, which a watch does not have")
        key = _key(preprocessing, self.channel, timing)
        if self._cut_as.get(machine, key) != key:
            self.leave(machine)
        self._group(key)
        self._cut_as[machine], self._told[machine] = key, dict(told)

    def cut_as(self, machine: str) -> str | None:
        """How a machine's windows are cut, a text that is another one for all that cut otherwise; None: not."""
        return self._cut_as.get(machine)

    def leave(self, machine: str) -> None:
        """Cut no windows of a machine any more, and forget what it has sent."""
        self._told.pop(machine, None)
        key = self._cut_as.pop(machine, None)
        if key is None:
            return
        if key in self._cut_as.values():
            self._groups[key].forget(machine)
        else:
            del self._groups[key]

    def why_nothing(self, machine: str) -> str:
        """Why no windows come of what a machine sends; empty if nobody knows."""
        group = self._groups.get(self._cut_as.get(machine, ""))
        return "" if group is None else told(group.left_out_of(machine))

    def read(self, until: int | None = None) -> Iterator[Read]:
        """What has come since the last message that was read, at most `MOST` messages at a time.

        Args:
            until: sequence number of the last message to read; None: all that are there.

        Raises:
            UserError: the spool cannot be read; the next call begins after the last message that was read.
            OSError: likewise.
        """
        while (frame := self._next_whole(until)) is not None:
            yield self._cut(frame)

    def catch_up(self, until: int) -> None:
        """Be after a message whose windows were scored before, and those of all messages before it.

        Args:
            until: its sequence number; the message may be deleted by now.

        Raises:
            UserError: the spool cannot be read; the next call goes on where this one has ended.
            OSError: likewise.
        """
        if self.position < until and not self.is_there:
            raise UserError(
                f"spool {self.folder}: expected messages up to {until:,}, which were watched, and there is no"
                " spool; mount its disk, or mend the path"
            )
        for _ in self.read(until):
            pass
        self.position = max(self.position, until)

    def state(self) -> FollowerState:
        """The state after the last message that was read."""
        return FollowerState(
            self.position,
            [GroupState(key, cutter.state()) for key, cutter in self._groups.items()],
            dict(self._cut_as),
            dict(self._told),
        )

    def _restore(self, group: GroupState) -> None:
        """Go on in the place of the cutter that a state is of."""
        try:
            self._group(group.key).restore(group.cutter)
        except ValueError as error:
            raise UserError(
                f"the watch's snapshot is not one of this version ({error}); watch with the version that wrote it,"
                " or move its folder away to begin anew"
            ) from error

    def _next_whole(self, until: int | None) -> _Frame | None:
        """The next messages; where they cannot be read, those that were read ahead are read again."""
        try:
            return self._next(until)
        except (UserError, OSError):
            self._source, self._frames = None, iter(())
            self._waiting.clear()
            raise

    def _next(self, until: int | None) -> _Frame | None:
        """The next messages, up to one; None if there are no more."""
        if until is not None and self.position >= until:
            self._note_others()
            return None
        if not self._waiting and not self._read_on():
            return None
        frame = self._waiting.popleft()
        while len(frame.sequence) < JOINED and (self._waiting or self._read_on()):
            frame = frame.joined(self._waiting.popleft())
        last = min(frame.first + MOST - 1, frame.last if until is None else until)
        if last < frame.first:
            self._waiting.appendleft(frame)
            return None
        if frame.last > last:
            self._waiting.appendleft(frame.after(last))
            frame = frame.until(last)
        return frame

    def _read_on(self) -> bool:
        """Decode the next segment; false if there is none yet."""
        if self._source is None:
            if not self.is_there:
                return False
            self._source = SpoolSource(self.folder, after=self.position)
        frame = next(self._frames, None)
        if frame is None:
            self._frames = self._decoded(self._source)
            frame = next(self._frames, None)
        if frame is None:
            self._note_others()
            return False
        self._waiting.append(frame)
        return True

    def _decoded(self, source: SpoolSource) -> Iterator[_Frame]:
        for messages, decoded in source.decoded():
            own = renamed(decoded.batch.readings.filter(pl.col("site") == self.site), self.aliases)
            if len(own):
                self._others, self.of_others = None, ""
            elif self._others is not None and len(self._others) < LISTED:
                self._others |= {*decoded.batch.readings["site"].unique()}
            yield _Frame(
                messages["sequence"].to_numpy(),
                messages["received"].to_physical().to_numpy(),
                own,
            )

    def _note_others(self) -> None:
        """Say once, when all is read, that the readings are of other sites."""
        if self._others:
            others = ", ".join(map(shown, sorted(self._others)[:LISTED]))
            self.of_others = (
                f"spool {self.folder}: its readings are of {others}, and none is of {shown(self.site)}; name the"
                " site as its messages do"
            )
            log.warning("%s", self.of_others)
            self._others = None

    def _cut(self, frame: _Frame) -> Read:
        """Cut the windows that messages complete."""
        # What was deleted before a spool was followed at all is not missed.
        before = frame.first - 1 if self.position < 0 else self.position
        missed = frame.last - before - len(frame.sequence)
        self.position = frame.last
        heard = frame.readings["machine"].unique().sort().to_list()
        windows: list[LiveWindows] = []
        for key, cutter in self._groups.items():
            own = [machine for machine in heard if self._cut_as.get(machine) == key]
            if not own:
                continue
            all_own = len(own) == len(heard)
            readings = frame.readings if all_own else frame.readings.filter(pl.col("machine").is_in(own))
            sequence = readings["sequence"].to_numpy()
            windows += [
                LiveWindows(machine, sequence[cut.place], cut.values, cut.last, cut.sample_rate, told)
                for machine, cut, told in cutter.add(readings)
            ]
        windows.sort(key=lambda some: some.machine)  # stable: each machine's stay in order
        return Read(frame.last, int(frame.received[-1]), heard, missed, windows)

    def _group(self, key: str) -> StreamCutter:
        """The cutter that cuts as a key says, made if there is none."""
        if key not in self._groups:
            described = json.loads(key)
            timing = msgspec.convert(described.pop(TIMING, {}), StreamTiming)
            preprocessing = Preprocessing.from_description(described)
            channels, needs, late = preprocessing.channels, preprocessing.needs, timing.max_lateness
            inputs = Inputs(needs, timing.max_age, lambda machine: self._told.get(machine, {}))
            if preprocessing.windowing is None:
                self._groups[key] = RowsCutter(preprocessing, channels, needs, inputs, timing.within, late)
            else:
                self._groups[key] = StreamCutter(preprocessing, channels, needs, inputs, late)
        return self._groups[key]


class _Frame(NamedTuple):
    """Messages that are decoded, and not cut."""

    sequence: NDArray[np.int64]
    """Of the messages."""
    received: NDArray[np.int64]
    """When each was, µs since 1970."""
    readings: pl.DataFrame
    """Of the site."""

    @property
    def first(self) -> int:
        """Sequence number of the first message."""
        return int(self.sequence[0])

    @property
    def last(self) -> int:
        """Sequence number of the last message."""
        return int(self.sequence[-1])

    def joined(self, later: _Frame) -> _Frame:
        """The messages of both."""
        return _Frame(
            np.concatenate([self.sequence, later.sequence]),
            np.concatenate([self.received, later.received]),
            pl.concat([self.readings, later.readings]),
        )

    def until(self, last: int) -> _Frame:
        """The messages up to one."""
        rows = self.sequence <= last
        return _Frame(self.sequence[rows], self.received[rows], self.readings.filter(pl.col("sequence") <= last))

    def after(self, last: int) -> _Frame:
        """The messages after one."""
        rows = self.sequence > last
        return _Frame(self.sequence[rows], self.received[rows], self.readings.filter(pl.col("sequence") > last))


def _key(preprocessing: Preprocessing, channel: str, timing: StreamTiming) -> str:
    """What of a model says how a stream is cut, as JSON: the same for all that cut alike."""
    cuts = replace(
        preprocessing,
        # Features that need nothing told, and for which nobody asks.
        features=RawWindows() if preprocessing.windowing is None else LogBandPowers(),
        channels=preprocessing.channels or (channel,),
        inputs=preprocessing.needs,
        standardize=None,
        shaft_speed=None,
    )
    apart = msgspec.to_builtins(timing)  # the usual is left out, as by versions that kept none
    return json.dumps({**cuts.describe(), **({TIMING: apart} if apart else {})}, sort_keys=True)
