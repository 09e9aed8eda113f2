"""The outbox: messages that are to be published, on disk until the broker has them.

Messages follow from records alone. So those that a loss of power takes from the outbox are made again from the
journal; each says which record it follows from, and none is put in twice.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from fml_lightning import durable
from fml_lightning.errors import UserError
from fml_lightning.live.log import BEGIN, Log, Place

log = logging.getLogger(__name__)

LARGEST = 1 << 30
"""Bytes of messages that wait, at most: a day's of 20 machines with a window a second. Those that tell more than
scores wait beyond it: they are few, and each is told."""


class Outgoing(msgspec.Struct, frozen=True):
    """A message."""

    record: tuple[int, int, int]
    """Where the record that it follows from ends in the journal (segment, byte); its number among those of it."""
    topic: str
    payload: msgspec.Raw
    is_news: bool = True
    """Whether it tells more than scores of windows."""


_DECODER = msgspec.json.Decoder(Outgoing)


class Outbox:
    """Messages in order; one thread puts them in, another one takes them out.

    Args:
        folder: of the messages.
        published: a file that says up to where they are published.
    """

    def __init__(self, folder: Path, published: Path) -> None:
        self.log = Log(folder)
        self._published = published
        self._changed = threading.Condition()
        self._first = min(self.log.segments(), default=1)
        self.last = self._last()
        """The record that the newest message follows from."""
        self.taken = self._end_up_to(self._read_published())
        """Up to where the messages are published."""
        self.left_out = 0
        """Messages that were not put in because too many wait."""

    def put(self, messages: Sequence[Outgoing]) -> None:
        """Put in messages of records that are in the journal, but for those that are here already.

        Of messages that tell nothing but scores, which the journal has, none is put in while others of `LARGEST`
        bytes wait.

        Raises:
            OSError: the disk is full or failing; none was put in.
        """
        new = [message for message in messages if message.record > self.last]
        kept = [message for message in new if message.is_news] if self._waiting() > LARGEST else new
        if kept:
            self.log.append([msgspec.json.encode(message) for message in kept], sync=False)
            with self._changed:
                self._changed.notify_all()
        if new:
            self.last = new[-1].record
        self._note_left_out(len(new) - len(kept), bool(new))

    def _waiting(self) -> int:
        """Bytes of messages that are not published, about."""
        taken, end = max(self.taken, Place(self._first, 0)), self.log.end
        return (end.segment - taken.segment) * self.log.segment + end.offset - taken.offset

    def _note_left_out(self, count: int, is_any: bool) -> None:
        """Say when scores begin to be left out, and when no more are."""
        if count and not self.left_out:
            log.warning(
                "%s: messages of %d MiB wait for the broker; scores are not published until it has taken some",
                self.log.folder,
                LARGEST >> 20,
            )
        elif self.left_out and is_any and not count:
            log.warning("%s: %d messages of scores were not published", self.log.folder, self.left_out)
            self.left_out = 0
        self.left_out += count

    def after(self, place: Place) -> Iterator[tuple[Place, Outgoing]]:
        """The messages after a place, each with where it ends, as far as they are there now."""
        for end, line in self.log.read(place):
            yield end, _DECODER.decode(line)

    def wait(self, seconds: float) -> None:
        """Wait until there is a new message, or for so long."""
        with self._changed:
            self._changed.wait(seconds)

    def note_published(self, place: Place) -> None:
        """Note that all messages up to a place are published, and delete segments of which all are.

        Raises:
            OSError: the disk is full or failing; should the process end now, messages are published again.
        """
        # First what makes room, for the note too; a restart with the old note begins with the next segment.
        self.log.drop(min(place.segment, self.log.end.segment))
        durable.replace(self._published, msgspec.json.encode(place))
        self.taken = place

    def _last(self) -> tuple[int, int, int]:
        last = (0, 0, 0)
        for number in reversed(self.log.segments()):
            for _, message in self.after(Place(number, 0)):
                last = message.record
            if last != (0, 0, 0):
                break
        return last

    def _end_up_to(self, place: Place) -> Place:
        """Where the last message ends that lies before a place, or at it.

        A loss of power may have taken messages that the broker has; they are made again, and published again.
        """
        place = min(place, self.log.end)
        found = Place(place.segment, 0)
        for end, _ in self.log.read(found):
            if end > place:
                break
            found = end
        return found

    def _read_published(self) -> Place:
        try:
            return Place(*msgspec.json.decode(self._published.read_bytes(), type=tuple[int, int]))
        except FileNotFoundError:
            return BEGIN
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UserError(
                f"{self._published}: expected where messages are published up to, got something else; delete the"
                " file, and all messages that are kept are published again"
            ) from error
