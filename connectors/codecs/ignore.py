"""Ignore: a topic of which nothing is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fml_lightning.connectors.codecs.codec import Codec, Sample


@dataclass(frozen=True)
class Ignore(Codec):
    """Reads nothing, whatever comes, and no message becomes a dead letter.

    A topic with it is not subscribed to; where another topic's filter covers it, its messages are recorded
    unread. As the last of `FirstOf`, it has whatever the others cannot read ignored.
    """

    def decode(self, payload: bytes) -> Sequence[Sample]:
        """Nothing."""
        return ()
