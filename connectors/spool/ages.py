"""Ages: how long ago the messages of a spool were received, by a clock of its own.

A computer's clock may be set, forwards or backwards, by a user, a network or an empty battery; what retention
deletes by such a clock is lost. The clock of a spool counts the seconds since the spool was made, as far as it can
know them: from mark to mark by a clock that nobody can set and that begins anew with each boot, also while no
process writes (CLOCK_BOOTTIME, https://man7.org/linux/man-pages/man2/clock_gettime.2.html). From the last mark of
one boot to the first of the next it does not advance: how long that took, only the other clock says.

A mark says which messages were there at a moment. So a message is never taken for older than it is.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec

from fml_lightning import durable

JUMP = 60.0
"""Seconds by which the computer's clock differs from the one that nobody can set, from which on it has jumped."""
AWAY = 90 * 86_400.0
"""Seconds for which a computer is off, at most, unless its clock has jumped meanwhile."""
MOST_MARKS = 2_000
"""In the file; then they are thinned out to a quarter."""
_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PROCESS = uuid.uuid4().hex


class Moment(NamedTuple):
    """What the computer's clocks show at a moment."""

    wall: float
    """Seconds since 1970; may be set."""
    uptime: float
    """Seconds since some moment of this boot; advance always, and cannot be set."""
    boot: str
    """Names this boot of the computer; this process, where the system names no boots."""


def now() -> Moment:
    """What the computer's clocks show."""
    try:
        boot = _BOOT_ID.read_text().strip()
    except OSError:  # not on Linux
        boot = _PROCESS
    return Moment(time.time(), time.clock_gettime(_BOOT_CLOCK), boot)


class Mark(msgspec.Struct, frozen=True):
    """The messages before a sequence number were there when the clock of the spool showed so many seconds."""

    sequence: int
    seconds: float
    wall: float
    uptime: float
    boot: str

    @property
    def moment(self) -> Moment:
        """What the computer's clocks showed."""
        return Moment(self.wall, self.uptime, self.boot)

    def may_follow(self, other: Mark) -> bool:
        """Whether this can be a mark after another; else one of both is damaged."""
        passed = _passed(other.moment, self.moment)
        # Between marks of two boots there may have been others that a full disk did not take.
        least, most = (0.0, self.uptime) if passed is None else (passed, passed)
        return self.sequence >= other.sequence and least - 1 < self.seconds - other.seconds < most + 1


class Jump(NamedTuple):
    """A jump of the computer's clock."""

    expected: datetime
    """What it should have shown."""
    shown: datetime
    """What it showed."""

    def __str__(self) -> str:
        forward = self.shown - self.expected
        way = "forwards" if forward > timedelta(0) else "backwards"
        return f"the computer's clock jumped {way} by {str(abs(forward)).partition('.')[0]}"


class Ages:
    """The clock and the marks of a spool.

    Args:
        file: of the marks.
        next_sequence: the number of the spool's next message. Messages before it that no mark tells of count as
            received now.
        max_age: seconds, from which on nobody asks for the age of a message.
    """

    def __init__(self, file: Path, next_sequence: int, max_age: float) -> None:
        self.file = file
        self._max_age = max_age
        self._marks, self._lines = _read(file, next_sequence)
        self._seconds = self._marks[-1].seconds if self._marks else 0.0
        self._moment = self._marks[-1].moment if self._marks else now()

    def advance(self) -> Jump | None:
        """Advance the clock; the jump of the computer's clock since the last time, if it has jumped."""
        before, moment = self._moment, now()
        self._moment = moment
        passed = _passed(before, moment)
        self._seconds += passed or 0.0
        ahead = moment.wall - before.wall - (passed or 0.0)
        if passed is None and -JUMP < ahead < AWAY:  # the time between two boots
            return None
        return Jump(_datetime(moment.wall - ahead), _datetime(moment.wall)) if abs(ahead) >= JUMP else None

    def mark(self, sequence: int, *, always: bool = False) -> None:
        """Mark that the messages before a sequence number are there, unless the last mark was a moment ago.

        Call `advance` after you have read `sequence`, and before this.

        Raises:
            OSError: the disk is full or failing; the mark holds for this process only.
        """
        last = self._marks[-1] if self._marks else None
        if last is not None and not always and self._seconds - last.seconds < min(600.0, self._max_age / 100):
            return
        self._marks.append(Mark(sequence, self._seconds, *self._moment))
        if self._lines >= MOST_MARKS:
            self._thin_out()
            durable.write(self.file, b"".join(msgspec.json.encode(mark) + b"\n" for mark in self._marks))
            self._lines = len(self._marks)
        else:
            durable.add_lines(self.file, [msgspec.json.encode(self._marks[-1])])
            self._lines += 1

    def older(self, seconds: float) -> int:
        """The sequence number before which all messages were received longer ago than so many seconds."""
        marks = (mark.sequence for mark in reversed(self._marks) if self._seconds - mark.seconds > seconds)
        return next(marks, 0)

    def _thin_out(self) -> None:
        """Keep marks at equal distances, of which there may be a quarter of `MOST_MARKS`, and the last one."""
        begin = max(self._marks[0].seconds, self._seconds - 2 * self._max_age)
        distance = 4 * (self._seconds - begin) / MOST_MARKS
        kept = [self._marks[-1]]
        for mark in reversed(self._marks):
            if mark.seconds >= begin and mark.seconds < kept[-1].seconds - distance:
                kept.append(mark)
        self._marks = kept[::-1]


def _passed(before: Moment, moment: Moment) -> float | None:
    """Seconds between two moments of one boot; None if they are not of one."""
    if moment.boot == before.boot and moment.uptime >= before.uptime:
        return moment.uptime - before.uptime
    return None


def _read(file: Path, next_sequence: int) -> tuple[list[Mark], int]:
    """The marks of a file, without damaged lines and those of another spool; and how many lines there are.

    If a line is left out, there are said to be so many that the file is written anew: once the spool has grown to
    the sequence number that the line tells of, nobody could see that it tells of other messages.
    """
    most = MOST_MARKS * 500  # bytes; a line has about 150
    try:
        with durable.open_regular(file) as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - most))
            lines = stream.read(most).splitlines()
    except OSError:
        return [], 0
    marks: list[Mark] = []
    for line in lines:
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            mark = msgspec.json.decode(line, type=Mark)
            is_possible = 0 <= mark.sequence <= next_sequence and 0 <= mark.seconds < 1e12
            if is_possible and (not marks or mark.may_follow(marks[-1])):
                marks.append(mark)
    return marks, len(lines) if len(marks) == len(lines) else MOST_MARKS


def _datetime(seconds: float) -> datetime:
    """A moment; of a clock that is beyond all years, the last one there is."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.max.replace(tzinfo=UTC)
