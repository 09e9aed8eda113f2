"""Gaps: what a spool may lack, or lacks, and why: `gaps.jsonl`.

Messages that a broker lost with our session, segments that retention has deleted, segments that could not be read;
and the jumps of the computer's clock, which make `received` doubtful. One line of JSON for each.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from fml_lightning import durable
from fml_lightning.connectors.spool.folder import GAPS

log = logging.getLogger(__name__)

LARGEST = 1 << 20
"""Bytes of the file, from which on neighbouring deletions become one line, and the oldest lines are dropped."""
NEWEST = 1_000
"""Lines of each kind that are kept then."""
LONGEST = 500
"""Characters of a reason, at most."""

Kind = Literal["session", "taken", "deleted", "quarantined", "clock"]


class Gap(msgspec.Struct, frozen=True, omit_defaults=True):
    """A range of messages that may be missing, or are."""

    begin: datetime | None
    """When the first of them was received; of a session: the last one before it. None: nobody knows.

    Of a clock: what it should have shown."""
    end: datetime | None
    """When the last one was received; of a session: when the new one began, or we had ours back. Of a clock: what
    it showed."""
    reason: str
    """For people."""
    kind: Kind = "session"
    """`session`: the broker had lost our session, and perhaps messages; `taken`: another client had it;
    `deleted`: by retention; `quarantined`: a segment that could not be read; `clock`: the computer's clock
    jumped."""
    at: datetime | None = None
    """When this was noted, by the computer's clock."""
    before: int | None = None
    """Of a session: the sequence number of its first message."""
    first: int | None = None
    """Of what was deleted or put into quarantine: the sequence number of its first message."""
    last: int | None = None
    """The same of its last message."""


def read(folder: Path) -> list[Gap]:
    """The gaps of a spool in the order in which they were noted.

    Lines that a crash has cut short are left out, as is whatever else is no such line.

    Args:
        folder: the spool's.
    """
    try:
        with durable.open_regular(folder / GAPS) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 2 * LARGEST))
            lines = file.read(2 * LARGEST).splitlines()
    except OSError:
        return []
    gaps = []
    for line in lines:
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            gaps.append(msgspec.json.decode(line, type=Gap))
    return gaps


def note(folder: Path, gaps: Sequence[Gap]) -> None:
    """Note gaps on disk.

    Args:
        folder: the spool's.
        gaps: if `at` is None, they are noted as of now.

    Raises:
        OSError: the disk is full or failing; nothing was noted, and it may be noted again.
    """
    if not gaps:
        return
    now = datetime.now(UTC)
    file = folder / GAPS
    new = [msgspec.structs.replace(gap, at=gap.at or now, reason=gap.reason[:LONGEST]) for gap in gaps]
    durable.add_lines(file, map(_line, new))
    if file.stat().st_size > LARGEST:
        try:
            durable.write(file, b"".join(_line(gap) + b"\n" for gap in condensed(read(folder))))
        except OSError as error:  # the gaps are noted; the file is only longer than it should be
            log.warning("%s: cannot be made shorter: %s", file, error.strerror or error)


def condensed(gaps: Iterable[Gap]) -> list[Gap]:
    """The newest gaps of each kind, with neighbouring deletions for one reason as one.

    >>> when = datetime(2026, 1, 1, tzinfo=UTC)
    >>> parts = [Gap(when, when, "old", "deleted", first=first, last=first + 4) for first in (0, 5, 20)]
    >>> [(gap.first, gap.last) for gap in condensed(parts)]
    [(0, 9), (20, 24)]
    """
    joined: list[Gap] = []
    deletions: dict[str, int] = {}  # by their reason, where in `joined` the last one is
    for gap in gaps:
        place = deletions.get(gap.reason) if gap.kind == "deleted" else None
        if place is not None and gap.first is not None and joined[place].last == gap.first - 1:
            joined[place] = msgspec.structs.replace(gap, begin=joined[place].begin, first=joined[place].first)
            continue
        if gap.kind == "deleted":
            deletions[gap.reason] = len(joined)
        joined.append(gap)
    kept: list[Gap] = []
    counts: dict[str, int] = {}
    for gap in reversed(joined):
        counts[gap.kind] = counts.get(gap.kind, 0) + 1
        if counts[gap.kind] <= NEWEST:
            kept.append(gap)
    return kept[::-1]


def _line(gap: Gap) -> bytes:
    return msgspec.json.encode({"kind": gap.kind, **msgspec.to_builtins(gap)})
