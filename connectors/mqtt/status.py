"""The status of a recording: what is connected, received, durable, doubtful and wrong."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Status:
    """How a recording goes."""

    connected: bool
    healthy: bool
    """Connected, writing, able to read what comes, and not silent."""
    problem: str | None
    """What is wrong, in one sentence."""
    received: int
    """Messages that came over the line."""
    received_bytes: int
    """Bytes of their payloads."""
    committed: int
    """Messages made durable."""
    waiting: int
    """Messages received and not yet durable."""
    lag: float
    """Seconds since the oldest of these was received."""
    silence: float
    """Seconds since messages were last made durable."""
    duplicates: int
    """Messages that the broker delivered again."""
    repeated: int
    """Readings that a device sent again."""
    dead_letters: int
    doubtful: int
    """Readings with a flag."""
    machines: int
    """Machines seen."""
    skew: float
    """The largest distance between a machine's clock and ours, seconds; transport included."""
    connections: int
    restarts: int
    """Times that the network thread was started again because it had died or hung."""
    gaps: int
    """Times that the broker had lost our session."""
    quarantined: int
    """Segments of the spool that could not be read."""
