"""Republishing: the messages of a spool, published to a broker once more."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from pathlib import Path

import polars as pl

from fml_lightning.connectors.mqtt.connection import Connection
from fml_lightning.connectors.mqtt.publisher import Publisher
from fml_lightning.connectors.pace import Pace
from fml_lightning.connectors.spool.folder import SEGMENTS
from fml_lightning.connectors.spool.reader import SpoolReader
from fml_lightning.errors import UserError

log = logging.getLogger(__name__)

UNACKNOWLEDGED_BYTES = 16 << 20
"""Bytes of payloads after which we wait until the broker has acknowledged them: until then they are in memory."""
DRAIN = 5.0
"""Seconds that we wait, once we are stopped, for the broker to acknowledge the last messages."""


def republish(
    spool: str | Path,
    connection: Connection,
    stop: threading.Event,
    speed: float | None = 1.0,
    on_progress: Callable[[int], None] = lambda published: None,
) -> int:
    """Publish the messages that a spool holds now once more, at the pace at which they were received, QoS 1.

    Args:
        spool: the folder of the spool.
        connection: the broker to publish to, and who we are.
        stop: ends the publishing when it is set.
        speed: how many times as fast as they were received; null: as fast as the broker takes them.
        on_progress: called after each message with how many were published.

    Returns:
        How many were published.

    Raises:
        UserError: there is no such spool, or no such broker, or it refuses the messages.
    """
    reader, pace = SpoolReader(spool), Pace(math.inf if speed is None else speed, stop)
    if not (reader.folder / SEGMENTS).is_dir():
        raise UserError(f"spool {spool}: no messages in it; expected the folder of a spool")
    # The spool may be recording what we publish; then we would never reach its end, but for this bound.
    last = reader.newest()
    published = waiting = 0
    with Publisher(connection, "replay") as publisher:
        for frame in reader.read():
            rows = frame.filter(pl.col("sequence") <= last).select("topic", "payload", "received")
            for topic, payload, received in rows.iter_rows():
                if not pace.wait(received.timestamp()):
                    break
                waiting += len(payload)
                if waiting > UNACKNOWLEDGED_BYTES:
                    publisher.flush(stop)
                    waiting = len(payload)
                if not publisher.publish(topic, payload, stop):
                    break
                published += 1
                on_progress(published)
            is_last = frame["sequence"][-1] >= last
            del frame, rows  # before the next one is read
            if stop.is_set() or is_last:
                break
        if not publisher.flush(stop) and not publisher.flush(timeout=DRAIN):
            log.warning(
                "the broker %s has not acknowledged %d messages",
                connection.address,
                published - publisher.acknowledged,
            )
    return published
