"""Arrays, data sets, templates and properties of Sparkplug B 3.0, by its specification's numbers and bytes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from probes import NOW
from test_snapshots import BORN, buried, data, delete_segments, record, values
from test_sparkplug import Edge

from fml_lightning.connectors import CodecError, PartlyRead, Quality, Sample, SparkplugB
from fml_lightning.connectors.codecs import describe, from_description, sparkplug_metrics
from fml_lightning.connectors.codecs.sparkplug_payload import payload_type
from fml_lightning.connectors.spool.folder import STATES
from fml_lightning.errors import UserError

DATA_SET, TEMPLATE = 16, 19
ARRAYS = {
    # datatype: bytes, and the numbers that the specification says they are (section 6.4.16)
    24: ("15CD5B07B168DE3A", [123456789, 987654321]),
    23: ("D08A3075", [-30000, 30000]),
    25: ("CE0672AC189CBAC4C4BA9C18AC7206CE", [-4270929666821191986, -3601064768563266876]),
    26: ("17FA", [23, 250]),
    27: ("1E0088CC", [30, 52360]),
    28: ("3400000049FB55C4", [52, 3293969225]),
    29: ("3400000000000000D99E02D1B27637E4", [52, 16444743074749521625]),
    32: ("0C00000034D0", [0, 0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 1]),
    # and of those whose example there is wrong, by hand
    22: ("E97B", [-23, 123]),
    30: (struct.pack("<2f", 1.25, -2.5).hex(), [1.25, -2.5]),
    31: (struct.pack("<2d", 1.25, -2.5).hex(), [1.25, -2.5]),
}


def edge_of(codec: SparkplugB) -> Edge:
    edge = Edge()
    edge.session = codec.session()
    edge.say("NBIRTH")
    return edge


def array(name: str, datatype: int, raw: bytes, **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "bytes_value": raw, **more}


def properties(**said: Any) -> dict[str, Any]:
    """A set of properties: text, floats and ints."""
    made = []
    for value in said.values():
        kind = "string" if isinstance(value, str) else "float" if isinstance(value, float) else "int"
        made.append({"type": {"string": 12, "float": 9, "int": 3}[kind], f"{kind}_value": value})
    return {"keys": list(said), "values": made}


def shape(samples: Sequence[Sample]) -> list[tuple[str | None, object, float | None]]:
    return [
        (s.channel, s.values.tolist() if isinstance(s.values, np.ndarray) else s.values, s.sample_rate)
        for s in samples
    ]


@pytest.mark.parametrize("datatype", ARRAYS)
def test_arrays_are_channels_or_with_a_sample_rate_blocks(datatype: int) -> None:
    raw, numbers = ARRAYS[datatype]
    metric = array("x", datatype, bytes.fromhex(raw))
    assert shape(Edge().say("NBIRTH", metric)) == [(f"x/{i}", float(n), None) for i, n in enumerate(numbers)]
    (block,) = edge_of(SparkplugB(sample_rate=6400.0)).say("NDATA", metric)
    assert shape([block]) == [("x", np.float32(numbers).tolist(), 6400.0)]
    assert (block.time, block.machine, block.site) == (NOW, "edge", "Ulm")


@pytest.mark.parametrize(
    ("metric", "match"),
    [
        (array("x", 23, b"\1\2\3"), "metric 'x': expected numbers of 2 bytes, got 3 bytes"),
        (array("x", 32, b"\1"), "metric 'x': expected 4 bytes and a bit for each boolean, got 1 bytes"),
        (array("x", 32, bytes.fromhex("090000 00ff".replace(" ", ""))), "a bit for each boolean, got 5 bytes"),
        (array("x", 32, bytes.fromhex("ffffffff00")), "a bit for each boolean"),
        ({"name": "x", "datatype": 30, "float_value": 1.0}, "expected an array as bytes_value, got float_value"),
        (array("x", 31, struct.pack("<2d", 1, 1e300)), "metric 'x/1': expected a number in the range of float32"),
    ],
)
def test_a_bad_array_loses_itself_only(metric: dict[str, Any], match: str) -> None:
    with pytest.raises(CodecError, match=match) as caught:
        Edge().say("NBIRTH", metric, {"name": "y", "datatype": 9, "float_value": 2.0})
    assert [s.channel for s in caught.value.samples if s.channel != "x/0"] == ["y"]


def test_empty_arrays_say_nothing_and_long_ones_need_a_sample_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Edge().say("NBIRTH", array("x", 30, b"")) == []
    assert edge_of(SparkplugB(sample_rate=1.0)).say("NDATA", array("x", 30, b"")) == []
    session = SparkplugB().session()
    payload = payload_type()(timestamp=1, seq=0)
    payload.metrics.add(**array("long", 22, bytes(257)))
    payload.metrics.add(**array("text", 33, b"ABC\0hello\0"))
    payload.metrics.add(**array("times", 34, bytes(8)))
    samples = session.decode("spBv1.0/g/NBIRTH/e", payload.SerializeToString())
    assert isinstance(samples, PartlyRead)
    assert not samples
    assert samples.skipped == {
        "long": "arrays without a sample rate",
        "text": "no numbers",
        "times": "no numbers",
    }
    monkeypatch.setattr(sparkplug_metrics, "MOST_IN_MESSAGE", 5)
    bits = (4).to_bytes(4, "little") + b"\xf0"
    assert len(Edge().say("NBIRTH", array("a", 32, bits), array("b", 32, bits))) == 4


def test_the_sample_rate_may_be_a_property_that_the_birth_says() -> None:
    edge = edge_of(SparkplugB(sample_rate="rate"))
    raw = struct.pack("<2h", 1, 2)
    born = edge.say("NBIRTH", array("x", 23, raw, alias=7, properties=properties(rate=6400)), array("y", 23, raw))
    assert shape(born) == [("x", [1.0, 2.0], 6400.0), ("y/0", 1.0, None), ("y/1", 2.0, None)]
    told = {"alias": 7, "bytes_value": raw}
    assert shape(edge.say("NDATA", told)) == [("x", [1.0, 2.0], 6400.0)]
    assert shape(edge.say("NDATA", {**told, "properties": properties(rate="100.5")}))[0][2] == 100.5
    for bad in (0, "fast", -1.0):
        with pytest.raises(CodecError, match="property 'rate': expected a sample rate in Hz above 0, got"):
            edge.say("NDATA", {**told, "properties": properties(rate=bad)})


def data_set(columns: list[str], types: list[int], *rows: list[dict[str, Any]]) -> dict[str, Any]:
    content = {
        "num_of_columns": len(columns),
        "columns": columns,
        "types": types,
        "rows": [{"elements": row} for row in rows],
    }
    return {"name": "ds", "datatype": DATA_SET, "dataset_value": content}


def test_columns_of_numbers_of_a_data_set_are_channels() -> None:
    metric = data_set(
        ["rms", "n", "on", "note"],
        [9, 1, 11, 12],
        [{"float_value": 1.5}, {"int_value": 2**32 - 2}, {"boolean_value": True}, {"string_value": "a"}],
        [{"float_value": 2.5}, {}, {"boolean_value": False}, {"string_value": "b"}],
    )
    samples = edge_of(SparkplugB(sample_rate=100.0)).say("NDATA", metric)  # a table is no signal
    assert shape(samples) == [
        ("ds/rms", 1.5, None),
        ("ds/rms", 2.5, None),
        ("ds/n", -2.0, None),
        ("ds/on", 1.0, None),
        ("ds/on", 0.0, None),
    ]
    assert {sample.time for sample in samples} == {NOW}


def test_times_of_a_data_set_are_its_rows() -> None:
    row = [{"float_value": 1.5}, {"long_value": 1_714_564_700_000}]
    metric = data_set(["rms", "at"], [9, 13], row, [{"float_value": 2.5}, {"long_value": 1_714_564_701_000}])
    assert [s.time for s in Edge().say("NBIRTH", metric)] == [NOW - 100_000_000, NOW - 99_000_000]
    edge = edge_of(SparkplugB(sample_rate="hz"))
    (block,) = edge.say("NDATA", {**metric, "properties": properties(hz=10)})
    assert shape([block]) == [("ds/rms", [1.5, 2.5], 10.0)]
    assert block.time == NOW - 100_000_000


@pytest.mark.parametrize(
    ("metric", "match", "channels"),
    [
        (data_set(["a", "b"], [9]), "got 2 names, 1 types", []),
        (data_set(["a"], [9], [{"float_value": 1.0}] * 2), "a name, a type and a cell for each column", []),
        (
            data_set(["a", "b"], [9, 9], [{"float_value": 1.0}, {"string_value": "x"}]),
            "metric 'ds/b': expected a value of datatype 9, got string_value",
            ["ds/a"],
        ),
        (
            data_set(["a", "b"], [9, 10], [{"float_value": 1.0}, {"double_value": 1e300}]),
            "metric 'ds/b': expected a number in the range of float32",
            ["ds/a"],
        ),
    ],
)
def test_a_bad_data_set_loses_what_is_bad(metric: dict[str, Any], match: str, channels: list[str]) -> None:
    with pytest.raises(CodecError, match=match) as caught:
        Edge().say("NBIRTH", metric)
    assert [s.channel for s in caught.value.samples] == channels


def test_data_sets_without_rows_or_names() -> None:
    assert Edge().say("NBIRTH", data_set(["a"], [9])) == []
    assert shape(Edge().say("NBIRTH", data_set([""], [9], [{"float_value": 1.0}]))) == [("ds/0", 1.0, None)]
    assert Edge().say("NBIRTH", {**data_set(["a"], [9], [{"float_value": 1.0}]), "is_null": True}) == []


def template(name: str, *metrics: dict[str, Any], **more: Any) -> dict[str, Any]:
    content = {"template_ref": "Motor", "metrics": list(metrics), "is_definition": False, **more}
    return {"name": name, "datatype": TEMPLATE, "template_value": content}


def test_members_of_templates_are_channels_and_data_need_not_repeat_their_types() -> None:
    edge = Edge()
    inner = template("bearing", {"name": "rms", "datatype": 9, "float_value": 1.5})
    born = template("M1", {"name": "rpm", "datatype": 3, "int_value": 10}, inner)
    definition = template("Motor", {"name": "rpm", "datatype": 3, "int_value": 0}, is_definition=True)
    assert shape(edge.say("NBIRTH", definition, born)) == [("M1/rpm", 10.0, None), ("M1/bearing/rms", 1.5, None)]
    told = template("M1", template("bearing", {"name": "rms", "float_value": 2.5, "timestamp": NOW // 1000 + 1}))
    (sample,) = edge.say("NDATA", {**told, "is_historical": True, "properties": properties(Quality=500)})
    assert (sample.channel, sample.values, sample.time) == ("M1/bearing/rms", 2.5, NOW + 1000)
    assert sample.quality == Quality.LATE | Quality.BAD  # of a member as of its template
    with pytest.raises(CodecError, match="name and datatype of metric 'M1/new'"):
        edge.say("NDATA", template("M1", {"name": "new", "float_value": 2.5}))
    assert len(edge.session.requests(0.0)) == 1
    control = template("M1", {"name": "bdSeq", "datatype": 9, "float_value": 3.5})
    assert shape(edge.say("NDATA", control)) == [("M1/bdSeq", 3.5, None)]  # which counts births only at the top


def test_templates_within_templates_have_an_end() -> None:
    def nested(depth: int) -> dict[str, Any]:
        metric: dict[str, Any] = {"name": "v", "datatype": 9, "float_value": 1.0}
        for _ in range(depth):
            metric = template("t", metric)
        return metric

    (sample,) = Edge().say("NBIRTH", nested(16))
    assert sample.channel == "t/" * 16 + "v"
    with pytest.raises(CodecError, match="at most 16 templates within one another"):
        Edge().say("NBIRTH", nested(17))
    with pytest.raises(CodecError, match="expected a metric's name of at most 256 characters"):
        Edge().say("NBIRTH", template("x" * 200, {"name": "y" * 100, "datatype": 9, "float_value": 1.0}))


@pytest.mark.parametrize(
    ("said", "unit", "quality"),
    [
        ({"Quality": 192}, None, 0),
        ({"Quality": 0}, None, Quality.BAD),
        ({"Quality": 500}, None, Quality.BAD),
        ({"Quality": "Good"}, None, 0),
        ({"Quality": "Bad_Stale"}, None, Quality.BAD),
        ({"engUnit": "m/s²", "Quality": 192, "low": 0.5}, "m/s²", 0),
        ({"engUnit": ""}, None, 0),
        ({"engUnit": 7}, None, 0),
    ],
)
def test_properties_say_unit_and_quality(said: dict[str, Any], unit: str | None, quality: int) -> None:
    metric = {"name": "x", "datatype": 9, "float_value": 1.0, "properties": properties(**said)}
    (sample,) = Edge().say("NBIRTH", metric)
    assert (sample.values, sample.unit, sample.quality) == (1.0, unit, int(quality))
    assert type(sample.quality) is int


def test_the_unit_of_a_birth_holds_for_its_data_and_the_quality_does_not() -> None:
    edge = Edge()
    born = {"name": "x", "alias": 1, "datatype": 9, "float_value": 1.0}
    edge.say("NBIRTH", {**born, "properties": properties(engUnit="g", Quality=0)})
    told = {"alias": 1, "float_value": 2.0}
    assert edge.say("NDATA", told, {**told, "is_historical": True}) == [
        Sample(2.0, NOW, None, "x", "edge", "Ulm", "g", 0),
        Sample(2.0, NOW, None, "x", "edge", "Ulm", "g", int(Quality.LATE)),
    ]
    other = Edge()
    other.session.restore(edge.session.state())
    assert other.session.state() == edge.session.state()
    assert [s.unit for s in other.say("NDATA", told)] == ["g"]
    with pytest.raises(CodecError, match="engUnit: expected at most 256 characters"):
        edge.say("NDATA", {**told, "properties": properties(engUnit="g" * 257)})


def test_what_a_birth_says_of_templates_and_rates_goes_into_another_session() -> None:
    codec = SparkplugB(sample_rate="hz")
    edge, other = edge_of(codec), edge_of(codec)
    raw = struct.pack("<2h", 1, 2)
    edge.say("NBIRTH", template("M", array("v", 23, raw, properties=properties(hz=50.5))))
    other.session.restore(edge.session.state())
    told = template("M", {"name": "v", "bytes_value": raw})
    assert shape(other.say("NDATA", told)) == shape(edge.say("NDATA", told)) == [("M/v", [1.0, 2.0], 50.5)]


OLDER_DIGEST = "245b92454cb23d0c97c5d49cb7c7c2f9"
OLDER_STATE = (
    b'[["Ulm","edge",true,4,[[null,[["load","load",9],[1,"load",9]]],["press",[["rpm","rpm",3],[2,"rpm",3]]]]]]'
)
"""As versions wrote them that knew nothing of units: name or alias, name and datatype of each metric."""


def test_the_state_of_older_versions_is_read() -> None:
    edge = Edge()
    edge.session.restore(OLDER_STATE)
    assert shape(edge.say("NDATA", {"alias": 1, "float_value": 2.0})) == [("load", 2.0, None)]
    assert shape(edge.say("DDATA", {"name": "rpm", "int_value": 3}, device="press")) == [("rpm", 3.0, None)]
    start = b'[["a","b",true,null,[[null,['
    for bad in (b"[[", start + b'["x","x",9,"g",0]]]]]]', start + b'["x"]]]]]'):
        with pytest.raises(ValueError, match=r"[Ee]xpected|JSON|truncated"):
            Edge().session.restore(bad)


def test_snapshots_of_older_versions_are_found(tmp_path: Path) -> None:
    """Their digest of codec and topic is what it was before the codec had a sample rate."""
    assert describe(SparkplugB()) == {"codec": "SparkplugB", "rebirth_interval": 10.0}
    for codec in (SparkplugB(), SparkplugB(2.0, 100.0), SparkplugB(sample_rate="hz")):
        assert from_description(msgspec.json.decode(msgspec.json.encode(describe(codec)))) == codec
    record(tmp_path, [BORN], data(1))
    folder = tmp_path / STATES
    for path in folder.glob("*.json"):
        path.unlink()
    content = {"sequence": 0, "since": 0, "topics": OLDER_DIGEST, "states": [OLDER_STATE], "version": 1}
    (folder / f"{0:018}.json").write_bytes(msgspec.json.encode(content))
    delete_segments(tmp_path, 1)  # with the birth
    record(tmp_path, data(2))
    assert buried(tmp_path) == []
    assert values(tmp_path) == [1.0, 2.0]


@pytest.mark.parametrize("rate", [0, -1.0, float("nan"), float("inf"), ""])
def test_bad_sample_rates_are_refused(rate: float | str) -> None:
    with pytest.raises(UserError, match=r"SparkplugB.sample_rate: expected Hz above 0 or a property's name"):
        SparkplugB(sample_rate=rate)
