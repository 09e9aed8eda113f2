"""Who ends a run: the user does, by a signal; the code of a site does not, whatever it raises."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def noted_signals() -> Iterator[set[int]]:
    """Note which of SIGINT and SIGTERM arrive inside; each still does what it did before.

    `KeyboardInterrupt` alone does not say that the user pressed Ctrl-C: any code can raise it. Only the main
    thread receives signals; in another one nothing is noted.
    """
    noted: set[int] = set()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        noted.add(number)
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    # What is not callable ignores the signal or ends the process at once: there is nothing to note.
    replaced = [number for number, handler in before.items() if callable(handler)]
    for number in replaced:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        for number in replaced:
            signal.signal(number, before[number])
