"""The board: what a table and a page show of the machines that are watched, and what they may ask for."""

from __future__ import annotations

from typing import Protocol

import msgspec

from fml_lightning.live.alarm_state import AlarmState, is_raised
from fml_lightning.live.event import Event


class MachineView(msgspec.Struct, frozen=True):
    """How one machine is."""

    site: str
    machine: str
    health: str
    """A word of NAMUR NE 107: NORMAL, CHECK_FUNCTION, OFF_SPEC, MAINTENANCE_REQUIRED or FAILURE."""
    reason: str
    """Why, in one plain sentence; empty if NORMAL."""
    since: int | None
    """From when on it has been so, µs since 1970, UTC; None before the first window."""
    fault: str
    """The likeliest fault; empty if there is none."""
    confidence: float | None
    """How likely that fault is, 0 to 1."""
    score: float | None
    """The mean of the last windows' scores, as the alarm sees it: 0 healthy, 1 sick; None without a score."""
    trend: tuple[tuple[int, float], ...]
    """Times (µs since 1970, UTC) and mean scores, at most 120 of them, oldest first."""
    last_data: int | None
    """The end of the newest window, µs since 1970, UTC; None before the first one."""
    version: str
    """Of the model that watches, such as v3; empty without one."""
    alarm: AlarmState
    last_alarm: int | None
    """When the newest alarm was raised, µs since 1970, UTC."""
    acknowledged: bool
    """Whether somebody has said that they know of the alarm."""
    shelved_until: int | None
    """Until when alarms of the machine are shelved, µs since 1970, UTC; None: they are not."""
    shelved_reason: str
    """Why they are."""
    estimate: float | None = None
    """What the model says of the newest window, where that is a number, such as the remaining life."""
    quantity: str = ""
    """What that number is, in words that follow it, such as `cycles left`."""
    stale: bool = False
    """Whether no windows have come for too long."""

    @property
    def is_acknowledged(self) -> bool:
        """Whether there is an alarm, and somebody has said that they know of it."""
        return is_raised(self.alarm) and self.acknowledged

    @property
    def estimated(self) -> str:
        """The number in words; empty if there is none."""
        return "" if self.estimate is None else f"{self.estimate:.4g} {self.quantity}".rstrip()


class MachineDetail(msgspec.Struct, frozen=True):
    """One machine's own view."""

    view: MachineView
    scores: tuple[tuple[int, float], ...]
    """Times (µs since 1970, UTC) and scores, at most 2,000, oldest first; older ones are means of several."""
    frequencies: tuple[float, ...]
    """Hz, of the spectrum; empty if there is none."""
    spectrum: tuple[float, ...]
    """Of the newest windows, dB."""
    baseline: tuple[float, ...]
    """Of the machine's healthy windows, dB; empty if there are none."""
    fault_lines: tuple[tuple[str, float], ...]
    """Names and frequencies (Hz) at which faults would show, such as BPFO."""
    alarms: tuple[Event, ...]
    """Newest first, at most 200."""


class Board(Protocol):
    """What is shown, and what may be asked for. Every method may be called from any thread."""

    def views(self) -> list[MachineView]:
        """All machines, worst first."""
        ...

    def detail(self, site: str, machine: str) -> MachineDetail | None:
        """One machine's own view; None if there is no such machine."""
        ...

    def acknowledge(self, site: str, machine: str, who: str) -> None:
        """Say that somebody knows of a machine's alarm.

        Raises:
            UserError: there is no such machine, or it has no alarm.
        """
        ...

    def shelve(self, site: str, machine: str, seconds: float, reason: str, who: str) -> None:
        """Keep a machine's alarms from being told for so many seconds; 0 ends that.

        Raises:
            UserError: there is no such machine, or the time is none, or too long.
        """
        ...

    def problems(self) -> list[str]:
        """Why nothing is scored now, or nothing is published, a sentence each; empty if all is well."""
        ...

    def wait(self, revision: int, timeout: float) -> int:
        """Wait until there is a newer revision than this one, or `timeout` seconds pass; returns the newest."""
        ...
