"""Codecs: samples derived by hand or from published bytes, and what each says of a payload that is wrong."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import cbor2
import msgspec
import numpy as np
import pytest

from fml_lightning.connectors.codecs import (
    CBOR,
    Codec,
    CodecError,
    InfluxLine,
    JSONBatch,
    JSONObject,
    JSONScalar,
    MessagePack,
    PartlyRead,
    RawSamples,
    Sample,
    SparkplugB,
    StatefulCodec,
    WaveformBlock,
    describe,
    encode_waveform,
    from_description,
)
from fml_lightning.connectors.codecs.times import TimeUnit, to_microseconds
from fml_lightning.errors import UserError

NOON = 1_714_564_800_000_000  # 2024-05-01T12:00:00Z, µs

EVERY: list[Codec] = [
    JSONScalar(),
    JSONObject(),
    JSONBatch(),
    MessagePack(),
    CBOR(),
    WaveformBlock(),
    RawSamples(1000.0),
    InfluxLine(),
]


def kept(codec: Codec, payload: bytes, match: str) -> list[Sample]:
    """The samples that a CodecError with this message keeps."""
    with pytest.raises(CodecError, match=match) as caught:
        codec.decode(payload)
    return list(caught.value.samples)


@pytest.mark.parametrize("codec", EVERY, ids=lambda codec: type(codec).__name__)
def test_an_empty_payload_says_nothing(codec: Codec) -> None:
    assert list(codec.decode(b"")) == []


# Times


@pytest.mark.parametrize(
    ("time", "unit"),
    [
        (1_714_564_800, "s"),
        (1_714_564_800.0, "s"),
        (1_714_564_800_000, "ms"),
        (NOON, "us"),
        (NOON * 1000 + 999, "ns"),
        ("2024-05-01T12:00:00Z", "iso"),
        ("2024-05-01T14:00:00+02:00", "iso"),
        (datetime(2024, 5, 1, 12, tzinfo=UTC), "ms"),
    ],
)
def test_times_in_every_unit(time: object, unit: TimeUnit) -> None:
    assert to_microseconds(time, unit) == NOON


def test_fractions_of_seconds_and_before_1970() -> None:
    assert to_microseconds(1_714_564_800.25, "s") == NOON + 250_000
    assert to_microseconds(0.5, "ms") == 500
    assert to_microseconds(-1, "ns") == -1
    assert to_microseconds("2024-05-01T12:00:00.123456789Z", "iso") == NOON + 123_456


@pytest.mark.parametrize(
    ("time", "unit", "match"),
    [
        (math.nan, "s", "expected a time as seconds since 1970, got nan"),
        (math.inf, "ms", "got inf"),
        (1.5, "us", "whole microseconds since 1970, got 1.5"),
        (True, "s", "got True"),
        ("12", "s", "got '12'"),
        (10**400, "ns", "between 1900 and 2262"),
        (1_714_564_800_000, "s", r"between 1900 and 2262, got 1714564800000 \(s\); is the unit right"),
        (-2_208_988_801, "s", "between 1900 and 2262"),
        (1e308, "s", "expected a time as seconds since 1970"),
        ("2024-05-01T12:00:00", "iso", "with an offset from UTC, such as Z"),
        ("0001-01-01T00:00:00+23:59", "iso", "between 1900 and 2262"),
        ("noon", "iso", "ISO 8601 with an offset from UTC, got 'noon'"),
        (12, "iso", "a string in ISO 8601, got 12"),
    ],
)
def test_times_that_are_none(time: object, unit: TimeUnit, match: str) -> None:
    with pytest.raises(CodecError, match=match):
        to_microseconds(time, unit)


# JSON


def test_json_scalar() -> None:
    assert list(JSONScalar().decode(b" 21.5\n")) == [Sample(21.5)]
    assert list(JSONScalar().decode(b"-3")) == [Sample(-3.0)]


def test_json_object() -> None:
    codec = JSONObject(channel="sensor", machine="id", site="plant")
    payload = b'{"id": 7, "time": 1714564800000, "unit": "C", "value": 21, "sensor": "oil", "plant": "Ulm"}'
    assert list(codec.decode(payload)) == [Sample(21.0, NOON, None, "oil", "7", "Ulm")]
    assert list(codec.decode(b'{"value": 1.5, "time": null}')) == [Sample(1.5)]


def test_json_keys_may_be_anything() -> None:
    codec = JSONObject(value="the value", time="value", time_unit="iso")
    assert list(codec.decode(b'{"the value": 2, "value": "2024-05-01T12:00:00Z"}')) == [Sample(2.0, NOON)]


@pytest.mark.parametrize("rate", [1000.0, "hz"])
def test_json_blocks(rate: float | str) -> None:
    (sample,) = JSONObject(sample_rate=rate).decode(b'{"value": [1, 2.5, -3], "time": 1714564800000, "hz": 1000}')
    assert isinstance(sample.values, np.ndarray)
    assert sample.values.dtype == np.float32
    assert sample.values.tolist() == [1.0, 2.5, -3.0]
    assert (sample.time, sample.sample_rate) == (NOON, 1000.0)


def test_json_keys_that_are_channels() -> None:
    payload = b'{"time": 1714564800000, "temperature": 20.5, "rpm": 1500, "state": "on", "load": null}'
    expected = [Sample(20.5, NOON, channel="temperature"), Sample(1500.0, NOON, channel="rpm")]
    assert list(JSONObject(value=("temperature", "rpm", "load")).decode(payload)) == expected
    assert list(JSONObject(value="*").decode(payload)) == expected
    assert list(JSONObject(value="*").decode(b'{"state": "on"}')) == []


def test_one_bad_channel_loses_itself_only() -> None:
    codec = JSONObject(value=("a", "b", "c"))
    assert kept(codec, b'{"a": 1, "b": "x", "c": 3}', "b: expected a number, got 'x'") == [
        Sample(1.0, channel="a"),
        Sample(3.0, channel="c"),
    ]


BAD_JSON = {
    "truncated": b'{"value": 1',
    "not UTF-8": b'{"value": 1, "unit": "\xb0C"}',
    "1e999": b'{"value": 1e999}',
    "beyond float32": b'{"value": 1e300}',
    "long integer": b'{"value": 1' + b"0" * 4000 + b"}",
    "deep": b'{"value": ' + b"[" * 100_000,
    "deep elsewhere": b'{"value": 1, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "text": b'{"value": "1 mm"}',
    "number beyond float32 as text": b'{"value": "1e999"}',
    "state": b'{"value": "on"}',
    "null": b'{"value": null}',
    "missing": b"{}",
    "array": b"[1]",
    "trailing": b'{"value": 1} {"value": 2}',
    "block without rate": b'{"value": [1, 2]}',
    "bad time": b'{"value": 1, "time": "now"}',
    "year 50000": b'{"value": 1, "time": 1714564800000000}',
}


@pytest.mark.parametrize("payload", BAD_JSON.values(), ids=BAD_JSON)
def test_bad_json(payload: bytes) -> None:
    assert kept(JSONObject(), payload, "expected") == []
    if payload != BAD_JSON["array"]:
        good = b'{"value": 7}'
        batch = b"[" + good + b", " + payload + (b"" if payload in OPEN else b", " + good) + b"]"
        assert kept(JSONBatch(), batch, "expected")[0] == Sample(7.0)


OPEN = (BAD_JSON["truncated"], BAD_JSON["deep"], BAD_JSON["trailing"])


@pytest.mark.parametrize("value", [b"[]", b"[1, [2]]", b"[1, {}]", b"[1e39]", b"[1" + b"0" * 400 + b"]"])
def test_bad_blocks(value: bytes) -> None:
    assert kept(JSONObject(sample_rate=1.0), b'{"value": ' + value + b"}", "value: expected numbers") == []


@pytest.mark.parametrize("rate", [b"0", b"-1", b'"fast"', b"null"])
def test_bad_sample_rates(rate: bytes) -> None:
    assert kept(JSONObject(sample_rate="hz"), b'{"value": [1], "hz": ' + rate + b"}", "sample rate") == []


@pytest.mark.parametrize("payload", [b"1e999", b"1e39", b'"1 mm"', b"on", b"null", b"[1]", b"\xff", b"1 2", b"\0"])
def test_bad_json_scalars(payload: bytes) -> None:
    assert kept(JSONScalar(), payload, "expected") == []


def test_a_bad_member_of_a_batch_loses_itself_only() -> None:
    batch = (
        b'[{"value": 1}, {"value": NaN, "note": "a, ] \\" b"}, {"value": 2}, 5, {"value": 1e999}, {"value": 3}]'
    )
    assert kept(JSONBatch(), batch, r"object 3: payload: expected an object with value, got 5 \(and 1 more\)") == [
        Sample(1.0),
        Sample(2.0),
        Sample(3.0),
    ]
    assert kept(JSONBatch(), b'[{"value": 1}, {"value": "x"}]', "object 1: value: expected a number") == [
        Sample(1.0)
    ]
    assert list(JSONBatch().decode(b"[]")) == []


def test_a_batch_may_be_objects_on_a_line_each() -> None:
    one, two = Sample(1.0), Sample(2.0)
    for payload in (b'{"value": 1}\n{"value": 2}\n', b'\xef\xbb\xbf\r\n{\n"value": 1}\r\n\r\n{"value": 2}\0'):
        assert list(JSONBatch().decode(payload)) == [one, two]
    assert list(JSONBatch().decode(b'{"value": 1}')) == [one]
    nan = JSONBatch().decode(b'{"value": 1}\n{"value": NaN}\n{"value": 2}')
    assert list(nan) == [one, two]
    assert kept(JSONBatch(), b'{"value": 1}\n{"value"\n{"value": 2}\n5', "expected JSON") == [one, two]
    assert kept(JSONBatch(), b'{"value": 1}\n{"value": "x"}', "object 1: value: expected a number") == [one]


def test_an_open_string_in_a_batch_takes_linear_time() -> None:
    assert kept(JSONBatch(), b'[{"value": 1}, "' + rb"\"" * 500_000, "expected JSON") == [Sample(1.0)]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"value": ()}, "JSONObject.value: expected a path"),
        ({"value": ("a", "b"), "channel": "c"}, "JSONObject.channel: expected none"),
        ({"value": "*", "channel": "c"}, "JSONObject.channel: expected none"),
        ({"value": "time"}, "differ from one another"),
        ({"machine": ""}, "not empty"),
        ({"sample_rate": 0.0}, "JSONObject.sample_rate: expected Hz above 0"),
    ],
)
def test_bad_configurations(options: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        JSONObject(**options)


# CBOR and MessagePack


@pytest.mark.parametrize(
    ("value", "expected"),
    [  # RFC 8949, appendix A
        ("1903e8", 1000.0),
        ("1b000000e8d4a51000", 1e12),
        ("3903e7", -1000.0),
        ("f93e00", 1.5),
        ("f90001", 5.960464477539063e-08),
        ("fa47c35000", 100000.0),
        ("fb3ff199999999999a", 1.1),
        ("c249010000000000000000", 18446744073709551616.0),
    ],
)
def test_cbor_numbers_of_the_rfc(value: str, expected: float) -> None:
    assert list(CBOR().decode(bytes.fromhex("a16576616c7565" + value))) == [Sample(expected)]


@pytest.mark.parametrize(
    ("time", "micros"),
    [  # RFC 8949, appendix A: 2013-03-21T20:04:00Z
        ("c074323031332d30332d32315432303a30343a30305a", 1_363_896_240_000_000),
        ("c11a514b67b0", 1_363_896_240_000_000),
        ("c1fb41d452d9ec200000", 1_363_896_240_500_000),
        ("1b0000013d8e8d0780", 1_363_896_240_000_000),
    ],
)
def test_cbor_dates_of_the_rfc(time: str, micros: int) -> None:
    assert list(CBOR().decode(bytes.fromhex("a26576616c75650a6474696d65" + time))) == [Sample(10.0, micros)]


def test_cbor_indefinite_lengths_of_the_rfc() -> None:
    payload = bytes.fromhex("bf6346756ef563416d7421ff")  # {"Fun": true, "Amt": -2}
    assert list(CBOR(value="Amt").decode(payload)) == [Sample(-2.0)]


BAD_CBOR = {
    "truncated": "a16576616c7565",
    "declared length": "a16576616c75659bffffffffffffffff",
    "declared map": "bbffffffffffffffff",
    "declared string": "7b00000000ffffffff",
    "deep": "81" * 10_000,
    "cycle": "d81c81d81d00",
    "reference": "a16576616c7565d81d00",
    "duplicate keys": "a26576616c7565016576616c756502",
    "number as key": "a1016576616c7565",
    "not UTF-8": "a16576616c756561ff",
    "pattern": "a16576616c7565d8236428612b29",
    "decimal": "a16576616c7565c4821a000fffff03",
    "bignum": "a16576616c7565c25901ff" + "ff" * 511,
    "simple value": "a16576616c7565f7",
    "trailing": "a16576616c75650100",
    "array": "80",
    "tag": "a16576616c7565d8184181",
    "naive date": "a26576616c75650a6474696d65c073323031332d30332d32315432303a30343a3030",
    "break": "ff",
}


@pytest.mark.parametrize("payload", BAD_CBOR.values(), ids=BAD_CBOR)
def test_bad_cbor(payload: str) -> None:
    assert kept(CBOR(), bytes.fromhex(payload), "expected") == []


def test_messagepack() -> None:
    # msgpack's specification: fixmap 8x, fixstr ax, uint 64 cf, float 64 cb, fixarray 9x, timestamp 32 d6ff
    payload = bytes.fromhex("82a474696d65cf0000018f34035c00a576616c7565cb3ff8000000000000")
    assert list(MessagePack().decode(payload)) == [Sample(1.5, 0x18F34035C00 * 1000)]
    stamped = bytes.fromhex("82a474696d65d6ff66322d40a576616c756505")
    assert list(MessagePack().decode(stamped)) == [Sample(5.0, 0x66322D40 * 1_000_000)]
    (block,) = MessagePack(sample_rate=10.0).decode(bytes.fromhex("81a576616c7565930102ca3fc00000"))
    assert np.asarray(block.values).tolist() == [1.0, 2.0, 1.5]


BAD_MESSAGEPACK = {
    "truncated": "81a576616c7565cb3ff8",
    "declared length": "81a576616c7565ddffffffff",
    "declared map": "dfffffffff",
    "deep": "81a576616c7565" + "91" * 100_000,
    "number as key": "810102",
    "never used": "c1",
    "extension": "81a576616c7565c70105ff",
    "not UTF-8": "81a576616c7565a1ff",
    "bytes": "81a576616c7565c40131",
    "trailing": "81a576616c756501c0",
    "array": "90",
}


@pytest.mark.parametrize("payload", BAD_MESSAGEPACK.values(), ids=BAD_MESSAGEPACK)
def test_bad_messagepack(payload: str) -> None:
    assert kept(MessagePack(), bytes.fromhex(payload), "expected") == []


def test_nan_passes_where_a_format_can_say_it() -> None:
    (sample,) = CBOR().decode(cbor2.dumps({"value": math.nan}))
    assert math.isnan(sample.values)
    (sample,) = MessagePack(sample_rate=1.0).decode(msgspec.msgpack.encode({"value": [1.0, math.inf]}))
    assert np.asarray(sample.values).tolist() == [1.0, math.inf]


@pytest.mark.parametrize(
    "options", [{}, {"value": ("a", "b"), "sample_rate": 10.0}, {"value": "*", "machine": "m"}]
)
def test_json_cbor_and_messagepack_agree(options: dict[str, Any]) -> None:
    for members in (
        {"time": 1714564800000, "value": 2.5, "a": 1, "b": [1, 2], "m": "x"},
        {"value": 1, "a": "x", "b": 2},
    ):
        said = []
        for codec, encode in (
            (JSONObject, msgspec.json.encode),
            (CBOR, cbor2.dumps),
            (MessagePack, msgspec.msgpack.encode),
        ):
            try:
                said.append(repr(list(codec(**options).decode(encode(members)))))
            except CodecError as error:
                said.append(repr((str(error), list(error.samples))))
        assert said[0] == said[1] == said[2]


# Binary blocks

HEADER = struct.Struct("<4sBBHIqdff")


def header(**changes: Any) -> bytes:
    """A header of two float32 samples, with changes."""
    fields = {
        "magic": b"FMLW",
        "version": 1,
        "dtype": 1,
        "reserved": 0,
        "count": 2,
        "time": NOON,
        "rate": 1000.0,
        "scale": 1.0,
        "offset": 0.0,
    }
    return HEADER.pack(*(fields | changes).values())


def test_waveform_by_its_table() -> None:
    payload = bytes.fromhex(
        "464d4c57 01 02 0000 03000000 0080d6f664170600 0000000000408f40 0000003f 0000803f 0000 0200 feff"
    )
    (sample,) = WaveformBlock().decode(payload)
    assert np.asarray(sample.values).tolist() == [1.0, 2.0, 0.0]  # raw 0, 2, -2 at scale 0.5 and offset 1
    assert sample.sample_rate == 1000.0
    assert sample.time == 0x00061764F6D68000
    assert payload == encode_waveform([1.0, 2.0, 0.0], 1000.0, sample.time, "int16", 0.5, 1.0)


def test_waveform_float32_is_a_view() -> None:
    values = np.arange(5, dtype=np.float32)
    payload = encode_waveform(values, 8.0)
    (sample,) = WaveformBlock().decode(payload)
    assert isinstance(sample.values, np.ndarray)
    assert np.shares_memory(sample.values, np.frombuffer(payload, np.uint8))
    assert sample.values.tolist() == [0, 1, 2, 3, 4]
    assert sample.time is None


def test_waveform_keeps_what_is_not_finite() -> None:
    (sample,) = WaveformBlock().decode(encode_waveform([1.0, math.nan, math.inf], 8.0))
    np.testing.assert_array_equal(np.asarray(sample.values), np.array([1, np.nan, np.inf], np.float32))


@pytest.mark.parametrize(
    ("payload", "match"),
    [
        (b"FMLW", "expected a header of 36 bytes, got 4 bytes"),
        (header(magic=b"WAVE") + bytes(8), "got b'WAVE', 1, 0"),
        (header(version=2) + bytes(8), "got b'FMLW', 2, 0"),
        (header(reserved=1) + bytes(8), "got b'FMLW', 1, 1"),
        (header(dtype=7) + bytes(8), "dtype 1 .* got 7"),
        (header(dtype=2) + bytes(8), "expected 2 samples of 2 bytes, at least one, got 8 bytes"),
        (header() + bytes(7), "expected 2 samples of 4 bytes, at least one, got 7 bytes"),
        (header() + bytes(9), "got 9 bytes"),
        (header(count=0), "expected 0 samples of 4 bytes, at least one"),
        (header(count=2**32 - 1) + bytes(8), "expected 4294967295 samples"),
        (header(rate=0.0) + bytes(8), "sample rate above 0 Hz, got 0.0"),
        (header(rate=math.nan) + bytes(8), "sample rate above 0 Hz, got nan"),
        (header(scale=math.inf) + bytes(8), "finite scale"),
        (header(scale=0.0) + bytes(8), "finite scale"),
        (header(offset=math.nan) + bytes(8), "finite offset"),
        (header(time=2**63 - 1) + bytes(8), "between 1900 and 2262"),
    ],
)
def test_bad_waveforms(payload: bytes, match: str) -> None:
    assert kept(WaveformBlock(), payload, match) == []


def test_waveforms_that_cannot_be_encoded() -> None:
    with pytest.raises(UserError, match=r"within int16 at scale 0.5; raise scale"):
        encode_waveform([20_000.0], 1.0, dtype="int16", scale=0.5)
    with pytest.raises(UserError, match="shape"):
        encode_waveform([], 1.0)
    with pytest.raises(UserError, match="Hz above 0"):
        encode_waveform([1.0], 0.0)
    assert len(encode_waveform([-32768.0, 32767.0], 1.0, dtype="int16")) == 40


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32"])
@pytest.mark.parametrize("order", ["little", "big"])
def test_raw_samples(dtype: Any, order: Any) -> None:
    values = np.array([0, 1, 100], dtype).astype(np.dtype(dtype).newbyteorder("<" if order == "little" else ">"))
    (sample,) = RawSamples(10.0, dtype, order, scale=0.5, offset=1.0).decode(values.tobytes())
    assert np.asarray(sample.values).tolist() == [1.0, 1.5, 51.0]
    assert (sample.sample_rate, sample.time) == (10.0, None)
    if values.itemsize > 1:
        assert kept(RawSamples(10.0, dtype), values.tobytes()[:-1], "expected samples of") == []


@pytest.mark.parametrize(
    "options", [{"sample_rate": 0.0}, {"sample_rate": 1.0, "scale": 0.0}, {"sample_rate": math.nan}]
)
def test_bad_raw_samples(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match="RawSamples"):
        RawSamples(**options)  # type: ignore[arg-type]


# Influx line protocol


def influx(line: str, **options: Any) -> list[tuple[str | None, object, int | None]]:
    return [(s.channel, s.values, s.time) for s in InfluxLine(**options).decode(line.encode())]


def test_influx_examples_of_its_documentation() -> None:
    time = 1_556_813_561_098_000
    assert influx('myMeasurement,tag1=value1,tag2=value2 fieldKey="fieldValue" 1556813561098000000') == []
    assert (
        influx("myMeasurement fieldKey=1.0\nmyMeasurement fieldKey=1")
        == [("myMeasurement/fieldKey", 1.0, None)] * 2
    )
    assert influx("myMeasurement fieldKey=1i") == [("myMeasurement/fieldKey", 1.0, None)]
    assert influx("myMeasurement fieldKey=12485903u") == [("myMeasurement/fieldKey", 12485903.0, None)]
    assert influx("m a=t,b=T,c=true,d=True,e=TRUE,f=f,g=F,h=false,i=False,j=FALSE") == [
        (f"m/{key}", float(key < "f"), None) for key in "abcdefghij"
    ]
    assert influx(r"my\ Measurement fieldKey=1") == [("my Measurement/fieldKey", 1.0, None)]
    assert influx(r"myMeasurement,tagKey=string\ value fieldKey=100 1556813561098000000") == [
        ("myMeasurement,tagKey=string value/fieldKey", 100.0, time)
    ]
    assert influx(r'my\ table,tag\ Key1=tag\ Value1,tag\ Key2=tag\ Value2 field\ Key="string value"') == []
    assert influx('myMeasurement,tagKey=🍭 fieldKey="Launch 🚀",n=1 1556813561098000000') == [
        ("myMeasurement,tagKey=🍭/n", 1.0, time)
    ]
    assert influx("# This is a comment\n\nmyMeasurement fieldKey=1\r\n") == [("myMeasurement/fieldKey", 1.0, None)]


def test_influx_names() -> None:
    codec = InfluxLine(time_unit="s", machine_tag="machine", site_tag="site")
    line = (
        rb"oil\,temp,site=Ulm\ West,machine=press\=7 value=61.5,max\,\ day=70,note=" + b'"a \\" b, c=d" 1714564800'
    )
    assert list(codec.decode(line)) == [
        Sample(61.5, NOON, None, "oil,temp", "press=7", "Ulm West"),
        Sample(70.0, NOON, None, "oil,temp/max, day", "press=7", "Ulm West"),
    ]


def test_an_influx_series_is_a_measurement_and_all_its_tags() -> None:
    lines = (
        "m,machine=p1,axis=x rms=1.5\nm,machine=p1,axis=y rms=2.5,value=3\n"
        "m,site=Ulm,zone=2,machine=p1,axis=x rms=4\nm,machine=p1 rms=5"
    )
    samples = InfluxLine(machine_tag="machine", site_tag="site").decode(lines.encode())
    assert [(s.site, s.machine, s.channel, s.values) for s in samples] == [
        (None, "p1", "m,axis=x/rms", 1.5),
        (None, "p1", "m,axis=y/rms", 2.5),
        (None, "p1", "m,axis=y", 3.0),
        ("Ulm", "p1", "m,axis=x,zone=2/rms", 4.0),  # in the order of their keys, however they are sent
        (None, "p1", "m/rms", 5.0),
    ]
    unlike = (r"a,b=c\,d\=e v=1", "a,b=c,d=e v=1", r"a,b\ c=d v=1", r"a\,b=c,d=e v=1", r"a\ b,c=d v=1")
    assert [influx(line)[0][0] for line in unlike] == [
        r"a,b=c\,d\=e/v",
        "a,b=c,d=e/v",
        "a,b c=d/v",
        r"a\,b=c,d=e/v",
        "a b,c=d/v",
    ]
    with pytest.raises(CodecError, match="a measurement and tags of at most 256 characters, got 304"):
        influx("m" * 300 + ",a=b v=1")


@pytest.mark.parametrize(
    "line",
    [
        b"m",
        b"m ",
        b"m f",
        b"m f=",
        b"m f=1,",
        b"m f=1,,g=2",
        b"m f=one",
        b"m f=nan",
        b"m f=1e999",
        b"m f=1e39",
        b"m f=" + b"9" * 5000 + b"i",
        b"m f=1.5i",
        b"m f=-1u",
        b'm f="open',
        b"m f=1 now",
        b"m f=1 1.5",
        b"m f=1 99999999999999999999",
        b"m,t f=1",
        b"m,t= f=1",
        b",t=a f=1",
        b"m f=1 1 1",
        b"m\xff f=1",
        b"m\\",
    ],
)
def test_one_bad_line_loses_itself_only(line: bytes) -> None:
    samples = kept(InfluxLine(), b"a value=1\n" + line + b"\nb value=2", "line 2: ")
    assert samples == [Sample(1.0, channel="a"), Sample(2.0, channel="b")]


def test_influx_numbers_beyond_float32_are_refused_line_by_line() -> None:
    assert (
        kept(InfluxLine(), b"m f=-1.234456e+78", "line 1: field: expected a number in the range of float32") == []
    )


# Descriptions


@pytest.mark.parametrize(
    "codec",
    [*EVERY, SparkplugB(3.0), JSONObject(value=("a", "b"), sample_rate=100.0), CBOR(sample_rate="hz", time=None)],
    ids=repr,
)
def test_a_description_makes_the_codec_again(codec: Codec | StatefulCodec) -> None:
    assert from_description(json.loads(json.dumps(describe(codec)))) == codec


@pytest.mark.parametrize(
    ("description", "match"),
    [
        ({}, "codec: expected one of CBOR, .*, got None"),
        ({"codec": "os.system"}, "codec os.system: expected a subclass of Codec or StatefulCodec, got <built-in"),
        (
            {"codec": "os.path.Path"},
            "codec os.path.Path: it cannot be imported .*; run in the folder that has os, or",
        ),
        (
            {"codec": "nowhere.Mine"},
            "ModuleNotFoundError: .*'nowhere'.*; run in the folder that has nowhere, or put",
        ),
        ({"codec": "no where.Mine"}, "expected an import path such as package.module.Class, got 'no where.Mine'"),
        ({"codec": "antigravity..Mine"}, "expected an import path"),
        ({"codec": "fml_lightning.connectors.Codec"}, "Codec: expected a dataclass"),
        ({"codec": ["CBOR"]}, "codec: expected one of"),
        ({"codec": "JSONObject", "values": "a"}, "JSONObject: expected options among value, time, .* got values"),
        ({"codec": "JSONObject", "time_unit": "h"}, "JSONObject: Invalid enum value 'h'"),
        ({"codec": "RawSamples"}, "RawSamples: .*sample_rate"),
        ({"codec": "RawSamples", "sample_rate": -1}, "RawSamples.sample_rate: expected Hz above 0"),
    ],
)
def test_descriptions_of_no_codec(description: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        from_description(description)


def test_a_codec_that_no_other_process_finds_has_no_description(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(JSONScalar):
        pass

    with pytest.raises(
        UserError, match=r"test_codecs.*Mine is not to be found .*; define the class at the top of a"
    ):
        describe(Mine())
    monkeypatch.setattr(Mine, "__module__", "__main__")
    with pytest.raises(UserError, match=r"defined in the program that runs \(__main__\), .* such as mine.py"):
        describe(Mine())


@pytest.mark.parametrize(("package", "codec"), [("cbor2", "CBOR"), ("google.protobuf", "SparkplugB")])
def test_a_missing_package_names_its_extra(package: str, codec: str) -> None:
    program = f"""
import sys
sys.modules[{package!r}] = None
from fml_lightning.connectors import codecs
from fml_lightning.errors import UserError
try:
    codecs.{codec}()
except UserError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert f"pip install 'fml-lightning[{'cbor' if codec == 'CBOR' else 'sparkplug'}]'" in said


def test_errors_are_short_whatever_the_payload_says() -> None:
    with pytest.raises(CodecError, match="Number out of range") as caught:
        JSONObject().decode(b'{"value": ' + b"[" * 500 + b"1e999" + b"]" * 500 + b"}")
    assert len(str(caught.value)) == 300


@pytest.mark.parametrize(
    "payload",
    [
        b'{"a": {%s}}' % b",".join(b'"%d": 1' % i for i in range(30_000)),
        b"{%s}" % b",".join(b'"%d": "x"' % i for i in range(30_000)),
        b"{%s}" % b",".join(b'"%d": {"b": 1}' % i for i in range(30_000)),
        b"[%s]" % b",".join(b'{"%d": "x"}' % i for i in range(30_000)),
        b"m " + b",".join(b'%d="x"' % i for i in range(30_000)),
    ],
)
def test_a_payload_of_any_number_of_names_is_told_in_a_bounded_number(payload: bytes) -> None:
    codec = {b"[": JSONBatch("*"), b"{": JSONObject("*"), b"m": InfluxLine()}[payload[:1]]
    found = codec.decode(payload)
    assert isinstance(found, PartlyRead)
    assert 10_000 <= len(found.skipped) <= 20_000
