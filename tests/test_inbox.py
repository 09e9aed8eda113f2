"""The inbox counts what is in memory, and waits for what is worth a commit."""

from __future__ import annotations

import threading
import time

from fml_lightning.connectors import Message
from fml_lightning.connectors.spool.inbox import Inbox

X = "plant/a/m/x"


def message(size: int) -> Message:
    return Message(X, b"x" * size, 5)


def test_the_inbox_counts_what_is_in_memory() -> None:
    inbox = Inbox(max_bytes=10)
    assert (inbox.oldest, len(inbox), inbox.full) == (None, 0, False)
    for size in (4, 5):
        inbox.put(message(size))
    assert not inbox.full
    inbox.put(message(1))
    assert inbox.full
    taken = inbox.take(2, 100, interval=1.0, idle=0.01)
    assert taken is not None
    assert (len(taken), len(inbox), inbox.full, inbox.oldest) == (2, 3, True, 5)  # not durable yet
    assert len(inbox.take(2, 100, interval=1.0, idle=0.01) or ()) == 1
    assert (len(inbox), inbox.full, inbox.oldest) == (1, False, 5)
    inbox.release()
    assert (len(inbox), inbox.full, inbox.oldest) == (0, False, None)
    inbox.put(message(1))
    inbox.close()
    assert len(inbox.take(2, 100, 1.0, 0.01) or ()) == 1
    assert inbox.take(2, 100, 1.0, 0.01) is None


def test_nothing_comes_into_an_inbox_that_is_closed() -> None:
    inbox = Inbox(max_bytes=10)
    inbox.close()
    inbox.put(message(1))
    assert (len(inbox), inbox.put_count) == (0, 0)
    assert inbox.take(1, 100, 1.0, 0.01) is None


def test_new_sessions_are_told_once_and_before_the_messages_of_later_links() -> None:
    inbox = Inbox(max_bytes=10)
    for number, kept in ((1, True), (2, False), (3, True), (5, False)):
        inbox.note_link(number, kept)
    assert inbox.links == 4
    assert inbox.new_session(1) is None
    assert inbox.new_session(4) is not None
    assert inbox.new_session(4) is None
    assert inbox.new_session(None) is not None
    assert inbox.new_session(None) is None


def test_taking_waits_for_enough_or_for_silence() -> None:
    inbox = Inbox(max_bytes=1000)

    def timed(count: int, interval: float, idle: float, size: int = 100) -> tuple[int, float]:
        began = time.monotonic()
        taken = inbox.take(count, size, interval, idle)
        return len(taken or ()), time.monotonic() - began

    def put(count: int, pause: float) -> threading.Thread:
        def work() -> None:
            for _ in range(count):
                time.sleep(pause)
                inbox.put(message(1))

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    thread = put(20, 0.01)
    count, seconds = timed(10, 5.0, 1.0)
    assert count == 10  # enough are there
    assert seconds < 0.5
    thread.join()
    assert timed(1000, 5.0, 0.05, size=4)[0] == 4  # enough bytes are
    assert timed(1000, 5.0, 0.05)[0] == 6  # nothing more comes
    thread = put(20, 0.01)
    count, seconds = timed(1000, 5.0, 1.0, size=10)
    assert count == 10
    assert seconds < 0.5
    thread.join()
    assert timed(1000, 5.0, 0.05)[0] == 10
    thread = put(40, 0.01)
    count, seconds = timed(1000, 0.2, 1.0)
    assert 5 < count < 40  # the oldest has waited long enough
    assert 0.15 < seconds < 0.5
    thread.join()
    assert timed(1000, 5.0, 0.01)[1] < 0.2
    assert 0.9 < timed(1, 1.0, 1.0)[1] < 1.5  # nothing at all
