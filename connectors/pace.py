"""Pace: when recorded moments are due in a replay, at the speed of the recording or so many times faster."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fml_lightning.errors import UserError

ROWS = 10_000
"""Rows in a part, at most."""
MOMENT = 0.05
"""Seconds between two parts, at least, unless the replay is behind: rows that are due in between come together."""


class Pace:
    """The clock of a replay: the first moment is due at once, each later one as long after the first as recorded.

    Args:
        speed: how many times as fast as it was recorded; infinity: everything is due at once.
        stop: ends the waiting.

    Raises:
        UserError: the speed is not above 0.
    """

    def __init__(self, speed: float, stop: threading.Event) -> None:
        if not speed > 0:
            raise UserError(f"speed: expected above 0, got {speed}")
        self.speed = speed
        self._stop = stop
        self._first: float | None = None
        self._began = 0.0

    def wait(self, moment: float) -> bool:
        """Wait until a moment is due; whether that came before `stop`.

        Args:
            moment: recorded, seconds since 1970.
        """
        if self._first is None:
            self._first, self._began = moment, time.monotonic()
        due = self._began + (moment - self._first) / self.speed
        # If the clock was set while recording, moments may be centuries apart: more than one wait can take.
        while (left := due - time.monotonic()) > 0:
            if self._stop.wait(min(left, 3600.0)):
                return False
        return not self._stop.is_set()

    def parts(self, moments: NDArray[np.float64]) -> Iterator[slice]:
        """Slices of rows, each as soon as all of its rows are due, until the last one or `stop`.

        Args:
            moments: recorded, seconds since 1970, (n,).
        """
        begin = 0
        while begin < len(moments) and self.wait(float(moments[begin])):
            early = moments[begin + 1 : begin + ROWS] > self._reached
            end = begin + 1 + (int(early.argmax()) if early.any() else len(early))
            yield slice(begin, end)
            begin = end
            if begin < len(moments) and moments[begin] + MOMENT * self.speed > self._reached:
                self._stop.wait(MOMENT)

    @property
    def _reached(self) -> float:
        """The last moment that is due by now, seconds since 1970."""
        if self._first is None or self.speed == math.inf:
            return math.inf
        return self._first + (time.monotonic() - self._began) * self.speed
