"""From raw messages to readings, labels and dead letters."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import math
import re
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import cbor2
import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from probes import BIRTH, NOW, SECOND, said, spark

from fml_lightning.connectors import (
    CBOR,
    LABELS,
    READINGS,
    Codec,
    CodecError,
    Decoder,
    Ignore,
    InfluxLine,
    JSONBatch,
    JSONObject,
    JSONScalar,
    LabelTopic,
    Quality,
    Sample,
    SparkplugB,
    Topic,
    Topics,
    WaveformBlock,
    encode_waveform,
)
from fml_lightning.connectors.codecs.binary import Binary
from fml_lightning.connectors.decoding import history as history_module
from fml_lightning.connectors.decoding import routes as routes_module
from fml_lightning.connectors.decoding import streams as streams_module
from fml_lightning.connectors.decoding.decoded import Decoded
from fml_lightning.connectors.messages import MESSAGES, Messages
from fml_lightning.errors import UserError


def frame(*messages: tuple[str, bytes] | tuple[str, bytes, bool], first: int = 0) -> pl.DataFrame:
    """Raw messages, one received every second from NOW on: topic, payload, and whether it was retained."""
    return pl.DataFrame(
        [
            (first + i, NOW + (first + i) * SECOND, topic, payload, bool(rest and rest[0]), 0)
            for i, (topic, payload, *rest) in enumerate(messages)
        ],
        schema={**MESSAGES, "received": pl.Int64()},
        orient="row",
    ).cast({"received": MESSAGES["received"]})


def decoder(*topics: Topic, labels: Sequence[LabelTopic] = ()) -> Decoder:
    return Decoder(Topics(topics or (Topic(codec=JSONObject()),), tuple(labels)))


def qualities(decoded: Decoded) -> list[Quality]:
    return [Quality(flags) for flags in decoded.batch.readings["quality"]]


# Names ------------------------------------------------------------------------------------------------------


def streams(topic: Topic, name: str, payload: bytes) -> list[tuple[str, str, str]]:
    decoded = decoder(topic).decode(frame((name, payload)))
    assert not decoded.dead, decoded.dead
    return decoded.batch.readings.select("site", "machine", "channel").rows()


def test_a_channel_is_named_by_template_payload_or_last_word() -> None:
    one = JSONObject()
    each = JSONObject(value=("x", "y"))
    both = b'{"x": 1, "y": 2}'
    assert streams(Topic(codec=one), "plant/n/m/flow", said(1)) == [("n", "m", "flow")]
    assert streams(Topic("{site}/{machine}/flow", one), "n/m/flow", said(1)) == [("n", "m", "flow")]
    # The payload's own names come before the last word, and after a place in the topic.
    assert streams(Topic("{site}/{machine}/acc", each), "n/m/acc", both) == [("n", "m", "x"), ("n", "m", "y")]
    assert streams(Topic(codec=each), "plant/n/m/acc", both) == [("n", "m", "acc/x"), ("n", "m", "acc/y")]
    named = JSONObject(channel="of")
    assert streams(Topic("{site}/{machine}/data", named), "n/m/data", said(1, of="rpm")) == [("n", "m", "rpm")]
    assert streams(Topic("{site}/{machine}/data", named), "n/m/data", said(1)) == [("n", "m", "data")]
    assert streams(Topic("{site}/{machine}/#", one), "n/m/a/b", said(1)) == [("n", "m", "a/b")]


def test_fixed_names_stand_in_and_the_payload_goes_first() -> None:
    fixed = Topic("data", JSONObject(machine="m", site="s"), site="north", machine="pump", channel="flow")
    assert streams(fixed, "data", said(1)) == [("north", "pump", "flow")]
    assert streams(fixed, "data", said(1, m="fan")) == [("north", "fan", "flow")]
    assert streams(fixed, "data", said(1, m=7, s="south")) == [("south", "7", "flow")]


def test_what_nobody_names_is_a_dead_letter_and_the_rest_of_it_is_kept() -> None:
    topic = Topic("{site}/lines", InfluxLine(machine_tag="m", time_unit="ms"))
    lines = b"motor,m=a t=1\nmotor t=2\nmotor,m=b t=3\nbroken\nfan t=4"
    decoded = decoder(topic).decode(frame(("n/lines", lines)))
    assert decoded.batch.readings["machine"].to_list() == ["a", "b"]
    (dead,) = decoded.dead  # one letter for one message, whatever is wrong with it
    assert "line 4" in dead.error
    (dead,) = decoder(topic).decode(frame(("n/lines", b"motor t=2\nmotor t=3"))).dead
    assert dead.error.startswith("expected the topic or the payload to name the machine; set it")
    (dead,) = decoder(Topic("#", JSONScalar())).decode(frame(("a", b"1"))).dead
    assert "to name the site and the machine;" in dead.error


def test_the_first_topic_that_matches_reads_and_labels_come_before_readings() -> None:
    both = decoder(
        Topic("plant/{site}/{machine}/speed", JSONScalar()),
        Topic(codec=JSONObject()),
        labels=[LabelTopic()],
    )
    event = json.dumps({"time": "2024-05-01T12:00:00Z", "label": "outer"}).encode()
    decoded = both.decode(
        frame(("plant/n/m/speed", b"3"), ("plant/n/m/flow", said(4)), ("plant/n/m/events", event))
    )
    assert decoded.batch.readings["values"].to_list() == [[3], [4]]
    assert decoded.batch.labels["label"].to_list() == ["outer"]
    assert not decoded.dead


def test_names_are_made_of_a_topics_places() -> None:
    topic = Topic("{site}/{area}/{line}/{channel#}/value", JSONScalar(), machine="{area}-{line}")
    assert streams(topic, "n/hall/7/drive/temp/value", b"1") == [("n", "hall-7", "drive/temp")]
    assert streams(Topic("sensor_{machine}_{channel}", JSONScalar(), site="n"), "sensor_p1_rms", b"1") == [
        ("n", "p1", "rms")
    ]
    # The payload goes before what the topic names, and a place in a field goes before the template's.
    named = Topic("{site}/{area}/{machine}/x", JSONObject(machine="of"), machine="{area}/{machine}")
    assert streams(named, "n/hall/p1/x", said(1)) == [("n", "hall/p1", "x")]
    assert streams(named, "n/hall/p1/x", said(1, of="fan")) == [("n", "fan", "x")]
    site = Topic("{company}/{plant}/{machine}/x", JSONScalar(), site="{company} {plant}", channel="{plant}")
    assert streams(site, "a/b/m/x", b"1") == [("a b", "m", "b")]
    # A codec that reads the names in the topic itself goes on to.
    spb = Topic("{area}/spBv1.0/#", SparkplugB(), site="{area}")
    decoded = decoder(spb).decode(frame(("hall/spBv1.0/Ulm/NBIRTH/edge", b"")))
    assert not len(decoded.batch.readings)


def test_what_comes_only_as_mqtt_has_no_narrower_filter_is_no_dead_letter() -> None:
    narrow = decoder(Topic("plant/{site}/#/sensor_{machine}/temp", JSONScalar()), Topic("x/{site}/{machine}"))
    decoded = narrow.decode(
        frame(
            ("plant/n/hall/sensor_p1/temp", b"1"),
            ("plant/n/hall/sensor_p1/hum", b"2"),
            ("plant/n/lamp", b"on"),
            ("x/n/", b"1"),
        )
    )
    assert decoded.batch.readings["machine"].to_list() == ["p1"]
    assert decoded.unread == 1
    (dead,) = decoded.dead  # MQTT has a filter for that template, so its own rule makes this no topic of it
    assert dead.topic == "x/n/"


def test_ignored_topics_are_neither_read_nor_dead_letters() -> None:
    topics = (Topic("plant/+/+/debug/#", Ignore()), Topic("plant/{site}/{machine}/#", JSONScalar()))
    decoded = decoder(*topics).decode(
        frame(("plant/n/m/debug/log", b"text"), ("plant/n/m/t", b"1"), ("plant/n/m/debug", b"text"))
    )
    assert decoded.batch.readings["channel"].to_list() == ["t"]
    assert not decoded.dead
    assert not decoded.unread


@pytest.mark.parametrize("codec", [JSONObject(), JSONObject(machine="of"), InfluxLine(time_unit="ms")])
def test_wrappers_are_undone_before_a_codec_reads(codec: Codec) -> None:
    plain = b"flow value=1.5 1714564800000" if isinstance(codec, InfluxLine) else said(1.5)
    payload = base64.b64encode(gzip.compress(plain))
    topic = Topic(codec=codec, unwrap=("base64", "gzip"))
    bad = base64.b64encode(plain)
    decoded = decoder(topic).decode(
        frame(("plant/n/m/x", payload), ("plant/n/m/x", b""), ("plant/n/m/x", bad), ("plant/n/m/x", b"!"))
    )
    assert decoded.batch.readings["values"].to_list() == [[1.5]]
    assert [letter.error.partition(":")[0] for letter in decoded.dead] == ["gzip", "base64"]
    assert decoded.dead[0].payload == bad  # as it came


def test_wrappers_are_undone_before_a_stateful_codec_reads() -> None:
    payloads = [spark(0, BIRTH), spark(1, {"alias": 1, "float_value": 21.0})]
    read = decoder(Topic("spBv1.0/#", SparkplugB(), unwrap=("gzip",)))
    decoded = read.decode(
        frame(
            ("spBv1.0/Ulm/NBIRTH/edge", gzip.compress(payloads[0])),
            ("spBv1.0/Ulm/NDATA/edge", gzip.compress(payloads[1])),
        )
    )
    assert decoded.batch.readings["values"].to_list() == [[20.0], [21.0]]


def test_what_a_plain_codec_need_not_be_asked_is_asked_of_the_others() -> None:
    """The decoder looks for names, units and flags in samples only where the codec may give some."""
    plain: list[Codec] = [JSONScalar(), JSONObject(), JSONBatch(), CBOR(), JSONObject("a.b", sample_rate="hz")]
    assert all(codec._is_plain for codec in plain)
    others: list[Codec] = [
        JSONObject("*"),
        JSONObject(("x", "y")),
        JSONObject("{machine}.x"),
        JSONObject("{site}.x"),
        JSONObject({"a": "x"}),
        JSONObject(unit="u"),
        JSONObject(quality="q"),
        JSONObject(machine="m"),
        JSONObject(site="s"),
        JSONObject(channel="c"),
        JSONObject(name="n"),
        JSONObject(time_unit="iso", time_zone="Europe/Berlin"),
        JSONObject(binary=Binary("base64", "int16", channels=("x", "y")), sample_rate=10.0),
        InfluxLine(),
    ]
    assert not any(codec._is_plain for codec in others)
    night = b'{"time": "2024-10-27 02:30:00", "value": 1, "u": "g", "q": false}'
    topic = Topic(codec=JSONObject(time_unit="iso", time_zone="Europe/Berlin", unit="u", quality="q"))
    decoded = decoder(topic).decode(frame(("plant/n/m/x", night)))
    assert decoded.batch.readings["unit"].to_list() == ["g"]
    assert Quality.AMBIGUOUS_TIME | Quality.BAD in qualities(decoded)[0]


def test_topics_of_nobody_are_dead_letters() -> None:
    decoded = decoder().decode(frame(("else/where", b"1"), ("else/where", b"")))
    (dead,) = decoded.dead
    assert (dead.sequence, dead.topic, dead.payload) == (0, "else/where", b"1")
    assert "no topic of the configuration matches it" in dead.error


# Frames -----------------------------------------------------------------------------------------------------


def test_scalars_and_blocks_in_one_frame_keep_schema_and_order() -> None:
    mixed = decoder(Topic("v/{site}/{machine}/{channel}", WaveformBlock()), Topic(codec=JSONObject()))
    waves = [encode_waveform(np.arange(n), 100.0, NOW) for n in (4, 4, 2)]
    decoded = mixed.decode(
        frame(
            ("v/n/m/x", waves[0]),
            ("plant/n/m/t", said(1.5)),
            ("v/n/m/y", waves[1]),
            ("plant/n/m/u", said(-2)),
            ("v/n/m/z", waves[2]),
        )
    )
    readings = decoded.batch.readings
    assert readings.schema == READINGS
    assert decoded.batch.labels.schema == LABELS
    assert readings["sequence"].to_list() == [0, 1, 2, 3, 4]
    assert readings["values"].to_list() == [[0, 1, 2, 3], [1.5], [0, 1, 2, 3], [-2], [0, 1]]
    assert readings["sample_rate"].to_list() == [100.0, None, 100.0, None, 100.0]
    assert readings["channel"].to_list() == ["x", "t", "y", "u", "z"]
    assert readings["time"].to_physical().to_list() == [NOW] * 5
    assert readings["received"].to_physical().to_list() == [NOW + i * SECOND for i in range(5)]
    assert set(readings["quality"]) == {0}


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [("v/n/m/x", b"")],
        [("v/n/m/x", b"junk")],
        [("v/n/m/x", encode_waveform([1, 2], 1.0))],
        [("v/n/m/x", encode_waveform([1, 2], 1.0)), ("v/n/m/x", encode_waveform([1], 1.0))],
        [("plant/n/m/t", said(1))],
        [("plant/n/m/events", b'{"time": "2024-05-01T12:00:00Z", "label": "a"}')],
    ],
)
def test_every_frame_has_the_schemas(messages: list[tuple[str, bytes]]) -> None:
    topics = Topic("v/{site}/{machine}/{channel}", WaveformBlock()), Topic(codec=JSONObject())
    batch = decoder(*topics, labels=[LabelTopic()]).decode(frame(*messages)).batch
    assert batch.readings.schema == READINGS
    assert batch.labels.schema == LABELS


def test_many_samples_of_one_message_keep_their_order() -> None:
    batch = decoder(Topic(codec=JSONBatch(sample_rate=10.0)))
    objects = [{"value": 1}, {"value": [2, 3]}, {"value": "no"}, {"value": 4, "time": NOW / 1000 + 1000}]
    decoded = batch.decode(frame(("plant/n/m/x", json.dumps(objects).encode()), ("plant/n/m/x", b'[{"value":5}]')))
    assert sorted(decoded.batch.readings["values"].to_list()) == [[1], [2, 3], [4], [5]]
    assert decoded.batch.readings["sequence"].to_list() == [0, 0, 0, 1]
    (dead,) = decoded.dead  # partly read: what was good is kept, and the letter has all of it
    assert dead.error.startswith("object 2: value: expected a number")
    assert dead.payload == json.dumps(objects).encode()


def test_a_codec_that_breaks_loses_its_message_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(self: JSONScalar, payload: bytes) -> Sequence[Sample]:
        return (Sample(1 / float(payload)),)

    monkeypatch.setattr(JSONScalar, "decode", decode)
    decoded = decoder(Topic()).decode(frame(*[("plant/n/m/x", payload) for payload in (b"4", b"0", b"2")]))
    assert decoded.batch.readings["values"].to_list() == [[0.25], [0.5]]
    (dead,) = decoded.dead
    assert dead.error == "ZeroDivisionError: float division by zero"


# Quality ----------------------------------------------------------------------------------------------------


def test_flags() -> None:
    hour = 3_600 * SECOND
    wave = Topic("v/{site}/{machine}/{channel}", WaveformBlock())
    decoded = decoder(wave, Topic(codec=JSONObject()), Topic("cbor/{site}/{machine}/{channel}", CBOR())).decode(
        frame(
            ("plant/n/m/good", said(1)),
            ("plant/n/m/kept", said(1), True),
            ("plant/n/m/1970", said(1, 1_000_000)),
            ("plant/n/m/units", said(1, NOW * 1000)),
            ("plant/n/m/ahead", said(1, NOW + 23 * hour)),
            ("plant/n/m/untimed", said(1, None)),
            ("v/n/m/nan", encode_waveform([1, math.nan, 1], 1.0, NOW)),
            ("v/n/m/inf", encode_waveform([math.inf, -math.inf], 1.0, NOW)),
            ("v/n/m/stuck", encode_waveform([3, 3, 3], 1.0, NOW)),
            ("v/n/m/ends", encode_waveform([3, 4, 3], 1.0, NOW)),
            ("v/n/m/single", encode_waveform([3], 1.0, NOW)),
            ("v/n/m/all", encode_waveform([math.nan], 1.0), True),
            ("cbor/n/m/nan", bytes.fromhex("a16576616c7565f97e00")),  # {"value": NaN}
        )
    )
    q = Quality
    # Milliseconds of the year 56,000,000 are no time at all; a day ahead is the most that is believed.
    (dead,) = decoded.dead
    assert "between 1900 and 2262" in dead.error
    assert qualities(decoded) == [
        q(0),
        q.RETAINED,
        q.IMPLAUSIBLE_TIME,
        q(0),
        q.NO_DEVICE_TIME,
        q.NOT_FINITE,
        q.NOT_FINITE,
        q.STUCK,
        q(0),
        q(0),
        q.NOT_FINITE | q.RETAINED | q.NO_DEVICE_TIME,
        q.NOT_FINITE | q.NO_DEVICE_TIME,
    ]
    untimed = decoded.batch.readings.row(4, named=True)
    assert untimed["time"] == untimed["received"]


@pytest.mark.parametrize(
    ("sample", "error"),
    [
        (Sample(1), "expected values as a float, or .* returned 1$"),
        (Sample(np.float64(1)), "expected values"),
        (Sample([1.0]), "expected values"),  # type: ignore[arg-type]
        (Sample(np.empty(0, np.float32)), "expected values"),
        (Sample(np.ones(2)), "expected values"),  # type: ignore[arg-type]
        (Sample(np.ones((2, 2), np.float32)), "expected values"),
        (Sample(np.ones(1, np.float32)), "expected a sample rate beside an array, a block; .* returned None"),
        (Sample(1.0, None, 5.0), "expected no sample rate beside one number, a scalar; .* returned 5.0 Hz"),
        (Sample(1.0, 1.5), "expected a time as an int, .* returned 1.5"),  # type: ignore[arg-type]
        (Sample(1.0, 2**70), "expected a time"),
        (Sample(np.ones(2, np.float32), None, "x"), "expected a sample rate"),  # type: ignore[arg-type]
        (Sample(1.0, channel=5), "expected a name"),  # type: ignore[arg-type]
    ],
)
@pytest.mark.parametrize("partly", [False, True])
def test_what_a_codec_of_others_must_not_return(sample: Sample, error: str, partly: bool) -> None:
    class Theirs(Codec):
        def decode(self, payload: bytes) -> Sequence[Sample]:
            if payload == b"good":
                return (Sample(2.0),)
            if partly:
                raise CodecError("half of it", (sample,))
            return (Sample(3.0), sample)

    decoded = decoder(Topic(codec=Theirs())).decode(
        frame(*[("plant/n/m/x", payload) for payload in (b"good", b"bad", b"good")])
    )
    assert decoded.batch.readings["values"].to_list() == [[2.0], [2.0]]
    (dead,) = decoded.dead
    assert dead.payload == b"bad"
    assert re.search(error, dead.error)


def test_a_codec_of_others_may_yield() -> None:
    class Yields(Codec):
        def decode(self, payload: bytes) -> Sequence[Sample]:
            return (Sample(float(part)) for part in payload.split())  # type: ignore[return-value]

    decoded = decoder(Topic(codec=Yields())).decode(frame(("plant/n/m/x", b"1 2")))
    assert decoded.batch.readings["values"].to_list() == [[1.0], [2.0]]


def test_late_is_older_than_before_on_its_own_channel() -> None:
    decoded = decoder().decode(
        frame(
            ("plant/n/m/x", said(1, NOW)),
            ("plant/n/m/x", said(2, NOW - SECOND)),
            ("plant/n/m/y", said(3, NOW - SECOND)),
            ("plant/n/other/x", said(4, NOW - SECOND)),
            ("plant/n/m/x", said(5, NOW)),
            ("plant/n/m/x", said(6, NOW + SECOND)),
        )
    )
    assert [bool(flags & Quality.LATE) for flags in qualities(decoded)] == [
        False,
        True,
        False,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize("split", [False, True])
def test_an_implausible_time_does_not_make_good_readings_late(split: bool) -> None:
    read = decoder()
    messages = [
        ("plant/n/m/x", said(1, NOW + 400 * 86_400 * SECOND)),
        ("plant/n/m/x", said(2, NOW)),
        ("plant/n/m/x", said(3, NOW + 400 * 86_400 * SECOND)),
        ("plant/n/m/x", said(4, NOW + SECOND)),
    ]
    frames = [frame(m, first=i) for i, m in enumerate(messages)] if split else [frame(*messages)]
    flags = [flag for one in frames for flag in qualities(read.decode(one))]
    assert flags == [Quality.IMPLAUSIBLE_TIME, Quality(0), Quality.IMPLAUSIBLE_TIME, Quality(0)]


def test_readings_that_come_again_are_left_out() -> None:
    read = decoder(Topic("v/{site}/{machine}/{channel}", WaveformBlock()), Topic(codec=JSONObject()))
    wave = encode_waveform([1, 2, math.nan], 1.0, NOW)
    first = read.decode(frame(("plant/n/m/x", said(1)), ("plant/n/m/x", said(1)), ("v/n/m/w", wave)))
    assert (len(first.batch.readings), first.repeated) == (2, 1)
    again = read.decode(
        frame(
            ("plant/n/m/x", said(1)),  # repeated
            ("v/n/m/w", wave),  # repeated
            ("plant/n/m/x", said(2)),  # another value at the same time
            ("plant/n/m/x", said(1, NOW + SECOND)),  # another time
            ("plant/n/m/y", said(1)),  # another channel
            ("plant/n/m2/x", said(1)),  # another machine
            first=3,
        )
    )
    assert again.repeated == 2
    assert again.batch.readings["sequence"].to_list() == [5, 6, 7, 8]
    assert again.batch.readings.schema == READINGS


def test_readings_without_a_device_time_never_count_as_repeated() -> None:
    read = decoder()
    same = frame(*[("plant/n/m/x", said(1, None))] * 3)
    assert [read.decode(same).repeated for _ in range(2)] == [0, 0]


def test_only_so_many_readings_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fml_lightning.connectors.decoding.history.REMEMBERED", 10)
    read = decoder()

    def repeated(*seconds: int) -> int:
        return read.decode(frame(*[("plant/n/m/x", said(1, NOW + s * SECOND)) for s in seconds])).repeated

    assert repeated(*range(11)) == 0
    assert repeated(*range(1, 11)) == 10  # at least the last ten
    assert repeated(*range(20, 31)) == 0
    assert repeated(*range(40, 51)) == 0
    assert repeated(*range(5)) == 0  # forgotten
    assert read.history._filling.size + read.history._full.size < 40


def test_the_distance_between_clocks() -> None:
    read = decoder()
    # Received 3 s after the device's time.
    read.decode(frame(("plant/n/m/x", said(1, NOW - 3 * SECOND)), ("plant/n/m2/x", said(1, None))))
    assert read.history.skew == {("n", "m"): 3.0}
    # Then 13 s: a running mean takes a tenth of the new distance. What was retained says nothing of clocks.
    read.decode(frame(("plant/n/m/x", said(1, NOW - 13 * SECOND)), ("plant/n/m3/x", said(1), True)))
    assert read.history.skew == {("n", "m"): pytest.approx(4.0)}


# Labels -----------------------------------------------------------------------------------------------------


def labelled(payload: bytes, topic: str = "plant/n/m/events", **options: Any) -> tuple[list[Any], list[str]]:
    decoded = decoder(labels=[LabelTopic(**options)]).decode(frame((topic, payload)))
    return decoded.batch.labels.drop("sequence", "received").with_columns(pl.col("time").to_physical()).rows(), [
        letter.error for letter in decoded.dead
    ]


def test_labels() -> None:
    iso = b'{"time": "2024-05-01T14:00:00+02:00", "label": "outer"}'
    assert labelled(iso) == ([(NOW, "n", "m", "outer")], [])
    in_ms = json.dumps({"ts": NOW // 1000, "state": "inner", "label": 5}).encode()
    assert labelled(in_ms, time_key="ts", time_unit="ms", label_key="state") == ([(NOW, "n", "m", "inner")], [])
    assert labelled(b'{"label": "x", "time": 5}', time_key=None) == ([(NOW, "n", "m", "x")], [])
    machine = b'{"label": "x", "unit": "fan", "time": "2024-05-01T12:00:00Z"}'
    options: dict[str, Any] = {"template": "log", "machine_key": "unit", "site": "north", "machine": "pump"}
    assert labelled(machine, "log", **options) == ([(NOW, "north", "fan", "x")], [])
    assert labelled(iso, "log", **options) == ([(NOW, "north", "pump", "outer")], [])
    assert labelled(b"") == ([], [])  # a retained event that was cleared


def test_a_retained_label_is_no_newer_word_than_it_was() -> None:
    """The broker sends it at each new subscription; it must not take back a correction made meanwhile."""
    said = b'{"time": "2024-05-01T12:00:00Z", "label": "worn"}'
    other = ("plant/n/m/x", b"1")
    decoded = decoder(labels=[LabelTopic()]).decode(
        frame(other, ("plant/n/m/events", said), ("plant/n/m/events", said, True))
    )
    received = decoded.batch.labels["received"].to_physical().to_list()
    assert received == [NOW + SECOND, NOW]


@pytest.mark.parametrize(
    ("payload", "match"),
    [
        (b"5", "payload: expected an object with label, got 5"),
        (b'{"label": "x"', "expected a JSON object, got: "),
        (b'{"label": "\xff"}', "expected a JSON object, got: "),
        (b'{"a":' * 100_000, "expected a JSON object, got: "),
        (b"[]", "expected an object, or several in a list, got an empty list"),
        (b'{"time": "2024-05-01T12:00:00Z"}', "payload: expected an object with label, got an object with time"),
        (
            b'{"label": "", "time": "2024-05-01T12:00:00Z"}',
            "label: expected a label as text, a number or a boolean",
        ),
        (
            b'{"label": {"a": 1}, "time": 0}',
            "label: expected a label as text, a number or a boolean, got an object",
        ),
        (b'{"label": null, "time": "2024-05-01T12:00:00Z"}', "label: expected a value, got null"),
        (
            b'{"label": "%s", "time": "2024-05-01T12:00:00Z"}' % (b"x" * 257),
            "at most 256 characters, got 257 in 'xxx",
        ),
        (b'{"label": 1%s, "time": "2024-05-01T12:00:00Z"}' % (b"0" * 300), "label: expected a label"),
        (b'{"label": "x"}', "time: expected a time, got an object with label; set time_key, to null where"),
        (b'{"label": "x", "time": null}', "time: expected a time, got an object with label, time"),
        (b'{"label": "x", "time": 1714564800}', "time: expected a time as a string in ISO 8601"),
        (b'{"label": "x", "time": "2024-05-01T12:00:00"}', "with an offset from UTC"),
        (b'{"label": "x", "time": "yesterday"}', "in ISO 8601 with an offset from UTC, got 'yesterday'"),
    ],
)
def test_bad_labels_are_dead_letters(payload: bytes, match: str) -> None:
    rows, errors = labelled(payload)
    assert rows == []
    assert match in errors[0]
    assert len(errors[0]) <= 300


def test_labels_that_lack_a_machine_or_a_site() -> None:
    for payload, has in ((b'{"label": "x"}', "label"), (b'{"label": "x", "machine": null}', "label, machine")):
        rows, errors = labelled(payload, "log", template="log", site="n", time_key=None)
        assert not rows
        assert errors[0] == (
            f"expected the topic or the payload to name the machine, got an object with {has}; set machine_key, a"
            " place in the topic's template, or a fixed name"
        )
    (error,) = labelled(b'{"label": "x", "machine": "m"}', "log", template="log", time_key=None)[1]
    assert "to name the site, got an object with label, machine; set site_key" in error
    (error,) = labelled(b'{"label": "x", "machine": [1]}', "log", template="log", site="n", time_key=None)[1]
    assert error == "machine: expected a name (machine), got a list"


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("worn", "worn"),
        (3, "3"),
        (3.0, "3"),
        (-2.5, "-2.5"),
        (True, "true"),
        (False, "false"),
        ("1", "inner"),
        (1, "inner"),
        (1.0, "inner"),
    ],
)
def test_labels_are_text_numbers_and_booleans_and_may_mean_something(value: object, label: str) -> None:
    at = "2024-05-01T12:00:00Z"
    payload = json.dumps({"time": at, "label": value}).encode()
    assert labelled(payload, labels={"1": "inner"}) == ([(NOW, "n", "m", label)], [])
    packed = {"time": at, "label": value}
    assert labelled(msgspec.msgpack.encode(packed), format="msgpack", labels={"1": "inner"})[0][0][-1] == label
    assert labelled(cbor2.dumps(packed), format="cbor", labels={"1": "inner"})[0][0][-1] == label
    # The whole payload.
    bare = str(value).lower().encode() if isinstance(value, bool) else str(value).encode()
    row = [(NOW, "n", "m", label)]
    assert labelled(bare, label_key=None, labels={"1": "inner"}) == (row, [])
    assert labelled(b" %s\r\n\0" % bare, label_key=None, labels={"1": "inner"}) == (row, [])
    assert labelled(cbor2.dumps(value), label_key=None, format="cbor", labels={"1": "inner"}) == (row, [])
    assert (
        labelled(msgspec.msgpack.encode(value), label_key=None, format="msgpack", labels={"1": "inner"})[0] == row
    )


def test_a_bare_label_that_is_none_is_a_dead_letter() -> None:
    for payload, got in ((b"{}", "an empty object"), (b"[1]", "a list"), (b"null", "null")):
        assert labelled(payload, label_key=None) == (
            [],
            [f"payload: expected a label as text, a number or a boolean, got {got}"],
        )
    assert labelled(b"\xff", label_key=None)[1]


def test_an_event_names_site_machine_and_time_wherever_it_has_them() -> None:
    deep = {"meta": {"plant": "Ulm", "unit": 7}, "event": {"state": True, "at": "1714564800.5"}}
    options: dict[str, Any] = {
        "template": "log",
        "label_key": "event.state",
        "time_key": "event.at",
        "time_unit": "s",
        "machine_key": "meta.unit",
        "site_key": "meta.plant",
        "labels": {"true": "fault"},
    }
    expected = ([(NOW + SECOND // 2, "Ulm", "7", "fault")], [])
    assert labelled(json.dumps(deep).encode(), "log", **options) == expected
    wrapped = base64.b64encode(gzip.compress(json.dumps(deep).encode()))
    assert labelled(wrapped, "log", unwrap=("base64", "gzip"), **options) == expected
    assert labelled(b"", "log", unwrap=("base64", "gzip"), **options) == ([], [])
    (error,) = labelled(b"no gzip", "log", unwrap=("gzip",), **options)[1]
    assert error.startswith("gzip: expected gzip data")
    # The topic goes before the payload, and the payload before a fixed name.
    named = b'{"label": "x", "machine": "p", "site": "s"}'
    fixed: dict[str, Any] = {"site": "f", "machine": "f", "time_key": None, "site_key": "site"}
    assert labelled(named, "log", template="log", **fixed)[0] == [(NOW, "s", "p", "x")]
    assert labelled(named, "n/m", template="{site}/{machine}", **fixed)[0] == [(NOW, "n", "m", "x")]
    made = fixed | {"machine": "{a}-{b}"}
    assert labelled(named, "n/1/2", template="{site}/{a}/{b}", **made)[0] == [(NOW, "n", "1-2", "x")]
    assert not labelled(b'{"label": "x", "machine": {"id": 5}}', time_key=None)[1]  # nobody asks for it
    # A site in the payload of a topic that says no such thing is not read.
    assert labelled(named, "log", template="log", site="f", time_key=None)[0] == [(NOW, "f", "p", "x")]


def test_local_times_of_labels_have_a_zone() -> None:
    payload = b'{"time": "2024-05-01 14:00:00", "label": "x"}'
    assert labelled(payload, time_zone="Europe/Berlin") == ([(NOW, "n", "m", "x")], [])
    with pytest.raises(UserError, match="time_zone: expected a name of the IANA"):
        LabelTopic(time_zone="Berlin")


def test_one_message_has_several_labels_and_a_bad_one_loses_itself_only() -> None:
    events = [
        {"time": "2024-05-01T12:00:00Z", "label": "a"},
        {"time": "2024-05-01T12:00:01Z", "label": []},
        {"time": "2024-05-01T12:00:02Z", "label": "c"},
        {"label": "d"},
    ]
    rows = [(NOW, "n", "m", "a"), (NOW + 2 * SECOND, "n", "m", "c")]
    decoded, errors = labelled(json.dumps(events).encode())
    assert decoded == rows
    assert errors == ["object 1: label: expected a label as text, a number or a boolean, got a list (and 1 more)"]
    decoded, errors = labelled(
        json.dumps({"log": events}).encode(), label_key="log[*].label", time_key="log[*].time"
    )
    assert decoded == rows
    assert errors == ["log[1].label: expected a label as text, a number or a boolean, got a list (and 1 more)"]
    assert labelled(json.dumps(events).encode(), label_key="[*].label", time_key="[*].time")[0] == rows
    by_machine = b'{"p1": {"state": 1}, "p2": {"state": 2}}'
    assert labelled(by_machine, "log", template="log", site="n", label_key="{machine}.state", time_key=None)[
        0
    ] == [
        (NOW, "n", "p1", "1"),
        (NOW, "n", "p2", "2"),
    ]


def test_paths_of_labels_are_checked() -> None:
    with pytest.raises(UserError, match=r"LabelTopic.time: expected a path without wildcards"):
        LabelTopic(label_key="log[*].label", time_key="other.*.time")


# Sparkplug --------------------------------------------------------------------------------------------------


REBIRTH = "spBv1.0/Ulm/NCMD/edge"


@pytest.mark.parametrize("template", ["spBv1.0/#", "spBv1.0/+/+/+/#", "#"])
def test_sparkplug_names_its_streams_by_group_device_and_metric(template: str) -> None:
    read = decoder(Topic(template, SparkplugB()))
    assert read.stateful
    decoded = read.decode(
        frame(
            ("spBv1.0/Ulm/NBIRTH/edge", spark(0, BIRTH)),
            ("spBv1.0/Ulm/DBIRTH/edge/press", spark(1, {**BIRTH, "name": "Force"})),
            ("spBv1.0/Ulm/NDATA/edge", spark(2, {"alias": 1, "float_value": 21.0})),
            ("spBv1.0/Ulm/DDATA/edge/press", spark(3, {"alias": 1, "float_value": 5.0})),
            ("spBv1.0/Ulm/NDATA/edge", b""),
        )
    )
    rows = decoded.batch.readings.select("site", "machine", "channel", pl.col("values").list.first()).rows()
    assert rows == [
        ("Ulm", "edge", "Temperature", 20.0),
        ("Ulm", "edge/press", "Force", 20.0),
        ("Ulm", "edge", "Temperature", 21.0),
        ("Ulm", "edge/press", "Force", 5.0),
    ]
    (dead,) = decoded.dead
    assert "expected seq" in dead.error
    assert read.requests(0.0) == []


def test_a_sparkplug_gap_asks_for_a_rebirth_once() -> None:
    read = decoder(Topic("spBv1.0/#", SparkplugB(rebirth_interval=10.0)))
    read.decode(frame(("spBv1.0/Ulm/NBIRTH/edge", spark(0, BIRTH))))
    assert read.requests(0.0) == []
    decoded = read.decode(frame(("spBv1.0/Ulm/NDATA/edge", spark(2, {"alias": 1, "float_value": 1.0})), first=1))
    assert len(decoded.batch.readings) == 1  # read as far as what is known allows
    assert [topic for topic, _ in read.requests(0.0)] == [REBIRTH]
    decoded = read.decode(frame(("spBv1.0/Ulm/NDATA/edge", spark(3, {"alias": 9, "float_value": 1.0})), first=2))
    assert "expected a birth" in decoded.dead[0].error
    assert read.requests(5.0) == []
    assert [topic for topic, _ in read.requests(11.0)] == [REBIRTH]


# Splits -----------------------------------------------------------------------------------------------------

TIMES = [None, NOW, NOW - SECOND, NOW + SECOND, NOW + 10**15, 0]
VALUES: list[Any] = [1, 2.5, [1, 2], [1, 2, 3], [4], [3, 3], "no", None]
JSON_MESSAGES = st.tuples(
    st.sampled_from(["plant/n/m/x", "plant/n/m/y", "plant/n/m2/x", "nowhere"]),
    st.builds(said, st.sampled_from(VALUES), st.sampled_from(TIMES)) | st.sampled_from([b"", b"{"]),
    st.booleans(),
)
WAVES = st.tuples(
    st.just("v/n/m/x"),
    st.builds(
        lambda values, at: encode_waveform(values, 10.0, at),
        st.sampled_from([[1.0], [1.0, 2.0], [math.nan, 1.0], [5.0, 5.0]]),
        st.sampled_from(TIMES[:4]),
    ),
    st.booleans(),
)
EVENTS = st.tuples(
    st.just("plant/n/m/events"),
    st.sampled_from([b'{"label": "a", "time": "2024-05-01T12:00:00Z"}', b'{"label": 5}', b""]),
    st.booleans(),
)
SPARKS = st.tuples(
    st.sampled_from(["spBv1.0/Ulm/NBIRTH/edge", "spBv1.0/Ulm/NDATA/edge", "spBv1.0/Ulm/NDATA/other"]),
    st.builds(
        spark,
        st.integers(0, 3),
        st.sampled_from([BIRTH, {"alias": 1, "float_value": 2.0}, {"alias": 9, "float_value": 2.0}]),
    ),
    st.booleans(),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    messages=st.lists(JSON_MESSAGES | WAVES | EVENTS | SPARKS, min_size=1, max_size=20),
    cuts=st.lists(st.integers(0, 20), max_size=5),
)
def test_it_makes_no_difference_how_messages_are_split_into_frames(
    messages: list[tuple[str, bytes, bool]], cuts: list[int]
) -> None:
    def read(parts: list[pl.DataFrame]) -> tuple[list[Any], list[Any], list[Any], int, list[Any]]:
        reader = decoder(
            Topic("v/{site}/{machine}/{channel}", WaveformBlock()),
            Topic(codec=JSONObject(sample_rate=10.0)),
            Topic("spBv1.0/#", SparkplugB()),
            labels=[LabelTopic()],
        )
        decoded = [reader.decode(part) for part in parts]
        readings, labels = (
            [row for one in decoded for row in batch_of(one.batch).rows()]
            for batch_of in (attrgetter("readings"), attrgetter("labels"))
        )
        dead = [letter for one in decoded for letter in one.dead]
        return readings, labels, dead, sum(one.repeated for one in decoded), reader.requests(0.0)

    whole = frame(*messages)
    edges = [0, *sorted(min(cut, len(messages)) for cut in cuts), len(messages)]
    one, other = read([whole]), read([whole[a:b] for a, b in itertools.pairwise(edges)])
    assert repr(one) == repr(other)  # repr: NaN equals NaN


# Bounds -----------------------------------------------------------------------------------------------------


def test_a_stream_too_many_is_a_dead_letter_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module, "MOST_STREAMS", 4)
    topics = (Topic(codec=JSONObject()), Topic("made/{site}/up", JSONObject(value="*", machine="of")))
    known = [(f"plant/n/m/{i}", said(i)) for i in range(3)]
    made_up = [(f"plant/n/m{i}/x", said(i)) for i in range(20)]
    within = ("made/n/up", json.dumps({"of": "pump", "a": 1, "b": 2, "time": NOW / 1000}).encode())
    again = [(topic, said(float(payload[10:11]) + 0.5, NOW + SECOND)) for topic, payload in known]
    messages = frame(*known, within, *made_up, *again)
    found = decoder(*topics).decode(messages)
    assert found.batch.readings["sequence"].to_list() == [0, 1, 2, 3, 24, 25, 26]
    assert [letter.sequence for letter in found.dead] == list(range(3, 24))
    assert found.dead[0].error == (
        "a stream too many, 'n/pump/b': 4 are known already; stop who makes up names, or divide the topics among"
        " several recordings"
    )
    one_by_one = decoder(*topics)
    apart = [one_by_one.decode(messages[i : i + 1]) for i in range(len(messages))]
    assert [letter for part in apart for letter in part.dead] == found.dead
    assert pl.concat(part.batch.readings for part in apart).equals(found.batch.readings)


def test_a_machine_that_makes_up_channels_leaves_room_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module, "MOST_CHANNELS", 4)  # one is the topic's own, "up"
    topic = Topic("{site}/{machine}/up", JSONObject(value="*"))
    made_up = ("n/mad/up", json.dumps({str(i): i for i in range(9)}).encode())
    found = decoder(topic).decode(frame(made_up, ("n/pump/up", b'{"a": 1}')))
    assert found.batch.readings["machine"].to_list() == ["mad"] * 3 + ["pump"]
    assert [letter.error.partition(";")[0] for letter in found.dead] == [
        "a channel too many, '3': 4 of 'mad' are known already"
    ]


def test_names_have_a_length() -> None:
    topic = Topic("{site}/data", InfluxLine(machine_tag="m", time_unit="ms"))
    (dead,) = decoder(topic).decode(frame(("n/data", b"t,m=" + b"x" * 300 + b" value=1\nt,m=a value=2"))).dead
    assert dead.error.startswith(
        "expected names of site, machine, channel and unit of at most 256 characters each, got 300"
    )
    assert len(decoder().decode(frame((f"plant/n/{'m' * 257}/x", said(1)))).dead) == 1


def test_what_a_decoder_remembers_is_bounded_by_real_figures() -> None:
    """A publisher with a new topic for every message, twice as many as there is room for, and very long ones."""
    count = 2 * routes_module.MOST_ROUTES + 10
    flooded = decoder()
    payload = said(1)
    for first in range(0, count, 10_000):
        part = Messages(
            np.arange(first, first + 10_000),
            np.full(10_000, NOW),
            [f"plant/n/{i}/x" for i in range(first, first + 10_000)],
            [payload] * 10_000,
            np.zeros(10_000, np.bool_),
            np.zeros(10_000, np.uint16),
            [0] * 10_000,
        )
        dead = len(flooded.decode(part).dead)
        assert dead == (0 if first < streams_module.MOST_STREAMS else 10_000)
    for i in range(10):
        flooded.decode(frame((f"plant/n/{i}/{'x' * 2_000}", payload)))
    history = flooded.history
    assert len(flooded._routes.known) <= routes_module.MOST_ROUTES
    assert max(map(len, flooded._routes.known)) < 50
    assert len(flooded._names._streams) == streams_module.MOST_STREAMS
    for remembered in (history.skew, history._watermark, history._newest_of_device):
        assert len(remembered) == streams_module.MOST_STREAMS
    assert history._filling.size + history._full.size <= 2 * history_module.REMEMBERED
