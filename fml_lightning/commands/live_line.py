"""The live line: how a command that runs for long is doing, in one line."""

from __future__ import annotations

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
