"""The short ways through messages, against the long way: the same samples, the same errors."""

from __future__ import annotations

import json
import re
from typing import Any

import cbor2
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fml_lightning.connectors.codecs import CBOR, CodecError, JSONObject, MessagePack, PartlyRead, cbor
from fml_lightning.connectors.codecs.members import Members
from fml_lightning.errors import UserError

NOW = 1714564800000
NUMBERS = st.sampled_from([1.5, -3, 0, 2**40, 1e39, -(10**40)])
NAMES = st.sampled_from(["press", "L1.Pump", "", 7, True, None, "é" * 200])
ODD = st.sampled_from(
    [None, True, "2.5", "nan", "on", "n/a", "AQACAA==", {}, {"a": 1}, [], [1, 2.5], [1, None], ["x"]]
)
MEMBERS = {
    "a": NUMBERS | ODD,
    "b": NUMBERS | ODD,
    "t": st.sampled_from([NOW, float(NOW), "2024-05-01T12:00:00Z", "soon", 1e300, None, [NOW, NOW + 1]]),
    "m": NAMES,
    "s": NAMES,
    "u": NAMES,
    "q": st.sampled_from([True, False, 192, "Good", "bad", None]),
    "hz": st.sampled_from([100, 25.6, "50", 0, "fast", None]),
    "x.y": NUMBERS,
    "o.*": NUMBERS,
}
FLAT = st.fixed_dictionaries({}, optional=MEMBERS)
MESSAGES = st.fixed_dictionaries({}, optional=MEMBERS | {"o": FLAT | ODD}) | ODD
VALUES = st.sampled_from(
    [
        "a",
        "o.a",
        "x.y",
        '"x.y"',
        "*",
        "o.*",
        "o.{channel}",
        ("a", "b"),
        ("a", "o.a"),
        {"one": "a", "two": "o.b"},
        {"all": "*"},
    ]
)
PATHS: dict[str, list[str]] = {
    "time": ["t", "o.t"],
    "channel": ["u"],
    "machine": ["m", "o.m"],
    "site": ["s"],
    "unit": ["u", "o.u"],
    "quality": ["q"],
    "name": ["m"],
    "sample_rate": ["hz", "o.hz"],
}
OPTIONS = st.fixed_dictionaries(
    {"value": VALUES},
    optional={role: st.sampled_from([None, *paths]) for role, paths in PATHS.items()}
    | {
        "time_unit": st.sampled_from(["ms", "s", "ns", "iso"]),
        "time_zone": st.just("Europe/Berlin"),
        "ignore": st.sampled_from([("b",), ("o.b",), ("*.b",), ("*",)]),
        "states": st.just({"on": 1.0}),
    },
)


def said(read: Any, payload: Any) -> tuple[object, ...]:
    """What reading gives, to be compared: samples, what was skipped, and the first fault."""
    fault = ""
    try:
        samples = read(payload)
    except CodecError as error:
        samples, fault = error.samples, re.sub(r" \(and \d+ more\)$", "", str(error))
    plain = [
        (*msgspec.structs.astuple(one)[1:], np.asarray(one.values).tobytes(), type(one.values)) for one in samples
    ]
    return plain, samples.skipped if isinstance(samples, PartlyRead) else {}, fault


def long_way(codec: Members) -> Any:
    """Reads messages with none of the short ways."""
    reader = codec._new_reader()
    reader.fields.__dict__["every"] = None
    return reader.read


@settings(max_examples=3000, deadline=None)
@given(options=OPTIONS, messages=st.lists(MESSAGES, min_size=1, max_size=4))
def test_short_ways_read_what_the_long_way_reads(options: dict[str, Any], messages: list[Any]) -> None:
    try:
        codecs = JSONObject(**options), MessagePack(**options), CBOR(**options)
    except UserError:
        return
    for message in messages:
        text = json.dumps(message).encode()
        assert said(codecs[0].decode, text) == said(long_way(codecs[0]), json.loads(text))
        packed = cbor2.dumps(message)
        assert said(codecs[2].decode, packed) == said(long_way(codecs[2]), cbor.content(packed))
        try:
            packed = msgspec.msgpack.encode(message)
        except OverflowError:  # an integer of more than 64 bits
            continue
        assert said(codecs[1].decode, packed) == said(long_way(codecs[1]), msgspec.msgpack.decode(packed))


def test_a_channel_that_the_configuration_names_is_the_beginning_of_the_names_of_its_members() -> None:
    codec = JSONObject(value={"motor": "*"}, time=None)

    assert [one.channel for one in codec.decode(b'{"rpm": 1, "load": true}')] == ["motor/rpm", "motor/load"]


def test_a_wrong_sample_rate_costs_blocks_only() -> None:
    codec = JSONObject(sample_rate="hz", machine="m", time=None)

    assert [one.values for one in codec.decode(b'{"value": 1.5, "hz": 0, "m": "press"}')] == [1.5]
    with pytest.raises(CodecError, match=r"^hz: expected a sample rate in Hz, above 0, got 0$"):
        codec.decode(b'{"value": [1.5], "hz": 0, "m": "press"}')
