"""Payloads of other people's devices, read by YAML alone, as `fml record` reads it."""

from __future__ import annotations

import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock

import cbor2
import msgspec
import numpy as np
import pytest

from fml_lightning.commands.process import parser, settings_of
from fml_lightning.connectors import (
    CBOR,
    MQTT,
    Binary,
    Codec,
    CodecError,
    Decoder,
    JSONBatch,
    JSONObject,
    JSONScalar,
    Message,
    MessagePack,
    PartlyRead,
    Quality,
    Sample,
    Topics,
)
from fml_lightning.connectors.codecs import checked, describe, from_description, json_text
from fml_lightning.connectors.codecs.name_pattern import NamePattern
from fml_lightning.connectors.messages import Messages
from fml_lightning.errors import UserError

NOON = 1_714_564_800_000_000  # 2024-05-01T12:00:00Z, µs
ISO = "2024-05-01T12:00:00.000+00:00"


def topics_of(yaml: str, folder: Path) -> Topics:
    """The topics of a configuration, as another process reads them from a spool."""
    (folder / "record.yaml").write_text(yaml)
    options = parser("record")
    options.add_class_arguments(MQTT, as_group=False)
    settings = settings_of(options, ["--config", str(folder / "record.yaml"), "--spool", str(folder / "spool")])
    topics = Topics(tuple(settings["topics"]))
    assert Topics.loads(topics.dumps()) == topics
    return topics


def js(value: object) -> bytes:
    return json.dumps(value).encode()


# Shapes that devices send: codec, arguments, topic, template, payload, and what a person would read of it --------

GATEWAY = {
    "timestamp": NOON // 1000,
    "values": [
        {"id": "L1.Pump.Speed", "v": 1480, "q": True, "t": NOON // 1000},
        {"id": "L1.Pump.Temp", "v": "61.5", "q": False, "t": NOON // 1000 + 1},
        {"id": "L1.Pump.Load", "v": None, "q": True, "t": NOON // 1000},
    ],
}
OPC = {
    "Messages": [
        {"Payload": {"Speed": {"Value": 3, "SourceTimestamp": ISO}, "On": {"Value": True, "SourceTimestamp": ISO}}}
    ]
}
TASMOTA = {"Time": "2024-05-01T14:00:00", "BME": {"Temperature": 24.5, "Id": "x"}, "TempUnit": "C"}
TTN = {
    "end_device_ids": {"device_id": "m12"},
    "received_at": ISO,
    "uplink_message": {"decoded_payload": {"vib": [{"x": 1.0, "y": 4}, {"x": 2.5, "y": 5}], "hz": "100"}},
}

SHAPES: dict[str, tuple[str, str, str, bytes, list[tuple[Any, ...]]]] = {
    "kep_list": (
        "{value: 'values[*].v', time: 'values[*].t', name: 'values[*].id', quality: 'values[*].q'}",
        "kep/gw",
        "kep/gw",
        js(GATEWAY),
        [("L1.Pump", "Speed", 1480.0, NOON, 0), ("L1.Pump", "Temp", 61.5, NOON + 1000, Quality.BAD)],
    ),
    "array_in_object": (
        "{value: 'samples[*].value', time: 'samples[*].timeStamp', time_unit: iso}",
        "line/{machine}/{channel}",
        "line/p1/vib",
        js({"sensor": "a1", "samples": [{"value": 0.25, "timeStamp": ISO}, {"value": 0.5, "timeStamp": ISO}]}),
        [("p1", "vib", 0.25, NOON, 0), ("p1", "vib", 0.5, NOON, 0)],
    ),
    "ttn_v3_blocks": (
        "{value: 'uplink_message.decoded_payload.vib[*].*', time: received_at, time_unit: iso,"
        " machine: end_device_ids.device_id, sample_rate: uplink_message.decoded_payload.hz}",
        "v3/app/devices/+/up",
        "v3/app/devices/m12/up",
        js(TTN),
        [("m12", "x", [1.0, 2.5], NOON, 0), ("m12", "y", [4.0, 5.0], NOON, 0)],
    ),
    "chirpstack": (
        "{value: object.*, time_unit: iso, machine: deviceInfo.deviceName}",
        "application/a/device/+/event/up",
        "application/a/device/m12/event/up",
        js({"time": ISO, "deviceInfo": {"deviceName": "m12"}, "object": {"rms": 1.25, "temp": 40.5}}),
        [("m12", "rms", 1.25, NOON, 0), ("m12", "temp", 40.5, NOON, 0)],
    ),
    "tasmota": (
        "{value: '*.*', time: Time, time_unit: iso, time_zone: Europe/Berlin}",
        "tele/{machine}/SENSOR",
        "tele/m12/SENSOR",
        js(TASMOTA),
        [("m12", "BME/Temperature", 24.5, NOON, 0)],
    ),
    "z2m_flat": (
        "{value: '*', ignore: [linkquality], states: {on: 1, off: 0}}",
        "zigbee2mqtt/{machine}",
        "zigbee2mqtt/m12",
        js({"battery": 100, "occupancy": True, "state": "OFF", "linkquality": 5}),
        [("m12", "battery", 100.0, None, 0), ("m12", "occupancy", 1.0, None, 0), ("m12", "state", 0.0, None, 0)],
    ),
    "rtl433": (
        "{value: '*', machine: id, time_unit: iso, time_zone: Europe/Berlin}",
        "rtl/out",
        "rtl/out",
        js({"time": "2024-05-01 14:00:00", "model": "P", "id": 5, "temperature_C": 16.25}),
        [("5", "temperature_C", 16.25, NOON, 0)],
    ),
    "ts_values": (
        "{value: values.*, time: ts, machine: values.serial}",
        "sensors",
        "sensors",
        js({"ts": NOON // 1000, "values": {"serial": "SN1", "temperature": 36.5}}),
        [("SN1", "temperature", 36.5, NOON, 0)],
    ),
    "val_ts": (
        "{value: val, time: ts}",
        "hm/{machine}/{channel}",
        "hm/m/x",
        js({"val": 27, "ts": NOON // 1000, "hm": {"d": "e"}}),
        [("m", "x", 27.0, NOON, 0)],
    ),
    "opcua": (
        "{value: 'Messages[*].Payload.{channel}.Value', time: 'Messages[*].Payload.*.SourceTimestamp',"
        " time_unit: iso}",
        "opc/{machine}",
        "opc/m",
        js(OPC),
        [("m", "Speed", 3.0, NOON, 0), ("m", "On", 1.0, NOON, 0)],
    ),
    "times_beside_samples": (
        "{value: samples, time: stamps, time_unit: s, unit: unit}",
        "a/{machine}/{channel}",
        "a/m/x",
        js({"unit": "g", "samples": [1, "2", None], "stamps": [NOON // 10**6, NOON // 10**6 + 1, 3]}),
        [("m", "x", 1.0, NOON, 0), ("m", "x", 2.0, NOON + 1_000_000, 0)],
    ),
    "rate_as_text": (
        "{value: {x: acc.x, y: acc.y}, sample_rate: acc.rate}",
        "a/{machine}",
        "a/m",
        js({"time": NOON // 1000, "acc": {"rate": "6400", "x": [1, "2"], "y": [3, None]}}),
        [("m", "x", [1.0, 2.0], NOON, 0), ("m", "y", [3.0, math.nan], NOON, Quality.NOT_FINITE)],
    ),
    "machines_as_keys": (
        "{value: '{machine}.{channel}'}",
        "hall/+",
        "hall/1",
        js({"time": NOON // 1000, "saw": {"rms": 1}, "mill": {"rms": 2, "peak": 3}}),
        [("saw", "rms", 1.0, NOON, 0), ("mill", "rms", 2.0, NOON, 0), ("mill", "peak", 3.0, NOON, 0)],
    ),
    "base64": (
        "{value: data, binary: {dtype: int16, scale: 0.5, channels: [x, y]}, sample_rate: 100}",
        "a/{machine}/{channel}",
        "a/m/acc",
        b'{"data": "AQACAAMABAA=", "time": 1714564800000}',
        [("m", "acc/x", [0.5, 1.5], NOON, 0), ("m", "acc/y", [1.0, 2.0], NOON, 0)],
    ),
    "nan_literal": (
        "{value: '*'}",
        "p/{site}/{machine}/{channel}",
        "p/n/m/s",
        b'{"temperature":nan,"rms":1.5,"peak":-Infinity}',
        [("m", "s/rms", 1.5, None, 0)],
    ),
    "byte_order_mark_and_nul": (
        "{value: '*'}",
        "p/{site}/{machine}/{channel}",
        "p/n/m/s",
        b'\xef\xbb\xbf{"rms":1.5}\r\n\0\0',
        [("m", "s/rms", 1.5, None, 0)],
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_it_is_read_by_configuration_alone(name: str, tmp_path: Path) -> None:
    arguments, template, topic, payload, expected = SHAPES[name]
    codec = f"{{class_path: JSONObject, init_args: {arguments}}}"
    topics = topics_of(f"topics:\n- template: '{template}'\n  site: n\n  codec: {codec}\n", tmp_path)
    decoded = Decoder(topics).decode(Messages.numbered([Message(topic, payload, NOON)], 0))
    assert decoded.dead == []
    rows = decoded.batch.readings.to_dicts()
    got = [(row["machine"], row["channel"], row["values"]) for row in rows]
    wanted = [(m, c, v if isinstance(v, list) else [v]) for m, c, v, *_ in expected]
    assert repr(got) == repr(wanted)
    for row, (*_, time, flags) in zip(rows, expected, strict=True):
        assert row["time"].timestamp() * 1e6 == (NOON if time is None else time)
        assert row["quality"] == (flags | Quality.NO_DEVICE_TIME if time is None else flags)
    assert {row["unit"] for row in rows} == ({"g"} if "unit: unit" in arguments else {None})


# One by one ------------------------------------------------------------------------------------------------------


def test_the_fast_way_and_the_general_way_agree() -> None:
    """A path of keys is decoded into a record; with an index it is not."""
    for message in (
        {"a": {"b": 1.5}, "t": 5},
        {"a": {"b": 3}, "t": "6"},
        {"a": {"b": True}},
        {"a": {"b": "2.5"}},
        {"a": {"b": None}},
        {"a": {}},
        {"a": None},
        {"a": 3},
        {"a": {"b": 1e300}},
        {"a": {"b": "n/a"}, "t": None},
        {"a": {"b": [1, 2]}},
        {"a": {"b": {"c": 1}}},
        {"t": "x", "a": {"b": 1}},
        {"a": {"b": 1}, "m": ""},
        {"a": {"b": 1}, "m": 7},
        {"a.b": 4, "a": {"b": 1}},
        [1],
        5,
    ):
        said = []
        for first in (message, [message]):
            at = "" if first is message else "[0]."
            codec = JSONObject(value=f"{at}a.b", time=f"{at}t", machine=f"{at}m")
            try:
                said.append(repr(list(codec.decode(js(first)))))
            except CodecError as error:
                said.append(str(error).replace("[0].", "").replace("[0]:", "payload:"))
        if message != {"a.b": 4, "a": {"b": 1}}:
            assert said[0] == said[1], message
    assert list(JSONObject(value="a.b").decode(js({"a.b": 4, "a": {"b": 1}}))) == [Sample(4.0)]


@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        ({"up": {"rms": "n/a"}}, "up.rms: expected a number, got 'n/a'"),
        ({"up": [1]}, "up: expected an object with rms, got a list"),
        ({"up": {"rms": 1}, "time": "noon"}, "time: expected a time as milliseconds since 1970, got 'noon'"),
        ({"up": {"rms": 1}, "dev": {"id": []}}, r"dev.id: expected a name \(machine\), got list"),
        ({"up": {"rms": [1]}, "hz": "6400 Hz"}, "hz: expected a sample rate in Hz, above 0, got '6400 Hz'"),
    ],
)
def test_an_error_says_the_path_and_what_was_there(payload: dict[str, Any], fault: str) -> None:
    with pytest.raises(CodecError, match=fault):
        JSONObject(value="up.rms", machine="dev.id", sample_rate="hz").decode(js(payload))


def test_one_bad_item_loses_itself_only() -> None:
    codec = JSONObject(value="v[*].x", time="v[*].t")
    payload = {"v": [{"x": 1, "t": 1}, {"x": "bad", "t": 2}, {"x": 3, "t": "?"}, {"x": [1]}, {"x": 4, "t": 4}]}
    with pytest.raises(CodecError, match=r"v\[1\].x: expected a number, got 'bad' \(and 2 more\)") as caught:
        codec.decode(js(payload))
    assert list(caught.value.samples) == [Sample(1.0, 1000), Sample(4.0, 4000)]


def test_times_beside_samples_are_as_many_and_one_bad_one_loses_itself_only() -> None:
    codec = JSONObject(value="v", time="at.t")
    with pytest.raises(
        CodecError, match=r"at.t\[1\]: expected a time as milliseconds since 1970, got '\?'"
    ) as caught:
        codec.decode(js({"v": [1, 2, 3], "at": {"t": [1, "?", 3]}}))
    assert list(caught.value.samples) == [Sample(1.0, 1000), Sample(3.0, 3000)]
    with pytest.raises(CodecError, match=r"v: expected as many values as times, .* got 2 values and 1 times"):
        codec.decode(js({"v": [1, 2], "at": {"t": [1]}}))
    with pytest.raises(CodecError, match=r"v: expected a time for each value in at.t, got 1"):
        codec.decode(js({"v": 1, "at": {"t": [1]}}))


def test_numbers_that_a_list_has_are_a_block_where_there_is_a_rate() -> None:
    codec = JSONObject(value="v[*]", time="t", sample_rate=10.0)
    (block,) = codec.decode(b'{"t": 5, "v": [1, NaN, "3", null, true]}')
    np.testing.assert_array_equal(np.asarray(block.values), np.array([1, np.nan, 3, np.nan, 1], np.float32))
    assert (block.time, block.sample_rate) == (5000, 10.0)
    assert [s.values for s in JSONObject(value="v[*]", time="t").decode(b'{"t": 5, "v": [1, null, 2]}')] == [
        1.0,
        2.0,
    ]
    lines = JSONObject(value="lines[*].v[*].x", machine="lines[*].id", sample_rate=10.0)
    two = {"lines": [{"id": "a", "v": [{"x": 1}, {"x": 2}]}, {"id": "b", "v": [{"x": 3}]}]}
    assert [(s.machine, np.asarray(s.values).tolist()) for s in lines.decode(js(two))] == [
        ("a", [1, 2]),
        ("b", [3]),
    ]
    bursts = JSONObject(value="bursts[*].x", time="bursts[*].t", sample_rate=10.0)
    each = bursts.decode(js({"bursts": [{"t": 1, "x": [1, 2]}, {"t": 2, "x": [3]}]}))
    assert [(s.time, np.asarray(s.values).tolist()) for s in each] == [(1000, [1, 2]), (2000, [3])]


def test_nan_and_null_cost_only_themselves() -> None:
    read = JSONObject(value=("a", "b", "c")).decode(b'{"a": NaN, "b": null, "c": 1}')
    assert (list(read), read.skipped) == ([Sample(1.0, channel="c")], {"a": "NaN"})  # type: ignore[attr-defined]
    batch = JSONBatch().decode(b'[{"value": nan}, {"value": 2}]')
    assert (list(batch), batch.skipped) == ([Sample(2.0)], {"value": "NaN"})  # type: ignore[attr-defined]
    text = JSONObject(value="a", machine="m").decode(b'{"m": "NaN inf nan", "a": 1, "b": [nan, -inf]}')
    assert list(text) == [Sample(1.0, machine="NaN inf nan")]


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"21.5\0", 21.5),
        (b"\xef\xbb\xbf 21.5\r\n", 21.5),
        (b'"21.5"', 21.5),
        (b"+5", 5.0),
        (b"007", 7.0),
        (b"true", 1.0),
        (b"Battery Mode", 2.0),
        (b'"battery mode"', 2.0),
        (b"ON", 1.0),
    ],
)
def test_a_bare_scalar_as_devices_write_it(payload: bytes, expected: float) -> None:
    assert list(JSONScalar({"Battery Mode": 2.0, "on": 1.0}).decode(payload)) == [Sample(expected)]


def test_a_bare_scalar_that_is_none() -> None:
    read = JSONScalar().decode(b"nan")
    assert isinstance(read, PartlyRead)
    assert (list(read), read.skipped) == ([], {"payload": "NaN"})
    with pytest.raises(CodecError, match="payload: expected a number or one of the states off, on, got 'unknown'"):
        JSONScalar({"on": 1.0, "off": 0.0}).decode(b"unknown")


@pytest.mark.parametrize("text", ["6400 Hz", "12,4", "1_000", "0x10", "", "١", "1e", "--1", "1" * 65, "1e999"])
def test_a_text_that_is_no_number(text: str) -> None:
    with pytest.raises(CodecError, match="value: expected a number"):
        JSONObject().decode(js({"value": text}))


def test_states_and_what_yaml_makes_of_them(tmp_path: Path) -> None:
    yaml = "topics:\n- codec: {class_path: JSONObject, init_args: {states: {on: 1, off: 0, run-up: 0.5, 7: 2}}}\n"
    codec = topics_of(yaml, tmp_path).readings[0].codec
    assert isinstance(codec, Codec)
    read = {text: codec.decode(js({"value": text}))[0].values for text in ("on", "OFF", "run-up", "yes", "7")}
    assert read == {"on": 1.0, "OFF": 0.0, "run-up": 0.5, "yes": 1.0, "7": 2.0}
    with pytest.raises(UserError, match=r"JSONObject.states: expected a number in the range of float32"):
        JSONObject(states={"on": math.inf})


@pytest.mark.parametrize(
    ("said", "flags"),
    [
        (True, 0),
        (192, 0),
        ("192", 0),
        ("GOOD", 0),
        (None, 0),
        (False, Quality.BAD),
        (1, Quality.BAD),
        (0, Quality.BAD),
        ("uncertain", Quality.BAD),
        ([], Quality.BAD),
    ],
)
def test_what_the_device_says_of_a_value(said: object, flags: int) -> None:
    (sample,) = JSONObject(quality="q").decode(js({"value": 1, "q": said}))
    assert sample.quality == flags


def test_good_may_be_something_else() -> None:
    codec = JSONObject(quality="q", good=(0, "OK"))
    assert [codec.decode(js({"value": 1, "q": q}))[0].quality for q in (0, "ok", False, True)] == [0, 0, 64, 64]


def test_units() -> None:
    codec = JSONObject(unit="meta.unit")
    assert [codec.decode(js({"value": 1, "meta": {"unit": u}}))[0].unit for u in ("g", "", None)] == [
        "g",
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("pattern", "text", "names"),
    [
        ("{machine}.{channel}", "L1.Pump.Speed", {"machine": "L1.Pump", "channel": "Speed"}),
        ("{site}/{machine}/{channel}", "a/b/c/d", {"site": "a/b", "machine": "c", "channel": "d"}),
        ("ns=2;s={machine}.{channel}", "ns=2;s=M.x", {"machine": "M", "channel": "x"}),
        ("{channel}@{machine}!", "rms@m!", {"channel": "rms", "machine": "m"}),
        ("{machine}", "m", {"machine": "m"}),
    ],
)
def test_a_text_that_names_several_things(pattern: str, text: str, names: dict[str, str]) -> None:
    assert NamePattern(pattern).part(text, "id") == names


@pytest.mark.parametrize("text", ["Pump", ".Speed", "Pump.", "", "."])
def test_a_text_that_names_nothing(text: str) -> None:
    with pytest.raises(CodecError, match="id: expected a name"):
        JSONObject(name="id").decode(js({"value": 1, "id": text}))


def test_local_time_is_in_its_zone_and_the_night_of_the_change_is_flagged() -> None:
    codec = JSONObject(time_unit="iso", time_zone="Europe/Berlin")

    def read(time: str) -> tuple[int | None, int]:
        (sample,) = codec.decode(js({"value": 1, "time": time}))
        return sample.time, sample.quality

    assert read("2024-05-01T14:00:00") == (NOON, 0)
    assert read("2024-05-01 14:00:00.000") == (NOON, 0)
    assert read("2024-05-01T12:00:00Z") == (NOON, 0)
    second = int(datetime.fromisoformat("2024-10-27T02:30:00+02:00").timestamp()) * 1_000_000
    assert read("2024-10-27T02:30:00") == (second, Quality.AMBIGUOUS_TIME)  # twice
    missing = int(datetime.fromisoformat("2024-03-31T02:30:00+01:00").timestamp()) * 1_000_000
    assert read("2024-03-31T02:30:00") == (missing, Quality.AMBIGUOUS_TIME)  # not at all
    assert read("2024-10-27T01:59:59")[1] == read("2024-10-27T03:00:00")[1] == 0
    with pytest.raises(CodecError, match=r"with an offset from UTC.*set time_zone"):
        JSONObject(time_unit="iso").decode(js({"value": 1, "time": "2024-05-01T14:00:00"}))
    with pytest.raises(UserError, match="time_zone: expected a name of the IANA"):
        JSONObject(time_zone="Berlin")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"machine": "a.b", "value": "{machine}.v"}, "JSONObject.machine: expected one path that says it"),
        ({"name": "id", "machine": "m"}, "JSONObject.machine: expected one path"),
        ({"name": "id", "channel": "c"}, "JSONObject.channel: expected one path"),
        (
            {"value": "a.*", "channel": "c"},
            "JSONObject.channel: expected none where keys name .* set name: c with",
        ),
        ({"value": {"x": "a"}, "channel": "c"}, "JSONObject.channel: expected none where keys name"),
        ({"value": {}}, "JSONObject.value: expected a path"),
        ({"pattern": "{machine}{channel}"}, "expected something between its places"),
        ({"pattern": "name"}, "in it, each once"),
        ({"ignore": ("",)}, "not empty"),
        ({"value": ("a.*.v", "b.*.v")}, "name them in a mapping"),
    ],
)
def test_configurations_that_cannot_be_meant(options: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        JSONObject(**options)


@pytest.mark.parametrize(
    "codec",
    [
        JSONObject(value={"x": "a.b"}, states={"on": 1.0}, good=(True, 192, "good", 0.5), ignore=("a",)),
        CBOR(binary=Binary("hex", channels=("x", "y")), time_zone="Asia/Kolkata", name="n"),
        JSONScalar({"on": 1.0}),
    ],
    ids=repr,
)
def test_a_description_makes_the_codec_again(codec: Codec) -> None:
    assert from_description(json.loads(json.dumps(describe(codec)))) == codec
    assert hash(codec) == hash(from_description(describe(codec)))


def test_a_description_of_before_there_were_paths_is_read_as_before() -> None:
    old = {"codec": "JSONObject", "value": ["x.rms", "y.rms"], "time": "t.s", "time_unit": "s", "channel": None}
    codec = from_description({**old, "machine": "id.m", "site": None, "sample_rate": None})
    assert isinstance(codec, JSONObject)
    payload = js({"x.rms": 1, "y.rms": 2, "t.s": 5, "id.m": "pump"})
    assert list(codec.decode(payload)) == [
        Sample(1.0, 5_000_000, None, "x.rms", "pump"),
        Sample(2.0, 5_000_000, None, "y.rms", "pump"),
    ]


# CBOR and MessagePack --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "data", "expected"),
    [  # RFC 8746, section 2.1
        (64, "0102ff", [1, 2, 255]),
        (65, "01000002", [256, 2]),
        (69, "00010200", [256, 2]),
        (72, "01ff", [1, -1]),
        (73, "fffe0001", [-2, 1]),
        (77, "feff0100", [-2, 1]),
        (78, "01000000", [1]),
        (80, "3e00", [1.5]),
        (81, "3fc00000", [1.5]),
        (84, "003e", [1.5]),
        (85, "0000c03f", [1.5]),
        (86, "000000000000f83f", [1.5]),
    ],
)
def test_typed_arrays_of_the_rfc(tag: int, data: str, expected: list[float]) -> None:
    payload = cbor2.dumps({"acc": {"x": cbor2.CBORTag(tag, bytes.fromhex(data))}})
    (block,) = CBOR(value="acc.x", sample_rate=10.0).decode(payload)
    assert np.asarray(block.values).tolist() == expected
    assert [s.values for s in CBOR(value="acc.x[*]").decode(payload)] == expected


@pytest.mark.parametrize("data", [cbor2.CBORTag(69, b"abc"), cbor2.CBORTag(69, 5), cbor2.CBORTag(69, b"")])
def test_typed_arrays_that_are_none(data: object) -> None:
    with pytest.raises(CodecError, match="expected"):
        CBOR(sample_rate=10.0).decode(cbor2.dumps({"value": data}))


def test_typed_times_beside_typed_samples() -> None:
    times = cbor2.CBORTag(79, np.array([1, 2], "<i8").tobytes())
    payload = cbor2.dumps({"t": times, "v": cbor2.CBORTag(85, np.array([0.5, 1.5], "<f4").tobytes())})
    assert list(CBOR(value="v", time="t").decode(payload)) == [Sample(0.5, 1000), Sample(1.5, 2000)]


@pytest.mark.parametrize(("codec", "encode"), [(CBOR, cbor2.dumps), (MessagePack, msgspec.msgpack.encode)])
def test_integer_keys_and_bytes(codec: type[CBOR] | type[MessagePack], encode: Any) -> None:
    assert list(codec(value="1.-2", time="0").decode(encode({0: 5, 1: {-2: 1.5}}))) == [Sample(1.5, 5000)]
    assert [s.channel for s in codec(value="1.*").decode(encode({1: {2: 5, 3: 6}}))] == ["2", "3"]
    packed = codec(value="acc", sample_rate=10.0, binary=Binary("none", "int16", channels=("x", "y")))
    x, y = packed.decode(encode({"acc": np.array([1, 2, 3, 4], "<i2").tobytes()}))
    assert (x.channel, np.asarray(x.values).tolist(), y.channel) == ("x", [1.0, 3.0], "y")
    with pytest.raises(CodecError, match="acc: expected a number, got bytes"):
        codec(value="acc").decode(encode({"acc": b"1"}))


def test_cbor_dates_without_an_offset_are_local() -> None:
    naive = cbor2.dumps({"value": 1, "time": "2024-05-01T14:00:00"})
    codec = CBOR(time_unit="iso", time_zone="Europe/Berlin")
    assert list(codec.decode(naive)) == [Sample(1.0, NOON)]


# Bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "payload"),
    [
        (MessagePack(value="[*]"), lambda n: b"\xdd" + n.to_bytes(4, "big") + b"\x01" * n),
        (MessagePack(value=("a[*]", "b[*]")), lambda n: b"\x82" + b"".join(
            b"\xa1" + key + b"\xdd" + n.to_bytes(4, "big") + b"\x01" * n for key in (b"a", b"b")
        )),
        (MessagePack(value="v", time="v"[::-1] + "t"), lambda n: b"\x82" + b"".join(
            key + b"\xdd" + n.to_bytes(4, "big") + b"\x01" * n for key in (b"\xa1v", b"\xa2vt")
        )),
        (JSONBatch(), lambda n: b"[" + b'{"value":1},' * n + b"0]"),
    ],
)  # fmt: skip
def test_a_million_matches_are_no_more_samples_than_a_message_may_have(
    codec: Codec, payload: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("fields", "message_reader", "json"):
        monkeypatch.setattr(f"fml_lightning.connectors.codecs.{module}.MOST_SAMPLES", 1000)
    assert checked.MOST_SAMPLES == 1 << 20
    with pytest.raises(CodecError, match="at most 1,000") as caught:
        codec.decode(payload(1001))
    assert len(caught.value.samples) <= 1000


def test_names_of_what_is_passed_over_are_bounded() -> None:
    read = JSONObject(value="*.*").decode(js({"a": {"x": 1}, **{str(i): "text" for i in range(30_000)}}))
    assert isinstance(read, PartlyRead)
    assert len(read.skipped) <= 10_000
    inner = JSONObject(value="o.*").decode(js({"o": {str(i): {"a": 1, "b": 2} for i in range(30_000)}}))
    assert isinstance(inner, PartlyRead)
    assert len(inner.skipped) <= 20_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"value": "payload.rms", "time": "payload.t"}, {"payload": '{"rms": 1.5, "t": 1}'}),
        ({"value": "rms", "time": "t"}, '{"rms": 1.5, "t": 1}'),  # twice in JSON
        ({"value": "log[*].d[*]", "time": "log[*].t"}, {"log": ['{"d": "[1.5]", "t": 1}']}),
        ({"value": {"x": "con.a[0]"}, "time": None}, {"con": ' {"a": [1.5]}'}),
    ],
)
def test_a_path_leads_on_into_json_within_a_text(options: dict[str, Any], message: Any) -> None:
    (sample,) = JSONObject(**options).decode(js(message))
    assert (sample.values, sample.time) == (1.5, None if options["time"] is None else 1000)


def test_any_key_of_json_within_a_text_is_a_channel() -> None:
    codec = JSONObject(value="payload.*", time="ts")
    samples = codec.decode(js({"ts": 1, "payload": '{"temp": 21.5, "hum": NaN, "fan": true}'}))
    assert [(one.channel, one.values) for one in samples] == [("temp", 21.5), ("fan", 1.0)]
    with pytest.raises(CodecError, match=r"payload: expected an object, got '\{.temp"):
        codec.decode(js({"payload": '{"temp'}))


def test_json_within_a_text_is_read_once_for_all_that_is_in_it() -> None:
    text = json.dumps({"t": 1, "v": list(range(20_000))})
    with mock.patch.object(json_text, "content", wraps=json_text.content) as reading:
        samples = JSONObject(value="a[*].v[*]", time="a[*].t").decode(js({"a": [text]}))
    assert len(samples) == 20_000
    assert reading.call_count == 1


def test_what_another_path_reads_is_not_left_out() -> None:
    codec = JSONObject(value=("*", "*.*", "*.*.*"))
    samples = codec.decode(js({"a": 1, "s": "t", "b": {"c": 2, "u": "x", "d": {"e": 3, "f": [1]}}}))
    assert [one.channel for one in samples] == ["a", "b/c", "b/d/e"]
    assert isinstance(samples, PartlyRead)
    assert samples.skipped == {"s": "text", "b.u": "text", "b.d.f": "arrays without a sample rate"}


@pytest.mark.parametrize(("said", "flag"), [("true", 0), ("False", Quality.BAD), ("192", 0), ("0", Quality.BAD)])
def test_what_is_good_may_be_said_as_text(said: str, flag: int) -> None:
    (sample,) = JSONObject(quality="q").decode(js({"value": 1, "q": said}))
    assert sample.quality == flag


def test_an_array_whose_sample_rate_lacks_says_where_it_was_looked_for() -> None:
    with pytest.raises(
        CodecError, match=r"v: expected a number, or a sample rate .*; hdr.fs: expected a sample rate"
    ):
        JSONObject(value="v", sample_rate="hdr.fs").decode(b'{"v": [1, 2], "hdr": {"fs": null}}')


@pytest.mark.parametrize(
    "time", [" 2024/05/01 12:00:00 UTC", "2024-05-01T12:00:00z", "2024-05-01 12:00:00.000 gmt\n", "2024-05-01 12Z"]
)
def test_what_devices_take_for_iso(time: str) -> None:
    (sample,) = JSONObject(time_unit="iso").decode(js({"value": 1, "time": time}))
    assert sample.time == 1_714_564_800_000_000
    local = JSONObject(time_unit="iso", time_zone="Europe/Berlin")
    assert local.decode(js({"value": 1, "time": "2024/05/01 14:00:00"}))[0].time == sample.time


@pytest.mark.parametrize(
    "time", ["2024/05/01 12:00:00", "01.05.2024", "2024/13/01Z", "2024-05-01" + " " * 5000, ""]
)
def test_what_is_no_time_in_iso(time: str) -> None:
    with pytest.raises(CodecError, match=r"time: expected a time"):
        JSONObject(time_unit="iso").decode(js({"value": 1, "time": time}))
