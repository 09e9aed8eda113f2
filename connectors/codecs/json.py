"""JSON: a bare number, an object, or an array of objects."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec

from fml_lightning.connectors.codecs.checked import MOST_SAMPLES
from fml_lightning.connectors.codecs.codec import MOST_SKIPPED, Codec, CodecError, Faults, PartlyRead, Sample
from fml_lightning.connectors.codecs.json_text import BYTE_ORDER_MARK, bare, content, read
from fml_lightning.connectors.codecs.members import Members
from fml_lightning.connectors.codecs.numbers import FLOAT32_MAX
from fml_lightning.connectors.codecs.plain_reader import Read
from fml_lightning.connectors.codecs.scalars import Scalars, states_by_text

_NUMBER = msgspec.json.Decoder(float)
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_ONE = msgspec.json.Decoder(msgspec.Raw)
_MARK = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[\]{},]', re.DOTALL)  # an open string ends with the payload


@dataclass(frozen=True)
class JSONScalar(Codec):
    """A bare number, such as `21.5`, or a boolean, or a text of `states`; the topic says what it is."""

    states: Mapping[str, float] = field(default_factory=dict, hash=False)
    """The number that stands for each text, in any case, such as `{running: 1, stopped: 0}`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "states", states_by_text(self.states))
        # Nothing is cached yet: of a default, as Topic has it, the command line takes all that it has for options.
        Scalars(self.states).check(type(self).__name__)

    @property
    def _is_plain(self) -> bool:
        """It is."""
        return True

    def decode(self, payload: bytes) -> Sequence[Sample]:
        """One sample without time."""
        if not payload:
            return ()
        value: object
        try:
            number: float = _NUMBER.decode(payload)
            if -FLOAT32_MAX <= number <= FLOAT32_MAX:
                return (Sample(number),)
            value = number
        except (ValueError, RecursionError):  # no number as JSON has them
            value = bare(payload)
            if self._scalars.is_nan(value):
                return PartlyRead((), {"payload": "NaN"})
        return (Sample(self._scalars.number(value, "payload")),)

    @cached_property
    def _scalars(self) -> Scalars:
        return Scalars(self.states)


@dataclass(frozen=True)
class JSONObject(Members):
    """One object, such as `{"time": 1714564800000, "value": 21.5}`, however deep its members stand."""

    @cached_property
    def _plain(self) -> tuple[Callable[[bytes], Any], Read] | None:
        """What decodes most messages, and what reads them then."""
        plain = self._plain_reader
        return None if plain is None else (msgspec.json.Decoder(plain.type).decode, plain.read)

    def decode(self, payload: bytes) -> Sequence[Sample]:
        """One sample, or one of each channel where keys name channels."""
        if not payload:
            return ()
        if (plain := self._plain) is not None:
            decode, read = plain
            try:
                if not payload.isascii():
                    payload.decode()  # msgspec does not look into strings that it skips
                record = decode(payload)
            except (ValueError, RecursionError):
                pass  # the general way says what is wrong, if anything is
            else:
                if (samples := read(record)) is not None:
                    return samples
        return self._reader.read(content(payload))


@dataclass(frozen=True)
class JSONBatch(JSONObject):
    """An array of objects, such as `[{"time": 1714564800000, "value": 21.5}]`, or objects on a line each.

    A bad one loses itself only.
    """

    def decode(self, payload: bytes) -> Sequence[Sample]:
        """The samples of all objects, in order."""
        if not payload:
            return ()
        samples: list[Sample] = []
        skipped: dict[str, str] = {}
        faults = Faults()
        is_lines = payload.removeprefix(BYTE_ORDER_MARK).lstrip()[:1] == b"{"
        try:
            decode = _ONE.decode_lines if is_lines else _ARRAY.decode
            objects: Sequence[msgspec.Raw | bytes] = read(decode, payload, "JSON")
        except CodecError as error:
            faults.add(str(error))
            objects = (
                [line for line in payload.split(b"\n") if line.strip()] if is_lines else list(_split(payload))
            )
        for number, one in enumerate(objects):
            try:
                part = super().decode(bytes(one))
            except CodecError as error:
                part = error.samples
                faults.add(f"object {number}: {error}")
            if len(samples) + len(part) > MOST_SAMPLES:
                faults.add(f"expected at most {MOST_SAMPLES:,} samples in one message, got more")
                break
            samples.extend(part)
            if isinstance(part, PartlyRead) and len(skipped) < MOST_SKIPPED:
                skipped.update(part.skipped)
        return faults.check(PartlyRead(samples, skipped) if skipped else samples)


def _split(payload: bytes) -> Iterator[bytes]:
    """The texts between the commas of an array that is no JSON as a whole; some of them may be JSON."""
    depth = start = 0
    for mark in _MARK.finditer(payload):
        sign = mark.group()
        if sign in (b",", b"]") and depth == 1:
            yield payload[start : mark.start()]
        if sign in (b"[", b"{"):
            depth += 1
        elif sign in (b"]", b"}"):
            depth -= 1
        if depth == 1 and sign in (b",", b"["):
            start = mark.end()
