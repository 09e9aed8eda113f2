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

    Use it as a context, as `LiveLine`.
    """

    def __init__(self) -> None:
        self._live = LiveLine()
        self._is_terminal = sys.stderr.isatty()
        self._last: object = None

    def __enter__(self) -> ChangeLine:
        return self

    def show(self, text: str, what: object = None) -> None:
        """Show the line.

        Args:
            text: the line.
            what: what must differ for a new line where stderr is no terminal, if that is not the text itself.
        """
        if self._is_terminal:
            self._live.show(lambda: text)
        elif (text if what is None else what) != self._last:
            self._last = text if what is None else what
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
