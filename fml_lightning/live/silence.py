"""Silence: how long machines have sent nothing, or nothing that makes windows, by the clock that nobody sets."""

from __future__ import annotations

import time
from collections.abc import Callable


class Silence:
    """When machines, each a pair of site and name, were heard last.

    Args:
        limit: seconds without a window after which a machine's sensor is stale.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._windows: dict[tuple[str, str], float] = {}  # monotonic seconds
        self._anything: dict[tuple[str, str], float] = {}

    def begin(self, place: tuple[str, str]) -> None:
        """Wait for a machine's windows from now on, unless they are waited for already."""
        self._windows.setdefault(place, time.monotonic())

    def hear(self, place: tuple[str, str]) -> None:
        """A machine has sent something."""
        self._anything[place] = time.monotonic()
        self.begin(place)

    def hear_windows(self, place: tuple[str, str]) -> None:
        """A machine has sent what made windows."""
        self._windows[place] = time.monotonic()

    def is_stale(self, place: tuple[str, str]) -> bool:
        """Whether no window of a machine has come for longer than the limit."""
        last = self._windows.get(place)
        return last is not None and time.monotonic() - last > self.limit

    def is_heard(self, place: tuple[str, str]) -> bool:
        """Whether anything of a machine has come within the limit."""
        last = self._anything.get(place)
        return last is not None and time.monotonic() - last <= self.limit

    def forget(self, is_forgotten: Callable[[tuple[str, str]], bool]) -> None:
        """Forget machines."""
        for known in (self._windows, self._anything):
            for place in [each for each in known if is_forgotten(each)]:
                del known[place]
