"""The survey: what was heard, what it is, and what is proposed to read it."""

from __future__ import annotations

import gzip
import json
import random
import string
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from probes import spark
from unlike_payloads import DEVICES, ISO, NOW, Device, misread

from fml_lightning.connectors import (
    InfluxLine,
    JSONObject,
    JSONScalar,
    LabelTopic,
    Message,
    RawSamples,
    SparkplugB,
    Topic,
    Topics,
    encode_waveform,
)
from fml_lightning.connectors.codecs import Ignore
from fml_lightning.connectors.survey import findings as findings_module
from fml_lightning.connectors.survey import survey as survey_module
from fml_lightning.connectors.survey.findings import Finding, Findings, findings
from fml_lightning.connectors.survey.formats import parsed
from fml_lightning.connectors.survey.judgement import judged
from fml_lightning.connectors.survey.levels import naming
from fml_lightning.connectors.survey.payload_file import messages_of
from fml_lightning.connectors.survey.roles import Member, member_of
from fml_lightning.connectors.survey.section import section
from fml_lightning.connectors.survey.shape import Every, places, shape_of
from fml_lightning.connectors.survey.survey import Survey
from fml_lightning.errors import UserError


def _heard(messages: Sequence[tuple[str, bytes]]) -> list[Message]:
    return [Message(topic, payload, NOW * 1_000_000 + i) for i, (topic, payload) in enumerate(messages)]


def _found(messages: Sequence[tuple[str, Any]], topics: Topics = Topics()) -> Findings:  # noqa: B008
    """The findings on messages, whose payloads are bytes, or what is said in JSON."""
    survey = Survey()
    for message in _heard([(t, p if isinstance(p, bytes) else json.dumps(p).encode()) for t, p in messages]):
        survey.add(message)
    return findings(survey, topics, NOW)


def _only(found: Findings) -> Finding:
    assert len(found.groups) == 1
    return found.groups[0]


def _misread(devices: Sequence[Device]) -> dict[int, str]:
    """What the proposal for devices reads wrong, by their places."""
    messages = _heard([message for device in devices for message in device.messages])
    survey = Survey()
    for message in messages:
        survey.add(message)
    topics = findings(survey, Topics(), NOW).topics
    assert topics is not None
    readings = judged(topics, messages).readings
    assert not ((readings["quality"] & 2) != 0).any(), "implausible times"
    found, first = {}, 0
    for i, device in enumerate(devices):
        mine = range(first, first + len(device.messages))
        first = mine.stop
        if fault := misread(device, readings, mine):
            found[i] = fault
    return found


@pytest.mark.parametrize("name", sorted(DEVICES))
def test_what_is_proposed_for_one_device_reads_it(name: str) -> None:
    assert not _misread([DEVICES[name]])


def test_what_is_proposed_for_all_devices_together_reads_each() -> None:
    names = sorted(DEVICES)
    assert not {names[i]: fault for i, fault in _misread([DEVICES[name] for name in names]).items()}


@pytest.mark.parametrize("seed", range(10))
def test_what_is_proposed_for_ten_devices_reads_each_whatever_the_ten_are(seed: int) -> None:
    names = random.Random(seed).sample(sorted(DEVICES), 10)
    assert not {names[i]: fault for i, fault in _misread([DEVICES[name] for name in names]).items()}


# What was heard ----------------------------------------------------------------------------------------------


def test_memory_is_bounded_whatever_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_module, "MOST_TOPICS", 20)
    monkeypatch.setattr(survey_module, "MOST_BYTES", 100_000)
    monkeypatch.setattr(survey_module, "LARGEST", 5_000)
    survey = Survey()
    for i in range(5_000):
        survey.add(Message(f"t/{i % 50}", bytes(1 + i % 10_000), i))
    survey.add(Message("x" * 2_000, b"1", 0))
    survey.add(Message("t/1", b"", 0, oversized=1 << 28))
    survey.add(Message("t/1", b"", 0))  # a retained message was deleted: that says nothing
    kept = [message for heard in survey.topics.values() for message in heard.messages]
    assert survey.count == 5_002
    assert len(survey.topics) == 20
    assert survey.beyond == 5_000 * 30 // 50 + 1
    assert sum(len(message.payload) for message in kept) <= 100_000
    assert max(len(heard.messages) for heard in survey.topics.values()) <= survey_module.FIRST + survey_module.LAST
    assert sum(heard.count for heard in survey.topics.values()) == 5_000 * 20 // 50 + 1


def test_the_first_and_the_last_messages_of_a_topic_are_kept() -> None:
    survey = Survey()
    for i in range(100):
        survey.add(Message("t", str(i).encode(), i))
    kept = [int(message.payload) for message in survey.topics["t"].messages]
    assert kept == [*range(8), *range(92, 100)]


FORMATS: dict[str, tuple[str, bytes, str, tuple[str, ...]]] = {
    "a number": ("t", b" 21.5\n", "number", ()),
    "an integer with a sign": ("t", b"-3", "number", ()),
    "an object with a NUL": ("t", b'{"a":1}\0', "json", ()),
    "an object with a BOM": ("t", b'\xef\xbb\xbf{"a":1}', "json", ()),
    "NaN": ("t", b'{"a":nan,"b":[-inf, NaN]}', "json", ()),
    "an array": ("t", b'[{"a":1}]', "json", ()),
    "gzip": ("t", gzip.compress(b'{"a":1}'), "json", ("gzip",)),
    "zlib in hex": ("t", zlib.compress(b'{"a":1}').hex().encode(), "json", ("hex", "zlib")),
    "MessagePack": ("t", msgspec.msgpack.encode({"a": 1}), "msgpack", ()),
    "a waveform": ("t", encode_waveform([1.0], 10.0), "waveform", ()),
    "a line": ("t", b"m,tag=x f=1 17", "influx", ()),
    "Sparkplug": ("spBv1.0/g/DDATA/n/d", b"\x08\x01", "sparkplug", ()),
    "a state": ("t", b"RUNNING", "text", ()),
    "a state in quotes": ("t", b'"RUNNING"', "text", ()),
    "a long word that base64 could be": ("t", b"RUNNINGSLOWLY", "text", ()),
    "a boolean": ("t", b"true", "text", ()),
    "samples": ("t", struct.pack("<6h", -1, 2, -3, 4, -5, 300), "binary", ()),
    "samples in base64": ("t", b"AAABAAIAAwAEAAUABgAHAAgACQAKAAsA", "binary", ("base64",)),
    "SenML": ("t", b'[{"n":"a","u":"Cel","v":1}]', "senml", ()),
}


@pytest.mark.parametrize(("topic", "payload", "form", "wrappers"), FORMATS.values(), ids=FORMATS)
def test_formats(topic: str, payload: bytes, form: str, wrappers: tuple[str, ...]) -> None:
    found = parsed(topic, payload)
    assert (found.format, found.wrappers) == (form, wrappers)


# Roles -------------------------------------------------------------------------------------------------------


def _members(*documents: Any) -> dict[str, Member]:
    shape = shape_of(documents)
    found = [member_of(path, at, NOW) for path, at in places(shape)]
    return {"/".join(s.name if isinstance(s, Every) else str(s) for s in m.path): m for m in found}


def kind(value: object) -> str:
    """Names a test's parameter, where its value is the time: processes that share the tests collect them apart."""
    return type(value).__name__


@pytest.mark.parametrize(
    ("key", "value", "unit"),
    [
        ("t", NOW, "s"),
        ("stamp", NOW * 1000 + 5, "ms"),
        ("ts", NOW * 10**6, "us"),
        ("time", NOW * 10**9, "ns"),
        ("time", NOW + 0.5, "s"),
        ("time", str(NOW), "s"),
        ("anything", NOW * 1000, "ms"),
        ("anything", ISO, "iso"),
        ("when", "2026-05-01T12:00:00", "iso"),
        ("ts", 1_600_000_000, "s"),  # of a clock that is years behind
    ],
    ids=kind,
)
def test_times_are_told_by_what_is_about_now(key: str, value: object, unit: str) -> None:
    member = _members({key: value})[key]
    assert (member.role, member.time_unit) == ("time", unit)
    assert member.is_plausible == (value not in ("2026-05-01T12:00:00", 1_600_000_000))
    assert member.is_local == (value == "2026-05-01T12:00:00")


@pytest.mark.parametrize(
    ("key", "value"),
    [("speed", 1480), ("time", 12), ("energy", 123456789), ("total", NOW + 0.5), ("n", 3)],
    ids=kind,
)
def test_what_is_not_about_now_is_no_time(key: str, value: float) -> None:
    assert _members({key: value})[key].role != "time"


def test_members_have_roles() -> None:
    members = _members(
        {
            "ts": NOW,
            "deviceName": "m1",
            "site": "ulm",
            "samples": [1.0, 2.0],
            "fs": 100,
            "unit": "g",
            "mode": "AUTO",
            "on": True,
            "text_number": "12.5",
            "list": [{"v": 1, "q": True, "t": NOW}],
            "named": {"a": {"value": 1.5}, "b": {"value": 2.5}},
        }
    )
    assert {path: member.role for path, member in members.items()} == {
        "ts": "time",
        "deviceName": "name",
        "site": "site",
        "samples": "samples",
        "fs": "sample_rate",
        "unit": "unit",
        "mode": "state",
        "on": "value",
        "text_number": "value",
        "list/ITEM/v": "value",
        "list/ITEM/q": "quality",
        "list/ITEM/t": "time",
        "named/KEY/value": "value",
    }


def test_what_counts_messages_names_nothing() -> None:
    members = _members(*({"id": 100 + i, "rms": 0.5} for i in range(5)))
    assert members["id"].role == "other"


# Levels ------------------------------------------------------------------------------------------------------

LEVELS: list[tuple[list[str], list[str], set[str], str, dict[str, str]]] = [
    (["fab/n/m1/t", "fab/n/m2/t", "fab/n/m2/u"], [], set(), "fab/{site}/{machine}/{channel}", {}),
    (["kitchen/temp", "cellar/temp"], [], set(), "{machine}/{channel}", {"site": "n"}),
    (["v3/app/devices/m12/up"], [], {"channel"}, "v3/app/devices/{machine}/up", {"site": "n"}),
    (["tele/m12/SENSOR"], [], {"channel"}, "tele/{machine}/SENSOR", {"site": "n"}),
    (["E/status/voltage/value"], [], set(), "{machine}/status/{channel}/value", {"site": "n"}),
    (["site/ulm/machine/m1/temp"], [], set(), "site/{site}/machine/{machine}/{channel}", {}),
    (["all"], [], {"machine", "channel"}, "all", {"site": "n"}),
    (["p/n/m/s"], ["p/n/m/raw"], {"channel"}, "p/{site}/{machine}/{channel}", {}),
    (["temperature"], [], set(), "temperature", {"site": "n", "machine": "m"}),
    (["a/b/rms_x", "a/b/rms_y"], [], set(), "a/{machine}/{channel}", {"site": "n"}),
    (["plc/m1/drive/current"], ["plc/m2/drive/current"], set(), "plc/{machine}/drive/{channel}", {"site": "n"}),
]


@pytest.mark.parametrize(
    ("topics", "others", "given", "template", "fixed"),
    LEVELS,
    ids=lambda x: str(sorted(x) if isinstance(x, set) else x)[:30],
)
def test_levels_name_what_varies(
    topics: list[str], others: list[str], given: set[str], template: str, fixed: dict[str, str]
) -> None:
    named = naming(topics, frozenset(given), [*topics, *others])
    assert named.template == template
    assert {place: name for place, name in named.fixed.items() if place != "channel"} == fixed


# Proposals ---------------------------------------------------------------------------------------------------


def test_what_is_configured_and_reads_is_kept_and_nothing_is_proposed_for_it() -> None:
    own = Topics(
        (Topic("fab/{site}/{machine}/{channel}", JSONScalar()),), (LabelTopic("fab/{site}/{machine}/ev"),)
    )
    found = _found([("fab/n/m/t", b"1.5"), ("new/x", {"rms": 1.5})], own)
    assert [one.today.is_whole for one in found.groups] == [True, False]
    assert found.groups[0].proposal is None
    assert found.topics is not None
    assert found.topics.readings[-1] == own.readings[0]
    assert found.topics.labels == own.labels
    assert len(judged(found.topics, _heard([("fab/n/m/t", b"1.5"), ("new/x", b'{"rms":2}')])).readings) == 2


def test_what_a_wide_topic_reads_by_halves_is_read_by_a_proposal_before_it() -> None:
    own = Topics((Topic("{site}/{machine}/#", JSONScalar()),))
    sent = [("n/m/t", b"1.5"), ("n/m/o", b'{"x":1.5,"y":2.5}'), ("n/k/o", b'{"x":1.5,"y":2.5}')]
    found = _found(sent, own)
    assert found.topics is not None
    judgement = judged(found.topics, _heard(sent))
    assert judgement.is_whole
    assert len(judgement.readings) == 5
    assert found.topics.readings[-1] == own.readings[0]


def test_an_ignored_topic_has_no_proposal() -> None:
    own = Topics((Topic("fab/{machine}/noise", Ignore(), site="n"), Topic("fab/{machine}/x", site="n")))
    found = _found([("fab/m/noise", {"a": 1}), ("fab/m/x", b"1")], own)
    assert [(one.is_ignored, one.proposal) for one in found.groups] == [(True, None), (False, None)]


def test_the_default_topics_are_left_out_where_they_read_nothing() -> None:
    assert _found([("new/x", {"rms": 1.5})]).entries[0].topic.template == "new/{machine}"
    assert len(_found([("new/x", {"rms": 1.5})]).entries) == 1
    assert len(_found([("new/x", {"rms": 1.5}), ("plant/n/m/t", b"1")]).entries) == 2


def test_a_wrong_unit_of_time_is_mended() -> None:
    own = Topics((Topic("fab/{site}/{machine}/{channel}", JSONObject()),))
    one = _only(_found([("fab/n/m/t", {"time": NOW, "value": 1.5})], own))
    assert one.today.time_fault == "times are read as ms but look like s: set time_unit: s"
    assert one.proposal is not None
    topic = one.proposal.entry.topic
    assert isinstance(topic, Topic)
    assert isinstance(topic.codec, JSONObject)
    assert topic.codec.time_unit == "s"


def test_raw_samples_are_a_comment_that_asks_for_what_nobody_can_know() -> None:
    found = _found([("x/y", struct.pack("<6h", -1, 2, -3, 4, -5, 300)), ("a/b", b"1.5")])
    text = section(found.entries)
    assert "say first: sample rate and dtype" in text
    assert isinstance(found.entries[-1].topic, Topic)
    assert isinstance(found.entries[-1].topic.codec, RawSamples)
    assert [topic["template"] for topic in yaml.safe_load(text)["topics"]] == ["a/b"]  # not what x/y is


def test_sparkplug_is_one_topic_whatever_its_topics_are() -> None:
    found = _found([(f"spBv1.0/g/{kind}/n{i}/d", b"\x08\x01") for i in range(3) for kind in ("DDATA", "DBIRTH")])
    assert len(found.groups) == 1
    assert found.groups[0].group.pattern == "spBv1.0/#"


def test_influx_units_and_tags() -> None:
    one = _only(_found([("in", f"m,host=h1,axis=x rms=1.5 {NOW}".encode())]))
    assert one.proposal is not None
    assert isinstance(one.proposal.entry.topic, Topic)
    assert one.proposal.entry.topic.codec == InfluxLine("s", "host")


def test_words_alone_are_states() -> None:
    sent = [("n/press/mode", word) for word in (b"RUN", b"stopped", b"RUN", b"Eco Mode")]
    one = _only(_found(sent))
    assert one.proposal is not None
    assert isinstance(one.proposal.entry.topic, Topic)
    assert one.proposal.entry.topic.codec == JSONScalar({"stopped": 0, "RUN": 1, "Eco Mode": 2})


def test_text_that_is_no_state_is_left_alone() -> None:
    for payload in (b"1,2,3", b"<xml/>", b"21.5 C", ("x" * 500).encode()):
        one = _only(_found([("a/b", payload)]))
        assert one.proposal is None
        assert not one.today.read


def test_labels_are_proposed_where_nothing_is_measured() -> None:
    sent = [
        ("shop/m1/log", {"event": "bearing_replaced", "by": "joe", "time": ISO}),
        ("shop/m2/log", {"event": "outer", "by": "ann", "time": ISO}),
    ]
    found = _found(sent)
    topic = _only(found).proposal.entry.topic  # type: ignore[union-attr]
    assert isinstance(topic, LabelTopic)
    assert (topic.template, topic.label_key, topic.time_key) == ("shop/{machine}/log", "event", "time")
    assert found.topics is not None
    labels = judged(found.topics, _heard([(t, json.dumps(p).encode()) for t, p in sent])).labels
    assert labels.select("machine", "label").rows() == [("m1", "bearing_replaced"), ("m2", "outer")]


def test_labels_in_payloads_that_name_machine_and_site() -> None:
    sent = [("events", {"site": "ulm", "asset": "m1", "fault": 3, "ts": NOW * 1000})]
    found = _found(sent)
    assert found.topics is not None
    labels = judged(found.topics, _heard([(t, json.dumps(p).encode()) for t, p in sent])).labels
    assert labels.select("site", "machine", "label").rows() == [("ulm", "m1", "3")]
    assert labels["time"][0].timestamp() == NOW


# The section --------------------------------------------------------------------------------------------------


def test_the_section_is_yaml_that_makes_the_same_topics() -> None:
    messages = [message for device in DEVICES.values() for message in device.messages]
    found = _found(messages)
    loaded = yaml.safe_load(section(found.entries))
    assert found.topics is not None
    assert len(loaded["topics"]) == len(found.topics.readings)
    for plain, topic in zip(loaded["topics"], found.topics.readings, strict=True):
        assert plain["template"] == topic.template
        assert plain["codec"]["class_path"] == type(topic.codec).__name__
        assert plain.get("site") == topic.site


# Hostile input ------------------------------------------------------------------------------------------------


def _junk(rng: random.Random, depth: int = 0) -> Any:
    """Something that JSON can say."""
    kind = rng.randrange(9 if depth < 4 else 6)
    if kind == 0:
        return rng.choice([None, True, False, 0, -1, 1e308, 2**70, NOW, NOW * 1000, 0.5])
    if kind == 1:
        return "".join(rng.choices(string.printable + "é{}*[]\"'", k=rng.randrange(12)))
    if kind == 2:
        return rng.choice([ISO, "nan", "12.5", "ON", "m1", "L1.a.b", "2024-13-45", "AAAAAAAAAAAAAAAAAAAAAA=="])
    if kind < 6:
        return rng.randrange(-1000, 1000) / 8
    if kind == 6:
        return [_junk(rng, depth + 1) for _ in range(rng.randrange(4))]
    keys = ["value", "ts", "id", "name", "unit", "q", "a.b", "*", "", "{x}", "x y", "fs", "data", "state", "label"]
    return {rng.choice(keys): _junk(rng, depth + 1) for _ in range(rng.randrange(5))}


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_sent_there_are_findings_and_their_section_is_yaml(seed: int) -> None:
    rng = random.Random(seed)
    levels = ["a", "b", "{x}", "", "sensor", "value", "ä", "devices", "$x", "a b", "\x1b[31m", "n"]
    sent: list[tuple[str, bytes]] = []
    for _ in range(40):
        topic = "/".join(rng.choices(levels, k=rng.randrange(1, 5)))
        kind = rng.randrange(4)
        if kind == 0:
            payload = rng.randbytes(rng.randrange(40))
        elif kind == 1:
            payload = b"\x81\xa1a" + rng.randbytes(3)
        else:
            payload = json.dumps(_junk(rng)).encode()
        if payload and topic:
            sent.append((topic, payload))
    found = _found(sent)
    loaded = yaml.safe_load(section(found.entries)) if found.entries else {}
    assert set(loaded or {}) <= {"topics", "labels"}
    if found.topics is not None:
        judged(found.topics, _heard(sent))


def test_what_is_deep_or_wide_is_a_group_like_others() -> None:
    deep = b'{"a":' * 500 + b"1" + b"}" * 500
    too_deep = b"[" * 100_000
    wide = json.dumps({f"key{i}": i for i in range(20_000)}).encode()
    long = json.dumps({"v": [{"id": f"x{i}", "v": i} for i in range(20_000)]}).encode()
    found = _found([("deep/a", deep), ("deep/b", too_deep), ("wide/x", wide), ("long/y", long)])
    assert len(found.groups) == 4


# Files of payloads --------------------------------------------------------------------------------------------


def test_a_file_of_payloads_has_them_as_text_json_hex_and_base64(tmp_path: Path) -> None:
    lines = [
        {"topic": "a", "payload": "21.5"},
        {"topic": "a", "payload": {"rms": 1.5}},
        {"topic": "a", "payload_hex": "00ff", "name": "x"},
        {"topic": "a", "payload_base64": "AP8="},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    found = [message.payload for message in messages_of(str(tmp_path / "p.jsonl"))]
    assert found == [b"21.5", b'{"rms": 1.5}', b"\x00\xff", b"\x00\xff"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("nonsense", "line 1: expected an object such as .* got no JSON"),
        ('{"payload": "1"}', "line 1: .* got no topic"),
        ('{"topic": "a"}', "line 1: .* got no payload"),
        ('{"topic": "a", "payload_hex": "0g"}', "line 1: .* got '0g' in payload_hex"),
        ("[1]", "line 1: .* got no topic"),
    ],
)
def test_a_line_that_is_none_is_said(tmp_path: Path, line: str, sentence: str) -> None:
    (tmp_path / "p.jsonl").write_text(line)
    with pytest.raises(UserError, match=sentence):
        list(messages_of(str(tmp_path / "p.jsonl")))


def test_sparkplug_is_read_by_its_codec() -> None:
    metric = {"name": "rms", "alias": 1, "datatype": 10, "double_value": 1.5}
    found = _found([("spBv1.0/g/NBIRTH/n", spark(0, metric)), ("spBv1.0/g/NDATA/n", spark(1, metric))])
    one = _only(found)
    assert one.proposal is not None
    assert one.proposal.judgement is not None
    assert one.proposal.entry.topic == Topic("spBv1.0/#", SparkplugB())
    assert one.proposal.judgement.readings["values"].to_list() == [[1.5], [1.5]]


def test_more_groups_than_are_looked_into_are_counted() -> None:
    sent = [(f"x{i}/{'y' * i}/z{i}", b"1.5") for i in range(findings_module.MOST_GROUPS + 3)]
    found = _found(sent)
    assert (len(found.groups), found.beyond) == (findings_module.MOST_GROUPS, 3)
    assert found.topics is not None
    again = _found(sent, found.topics)
    assert [one.group.topics for one in again.groups[:3]] == [[topic] for topic, _ in sent[-3:]]


def test_a_word_between_numbers_is_no_value() -> None:
    sent = [("a/t", b"21.5"), ("a/t", b"unavailable"), ("a/t", b"22.5")]
    found = _found(sent)
    assert found.topics is not None
    assert judged(found.topics, _heard(sent)).readings["values"].to_list() == [[21.5], [22.5]]


def test_numbers_and_states_of_one_level_are_read_by_one_topic() -> None:
    sent = [("a/t", b"21.5"), ("a/u", b"22.5"), ("a/mode", b"AUTO"), ("a/run", b"true")]
    found = _found(sent)
    assert found.topics is not None
    judgement = judged(found.topics, _heard(sent))
    assert judgement.is_whole
    assert len(judgement.readings.select("machine", "channel").unique()) == 4


def test_formats_that_alternate_on_one_level_are_read_by_one_topic() -> None:
    payloads = [b"1.5", b"ON", b'{"v": 1}']
    sent = [(f"x/y/z{i}", payloads[i % 3]) for i in range(12)]
    found = _found(sent)
    assert found.topics is not None
    judgement = judged(found.topics, _heard(sent))
    assert len(judgement.read) == len(sent)
    assert sorted(judgement.readings["values"].explode().to_list()) == [1] * 8 + [1.5] * 4


def test_a_bare_fault_is_that_of_the_machine_above_it() -> None:
    found = _found([("line/saw/fault", b"true")])
    assert found.entries[0].topic.template == "line/{machine}/fault"
