"""The result of one machine: what a report shows a row of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MachineResult:
    """How well one machine's model works, before and after adaptation."""

    site: str
    machine: str
    before: float
    """The objective's metric on query windows with the shared initialization."""
    after: float
    """The same after adapting to the support windows."""
