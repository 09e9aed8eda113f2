"""SenML: packs of records, in JSON or CBOR. https://www.rfc-editor.org/rfc/rfc8428, .../rfc9100."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fml_lightning.connectors.codecs import cbor, json_text
from fml_lightning.connectors.codecs.codec import (
    LONGEST_NAME,
    MOST_SKIPPED,
    Codec,
    CodecError,
    Faults,
    PartlyRead,
    Sample,
)
from fml_lightning.connectors.codecs.name_pattern import NamePattern
from fml_lightning.connectors.codecs.numbers import scalar, shown
from fml_lightning.connectors.codecs.scalars import Scalars, states_by_text
from fml_lightning.connectors.codecs.times import to_microseconds
from fml_lightning.errors import UserError

_EARLIEST = 2**28  # seconds: what is less is relative to now
_BASIC, _FEATURES = 10, 26  # the version of RFC 8428, and with secondary units, a feature of RFC 9100
_VALUES = ("v", "vb", "vs", "vd")
_LABELS = {
    **{-1: "bver", -2: "bn", -3: "bt", -4: "bu", -5: "bv", -6: "bs"},
    **{0: "n", 1: "u", 2: "v", 3: "vs", 4: "vb", 5: "s", 6: "t", 7: "ut", 8: "vd"},
}


@dataclass(frozen=True)
class SenML(Codec):
    """Packs such as `[{"bn": "pump-3:", "bt": 1714564800, "n": "flow", "u": "l/s", "v": 2.5}]`.

    Base name and name together name the channel, or what `pattern` says. Each record costs itself only. A time
    that is relative to when the pack is received is none of the device's. Data values and sums are not read, and
    are counted by name, as is text that is no state.
    """

    pattern: str = "{channel}"
    """What base name and name together name, such as `{machine}:{channel}`; see `NamePattern`."""
    states: Mapping[str, float] = field(default_factory=dict, hash=False)
    """The number that stands for each text value, in any case, such as `{running: 1, stopped: 0}`."""

    def __post_init__(self) -> None:
        NamePattern(self.pattern)
        object.__setattr__(self, "states", states_by_text(self.states))
        Scalars(self.states).check("SenML")

    @cached_property
    def _names(self) -> NamePattern:
        return NamePattern(self.pattern)

    @cached_property
    def _scalars(self) -> Scalars:
        return Scalars(self.states)

    def decode(self, payload: bytes) -> Sequence[Sample]:
        """One sample of each record that has a value."""
        if not payload:
            return ()
        records = _pack(payload)
        base = _Base()
        samples: list[Sample] = []
        skipped: dict[str, str] = {}
        faults = Faults()
        for number, one in enumerate(records):
            if not isinstance(one, dict):
                faults.add(f"record {number}: expected an object, got {shown(one)}")
                continue
            record = _labelled(one)
            try:
                base.take(record)
            except CodecError as error:  # and nobody knows what the records after it say
                faults.add(f"record {number}: {error}; the records from there on are lost")
                break
            try:
                samples.extend(self._samples(record, base, skipped))
            except CodecError as error:
                faults.add(f"record {number}: {error}")
        return faults.check(PartlyRead(samples, skipped) if skipped else samples)

    def _samples(self, record: Mapping[str, Any], base: _Base, skipped: dict[str, str]) -> Sequence[Sample]:
        """The sample of a record, if it has a number."""
        name = _text(record, "n")
        if len(base.name) + len(name) > LONGEST_NAME:
            raise CodecError(
                f"expected a base name and a name of at most {LONGEST_NAME} characters, got {shown(name)}"
            )
        name = base.name + name
        present = [label for label in _VALUES if record.get(label) is not None]
        if len(present) > 1:
            raise CodecError(f"expected one value, got {' and '.join(present)}")
        if record.get("s") is not None and len(skipped) < MOST_SKIPPED:
            skipped[f"{name}/s"] = "sums"
        label = present[0] if present else "bv" if base.value is not None and record.get("n") is not None else None
        value = None if label is None else self._value(label, record, base)
        if isinstance(value, str) and len(skipped) < MOST_SKIPPED:
            skipped[name] = value
        if not isinstance(value, float):
            return ()
        names = self._names.part(name, "name") if name or self.pattern != "{channel}" else {}
        seconds = base.time + _number(record, "t")
        return [
            Sample(
                value,
                to_microseconds(seconds, "s") if seconds >= _EARLIEST else None,
                None,
                names.get("channel"),
                names.get("machine"),
                names.get("site"),
                _text(record, "u") or base.unit,
            )
        ]

    def _value(self, label: str, record: Mapping[str, Any], base: _Base) -> float | str:
        """A record's number, or what it has instead, in the plural."""
        value = record.get(label)
        if label == "vd":
            return "data"
        if label == "vs":
            if not isinstance(value, str):
                raise CodecError(f"vs: expected text, got {shown(value)}")
            state = self._scalars.state(value)
            return "text" if state is None else float(state)
        if label == "vb":
            if type(value) is not bool:
                raise CodecError(f"vb: expected true or false, got {shown(value)}")
            return float(value)
        if self._scalars.is_nan(value):
            return "NaN"
        number = 0.0 if label == "bv" else self._scalars.number(value, "v")
        return number if base.value is None else scalar(number + base.value, "v + bv")


@dataclass
class _Base:
    """What records say of those after them."""

    name: str = ""
    time: float = 0.0
    unit: str | None = None
    value: float | None = None

    def take(self, record: Mapping[str, Any]) -> None:
        """The base fields of a record, which hold for it too."""
        if "bn" in record:
            self.name = _text(record, "bn")
        if "bt" in record:
            self.time = _number(record, "bt")
        if "bu" in record:
            self.unit = _text(record, "bu") or None
        if "bv" in record:
            self.value = _number(record, "bv")


def _pack(payload: bytes) -> list[object]:
    """The records of a pack, which are dicts, or whatever else is there in place of one.

    Raises:
        CodecError: it is no pack, or one of which more must be understood than we do.
    """
    if 0x80 <= payload[0] < 0xA0 or payload.startswith(cbor.SELF_DESCRIBED):  # an array in CBOR
        try:
            cbor.check_installed()
        except UserError as error:
            raise CodecError(str(error)) from error
        pack = cbor.content(payload)
    else:
        pack = json_text.content(payload)
    if not isinstance(pack, list):
        raise CodecError(f"expected a pack of SenML, an array of objects, got {shown(pack)}")
    for record in pack:
        if isinstance(record, dict):
            _check(_labelled(record))
    return pack


def _labelled(record: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """A record with the labels that JSON has."""
    if all(type(label) is str for label in record):
        return record
    return {_LABELS.get(label, label) if type(label) is int else label: value for label, value in record.items()}


def _check(record: Mapping[Any, Any]) -> None:
    """Refuse a pack with such a record, if it takes more than RFC 8428 and its units to understand it."""
    version = record.get("bver", _BASIC)
    if type(version) is not int or (version > _BASIC and version != _FEATURES):
        raise CodecError(f"bver: expected SenML of version {_BASIC} at most, or {_FEATURES}, got {shown(version)}")
    if strange := [label for label in record if isinstance(label, str) and label.endswith("_")]:
        raise CodecError(f"{shown(strange[0])}: expected no label that must be understood and is not in RFC 8428")


def _text(record: Mapping[str, Any], label: str) -> str:
    """A text; none is empty."""
    value = record.get(label)
    if value is None or isinstance(value, str):
        return value or ""
    raise CodecError(f"{label}: expected text, got {shown(value)}")


def _number(record: Mapping[str, Any], label: str) -> float:
    """A number; none is 0."""
    value = record.get(label)
    return 0.0 if value is None else scalar(value, label)
