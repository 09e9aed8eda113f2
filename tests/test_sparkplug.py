"""Sparkplug B, message for message as its specification has them."""

from __future__ import annotations

from typing import Any

import pytest

from fml_lightning.connectors.codecs import (
    CodecError,
    Sample,
    SparkplugB,
    sparkplug,
)
from fml_lightning.connectors.codecs.sparkplug_payload import payload_type
from fml_lightning.errors import UserError

NOON = 1_714_564_800_000_000  # 2024-05-01T12:00:00Z, µs


class Edge:
    """An edge node, as the specification has it, and a session that listens to it."""

    def __init__(self) -> None:
        self.session = SparkplugB().session()
        self.seq = -1

    def say(self, kind: str, *metrics: dict[str, Any], device: str | None = None, **changes: Any) -> list[Sample]:
        self.seq = (self.seq + 1) % 256
        fields = {"timestamp": 1_714_564_800_000, "seq": self.seq} | changes
        payload = payload_type()(**{name: value for name, value in fields.items() if value is not None})
        for metric in metrics:
            payload.metrics.add(**metric)
        topic = f"spBv1.0/Ulm/{kind}/edge" + (f"/{device}" if device else "")
        return list(self.session.decode(topic, payload.SerializeToString()))

    def born(self) -> Edge:
        self.seq = -1
        self.say(
            "NBIRTH",
            {"name": "bdSeq", "datatype": 8, "long_value": 4},
            {"name": "Node Control/Rebirth", "datatype": 11, "boolean_value": False},
            {"name": "load", "alias": 1, "datatype": 9, "float_value": 0.5},
        )
        self.say("DBIRTH", {"name": "rpm", "alias": 2, "datatype": 3, "int_value": 1500}, device="press")
        return self


def test_sparkplug_births_and_data() -> None:
    edge = Edge()
    assert edge.say("NBIRTH", {"name": "bdSeq", "datatype": 8, "long_value": 4}) == []
    assert edge.say("DBIRTH", {"name": "rpm", "alias": 2, "datatype": 3, "int_value": 1500}, device="press") == [
        Sample(1500.0, NOON, None, "rpm", "edge/press", "Ulm")
    ]
    told = {"alias": 2, "int_value": 2**32 - 5, "timestamp": 1_714_564_801_000}
    assert edge.say("DDATA", told, device="press") == [
        Sample(-5.0, NOON + 1_000_000, None, "rpm", "edge/press", "Ulm")
    ]
    assert edge.session.requests(0.0) == []


def test_devices_of_one_name_below_two_edge_nodes_are_two_machines() -> None:
    session = SparkplugB().session()
    for seq, edge in enumerate(("a", "b")):
        session.decode(f"spBv1.0/Ulm/NBIRTH/{edge}", payload_type()(timestamp=1, seq=0).SerializeToString())
        birth = payload_type()(timestamp=1, seq=1)
        birth.metrics.add(name="rpm", datatype=3, int_value=seq)
        (sample,) = session.decode(f"spBv1.0/Ulm/DBIRTH/{edge}/press", birth.SerializeToString())
        assert (sample.site, sample.machine, sample.values) == ("Ulm", f"{edge}/press", float(seq))


def test_sparkplug_bytes_by_hand() -> None:
    # timestamp 1 = 1000; metrics 2 {name 1 = "t", datatype 4 = 9, float_value 12 = 1.5}; seq 3 = 0
    payload = bytes.fromhex("08e807120a0a01742009650000c03f1800")
    assert list(SparkplugB().session().decode("spBv1.0/g/NBIRTH/e", payload)) == [
        Sample(1.5, 1_000_000, None, "t", "e", "g")
    ]


@pytest.mark.parametrize(
    ("datatype", "field", "raw", "expected"),
    [
        (1, "int_value", 2**32 - 2, -2.0),
        (1, "int_value", 0xFE, -2.0),
        (2, "int_value", 2**32 - 2, -2.0),
        (3, "int_value", 2**31, -(2.0**31)),
        (3, "long_value", 2**64 - 2, -2.0),
        (4, "long_value", 2**64 - 2, -2.0),
        (4, "int_value", 7, 7.0),
        (5, "int_value", 255, 255.0),
        (7, "int_value", 2**32 - 1, 2.0**32 - 1),
        (8, "long_value", 2**63, 2.0**63),
        (9, "float_value", 0.25, 0.25),
        (10, "double_value", 0.1, 0.1),
        (11, "boolean_value", True, 1.0),
    ],
)
def test_sparkplug_datatypes(datatype: int, field: str, raw: Any, expected: float) -> None:
    (sample,) = Edge().say("NBIRTH", {"name": "x", "datatype": datatype, field: raw})
    assert sample.values == expected


@pytest.mark.parametrize(
    "metric",
    [
        {"datatype": 12, "string_value": "on"},
        {"datatype": 13, "long_value": 1_714_564_800_000},
        {"datatype": 3, "is_null": True},
        {"datatype": 3},
        {"datatype": 16},
    ],
)
def test_sparkplug_metrics_that_measure_nothing(metric: dict[str, Any]) -> None:
    assert Edge().say("NBIRTH", {"name": "x", **metric}) == []


@pytest.mark.parametrize(
    ("metric", "match"),
    [
        ({"datatype": 5, "int_value": 256}, "metric 'x': expected an integer of 8 bits, got 256"),
        ({"datatype": 1, "int_value": 300}, "expected an integer of 8 bits, got 300"),
        ({"datatype": 3, "string_value": "1"}, "metric 'x': expected a value of datatype 3, got string_value"),
        ({"datatype": 10, "double_value": 1e300}, "metric 'x': expected a number in the range of float32"),
        ({"datatype": 9, "float_value": 1.0, "timestamp": 2**64 - 1}, "between 1900 and 2262"),
        ({"float_value": 1.0}, "expected a birth that tells name and datatype of metric 'x'"),
    ],
)
def test_a_bad_metric_loses_itself_only(metric: dict[str, Any], match: str) -> None:
    with pytest.raises(CodecError, match=match) as caught:
        Edge().say("NBIRTH", {"name": "x", **metric}, {"name": "y", "datatype": 9, "float_value": 2.0})
    assert [sample.channel for sample in caught.value.samples] == ["y"]


def test_a_gap_asks_for_a_rebirth_at_most_every_ten_seconds() -> None:
    edge = Edge().born()
    edge.seq += 1
    assert len(edge.say("NDATA", {"alias": 1, "float_value": 0.75})) == 1
    ((topic, payload),) = edge.session.requests(1_714_564_800.0)
    command = payload_type().FromString(payload)
    assert topic == "spBv1.0/Ulm/NCMD/edge"
    assert (command.metrics[0].name, command.metrics[0].boolean_value) == ("Node Control/Rebirth", True)
    assert (command.timestamp, command.metrics[0].datatype, command.HasField("seq")) == (
        1_714_564_800_000,
        11,
        False,
    )
    edge.say("NDATA", seq=99)
    assert edge.session.requests(1_714_564_809.9) == []
    assert len(edge.session.requests(1_714_564_810.0)) == 1
    assert edge.session.requests(1_714_564_900.0) == []


def test_a_sequence_that_wraps_is_no_gap() -> None:
    edge = Edge().born()
    for _ in range(600):
        edge.say("NDATA", {"alias": 1, "float_value": 0.75})
    assert edge.session.requests(0.0) == []


def test_an_unknown_alias_asks_for_a_rebirth_and_keeps_the_rest() -> None:
    edge = Edge().born()
    with pytest.raises(CodecError, match="name and datatype of alias 9") as caught:
        edge.say("NDATA", {"alias": 9, "float_value": 0.5}, {"alias": 1, "float_value": 0.75})
    assert [(s.channel, s.values) for s in caught.value.samples] == [("load", 0.75)]
    assert len(edge.session.requests(0.0)) == 1


def test_data_before_birth_ask_for_a_rebirth() -> None:
    edge = Edge()
    assert len(edge.say("NDATA", {"name": "load", "datatype": 9, "float_value": 0.5})) == 1
    assert len(edge.session.requests(0.0)) == 1
    edge = Edge().born()
    with pytest.raises(CodecError, match="alias 2"):
        edge.say("DDATA", {"alias": 2, "int_value": 1}, device="another")
    assert len(edge.session.requests(0.0)) == 1


def test_a_birth_answers_the_request() -> None:
    edge = Edge()
    edge.say("NDATA")
    edge.born()
    assert edge.session.requests(0.0) == []


def test_deaths() -> None:
    edge = Edge().born()
    edge.say("NDEATH", {"name": "bdSeq", "datatype": 8, "long_value": 3}, seq=None)  # of an earlier connection
    edge.seq -= 1
    assert len(edge.say("DDATA", {"alias": 2, "int_value": 1}, device="press")) == 1
    edge.say("DDEATH", device="press")
    with pytest.raises(CodecError, match="alias 2"):
        edge.say("DDATA", {"alias": 2, "int_value": 1}, device="press")
    edge.born()
    edge.say("NDEATH", {"name": "bdSeq", "datatype": 8, "long_value": 4}, seq=None)
    for device, alias in ((None, 1), ("press", 2)):
        with pytest.raises(CodecError, match=f"alias {alias}"):
            edge.say("DDATA" if device else "NDATA", {"alias": alias, "float_value": 1.0}, device=device)


def test_a_node_birth_forgets_devices() -> None:
    edge = Edge().born()
    edge.say("NBIRTH", {"name": "load", "alias": 1, "datatype": 9, "float_value": 0.5}, seq=0)
    edge.seq = 0
    with pytest.raises(CodecError, match="alias 2"):
        edge.say("DDATA", {"alias": 2, "int_value": 1}, device="press")


@pytest.mark.parametrize(
    ("topic", "payload", "match"),
    [
        ("spBv1.0/Ulm/NDATA/edge", b"", "expected seq, 0 to 255, got none"),
        ("spBv1.0/Ulm/NDATA/edge", bytes.fromhex("188002"), "expected seq, 0 to 255, got 256"),
        ("spBv1.0/Ulm/NDATA/edge", b"\xff\xff", "expected a Sparkplug B payload"),
        ("spBv1.0/Ulm/NBIRTH/edge", bytes.fromhex("180012050a01ff2009"), "name in UTF-8"),
        ("spBv1.0/Ulm/NDATA/edge", bytes.fromhex("1800") + b"\x22\x12SPBV1.0_COMPRESSED", "compress"),
        ("spBv1.0/Ulm/NDATA/edge/device", b"", "expected a topic spBv1.0/group/kind"),
        ("spBv1.0/Ulm/DDATA/edge", b"", "expected a topic spBv1.0/group/kind"),
        ("plant/press/rpm", b"1", "expected a topic spBv1.0/group/kind"),
    ],
)
def test_bad_sparkplug(topic: str, payload: bytes, match: str) -> None:
    with pytest.raises(CodecError, match=match):
        SparkplugB().session().decode(topic, payload)


@pytest.mark.parametrize("topic", ["spBv1.0/STATE/host", "spBv1.0/Ulm/NCMD/edge", "spBv1.0/Ulm/DCMD/edge/press"])
def test_sparkplug_says_nothing_of_hosts_and_commands(topic: str) -> None:
    assert list(SparkplugB().session().decode(topic, b'{"online": true}')) == []


def test_bad_sparkplug_configuration() -> None:
    with pytest.raises(UserError, match=r"SparkplugB.rebirth_interval: expected 0 s or more, got -1"):
        SparkplugB(-1.0)


def test_a_session_remembers_only_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparkplug, "MOST_KNOWN", 12)
    session = SparkplugB().session()

    def hear(kind: str, edge: str, count: int = 0, device: str = "", seq: int = 0) -> list[Sample]:
        message = payload_type()(timestamp=1_714_564_800_000, seq=seq)
        for i in range(count):
            born = {"name": f"m{i}", "datatype": 9} if kind.endswith("BIRTH") else {}
            message.metrics.add(alias=i, float_value=float(i), **born)
        topic = f"spBv1.0/Ulm/{kind}/{edge}" + f"/{device}" * bool(device)
        return list(session.decode(topic, message.SerializeToString()))

    assert len(hear("NBIRTH", "a", 2)) == 2  # the node, its own place, and two names and aliases: 6
    assert len(hear("DBIRTH", "a", 1, "press")) == 1  # the device, a name and an alias: 9
    for edge in ("b", "c"):
        with pytest.raises(
            CodecError, match=r"more than 12 edge nodes, devices and metrics, so '.' is not"
        ) as caught:
            hear("NBIRTH", edge, 2)
        assert len(caught.value.samples) == 2  # what a birth says itself is read
    for _ in range(100):
        with pytest.raises(CodecError):
            hear("NBIRTH", "b" * 300, 1)
    with pytest.raises(CodecError, match="got no"):
        hear("NDATA", "d", 1)
    assert len(hear("NDATA", "a", 2)) == 2
    assert len(hear("DDATA", "a", 1, "press")) == 1
    assert session._size == sum(node.size() for node in session._nodes.values()) <= 12
    assert len(hear("NBIRTH", "a", 3)) == 3  # in place of what was known of it, its devices too
    for _ in range(3):
        hear("DBIRTH", "a", 0, "press")
        hear("DDEATH", "a", 0, "press")
    hear("NDEATH", "a")
    assert session._size == sum(node.size() for node in session._nodes.values()) <= 12
    assert len(session.requests(0.0)) <= 12
    session.requests(1e9)
    assert len(session._asked) <= 12


def test_a_metrics_name_has_a_length() -> None:
    with pytest.raises(CodecError, match="name of at most 256 characters"):
        Edge().say("NBIRTH", {"name": "x" * 257, "datatype": 9, "float_value": 1.0})


def test_what_a_session_knows_goes_into_another_one() -> None:
    edge = Edge().born()
    state = edge.session.state()
    assert state == edge.session.state()
    edge.say("NDATA", {"alias": 1, "float_value": 2.0})
    assert edge.session.state() == state  # data change nothing
    other = Edge()
    other.session.restore(state)
    assert other.session.state() == state
    assert other.say("NDATA", {"alias": 1, "float_value": 2.0}, seq=9)[0].channel == "load"
    assert other.say("DDATA", {"alias": 2, "int_value": 7}, device="press", seq=10)[0].values == 7
    assert other.session.requests(0.0) == []
    other.say("DDEATH", device="press", seq=11)
    assert other.session.state() != state
    edge.say("DBIRTH", {"name": "rpm", "alias": 2, "datatype": 3, "int_value": 1500}, device="press")
    assert edge.session.state() == state  # nor does a birth that says the same again
    edge.say("NDEATH", {"name": "bdSeq", "datatype": 8, "long_value": 4}, seq=None)
    assert edge.session.state() == b"[]"
