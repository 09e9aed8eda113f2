"""JSON: a bare number, an object, or an array of objects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from fml_lightning.connectors.codecs.codec import MOST_SKIPPED, Codec, CodecError, Faults, PartlyRead, Sample
from fml_lightning.connectors.codecs.members import Members
from fml_lightning.connectors.codecs.numbers import scalar

_NUMBER = msgspec.json.Decoder(float)
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_MARK = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[\]{},]', re.DOTALL)  # an open string ends with the payload


@dataclass(frozen=True)
class JSONScalar(Codec):
    """A bare number, such as `21.5`; the topic says what it is."""

    @property
    def is_plain(self) -> bool:
        """It is."""
        return True

    def decode(self, payload: bytes) -> Sequence[Sample]:
        """One sample without time."""
        return (Sample(scalar(_read(_NUMBER, payload), "payload")),) if payload else ()


@dataclass(frozen=True)
class JSONObject(Members):
    """One object, such as `{"time": 1714564800000, "value": 21.5}`."""

    @cached_property
    def _decoder(self) -> msgspec.json.Decoder[Any]:
        return msgspec.json.Decoder(self._type)

    def decode(self, payload: bytes) -> Sequence[Sample]:
        """One sample, or one of each channel where keys name channels."""
        if not payload:
            return ()
        try:
            if not payload.isascii():
                payload.decode()  # msgspec does not look into strings that it skips
            members = self._decoder.decode(payload)
        except (ValueError, RecursionError) as error:
            raise CodecError(f"expected a JSON object, got: {error}") from error
        return self._from_mapping(members) if type(members) is dict else self._from_record(members)


@dataclass(frozen=True)
class JSONBatch(JSONObject):
    """An array of objects, such as `[{"time": 1714564800000, "value": 21.5}]`; a bad one loses itself only."""

    def decode(self, payload: bytes) -> Sequence[Sample]:
        """The samples of all objects, in order."""
        if not payload:
            return ()
        samples: list[Sample] = []
        skipped: dict[str, str] = {}
        faults = Faults()
        try:
            objects: Sequence[msgspec.Raw | bytes] = _read(_ARRAY, payload)
        except CodecError as error:
            faults.add(str(error))
            objects = list(_split(payload))
        for number, one in enumerate(objects):
            try:
                part = super().decode(bytes(one))
            except CodecError as error:
                part = error.samples
                faults.add(f"object {number}: {error}")
            samples.extend(part)
            if isinstance(part, PartlyRead) and len(skipped) < MOST_SKIPPED:
                skipped.update(part.skipped)
        return faults.check(PartlyRead(samples, skipped) if skipped else samples)


def _read(decoder: msgspec.json.Decoder[Any], payload: bytes) -> Any:
    try:
        if not payload.isascii():
            payload.decode()  # msgspec does not look into strings that it skips
        return decoder.decode(payload)
    except (ValueError, RecursionError) as error:
        raise CodecError(f"expected JSON, got: {error}") from error


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
