"""The status of a recording: what is connected, received, durable, doubtful and wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Status:
    """How a recording goes."""

    connected: bool
    healthy: bool
    """Connected, alone in our session, writing, able to read what comes, and not silent: no message is lost. A
    `warning` leaves it true."""
    problem: str | None
    """What is wrong, in one sentence; None if nothing is."""
    received: int
    """Messages that came over the line."""
    received_bytes: int
    """Bytes of their topics and payloads."""
    committed: int
    """Messages made durable."""
    waiting: int
    """Messages received and not yet durable."""
    lag: float
    """Seconds since the oldest of the waiting messages was received; 0 if none waits."""
    silence: float
    """Seconds since messages were last made durable."""
    redelivered: int
    """Messages that the broker delivered again though they were durable, and that were left out."""
    repeated: int
    """Readings that a device sent again, and that are left out."""
    dead_letters: int
    """Messages that could not be decoded, wholly or in part."""
    doubtful: Mapping[str, int]
    """Readings with a `Quality` flag, by the flag's name in small letters; NO_DEVICE_TIME is left out. A reading
    with two flags counts under each."""
    machines: int
    """Machines seen."""
    skew: float
    """The largest distance between a machine's clock and ours, seconds; transport included."""
    connections: int
    """Times that the broker has accepted us."""
    restarts: int
    """Times that the network thread was started again because it had died or hung."""
    gaps: int
    """Times that messages may have been lost: the broker had lost our session, or another client had it."""
    quarantined: int
    """Segments of the spool that could not be read."""
    takeovers: int = 0
    """Times that another client has taken our session, or seems to have."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Members of messages that the codec of a topic skips, by their names: how often each came."""
    warning: str | None = None
    """What is probably set wrong, in one sentence, though no message is lost; None if nothing seems to be."""
