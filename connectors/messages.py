"""Messages: what came from outside, whose payloads nobody has decoded yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.connectors.readings import TIME

MESSAGES = pl.Schema(
    {
        "sequence": pl.Int64(),
        "received": TIME,
        "topic": pl.String(),
        "payload": pl.Binary(),
        "retained": pl.Boolean(),
        "packet_id": pl.UInt16(),
    }
)
"""A frame of raw messages, as a spool keeps them."""


class Message(NamedTuple):
    """One raw message, from the packet that it came in to the spool."""

    topic: str
    payload: bytes
    received: int
    """µs since 1970, UTC."""
    retained: bool = False
    """The broker had kept it, and sent it when we subscribed."""
    packet_id: int = 0
    """MQTT's packet identifier, by which a redelivery is known; 0 for QoS 0 and other sources."""
    redelivered: bool = False
    """The broker says that it may have delivered it before (MQTT's DUP flag)."""
    oversized: int = 0
    """Bytes of a packet that was too large to keep, and whose payload is empty instead; else 0."""
    link: int = 0
    """The number of the connection to the broker that it came over, on which alone it can be acknowledged."""


@dataclass(frozen=True)
class Messages:
    """The columns of n messages that are numbered and in order."""

    sequence: NDArray[np.int64]
    """Their places in the spool, (n,)."""
    received: NDArray[np.int64]
    """µs since 1970, UTC, (n,)."""
    topics: Sequence[str]
    payloads: Sequence[bytes]
    retained: NDArray[np.bool_]
    """(n,)."""
    packet_ids: NDArray[np.uint16]
    """(n,)."""
    oversized: Sequence[int]
    """`Message.oversized` of each; 0 for messages read from a spool, which does not keep it."""

    def __len__(self) -> int:
        return len(self.topics)

    @classmethod
    def numbered(cls, messages: Sequence[Message], first: int) -> Messages:
        """The columns of messages, which are numbered from `first` on."""
        columns: Any = zip(*messages, strict=True) if messages else [()] * len(Message._fields)
        topics, payloads, received, retained, ids, _, oversized, _ = columns
        return cls(
            np.arange(first, first + len(messages)),
            np.array(received, np.int64),
            topics,
            payloads,
            np.array(retained, np.bool_),
            np.array(ids, np.uint16),
            oversized,
        )

    @classmethod
    def of(cls, frame: pl.DataFrame) -> Messages:
        """The messages of a frame (`MESSAGES`)."""
        return cls(
            frame["sequence"].to_numpy(),
            frame["received"].to_physical().to_numpy(),
            frame["topic"].to_list(),
            frame["payload"].to_list(),
            frame["retained"].to_numpy(),
            frame["packet_id"].to_numpy(),
            [0] * len(frame),
        )

    def frame(self) -> pl.DataFrame:
        """As a frame: `MESSAGES`."""
        columns = {
            "sequence": pl.Series(self.sequence),
            "received": pl.Series(self.received).cast(MESSAGES["received"]),
            "topic": pl.Series(self.topics, dtype=pl.String),
            "payload": pl.Series(self.payloads, dtype=pl.Binary),
            "retained": pl.Series(self.retained),
            "packet_id": pl.Series(self.packet_ids),
        }
        return pl.DataFrame(columns)
