"""A dead letter: a message that could not be read, and why."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple


class DeadLetter(NamedTuple):
    """A message that could not be read, wholly or in part."""

    sequence: int
    received: datetime
    """UTC."""
    topic: str
    payload: bytes
    error: str
