"""A judgement: what topics read of messages that were heard, by decoding these very messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from fml_lightning.connectors.decoding.decoded import Decoded
from fml_lightning.connectors.decoding.decoder import Decoder
from fml_lightning.connectors.decoding.time_check import diagnosis
from fml_lightning.connectors.decoding.topics import Topics
from fml_lightning.connectors.messages import Message, Messages
from fml_lightning.connectors.quality import Quality


@dataclass(frozen=True)
class Judgement:
    """What is read of messages."""

    readings: pl.DataFrame
    """`READINGS`, repeated ones too; `sequence` is the message's place among those that were judged."""
    labels: pl.DataFrame
    """`LABELS`."""
    messages: Sequence[Message]
    """Those that were judged, in order."""
    errors: Counter[str]
    """The dead letters' sentences, and how many messages each is of."""
    skipped: Counter[tuple[str, str]]
    """What was left out, by its name and what it is, and in how many messages."""
    dead: frozenset[int]
    """Places of the messages that became dead letters."""
    ambiguous: int
    """Readings that nothing tells from another one of the same message: neither a name nor a time."""
    time_fault: str | None
    """Why most of the devices' times are implausible; None where they are not."""

    @property
    def implausible(self) -> int:
        """Readings whose time cannot be right."""
        return _flagged(self.readings, Quality.IMPLAUSIBLE_TIME)

    @property
    def timed(self) -> int:
        """Readings that have a device's time."""
        return len(self.readings) - _flagged(self.readings, Quality.NO_DEVICE_TIME)

    @property
    def read(self) -> frozenset[int]:
        """Places of the messages of which something was read."""
        return frozenset(self.readings["sequence"].to_list()) | frozenset(self.labels["sequence"].to_list())

    @property
    def is_whole(self) -> bool:
        """Whether every message was read, and nothing was left out."""
        return not self.errors and not self.skipped and len(self.read) == len(self.messages)

    @property
    def score(self) -> tuple[float, ...]:
        """The higher, the better: sound readings and labels, with their times, and with nothing left out."""
        told_apart = len(self.readings) + len(self.labels) - self.ambiguous
        return (
            told_apart - self.implausible,
            told_apart,
            self.timed + len(self.labels) - self.implausible,
            -len(self.dead),
            -len(self.skipped),
        )


def judged(topics: Topics, messages: Sequence[Message]) -> Judgement:
    """What topics read of messages, which are in the order in which they were received."""
    decoder = Decoder(topics)
    decoded = decoder.decode(Messages.numbered(messages, 0))
    readings = decoded.columns.frame(decoded.names, np.ones(len(decoded.kept), np.bool_))
    same = ["sequence", "site", "machine", "channel", "time"]
    ambiguous = len(readings) - len(readings.unique(same))
    return Judgement(
        readings,
        decoded.batch.labels,
        messages,
        Counter(letter.error for letter in decoded.dead),
        decoded.skipped,
        frozenset(letter.sequence for letter in decoded.dead),
        ambiguous,
        _time_fault(decoder, decoded, messages),
    )


def _time_fault(decoder: Decoder, decoded: Decoded, messages: Sequence[Message]) -> str | None:
    columns = decoded.columns
    sent = (columns.quality & int(Quality.NO_DEVICE_TIME)) == 0
    bad = np.flatnonzero(sent & ((columns.quality & int(Quality.IMPLAUSIBLE_TIME)) != 0))
    if 2 * len(bad) <= int(sent.sum()):
        return None
    topic = messages[int(columns.sequence[bad[-1]])].topic
    return diagnosis(columns.time[bad], columns.received[bad], decoder.time_unit(topic))


def _flagged(readings: pl.DataFrame, flag: Quality) -> int:
    return int(((readings["quality"] & int(flag)) != 0).sum())
