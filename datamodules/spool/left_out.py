"""What a stream sends and nothing is trained on, counted by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import Enum


class Reason(Enum):
    """Why something is left out; the value is how a count of it is told."""

    RETAINED = "readings retained by the broker, which may be old"
    IMPLAUSIBLE_TIME = "readings of an implausible time"
    TOO_LATE = "readings too late (max_lateness)"
    NO_BLOCK = "readings that are no samples with a sample rate"
    OVERLAPPING = "readings repeated, or of a time that other readings cover"
    WAITING = "readings waiting for the rest of a window"
    BETWEEN = "readings between two windows (hop exceeds length)"
    NOT_FINITE = "windows not finite"
    NO_LABEL = "windows without a label"
    UNKNOWN_LABEL = "windows under a label that is no class"
    LABEL_CHANGES = "windows in which the label changes"
    OLD = "windows older than the newest (max_windows)"


ORDINARY = frozenset(
    {
        Reason.RETAINED,
        Reason.WAITING,
        Reason.BETWEEN,
        Reason.NO_LABEL,
        Reason.UNKNOWN_LABEL,  # each of which is warned of by its name
        Reason.LABEL_CHANGES,
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
    counts = [counted(left_out[reason], reason.value) for reason in Reason if left_out.get(reason)]
    return f"left out: {', '.join(counts)}" if counts else ""


def counted(count: int, things: str) -> str:
    """A number of things, as text.

    >>> counted(1, "windows not finite"), counted(2000, "windows not finite")
    ('1 window not finite', '2,000 windows not finite')
    """
    noun, *rest = things.split(" ", 1)
    return " ".join([f"{count:,}", noun.removesuffix("s") if count == 1 else noun, *rest])
