"""Topics: templates of names, filters, and how they are written down."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fml_lightning.connectors import (
    CBOR,
    Codec,
    Decoder,
    Ignore,
    InfluxLine,
    JSONBatch,
    JSONObject,
    JSONScalar,
    LabelTopic,
    Message,
    MessagePack,
    RawSamples,
    Sample,
    SparkplugB,
    Topic,
    Topics,
    WaveformBlock,
)
from fml_lightning.connectors.codecs import StatefulCodec
from fml_lightning.connectors.decoding.template import Names, Template, covers
from fml_lightning.connectors.messages import Messages
from fml_lightning.errors import UserError


@pytest.mark.parametrize(
    ("template", "topic", "names"),
    [
        ("plant/{site}/{machine}/{channel}", "plant/north/pump/flow", ("north", "pump", "flow")),
        ("plant/{site}/{machine}/{channel}", "plant/north/pump/flow/raw", None),
        ("plant/{site}/{machine}/{channel}", "plant/north/pump", None),
        ("plant/{site}/{machine}/{channel}", "plant//pump/flow", None),
        ("plant/{site}/{machine}/{channel}", "works/north/pump/flow", None),
        ("a.b/{machine}", "a.b/x y.z", (None, "x y.z", None)),
        ("a.b/{machine}", "a-b/x", None),
        ("+/{machine}/+", "any/pump/thing", (None, "pump", None)),
        ("+/{machine}/+", "/pump/", (None, "pump", None)),
        ("{site}/{machine}/#", "north/pump/drive/left/temp", ("north", "pump", "drive/left/temp")),
        ("{site}/{machine}/#", "north/pump", ("north", "pump", None)),
        ("{site}/{machine}/#", "north/pump/", ("north", "pump", None)),
        ("{channel}/#", "flow/and/more", (None, None, "flow")),
        ("#", "a/b", (None, None, "a/b")),
        ("/{machine}", "/pump", (None, "pump", None)),
        ("plant/#", "plant/a\nb", (None, None, "a\nb")),
        ("plant/{machine}", "plant/Prüfstand 7", (None, "Prüfstand 7", None)),
        ("a/#/b", "a/b", (None, None, None)),
        ("a/#/b", "a/x/b/b", (None, None, None)),
        ("a/#/b", "a/x/b/c", None),
        ("#/{machine}/temp", "hall/2/pump/temp", (None, "pump", None)),
        ("#/{machine}", "pump", (None, "pump", None)),
        ("#/{machine}", "hall/", None),
        ("{site}/{channel#}/raw", "n/drive/left/raw", ("n", None, "drive/left")),
        ("{site}/{channel#}/raw", "n/raw", None),
        ("{channel#}/of/{machine}", "drive/of/left/of/pump", (None, "pump", "drive/of/left")),
        ("#/line/{machine}/#", "hall/2/line/p1/drive/t", (None, "p1", "drive/t")),
        ("#/line/{machine}/#", "line/p1", (None, "p1", None)),
        ("#/line/{machine}/#", "hall/line", None),
        ("sensor_{machine}_{channel}", "sensor_p1_rms", (None, "p1", "rms")),
        ("sensor_{machine}_{channel}", "sensor_p_1_rms", (None, "p_1", "rms")),
        ("sensor_{machine}_{channel}", "sensor__rms", None),
        ("sensor_{machine}_{channel}", "sensor_p1_", None),
        ("{site}-x/{machine}.raw", "n-x/m.raw", ("n", "m", None)),
        ("{site}-x/{machine}.raw", "n-x/mraw", None),
        ("{machine}xx", "xx", None),
    ],
)
def test_names_in_topics(template: str, topic: str, names: tuple[str | None, ...] | None) -> None:
    found = Template(template).places(topic)
    assert (None if found is None else tuple(map(found.get, Names._fields))) == names
    assert Template(template).matches(topic) == (names is not None)


def greedy(template: str) -> re.Pattern[str]:
    """A template as a regular expression, whose groups take as much as they can; too slow for strangers' topics.

    A slash goes with the level before it if that may be missing, else with the level after it.
    """
    levels, made, slash = template.split("/"), "", ""
    for i, level in enumerate(levels):
        if level == "#" and i == 0:
            made = r"(?P<channel>.*)" if template == "#" else "(?:.*/)?"
            continue
        parts = re.split(r"\{(\w+)\}", level)
        if level == "#":
            name = "?P<channel>" if i == len(levels) - 1 and "{channel" not in template else "?:"
            made += f"(?:{slash}({name}.*))?"
        elif level.endswith("#}"):
            made += f"{slash}(?P<{level[1:-2]}>.+)"
        elif level == "+":
            made += f"{slash}[^/]*"
        else:
            texts = (f"(?P<{part}>[^/]+)" if k % 2 else re.escape(part) for k, part in enumerate(parts))
            made += slash + "".join(texts)
        slash = "/"
    return re.compile(made, re.DOTALL)


PARTS = ["a", "b", "+", "#", "{machine}", "{channel#}", "x{site}", "{site}_{machine}", "{q#}", "a_{p}_"]
TOPIC_LEVELS = st.sampled_from(["a", "b", "xa", "a_b", "a_b_a_", ""])


@settings(max_examples=500, deadline=None)
@given(
    levels=st.lists(st.sampled_from(PARTS), min_size=1, max_size=5),
    topic=st.lists(TOPIC_LEVELS, min_size=1, max_size=6).map("/".join),
)
def test_places_are_found_as_a_greedy_regular_expression_finds_them(levels: list[str], topic: str) -> None:
    try:
        template = Template("/".join(levels))
    except UserError:
        return
    match = greedy(template.text).fullmatch(topic)
    expected = None if match is None else {name: text for name, text in match.groupdict().items() if text}
    assert template.places(topic) == expected
    if expected is not None:
        assert template.subscribes_to(topic)


@pytest.mark.parametrize("template", ["{a}_{b}_{c}_{machine}_x", "#/a/#/a/#/a/b"])
def test_a_strangers_topic_costs_one_pass(template: str) -> None:
    """A regular expression would take hours: the time grows with the third power of the topic's length."""
    topic = ("a_" * 32_000) if "_" in template else "/".join(["a"] * 32_000)
    assert Template(template).places(topic) is None


@pytest.mark.parametrize(
    "template",
    [
        "",
        "a+/b",
        "a/#b",
        "{site}/{site}",
        "a/{",
        "a}/b",
        "{1}",
        "{}",
        "{site}{machine}",
        "x{channel#}",
        "#/{q#}/a",
    ],
)
def test_bad_templates(template: str) -> None:
    for kind in (Template, Topic, LabelTopic):
        with pytest.raises(UserError, match=r"expected words, \+, \{site\}, \{machine\}, \{channel\}"):
            kind(template)


def test_fields_are_made_of_places() -> None:
    topic = Topic("{enterprise}/{site}/{area}/{line}/#", site="{enterprise}.{site}", machine="{area}-{line}")
    assert topic.naming.names("e/s/a/l/drive/t") == Names("e.s", "a-l", "drive/t")
    assert topic.naming.fixed == Names(None, None, None)
    assert topic.naming.names("e/s/a") is None
    # A field goes before the place of its name; one without places is for where there is none.
    assert Topic("{area}/{machine}/x", machine="{area}/{machine}").naming.names("a/m/x") == Names(
        None, "a/m", None
    )
    fixed = Topic("{area}/{machine}/x", machine="pump").naming
    assert fixed.names("a/m/x") == Names(None, "m", None)
    assert fixed.fixed.machine == "pump"
    assert Topic("{a}/{b}", channel="{b} of {a}").naming.names("x/y") == Names(None, None, "y of x")
    assert LabelTopic("{a}/{b}/events", machine="{a}{b}").naming.names("x/y/events") == Names(None, "xy", None)
    # The # at the end is the channel.
    assert Topic("{a}/#", machine="{channel}").naming.names("x/y/z") == Names(None, "y/z", "y/z")


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (
            lambda: Topic("{area}/{channel}", machine="{area}-{line}"),
            r"topic '\{area\}/\{channel\}': machine '\{area\}-\{line\}' needs the place \{line\}, but the topic's"
            r" places are \{area\}, \{channel\};",
        ),
        (lambda: Topic("a/b", site="{site}"), r"site '\{site\}' needs the place \{site\}, .* places are none;"),
        (lambda: LabelTopic("a/{machine}", site="{area}"), r"site '\{area\}' needs the place \{area\}"),
        (lambda: Topic("{site}/{machin}/x"), r"\{machin\} names nothing; write \{machine\}, or use \{machin\} in"),
        (lambda: LabelTopic("{sit}/{machine}"), r"\{sit\} names nothing; write \{site\}, or use"),
    ],
)
def test_places_that_are_missing_or_mistyped_are_refused(made: Callable[[], object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        made()


@pytest.mark.parametrize(
    ("template", "filter_", "is_narrower"),
    [
        ("plant/{site}/{machine}/#", "plant/+/+/#", False),
        ("a/#/b", "a/#", True),
        ("a/{channel#}", "a/#", True),
        ("sensor_{machine}/+/x", "+/+/x", True),
        ("#/x", "#", True),
        ("{area}/x", "+/x", False),
        ("#", "#", False),
    ],
)
def test_filters_of_templates(template: str, filter_: str, is_narrower: bool) -> None:
    assert Template(template).filter == filter_
    assert Template(template).is_narrower is is_narrower


@pytest.mark.parametrize(
    ("wide", "narrow", "expected"),
    [
        ("#", "a/b", True),
        ("#", "+/#", True),
        ("+/#", "#", False),
        ("a/#", "a", True),
        ("a/+", "a", False),
        ("a/+", "a/b", True),
        ("a/b", "a/+", False),
        ("a/+/c", "a/b/c", True),
        ("a/+", "a/b/c", False),
        ("a/+/#", "a/#", False),
        ("#", "$SYS/broker/load", False),
        ("+/broker/load", "$SYS/broker/load", False),
        ("$SYS/#", "$SYS/broker/load", True),
    ],
)
def test_filters_that_cover_others(wide: str, narrow: str, expected: bool) -> None:
    assert covers(wide, narrow) is expected


LEVELS = st.sampled_from(["a", "b", "+"])
FILTERS = st.tuples(st.lists(LEVELS, min_size=1, max_size=3), st.booleans()).map(
    lambda made: "/".join([*made[0], *(["#"] if made[1] else [])])
)
EVERY_TOPIC = ["/".join(words) for n in range(1, 6) for words in itertools.product("abc", repeat=n)]


@settings(max_examples=60, deadline=None)
@given(wide=FILTERS, narrow=FILTERS)
def test_what_covers_matches_no_less(wide: str, narrow: str) -> None:
    matched = [{t for t in EVERY_TOPIC if Template(f).matches(t)} for f in (wide, narrow)]
    assert covers(wide, narrow) == (matched[1] <= matched[0])


def test_filters_to_subscribe_to() -> None:
    topics = Topics(
        (Topic("plant/{site}/{machine}/{channel}", qos=0), Topic("other/{machine}/#", qos=0), Topic("x/y")),
        (LabelTopic("plant/{site}/{machine}/events", qos=1), LabelTopic("other/{machine}/{channel}", qos=0)),
    )
    # The events lie within the plant's filter, which so needs their QoS; each message comes once.
    assert topics.filters() == {"plant/+/+/+": 1, "other/+/#": 0, "x/y": 1}
    # A filter that two topics share is subscribed to once.
    assert Topics((Topic("{site}/a", qos=0), Topic("{machine}/a"))).filters() == {"+/a": 1}
    with pytest.raises(UserError, match=r"at least one topic"):
        Topics((), ())


def test_an_ignored_topic_is_not_subscribed_to() -> None:
    ignored = Topic("plant/{site}/{machine}/debug", Ignore())
    assert Topics((ignored, Topic("plant/{site}/{machine}/{channel}", qos=0))).filters() == {"plant/+/+/+": 0}
    assert Topics((Topic("plant/#", Ignore()), Topic("a/#/b"))).filters() == {"a/#": 1}
    with pytest.raises(UserError, match=r"at least one topic"):
        Topics((ignored,))
    # What is covered, by filters that are wider than their templates too.
    assert Topics((Topic("a/#/b"), Topic("a/{site}/c", qos=0))).filters() == {"a/#": 1}
    assert Topics((Topic("s_{machine}/x"), Topic("{machine}/x", qos=0))).filters() == {"+/x": 1}


def test_labels_are_text_however_yaml_reads_them() -> None:
    made: Any = {2: "inner", True: "fault", False: "fine", "idle": "x", "True": "y"}
    topic = LabelTopic(labels=made)
    fault, fine = dict.fromkeys(("true", "yes", "on"), "fault"), dict.fromkeys(("false", "no", "off"), "fine")
    assert topic.labels == {"2": "inner", "idle": "x", "True": "y"} | fault | fine
    assert Topics.loads(Topics((), (topic,)).dumps()).labels == (topic,)


def test_topics_of_earlier_versions_are_read_with_the_same_meaning() -> None:
    """As version 0.7 wrote them."""
    text = (
        b'{"readings":[{"template":"plant/{site}/{machine}/#","site":null,"machine":"pump","channel":null,"qos":1,'
        b'"codec":{"codec":"JSONObject","value":"rms.x","time":"time","time_unit":"ms","channel":null,'
        b'"machine":null,"site":null,"sample_rate":null}}],"labels":[{"template":"log","time_key":"t.s",'
        b'"time_unit":"s","label_key":"event.state","machine_key":"machine","site":"n","machine":"m","qos":0}]}'
    )
    topics = Topics.loads(text)
    assert topics == Topics(
        (Topic("plant/{site}/{machine}/#", JSONObject("rms.x"), machine="pump"),),
        (LabelTopic("log", "t.s", "s", "event.state", "machine", "n", "m", 0),),
    )
    received = 1_714_564_800_000_000
    messages = Messages.numbered(
        [
            Message("plant/n/fan/drive/x", b'{"time": 1714564800000, "rms.x": 2}', received),
            Message("log", b'{"t.s": 1714564800, "event.state": "worn", "site": "other"}', received),
        ],
        0,
    )
    decoded = Decoder(topics).decode(messages)
    assert not decoded.dead
    assert decoded.batch.readings.select("site", "machine", "channel").rows() == [("n", "fan", "drive/x")]
    assert decoded.batch.labels.select("site", "machine", "label").rows() == [("n", "m", "worn")]


CODECS: list[Codec | StatefulCodec] = [
    CBOR(),
    InfluxLine(machine_tag="m"),
    JSONBatch(value=("a", "b")),
    JSONObject(value="*", sample_rate="hz", time=None),
    JSONScalar(),
    MessagePack(time_unit="iso"),
    RawSamples(100.0, "int16", "big", 0.5),
    SparkplugB(3.0),
    WaveformBlock(),
]


def test_topics_make_the_round_trip_through_json() -> None:
    topics = Topics(
        tuple(
            Topic(f"{i}/{{area}}/{{machine}}/#", codec, "süd", "{area}", None, qos=i % 2, unwrap=("gzip",))  # type: ignore[arg-type]
            for i, codec in enumerate(CODECS)
        ),
        (
            LabelTopic(),
            LabelTopic("e/{site}", None, "ms", "state", "unit", "north", "pump", 0),
            LabelTopic(
                "f/{a}/{b}",
                label_key="e[*].s",
                machine="{a}-{b}",
                site_key="plant",
                labels={"1": "inner"},
                time_zone="Europe/Berlin",
                unwrap=("base64", "gzip"),
                format="msgpack",
            ),
            LabelTopic("g/{site}/{machine}", label_key=None, format="cbor"),
        ),
    )
    assert Topics.loads(topics.dumps()) == topics
    assert len({type(topic.codec) for topic in topics.readings}) == 9
    sparse = b'{"readings": [{"codec": {"codec": "JSONScalar"}}], "labels": [{}]}'
    assert Topics.loads(sparse) == Topics((Topic(),), (LabelTopic(),))


class Theirs(Codec):
    """No codec of the package, and no dataclass."""

    def decode(self, payload: bytes) -> Sequence[Sample]:
        raise NotImplementedError


@dataclass(frozen=True)
class Scaled(Codec):
    """A codec of the user's own, with options."""

    scale: float = 1.0
    channels: tuple[str, ...] = ("x",)

    class Inner(JSONScalar):
        """A class may be within another."""

    def decode(self, payload: bytes) -> Sequence[Sample]:
        return [Sample(self.scale * float(payload), channel=channel) for channel in self.channels]


@pytest.mark.parametrize("codec", [Scaled(2.5, ("a", "b")), Scaled.Inner()])
def test_a_codec_of_the_users_own_is_named_by_its_path(codec: Codec) -> None:
    topics = Topics((Topic(codec=codec),))
    assert f"{__name__}.{type(codec).__qualname__}".encode() in topics.dumps()
    assert Topics.loads(topics.dumps()) == topics


def test_a_codec_of_the_users_own_is_a_dataclass_that_json_can_hold() -> None:
    with pytest.raises(UserError, match=r"Theirs: expected a dataclass; write @dataclass"):
        Topics((Topic(codec=Theirs()),)).dumps()
    with pytest.raises(UserError, match=r"Scaled: expected fields that JSON can hold"):
        Topics((Topic(codec=Scaled(object())),)).dumps()  # type: ignore[arg-type]


GOOD = '{"codec": "JSONScalar"}'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        "[" * 100_000,
        '{"readings": []}',
        '{"readings": [], "labels": []}',
        '{"readings": {}, "labels": []}',
        '{"readings": [5], "labels": []}',
        '{"readings": [{}], "labels": []}',
        '{"readings": [{"codec": 5}], "labels": []}',
        '{"readings": [{"codec": "JSONScalar"}], "labels": []}',
        '{"readings": [{"codec": {"codec": "os.system"}}], "labels": []}',
        '{"readings": [{"codec": {"codec": "JSONScalar", "command": "touch owned"}}], "labels": []}',
        '{"readings": [{"codec": {"class_path": "subprocess.Popen"}}], "labels": []}',
        '{"readings": [{"codec": {"codec": "RawSamples", "sample_rate": -1}}], "labels": []}',
        f'{{"readings": [{{"template": 5, "codec": {GOOD}}}], "labels": []}}',
        f'{{"readings": [{{"template": "a/#b", "codec": {GOOD}}}], "labels": []}}',
        f'{{"readings": [{{"qos": 2, "codec": {GOOD}}}], "labels": []}}',
        f'{{"readings": [{{"parsed": "x", "codec": {GOOD}}}], "labels": []}}',
        f'{{"readings": [{{"codec": {GOOD}}}], "labels": [{{"time_unit": "h"}}]}}',
        f'{{"readings": [{{"codec": {GOOD}}}], "labels": [{{"codec": {GOOD}}}]}}',
        f'{{"readings": [{{"codec": {GOOD}}}], "labels": [{{"template": null}}]}}',
        f'{{"readings": [{{"codec": {GOOD}}}], "labels": [{{"__class__": "x"}}]}}',
        '{"readings": [], "labels": [{"site": "\udcff"}]}',
    ],
)
def test_topics_that_are_none(text: str) -> None:
    with pytest.raises(UserError):
        Topics.loads(text.encode(errors="surrogateescape"))
