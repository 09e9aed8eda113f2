"""The data's clock: how much time of a machine its windows have shown, whatever the clocks of devices do.

Delays of alarms and blocks of drift are counted in this time. A clock that is set forwards or backwards by hours,
and data that were stored and come hours late among new ones, move it no further than any other window does.
"""

from __future__ import annotations

from statistics import median

import msgspec

TRACKS = 4
"""Ends of windows that others may go on with: of what is measured now, and of what was stored and comes late."""
STEPS = 15
"""Steps from window to window of which the usual one is the median."""
ENOUGH = 3
"""Steps that must be known before one may be longer than a window."""
GAP = 3.0
"""A step longer than so many usual ones is a gap, or a clock that was set: it counts as a usual one."""


class DataClock(msgspec.Struct):
    """Seconds of data that a machine has shown; each window adds its step from the one that it goes on with.

    Five windows a second apart, and a clock that is set forwards by a day and back again:

    >>> clock = DataClock()
    >>> [clock.add(second * 1_000_000, 0.5) for second in (0, 1, 2, 3, 4, 86_405, 86_406, 7, 8)]
    [0.0, 0.5, 1.0, 1.5, 2.5, 3.5, 4.5, 7.5, 8.5]
    """

    seconds: float = 0.0
    """Since the first window."""
    ends: list[int] = []
    """Ends of the tracks' last windows, µs since 1970, the track that was gone on with last at the end."""
    steps: list[float] = []
    """From windows to those that went on with them, seconds, the last ones."""

    def add(self, end: int, duration: float) -> float:
        """Take in the next window, in the order in which they come, and return `seconds`.

        Args:
            end: of the window, µs since 1970.
            duration: of the window, seconds.
        """
        nearest = max((earlier for earlier in self.ends if earlier <= end), default=None)
        usual = median(self.steps) if len(self.steps) >= ENOUGH else None
        if nearest is None:  # the first window, or the clock was set back, or what was stored begins to come
            self.seconds += 0.0 if not self.ends else duration if usual is None else usual
            self._go_on(None, end)
            return self.seconds
        step = (end - nearest) / 1e6
        self.steps = [*self.steps, step][-STEPS:]
        is_gap = usual is not None and step > GAP * max(usual, duration)
        self._go_on(None if is_gap else nearest, end)
        self.seconds += min(step, duration) if usual is None else usual if is_gap else step
        return self.seconds

    def _go_on(self, track: int | None, end: int) -> None:
        """Let a window be the last one of a track, or of a new one."""
        others = [earlier for earlier in self.ends if earlier != track]
        self.ends = [*others, end][-TRACKS:]
