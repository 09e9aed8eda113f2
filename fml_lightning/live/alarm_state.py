"""The states of an alarm, and what they have in common."""

from __future__ import annotations

from typing import Literal, TypeAlias

AlarmState: TypeAlias = Literal["normal", "pending", "firing", "recovering"]
"""No alarm; one that is raised if it lasts; one that is raised; one that is over, and cleared if it stays so."""


def is_raised(state: AlarmState) -> bool:
    """Whether there is an alarm that is not cleared."""
    return state in ("firing", "recovering")


def is_calm(state: AlarmState) -> bool:
    """Whether there is no alarm, and none pending."""
    return state == "normal"
