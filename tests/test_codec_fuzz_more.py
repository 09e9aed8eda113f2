"""Hostile bytes as in `test_codec_fuzz`: codecs within codecs, SenML, series, and all that Sparkplug can say."""

from __future__ import annotations

import itertools
import math
import random
import struct
from collections.abc import Sequence
from typing import Any

import cbor2
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_codec_fuzz import CONSTANT, FACTOR, MUTANTS, TRACED, Read, allocated, check, mutants, outcome

from fml_lightning.connectors.codecs import (
    Codec,
    CodecError,
    FirstOf,
    Ignore,
    InfluxLine,
    JSONBatch,
    JSONObject,
    RawSamples,
    SenML,
    SparkplugB,
    StatefulCodec,
)
from fml_lightning.connectors.codecs.binary import Binary
from fml_lightning.connectors.codecs.codec import LONGEST_ERROR
from fml_lightning.connectors.codecs.sparkplug_metrics import MOST_IN_MESSAGE
from fml_lightning.connectors.codecs.sparkplug_payload import payload_type
from fml_lightning.connectors.quality import Quality

CASES = 40_000

PACK = [
    {"bn": "pump:", "bt": 1714564800, "bu": "g", "bv": 1.5, "bver": 10, "n": "x", "v": 1, "t": -5.5, "s": 2},
    {"n": "on", "vb": True, "u": "/"},
    {"bn": "", "n": "mode", "vs": "running"},
    {"n": "blob", "vd": "AAAA"},
]
NUMBERED = [
    {-2: "pump:", -3: 1714564800, -4: "g", -5: 1.5, -1: 10, 0: "x", 2: 1, 6: -5.5},
    {0: "on", 4: True, 1: "/"},
    {0: "mode", 3: "running"},
    {0: "blob", 8: b"x"},
    {0: "half", 2: cbor2.CBORTag(4, [-1, 5])},
]
LINES = b"m,machine=p1,axis=x,b\\ c=d\\,e rms=1.5,value=2 1714564800000000000\nm,axis=y rms=3i\nm rms=t"


def metric(name: str, datatype: int, **value: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "timestamp": 1_714_564_800_000, **value}


def sparkplug() -> bytes:
    """All that a metric can be."""
    said = {
        "keys": ["Quality", "engUnit", "hz"],
        "values": [{"int_value": 0}, {"string_value": "g"}, {"float_value": 9}],
    }
    rows = [{"elements": [{"float_value": 1.5}, {"long_value": 1_714_564_800_000}, {"string_value": "a"}]}] * 2
    table = {"num_of_columns": 3, "columns": ["a", "t", "s"], "types": [9, 13, 12], "rows": rows}
    inner = {"template_ref": "T", "metrics": [metric("v", 10, double_value=2.5)]}
    outer = {
        "template_ref": "U",
        "metrics": [metric("x", 1, int_value=254), metric("t", 19, template_value=inner)],
    }
    payload = payload_type()(timestamp=1_714_564_800_000, seq=0)
    for each in (
        metric("load", 9, float_value=0.5, alias=1, is_historical=True, properties=said),
        metric("vib", 23, bytes_value=struct.pack("<6h", *range(6)), alias=2, properties=said),
        metric("bits", 32, bytes_value=b"\x0c\0\0\0\x34\xd0"),
        metric("wide", 31, bytes_value=struct.pack("<2d", 1.0, math.nan)),
        metric("table", 16, dataset_value=table, properties=said),
        metric("motor", 19, template_value=outer),
        metric("times", 34, bytes_value=bytes(16)),
    ):
        payload.metrics.add(**each)
    return bytes(payload.SerializeToString())


PAYLOADS: dict[Codec | StatefulCodec, Sequence[bytes]] = {
    SenML(): [msgspec.json.encode(PACK), cbor2.dumps(NUMBERED)],
    SenML(pattern="{machine}:{channel}", states={"running": 1.0}): [
        msgspec.json.encode(PACK[:2]),
        cbor2.dumps(NUMBERED[:1]),
    ],
    FirstOf((JSONBatch(value="*"), InfluxLine(), RawSamples(1.0, "int16"))): [LINES, b'[{"value": 1}]', bytes(8)],
    FirstOf((JSONObject(), Ignore())): [b'{"value": 1}'],
    RawSamples(1e3, "int16", scale=0.5, channels=("x", "y", "z")): [bytes(range(12))],
    RawSamples(1e3, channels=("x",)): [np.arange(5, dtype="<f4").tobytes()],
    InfluxLine(): [LINES],
    InfluxLine(machine_tag="machine", site_tag="axis"): [LINES],
    SparkplugB(): [sparkplug()],
    SparkplugB(sample_rate=100.0): [sparkplug()],
    SparkplugB(sample_rate="hz"): [sparkplug()],
}


def name_of(codec: Codec | StatefulCodec) -> str:
    return type(codec).__name__


def reader(codec: Codec | StatefulCodec) -> Read:
    """How a codec reads one payload after the other; a stateful one is told the births first."""
    if isinstance(codec, Codec):
        return codec.decode
    session = codec.session()
    session.decode("spBv1.0/g/NBIRTH/e", sparkplug())
    kinds = itertools.cycle(("NDATA/e", "NBIRTH/e", "DDATA/e/d", "DBIRTH/e/d"))
    return lambda payload: session.decode(f"spBv1.0/g/{next(kinds)}", payload)


@pytest.mark.parametrize("codec", PAYLOADS, ids=name_of)
def test_hostile_bytes_give_samples_or_a_codec_error(codec: Codec | StatefulCodec) -> None:
    share = math.ceil(CASES / len(PAYLOADS))
    cases = 0

    @settings(
        max_examples=share // MUTANTS + 1, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(noise=st.binary(max_size=64), seed=st.integers(0, 2**64 - 1))
    def attack(noise: bytes, seed: int) -> None:
        nonlocal cases
        read, again = reader(codec), reader(codec)
        for i, payload in enumerate(mutants(PAYLOADS[codec], noise, random.Random(seed))):
            fault, samples = outcome(read, payload)
            check(samples, payload)
            for sample in samples:
                assert type(sample.quality) is int
                assert 0 <= sample.quality < 2 * max(Quality)
                assert sample.unit is None or (isinstance(sample.unit, str) and sample.unit)
            assert len(fault) <= LONGEST_ERROR
            assert repr((fault, samples)) == repr(outcome(again, bytes(bytearray(payload)))), payload
            if i % TRACED == 0:
                assert allocated(reader(codec), payload) <= FACTOR * len(payload) + CONSTANT, payload
            cases += 1

    attack()
    assert cases >= share


@pytest.mark.parametrize("codec", PAYLOADS, ids=name_of)
def test_what_is_attacked_is_good(codec: Codec | StatefulCodec) -> None:
    read = reader(codec)
    for payload in PAYLOADS[codec]:
        samples = read(payload)
        assert len(samples) >= 1
        check(samples, payload)


@pytest.mark.parametrize("codec", [SparkplugB(), SparkplugB(sample_rate="hz")], ids=name_of)
def test_what_a_session_learns_from_hostile_births_goes_into_another_one(codec: SparkplugB) -> None:
    for payload in itertools.chain.from_iterable(
        mutants([sparkplug()], b"\x00", random.Random(seed)) for seed in range(20)
    ):
        session, other = codec.session(), codec.session()
        outcome(lambda payload, session=session: session.decode("spBv1.0/g/NBIRTH/e", payload), payload)
        state = session.state()
        other.restore(state)
        assert other.state() == state


@pytest.mark.parametrize("encoding", ["base64", "hex"])
def test_hostile_text_holds_samples_or_is_a_codec_error(encoding: str) -> None:
    chance = random.Random(3)
    binary = Binary(encoding, "int16", channels=("x", "y"))  # type: ignore[arg-type]
    good = ["AQACAAMABAA=", "0100 0200 0300 0400"]
    for _ in range(5_000):
        text = list(chance.choice(good) * chance.randrange(3))
        for _ in range(chance.randrange(3)):
            here = chance.randrange(len(text) + 1)
            text[here : here + chance.randrange(3)] = chance.choice(
                ["", "=", "é", "\ud800", "\0", "-_", "0x", "{"]
            )
        try:
            blocks = binary.read("".join(text), "x")
        except CodecError:
            continue
        assert [name for name, _ in blocks] == ["x", "y"]
        assert len({len(values) for _, values in blocks} - {0}) == 1


def metrics(*each: dict[str, Any]) -> bytes:
    payload = payload_type()(timestamp=1, seq=0)
    for one in each:
        payload.metrics.add(**one)
    return bytes(payload.SerializeToString())


def nested(depth: int) -> dict[str, Any]:
    """Templates within one another; protobuf itself allows 100 messages."""
    inner = metric("v", 9, float_value=1.0)
    for _ in range(depth):
        inner = metric("t", 19, template_value={"metrics": [inner]})
    return inner


CELLS = [{"elements": [{"float_value": 1.0}]}] * 20_000
AMPLIFIERS = {
    "SenML empty": (SenML(), b"[" + b"{}," * 16383 + b"{}]"),
    "SenML values": (SenML(), b"[" + b'{"v":1},' * 8191 + b"{}]"),
    "SenML names": (SenML(), b'[{"bn":"' + b"a" * 30_000 + b'"},' + b'{"n":"b","v":1},' * 3_000 + b"{}]"),
    "SenML bad": (SenML(), b"[" + b"0," * 16383 + b"0]"),
    "SenML CBOR": (SenML(), b"\x99\x3f\xff" + b"\xa1\x02\x00" * 16383),
    "SenML CBOR arrays": (SenML(), b"\x99\x3f\xff" + b"\x80" * 16383),
    "CBOR keys": (
        SenML(),
        b"\x81\xb9\x3f\xff" + b"".join(b"\x19%c%c\x00" % (i >> 8, i & 255) for i in range(16383)),
    ),
    "series": (InfluxLine(), b"m" * 16383 + b" " + b"a=1," * 4_000 + b"a=1"),
    "tags": (InfluxLine(), b"m" + b",b=c" * 20_000 + b" " + b"a=1," * 4_000 + b"a=1"),
    "cells": (
        SparkplugB(),
        metrics(metric("d", 16, dataset_value={"columns": ["a"], "types": [9], "rows": CELLS})),
    ),
    "templates": (SparkplugB(), metrics(*[nested(16)] * 200)),
    "bytes": (SparkplugB(sample_rate=1.0), metrics(metric("a", 22, bytes_value=bytes(60_000)))),
    "bits": (SparkplugB(sample_rate=1.0), metrics(metric("a", 32, bytes_value=b"\xe0\x93\x04\0" + bytes(37_500)))),
    "properties": (
        SparkplugB(),
        metrics(metric("a", 9, properties={"keys": [""] * 9_999, "values": [{}] * 9_999})),
    ),
}


@pytest.mark.parametrize(("codec", "payload"), AMPLIFIERS.values(), ids=AMPLIFIERS)
def test_small_bytes_do_not_become_much_memory(codec: Codec | StatefulCodec, payload: bytes) -> None:
    check(outcome(reader(codec), payload)[1], payload)
    peak = allocated(reader(codec), payload)
    assert peak <= FACTOR * len(payload) + CONSTANT, f"{peak / len(payload):.0f} bytes per byte"


def test_bits_without_a_sample_rate_become_so_many_channels_and_no_more() -> None:
    payload = metrics(*[metric("a", 32, bytes_value=b"\0\1\0\0" + bytes(32))] * 10_000)
    samples = reader(SparkplugB())(payload)
    assert len(samples) == MOST_IN_MESSAGE


def test_templates_beyond_protobufs_own_depth_are_no_payload() -> None:
    with pytest.raises(CodecError, match="expected a Sparkplug B payload"):
        reader(SparkplugB())(metrics(nested(60)))
