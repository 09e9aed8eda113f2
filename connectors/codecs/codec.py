"""The contract of codecs: the bytes of one message in, samples out, one error for whatever is wrong with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

LONGEST_ERROR = 300
"""Characters of an error's message: parsers quote what they found, however long it is."""
LONGEST_NAME = 256
"""Characters of a name that a payload gives a channel, machine, site or unit, and of a label, at most."""
MOST_SKIPPED = 10_000
"""Names of what was left out of one message, at most: a payload may have millions."""
LATER = {"later": True}
"""Metadata of a codec's field that came after spools had been written with the codec: `describe` leaves it out
where it has its default, so that what was kept of those spools is found to be the same codec's."""


class Sample(msgspec.Struct, gc=False):
    """What a codec reads in one message of one channel: a scalar, or a block of samples."""

    values: float | NDArray[np.float32]
    """Of a scalar, one number, exactly a `float`; of a block, samples in the sensor's unit, (n,) float32, n ≥ 1,
    which may be a read-only view of the payload."""
    time: int | None = None
    """The device's time of the (first) sample: µs since 1970, UTC; None where it sends none."""
    sample_rate: float | None = None
    """Hz, of a block, always; None for a scalar."""
    channel: str | None = None
    """The channel, where the payload names it; it is joined to the topic's with a `/`, if the topic has one."""
    machine: str | None = None
    """The machine, where the payload names it; else the topic does."""
    site: str | None = None
    """The site, where the payload names it; else the topic does."""
    unit: str | None = None
    """The unit of the values, where the payload names it; else the topic does, or nobody."""
    quality: int = 0
    """`Quality` flags of which only the device or the codec knows, such as `BAD`."""


class PartlyRead(list[Sample]):
    """The samples of a payload of which something was left out that might be a measurement.

    A codec that knows names in its payloads which it cannot read returns this in place of a plain list or tuple;
    whoever records counts each name, and shows it to the user once. Members that the configuration does not ask
    for, or that have no value (null), are not left out in this sense.

    >>> PartlyRead([Sample(21.5, channel="t")], {"unit": "text"}).skipped
    {'unit': 'text'}
    """

    def __init__(self, samples: Iterable[Sample], skipped: Mapping[str, str]) -> None:
        super().__init__(samples)
        self.skipped = skipped
        """What was left out, by name, and what it is, in the plural: `text`, `arrays without a sample rate`; of
        more than `MOST_SKIPPED` names not all."""


class CodecError(ValueError):
    """A payload that its codec cannot read; the message says what was expected and what came, in one sentence."""

    def __init__(self, message: str, samples: Sequence[Sample] = ()) -> None:
        super().__init__(message[:LONGEST_ERROR])
        self.samples = samples
        """The samples of those parts of the payload that were good."""


class Faults:
    """What is wrong with parts of a payload whose other parts are good: the first fault, and how many more."""

    def __init__(self) -> None:
        self.first = ""
        self.count = 0

    def add(self, fault: str) -> None:
        """Note one fault."""
        self.first = self.first or fault
        self.count += 1

    @property
    def sentence(self) -> str:
        """The first fault, and how many more there were; empty if there was none."""
        return self.first + (f" (and {self.count - 1} more)" if self.count > 1 else "")

    def check(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        """The samples, if there was no fault.

        Raises:
            CodecError: there was one; the error keeps the samples.
        """
        if self.count:
            raise CodecError(self.sentence, samples)
        return samples


class Codec(ABC):
    """Reads the payloads of a topic.

    Codecs are frozen dataclasses: their fields are their configuration, in YAML and in the spool.
    """

    @property
    def _is_plain(self) -> bool:
        """Whether no sample of this codec has a name, a unit or a flag, whatever the payload: nobody need look.

        It counts only for codecs of this package, so it is no part of the contract.
        """
        return False

    @abstractmethod
    def decode(self, payload: bytes) -> Sequence[Sample]:
        """The samples of one message; none if the payload is empty or says nothing of sensors.

        `PartlyRead` are samples too, and names of what was left out.

        Raises:
            CodecError: the payload is not what it should be; its `samples` are those that could be read.
        """


class CodecSession(ABC):
    """Decodes the messages of one `Topic`, in order: what one of them means may depend on those before.

    What it has learnt from them can be taken out with `state` and given to a new session with `restore`, which
    then decodes later messages as this one would. So a spool can be read from the middle on, and after its oldest
    messages were deleted.
    """

    @abstractmethod
    def decode(self, topic: str, payload: bytes) -> Sequence[Sample]:
        """The samples of one message, or `PartlyRead`, as of `Codec.decode`.

        Raises:
            CodecError: the message is not what it should be; its `samples` are those that could be read.
        """

    def requests(self, now: float) -> list[tuple[str, bytes]]:
        """Topics and payloads to publish now, such as requests to devices to explain their messages again.

        Args:
            now: seconds since 1970, UTC.
        """
        return []

    def state(self) -> bytes | None:
        """What it takes to decode later messages; the same bytes as long as that has not changed.

        It is asked for after every group of messages, and written to the spool whenever it has changed. None: it
        cannot be taken out, and a spool is always read from its oldest message on.
        """
        return None

    def restore(self, state: bytes) -> None:
        """Take over what another session's `state` gave; it comes from a file, so it may be anything.

        Raises:
            ValueError: it is no such state.
        """
        raise ValueError(f"{type(self).__name__} has no state")


class StatefulCodec(ABC):
    """A codec that remembers earlier messages: a frozen dataclass with the configuration, which makes sessions."""

    @abstractmethod
    def session(self) -> CodecSession:
        """A new session, which has seen no message."""
