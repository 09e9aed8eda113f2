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
    """What is wrong, in one sentence; None if nothing is."""
    received: int
    """Messages that came over the line."""
    received_bytes: int
    """Bytes of their payloads."""
    committed: int
    """Messages made durable."""
    waiting: int
    """Messages received and not yet durable."""
    lag: float
    """Seconds since the oldest of the waiting messages was received; 0 if none waits."""
    silence: float
    """Seconds since messages were last made durable."""
    duplicates: int
    """Messages that the broker delivered again though they were durable, and that were left out."""
    repeated: int
    """Readings that a device sent again, and that are left out."""
    dead_letters: int
    """Messages that could not be decoded, wholly or in part."""
    doubtful: int
    """Readings with a `Quality` flag other than NO_DEVICE_TIME."""
    machines: int
    """Machines seen."""
    skew: float
    """The largest distance between a machine's clock and ours, seconds; transport included."""
    connections: int
    """Times that the broker has accepted us."""
    restarts: int
    """Times that the network thread was started again because it had died or hung."""
    gaps: int
    """Times that the broker had lost our session."""
    quarantined: int
    """Segments of the spool that could not be read."""
