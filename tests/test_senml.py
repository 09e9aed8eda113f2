"""SenML, by the examples and the rules of RFC 8428, in JSON and in CBOR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cbor2
import msgspec
import pytest
from test_first_of import configured

from fml_lightning.connectors import CodecError, FirstOf, JSONBatch, PartlyRead, Sample, SenML
from fml_lightning.connectors.codecs import cbor, cbor_keys, describe, from_description
from fml_lightning.errors import UserError

DEVICE = "urn:dev:ow:10e2073a0108006"
BY_DEVICE = SenML(pattern="{machine}:{channel}")
LABELS = {"bver": -1, "bn": -2, "bt": -3, "bu": -4, "bv": -5, "bs": -6, "n": 0, "u": 1, "v": 2, "vs": 3, "vb": 4}
LABELS |= {"s": 5, "t": 6, "ut": 7, "vd": 8}
NOON = 1_714_564_800
US = 1_000_000


def read(*records: Any, codec: SenML | None = None) -> Sequence[Sample]:
    """A pack, which says the same in JSON and in CBOR."""
    codec = codec or SenML()
    numbered = [{LABELS.get(k, k): v for k, v in r.items()} if isinstance(r, dict) else r for r in records]
    outcomes = []
    for payload in (msgspec.json.encode(records), cbor2.dumps(numbered), cbor2.dumps(list(records))):
        try:
            samples = codec.decode(payload)
            outcomes.append((list(samples), dict(getattr(samples, "skipped", {})), ""))
        except CodecError as error:
            outcomes.append((list(error.samples), {}, str(error)))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    samples, skipped, fault = outcomes[0]
    if fault:
        raise CodecError(fault, samples)
    return PartlyRead(samples, skipped)


def lost(*records: Any, codec: SenML | None = None) -> tuple[str, Sequence[Sample]]:
    with pytest.raises(CodecError) as error:
        read(*records, codec=codec)
    return str(error.value), error.value.samples


def test_examples_of_the_rfc() -> None:
    (sample,) = read({"n": "urn:dev:ow:10e2073a01080063", "u": "Cel", "v": 23.1})
    assert sample == Sample(23.1, None, channel="urn:dev:ow:10e2073a01080063", unit="Cel")
    pack = (
        {
            "bn": f"{DEVICE}:",
            "bt": 1.276020076001e9,
            "bu": "A",
            "bver": 5,
            "n": "voltage",
            "u": "V",
            "v": 120.1,
        },
        {"n": "current", "t": -5, "v": 1.2},
        {"n": "current", "v": 1.7},
    )
    start = 1_276_020_076_001_000
    assert list(read(*pack, codec=BY_DEVICE)) == [
        Sample(120.1, start, None, "voltage", DEVICE, unit="V"),
        Sample(1.2, start - 5 * US, None, "current", DEVICE, unit="A"),
        Sample(1.7, start, None, "current", DEVICE, unit="A"),
    ]


def test_bytes_of_the_rfcs_example_in_cbor() -> None:
    payload = bytes.fromhex(
        "82 a7 21 781b 75726e3a6465763a6f773a3130653230373361303130383030363a"  # [{bn,
        "22 fb41d303a15b00106a 23 6141 20 05 00 67766f6c74616765 01 6156 02 fb405e066666666666"  # bt bu bver n u v
        "a3 00 6763757272656e74 06 24 02 fb3ff3333333333333"  # {n, t, v}]
    )
    assert [(s.channel, s.values, s.unit) for s in BY_DEVICE.decode(payload)] == [
        ("voltage", 120.1, "V"),
        ("current", 1.2, "A"),
    ]
    assert BY_DEVICE.decode(b"\xd9\xd9\xf7" + payload) == BY_DEVICE.decode(payload)


def test_base_fields_hold_until_they_are_said_again() -> None:
    samples = read(
        {"bn": "a:", "bt": NOON, "bu": "g", "bv": 10, "n": "x", "v": 1},
        {"n": "y", "v": 2.5, "u": "m/s"},
        {"bn": "b:", "bv": 0, "n": "x", "v": 3, "t": 0.25},
        {"bu": "", "n": "y", "v": 4},
        {"bn": "", "bt": 0, "n": "z", "v": 5},
    )
    assert list(samples) == [
        Sample(11.0, NOON * US, channel="a:x", unit="g"),
        Sample(12.5, NOON * US, channel="a:y", unit="m/s"),
        Sample(3.0, NOON * US + 250_000, channel="b:x", unit="g"),
        Sample(4.0, NOON * US, channel="b:y"),
        Sample(5.0, None, channel="z"),
    ]


def test_a_value_may_be_the_base_value_alone() -> None:
    assert [(s.channel, s.values) for s in read({"bn": "a", "bv": 20}, {"n": "x"}, {"n": "y", "v": 1})] == [
        ("ax", 20.0),
        ("ay", 21.0),
    ]
    assert list(read({"bn": "a", "bt": NOON}, {"n": "x"})) == []


@pytest.mark.parametrize(
    ("base", "time", "expected"),
    [
        (None, None, None),
        (0, 0, None),
        (None, -5, None),
        (None, 2**28 - 1, None),
        (None, 2**28, 2**28 * US),
        (NOON, -5.5, NOON * US - 5_500_000),
        (None, NOON + 0.5, NOON * US + 500_000),
    ],
)
def test_times_below_2_to_the_28_are_relative_and_none_of_the_devices(
    base: float | None, time: float | None, expected: int | None
) -> None:
    record = {"n": "x", "v": 1.0} | ({} if base is None else {"bt": base}) | ({} if time is None else {"t": time})
    (sample,) = read(record)
    assert sample.time == expected


def test_booleans_and_states_are_numbers_and_the_rest_is_counted() -> None:
    samples = read(
        {"n": "on", "vb": True},
        {"n": "off", "vb": False},
        {"n": "mode", "vs": "Running"},
        {"n": "note", "vs": "hot"},
        {"n": "serial", "vs": "12345"},
        {"n": "blob", "vd": "AAA"},
        {"n": "energy", "s": 5.0},
        {"n": "both", "v": 1.0, "s": 5.0},
        {"n": "nothing", "v": None},
        codec=SenML(states={"running": 1.0}),
    )
    assert isinstance(samples, PartlyRead)
    assert [(s.channel, s.values) for s in samples] == [("on", 1.0), ("off", 0.0), ("mode", 1.0), ("both", 1.0)]
    assert samples.skipped == {
        "note": "text",
        "serial": "text",
        "blob": "data",
        "energy/s": "sums",
        "both/s": "sums",
    }
    left = SenML().decode(b'[{"n": "a", "v": nan}, {"n": "b", "v": 2}]\n\0')
    assert isinstance(left, PartlyRead)
    assert ([s.values for s in left], left.skipped) == ([2.0], {"a": "NaN"})


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        ({"n": "x", "v": "fast"}, "record 1: v: expected a number, got 'fast'"),
        ({"n": "x", "v": 1, "vb": True}, "record 1: expected one value, got v and vb"),
        ({"n": "x", "vb": 1}, "record 1: vb: expected true or false, got 1"),
        ({"n": "x", "vs": [1]}, "record 1: vs: expected text, got list"),
        ({"n": 5, "v": 1}, "record 1: n: expected text, got 5"),
        ({"n": "x", "v": 1, "u": 3}, "record 1: u: expected text, got 3"),
        ({"n": "x", "v": 1, "t": "now"}, "record 1: t: expected a number, got 'now'"),
        ({"n": "x", "v": 1, "t": 1e13}, "record 1: expected a time between 1900 and 2262"),
        ({"n": "x" * 300, "v": 1}, "record 1: expected a base name and a name of at most 256 characters"),
        ({"n": "x", "v": 1e39}, "record 1: v: expected a number in the range of float32"),
        (7, "record 1: expected an object, got 7"),
    ],
)
def test_a_bad_record_loses_itself_only(bad: Any, fault: str) -> None:
    text, samples = lost({"bn": "m:", "n": "a", "v": 1}, bad, {"n": "b", "v": 2})
    assert text.startswith(fault)
    assert [s.channel for s in samples] == ["m:a", "m:b"]


@pytest.mark.parametrize(
    "bad", [{"bn": 5}, {"bt": "x"}, {"bu": []}, {"bv": True}], ids=["name", "time", "unit", "value"]
)
def test_what_follows_a_bad_base_field_is_lost(bad: Mapping[str, Any]) -> None:
    text, samples = lost({"n": "a", "v": 1}, bad, {"n": "b", "v": 2})
    assert text.startswith(f"record 1: {next(iter(bad))}: expected")
    assert text.endswith("the records from there on are lost")
    assert [s.channel for s in samples] == ["a"]


@pytest.mark.parametrize(
    ("records", "fault"),
    [
        (
            [{"n": "a", "v": 1}, {"bver": 11, "n": "b", "v": 1}],
            "bver: expected SenML of version 10 at most, or 26",
        ),
        ([{"bver": "10", "n": "b", "v": 1}], "bver: expected SenML of version 10 at most, or 26, got '10'"),
        ([{"n": "a", "v": 1}, {"n": "b", "v": 1, "foo_": 1}], "'foo_': expected no label that must be understood"),
    ],
)
def test_packs_that_ask_for_more_are_not_read_at_all(records: list[Any], fault: str) -> None:
    text, samples = lost(*records)
    assert text.startswith(fault)
    assert samples == []


def test_versions_and_labels_that_may_be_passed_over() -> None:
    for version in (1, 5, 10, 26):
        assert len(read({"bver": version, "n": "a", "v": 1, "ut": 5, "foo": 1})) == 1


@pytest.mark.parametrize(
    "payload", [b"{}", b'{"n": "a", "v": 1}', b"1", b"x", b"[", b"\x81", b"\x80\x00", b"\xff"]
)
def test_what_is_no_pack(payload: bytes) -> None:
    with pytest.raises(CodecError, match="expected"):
        SenML().decode(payload)


def test_empty_packs_and_payloads() -> None:
    assert [list(SenML().decode(payload)) for payload in (b"", b"[]", b"\x80")] == [[], [], []]


def test_names_are_parted_and_those_of_another_form_say_so() -> None:
    text, samples = lost({"n": "pump:flow", "v": 1}, {"n": "flow", "v": 1}, codec=BY_DEVICE)
    assert [(s.machine, s.channel) for s in samples] == [("pump", "flow")]
    assert text == "record 1: name: expected a name such as {machine}:{channel}, got 'flow'"
    assert read({"v": 1})[0].channel is None  # the topic says it


def test_without_cbor2_only_json_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cbor, "cbor2", None)
    assert len(SenML().decode(b'[{"n": "a", "v": 1}]')) == 1
    with pytest.raises(CodecError, match="pip install"):
        SenML().decode(cbor2.dumps([{0: "a", 2: 1}]))


def test_configuration(tmp_path: Path) -> None:
    codec = SenML(pattern="{site}/{machine}:{channel}", states={"on": 1.0, "yes": 1.0, "true": 1.0})
    assert from_description(msgspec.json.decode(msgspec.json.encode(describe(codec)))) == codec
    yaml = """
spool: nowhere
topics:
- template: senml/#
  codec:
    class_path: FirstOf
    init_args:
      codecs:
      - class_path: SenML
        init_args: {pattern: "{site}/{machine}:{channel}", states: {on: 1}}
      - JSONBatch
"""
    (topic,) = configured(tmp_path, yaml)
    assert topic.codec == FirstOf((codec, JSONBatch()))
    with pytest.raises(UserError, match="pattern 'x'"):
        SenML(pattern="x")
    with pytest.raises(UserError, match=r"SenML.states"):
        SenML(states={"on": float("nan")})


def test_keys_of_cbor_maps_may_be_numbers_and_nothing_that_hashes_alike() -> None:
    plain = [
        {1: 2, -7: [3, {2**63: b"x"}]},
        {"a": {5: 1.5, b"b": None}},
        [1, "x", {}],
        {1: cbor2.CBORTag(4, [-1, 215])},
    ]
    for content in plain:
        assert cbor_keys.are_plain(cbor2.dumps(content))
    assert cbor.content(cbor2.dumps(plain[0])) == plain[0]
    assert cbor.content(cbor2.dumps(plain[3])) == {1: 21.5}
    endless = bytes.fromhex("bf 01 9f 02 03 ff 04 7f 6161 6162 ff ff")
    assert cbor.content(endless) == {1: [2, 3], 4: "ab"}
    for bad in ({(1, 2): 3}, {2**70: 1}, {1.5: 1}, {True: 1}, {1: {None: 2}}):
        payload = cbor2.dumps(bad)
        assert not cbor_keys.are_plain(payload)
        with pytest.raises(CodecError, match="map key must be"):
            cbor.content(payload)
    whole = cbor2.dumps({1: [2, "abc", b"def", 1.5]})
    for end in range(len(whole)):
        with pytest.raises(CodecError, match="expected CBOR"):
            cbor.content(whole[:end])
    for bad_fraction in ([-1], [1000, 1], [-1, 2**70], "x"):
        with pytest.raises(CodecError, match="expected CBOR"):
            cbor.content(cbor2.dumps([cbor2.CBORTag(4, bad_fraction)]))
