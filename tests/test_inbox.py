"""The inbox counts what is in memory, and waits for what is worth a commit."""

from __future__ import annotations

import threading

from probes import LONG, in_background

from fml_lightning.connectors import Message
from fml_lightning.connectors.spool.inbox import OVERHEAD, Inbox

X = "plant/a/m/x"
EMPTY = OVERHEAD + len(X)
"""What a message without a payload counts."""
LARGE = 1 << 30


def message(size: int) -> Message:
    return Message(X, b"x" * size, 5)


def test_the_inbox_counts_what_is_in_memory() -> None:
    inbox = Inbox(max_bytes=3 * EMPTY + 10)
    assert (inbox.oldest, len(inbox), inbox.full) == (None, 0, False)
    for size in (4, 5):
        inbox.put(message(size))
    assert not inbox.full
    inbox.put(message(1))
    assert inbox.full
    taken = inbox.take(2, LARGE, interval=1.0, idle=0.01)
    assert taken is not None
    assert (len(taken), len(inbox), inbox.full, inbox.oldest) == (2, 3, True, 5)  # not durable yet
    assert len(inbox.take(2, LARGE, interval=1.0, idle=0.01) or ()) == 1
    assert (len(inbox), inbox.full, inbox.oldest) == (1, False, 5)
    inbox.release()
    assert (len(inbox), inbox.full, inbox.oldest) == (0, False, None)
    inbox.put(message(1))
    inbox.close()
    assert len(inbox.take(2, LARGE, 1.0, 0.01) or ()) == 1
    assert inbox.take(2, LARGE, 1.0, 0.01) is None


def test_nothing_comes_into_an_inbox_that_is_closed() -> None:
    inbox = Inbox(max_bytes=10)
    inbox.close()
    inbox.put(message(1))
    assert (len(inbox), inbox.put_count) == (0, 0)
    assert inbox.take(1, LARGE, 1.0, 0.01) is None


def test_changes_of_the_session_are_told_once_and_before_the_messages_of_later_links() -> None:
    inbox = Inbox(max_bytes=10)

    def told(link: int | None) -> str | None:
        change = inbox.session_change(link)
        return None if change is None else change.kind

    for number, kept in ((1, True), (2, False), (3, True), (5, False)):
        inbox.note_link(number, kept)
    assert inbox.links == 4
    assert [told(1), told(4), told(4), told(None), told(None)] == [None, "new", None, "new", None]
    inbox.note_takeover(5)  # after the messages of the fifth link
    inbox.note_link(7, True)
    inbox.note_takeover(7)
    inbox.note_link(8, False)
    inbox.note_link(9, True)
    assert [told(5), told(6), told(6), told(7), told(7)] == [None, "taken", None, "back", None]
    assert [told(None), told(None), told(None)] == ["taken", "new", None]
    assert (inbox.links, inbox.takeovers) == (7, 2)


def taken(inbox: Inbox, count: int, size: int, interval: float, idle: float) -> int:
    """How many messages are taken while another thread puts in messages of one byte without end."""
    has_taken = threading.Event()

    def put() -> None:
        while not has_taken.wait(0.002):
            inbox.put(message(1))

    with in_background(put):
        try:
            while not (group := inbox.take(count, size, interval, idle)):
                assert group is not None
            return len(group)
        finally:
            has_taken.set()


def test_taking_waits_until_there_are_enough() -> None:
    assert taken(Inbox(LARGE), 10, LARGE, interval=LONG, idle=LONG) == 10
    assert taken(Inbox(LARGE), 1000, 4 * EMPTY + 4, interval=LONG, idle=LONG) == 4


def test_taking_waits_no_longer_than_the_oldest_may() -> None:
    assert taken(Inbox(LARGE), 10**9, 10**9, interval=0.05, idle=LONG) > 0


def test_taking_waits_until_nothing_more_comes() -> None:
    inbox = Inbox(LARGE)
    for _ in range(6):
        inbox.put(message(1))
    assert len(inbox.take(1000, LARGE, interval=LONG, idle=0.01) or ()) == 6
    assert inbox.take(1000, LARGE, interval=LONG, idle=LONG) == []  # nothing for a second
