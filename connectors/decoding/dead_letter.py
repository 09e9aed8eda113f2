"""A dead letter: a message that could not be read, and why."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from fml_lightning.connectors.codecs.codec import LONGEST_ERROR


class DeadLetter(NamedTuple):
    """A message that could not be read, wholly or in part."""

    sequence: int
    received: datetime
    """UTC."""
    topic: str
    payload: bytes
    error: str


def said(error: BaseException) -> str:
    """What an error says, never long; an error may be a user's own, and unable to say anything."""
    try:
        return f"{type(error).__name__}: {error}"[:LONGEST_ERROR]
    except Exception:
        return type(error).__name__
