"""What a stream sends and nothing is trained on, counted by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import Enum


class Reason(Enum):
    """Why something is left out; the value is how a count of it is told."""

    RETAINED = "readings retained by the broker, which may be old"
    IMPLAUSIBLE_TIME = "readings of an implausible time"
    BAD = "readings that the device itself calls bad"
    TOO_LATE = "readings too late (max_lateness)"
    NO_BLOCK = "readings without samples or without a usable sample rate"
    NO_SCALAR = "blocks of samples, where single numbers are expected"
    NOT_FINITE_READING = "readings not finite"
    PARTIAL = "rows without a reading of every channel"
    OTHER_RATE = "blocks of another sample rate than expected"
    OTHER_UNIT = "readings in another unit than expected, or than the channel's first"
    OVERLAPPING = "readings repeated, or of a time that other readings cover"
    WAITING = "readings waiting for the rest of a window"
    BETWEEN = "readings between two windows (hop exceeds length)"
    UNMATCHED = "windows of one channel without the others"
    NOT_FINITE = "windows not finite"
    NO_INPUT = "windows without a value of what features need, or of an input"
    NO_LABEL = "windows without a label"
    UNKNOWN_LABEL = "windows under a label that is no class"
    LABEL_CHANGES = "windows in which the label changes"
    EARLIER = "windows that begin before since"
    UNCONFIRMED = "windows under a label that was said before since"
    OLD = "windows older than the newest (max_windows)"


ORDINARY = frozenset(
    {
        Reason.RETAINED,
        Reason.WAITING,
        Reason.BETWEEN,
        Reason.NO_LABEL,
        Reason.UNKNOWN_LABEL,  # each of which is warned of by its name
        Reason.LABEL_CHANGES,
        Reason.EARLIER,
        Reason.UNCONFIRMED,
        Reason.OLD,
    }
)
"""What the recordings of healthy machines leave out too."""

LeftOut = Counter[Reason]
"""How many readings or windows are left out, by reason."""


def told(left_out: Mapping[Reason, int]) -> str:
    """What is left out, as text; empty if nothing is.

    >>> told({Reason.NOT_FINITE: 2, Reason.WAITING: 0, Reason.TOO_LATE: 12_000})
    'left out: 12,000 readings too late (max_lateness), 2 windows not finite'
    """
    return told_of_all({"": left_out})


def told_of_all(left_out: Mapping[str, Mapping[Reason, int]]) -> str:
    """What of machines is left out, as text; of several also which has most of it, for each reason.

    >>> told_of_all({"fan": {Reason.OLD: 2}, "pump": {Reason.OLD: 3, Reason.NOT_FINITE: 1}})
    'left out: 1 window not finite (pump), 5 windows older than the newest (max_windows) (pump and 1 more)'
    """
    parts = []
    for reason in Reason:
        counts = {machine: own[reason] for machine, own in left_out.items() if own.get(reason)}
        if counts:
            most, more = max(counts, key=lambda machine: counts[machine]), len(counts) - 1
            whose = f" ({most} and {more} more)" if more else f" ({most})"
            parts.append(counted(sum(counts.values()), reason.value) + (whose if len(left_out) > 1 else ""))
    return f"left out: {', '.join(parts)}" if parts else ""


def counted(count: int, things: str) -> str:
    """A number of things, as text.

    >>> counted(1, "windows not finite"), counted(2000, "windows not finite")
    ('1 window not finite', '2,000 windows not finite')
    """
    noun, *rest = things.split(" ", 1)
    return " ".join([f"{count:,}", noun.removesuffix("s") if count == 1 else noun, *rest])
