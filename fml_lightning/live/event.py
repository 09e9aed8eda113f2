"""An event: something that has changed of a machine, with its number, for its history and for whoever is told."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

What: TypeAlias = Literal[
    "raised",
    "cleared",
    "acknowledged",
    "shelved",
    "unshelved",
    "stale",
    "data again",
    "missed",
    "drift",
    "drift over",
    "model",
    "personalized",
]
"""What can happen: to the alarm; to its data (none come, they come again, some were deleted before they were
watched); drift begins or ends; another model watches; an attempt to make one has ended."""


class Event(msgspec.Struct, frozen=True):
    """One event of a machine."""

    number: int
    """Among those of its machine, from 1 on: two with the same number are the same event."""
    time: int
    """µs since 1970, UTC."""
    what: What
    reason: str
    """Why, or what was said."""
