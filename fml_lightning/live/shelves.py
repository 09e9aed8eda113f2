"""Shelves: until when machines' alarms are told to nobody, by clocks that may be set."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

from fml_lightning.live.alarm import LONGEST_SHELF
from fml_lightning.live.commands_file import Command
from fml_lightning.live.records import Said
from fml_lightning.live.state import Machine


class Shelves:
    """The shelves of a watch's machines.

    A clock that is set ends no shelf that this process has begun, and makes none last longer. How long one that
    was begun before a restart has lasted, only the clock tells: if it is set forwards, the shelf ends early; if it
    is set back, the shelf lasts no longer.
    """

    def __init__(self) -> None:
        self._shelves: dict[tuple[str, str], _Shelf] = {}

    def begin(self, command: Command, now: int) -> int:
        """Begin a shelf at `now`, and return when it will be over, µs since 1970."""
        seconds = min(command.seconds, LONGEST_SHELF)
        left = min(max(command.seconds - (now - command.time) / 1e6, 0.0), seconds)
        until = now + round(left * 1e6)
        self._shelves[command.site, command.machine] = _Shelf(until, time.monotonic() + left, True)
        return until

    def over(self, machines: Iterable[Machine], now: int) -> list[Said]:
        """Which machines' shelves are over at `now`, µs since 1970: said once."""
        over = []
        for machine in machines:
            until = machine.alarm.shelved_until
            if until is None:
                continue
            shelf = self._shelves.get((machine.site, machine.name))
            if shelf is None or shelf.until != until:
                left = min((until - now) / 1e6, LONGEST_SHELF)
                shelf = self._shelves[machine.site, machine.name] = _Shelf(until, time.monotonic() + left, False)
            if time.monotonic() >= shelf.over or (until <= now and not shelf.is_own):
                over.append(Said(machine.site, machine.name, now, "unshelve"))
                del self._shelves[machine.site, machine.name]
        return over


class _Shelf(NamedTuple):
    """Until when a machine is shelved."""

    until: int
    """By the clock, µs since 1970."""
    over: float
    """By the clock that nobody sets, monotonic seconds."""
    is_own: bool
    """Whether this process has begun it."""
