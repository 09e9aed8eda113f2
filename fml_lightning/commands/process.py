"""What every command that runs for long does: parse, stop on a signal, and say in one line how it goes."""

from __future__ import annotations

import gc
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fml_lightning.allocator import keep_freed_memory
from fml_lightning.arguments import Parser

PLAIN_INTERVAL = 10.0
"""Seconds between two lines where the output is no terminal."""


def parser(name: str, purpose: str) -> Parser:
    """The parser of a command, with `--config`."""
    made = Parser(prog=f"fml {name}", description=f"{purpose[0].upper()}{purpose[1:]}.")
    made.add_argument("--config", action="config", help="YAML file with any of the settings below")
    return made


@contextmanager
def stopped_by_signal(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on SIGTERM and SIGINT, so that the command ends in good order; a second one ends it at once."""

    def handler(number: int, _frame: object) -> None:
        for each in before:
            signal.signal(each, before[each])
        stop()

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


class LiveLine:
    """One line that is written over and over; where the output is no terminal, a new one now and then.

    Args:
        interval: seconds between two.
    """

    def __init__(self, interval: float = 1.0) -> None:
        self._is_terminal = sys.stderr.isatty()
        self.interval = interval if self._is_terminal else PLAIN_INTERVAL
        self._next = 0.0
        self._lock = threading.Lock()

    def show(self, text: Callable[[], str], *, now: bool = False) -> None:
        """Show the line, if it is time to (or `now`)."""
        with self._lock:
            if not now and time.monotonic() < self._next:
                return
            self._next = time.monotonic() + self.interval
            if self._is_terminal:
                sys.stderr.write(f"\r\x1b[2K{text()}")
            else:
                sys.stderr.write(f"{text()}\n")
            sys.stderr.flush()

    def end(self) -> None:
        """Leave the last line standing."""
        if self._is_terminal:
            sys.stderr.write("\n")
            sys.stderr.flush()


def settle() -> None:
    """Spare a process that will run for long what each of its steps would pay again.

    The garbage collector need not look at what was imported, and freed memory is kept.
    """
    gc.collect()
    gc.freeze()
    keep_freed_memory()


def log_to_stderr() -> None:
    """Warnings and errors of long-running commands, with their time."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING, stream=sys.stderr)
