"""The live line: how a command that runs for long is doing, in one line."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Callable

from fml_lightning.names import escaped

PLAIN_INTERVAL = 10.0
"""Seconds between two lines where the output is no terminal."""
PROGRESS_INTERVAL = 60.0
"""Seconds between two lines of a log that tell nothing but progress."""
CLEAR = "\r\x1b[2K"
"""To the beginning of the line, and empty it (ECMA-48)."""


class LiveLine:
    """A line on stderr that is written again and again; where stderr is no terminal, a new line now and then.

    Use it as a context: `with LiveLine() as line: line.show(...)`; its last state is left standing.

    Args:
        delay: seconds until it is shown for the first time.
    """

    def __init__(self, delay: float = 0.0) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._interval = 1.0 if self._is_terminal else PLAIN_INTERVAL
        self._next = time.monotonic() + delay
        self._shown = False

    def __enter__(self) -> LiveLine:
        return self

    def show(self, text: Callable[[], str]) -> None:
        """Show the line, if it is time to."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._interval
        line = escaped(text())  # it may quote a topic or a payload
        if self._is_terminal:
            width = shutil.get_terminal_size().columns
            # A line that is wrapped cannot be written over.
            sys.stderr.write(CLEAR + (line if len(line) < width else f"{line[: width - 2]}…"))
        else:
            sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
        self._shown = True

    def __exit__(self, *error: object) -> None:
        if self._is_terminal and self._shown:
            sys.stderr.write("\n")
            sys.stderr.flush()


class ChangeLine:
    """A line on stderr of what seldom changes: on a terminal a live line, elsewhere a line for every change.

    There, what is mere progress makes a new line at most once a minute.

    Use it as a context, as `LiveLine`.
    """

    def __init__(self) -> None:
        self._live = LiveLine()
        self._is_terminal = sys.stderr.isatty()
        self._last: tuple[object, object] | None = None
        self._told = 0.0
        """When the last line of a log was written, by `time.monotonic`."""

    def __enter__(self) -> ChangeLine:
        return self

    def show(self, text: str, state: object, progress: object) -> None:
        """Show the line.

        Args:
            text: the line.
            state: makes a new line at once where it differs from the last line's and stderr is no terminal.
            progress: makes a new line there too, but not within a minute of the last.
        """
        if self._is_terminal:
            self._live.show(lambda: text)
            return
        now = time.monotonic()
        is_due = now - self._told >= PROGRESS_INTERVAL and self._last != (state, progress)
        if self._last is None or self._last[0] != state or is_due:
            self._last, self._told = (state, progress), now
            self.tell(text)

    def tell(self, text: str) -> None:
        """Leave a line standing above the one that is shown."""
        sys.stderr.write(f"{CLEAR if self._is_terminal else ''}{_now()} {escaped(text)}\n")
        sys.stderr.flush()

    def __exit__(self, *error: object) -> None:
        self._live.__exit__(*error)


def without_digits(text: str) -> str:
    """A sentence as it is compared where times and counts in it are no news."""
    return re.sub(r"\d+", "", text)


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
