"""Codecs under hostile bytes: whatever comes, samples that are well formed or a CodecError, and bounded memory.

Each example of hypothesis makes `MUTANTS` payloads of a codec's good ones; the codecs read `CASES` of them in all.
"""

from __future__ import annotations

import itertools
import math
import random
import re
import tracemalloc
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import cbor2
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fml_lightning.connectors.codecs import (
    CBOR,
    Binary,
    Codec,
    CodecError,
    InfluxLine,
    JSONBatch,
    JSONObject,
    JSONScalar,
    MessagePack,
    RawSamples,
    Sample,
    SparkplugB,
    StatefulCodec,
    WaveformBlock,
    checked,
    encode_waveform,
)
from fml_lightning.connectors.codecs.codec import LONGEST_ERROR
from fml_lightning.connectors.codecs.numbers import FLOAT32_MAX
from fml_lightning.connectors.codecs.sparkplug_payload import payload_type
from fml_lightning.connectors.codecs.times import EARLIEST, LATEST

CASES = 100_000
MUTANTS = 100
TRACED = 10
"""One payload in so many is read once more with its allocations measured: tracemalloc takes most of the time."""
FACTOR, CONSTANT = 128, 128 * 1024
"""Bytes that reading may allocate at its peak: `FACTOR` per byte of payload, and `CONSTANT` (cbor2 reads strings
in steps of 64 KiB). An empty array is one byte in MessagePack, and 64 in Python. Of protobuf, only what Python
allocates is measured: its own memory is not seen by tracemalloc."""

Read = Callable[[bytes], Sequence[Sample]]

RECORD = {
    "time": 1714564800000,
    "value": 21.5,
    "hz": 100.0,
    "m": "press_07",
    "rpm": 1500,
    "x": {"y": [1, None, "z"]},
}
BLOCK = {"time": 1714564800000, "value": [1, 2.5, -3e8], "hz": 100, "m": 7}
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
NESTED = {
    "dev": {"id": "L1.Pump", "site": "Ulm", "Temp": 40},
    "up": {"rms": 1.5, "t": 1714564800000, "unit": "g", "q": True, "hz": "100", "raw": "AQACAAMABAA="},
    "vib": [{"x": 1, "y": "2.5", "t": 1714564800000}, {"x": None, "y": True, "t": 5}, {"x": -3e8, "s": "on"}],
    "value": {"samples": [1, "2", None], "stamps": [1, 2, 3]},
    "Time": "2024-10-27T02:30:00",
}
PATHS: dict[str, dict[str, Any]] = {
    "one": {"value": "up.rms", "time": "up.t", "unit": "up.unit", "quality": "up.q", "name": "dev.id"},
    "items": {"value": "vib[*].x", "time": "vib[*].t", "machine": "dev.id", "site": "dev.site"},
    "block": {"value": "vib[*].*", "time": "vib[*].t", "sample_rate": "up.hz", "states": {"on": 1.0}},
    "any": {"value": "*.*", "time": "Time", "time_unit": "iso", "time_zone": "Europe/Berlin", "ignore": ("up.t",)},
    "keys": {"value": "{machine}.{channel}", "time": None, "states": {"on": 1.0, "g": 2.0}},
    "named": {"value": {"a": "up.rms", "b": "vib[-1].y", "c": "vib[*].*"}, "time": "up.t"},
    "series": {"value": "value.samples", "time": "value.stamps", "quality": "up.q", "good": (1, "ok")},
    "packed": {
        "value": "up.raw",
        "time": "up.t",
        "sample_rate": "up.hz",
        "binary": Binary("base64", "int16", "big", 0.5, channels=("x", "y")),
    },
    "packed any": {"value": "*.*", "time": None, "sample_rate": 10.0, "binary": Binary("hex", "uint8")},
}
"""Paths of every kind, and every role and field, each with something in `NESTED`."""
INTEGERS = {0: 1714564800000, 1: {2: 1.5, -3: [1, 2]}, "raw": b"\x01\x00\x02\x00"}
TYPED = {"v": cbor2.CBORTag(69, b"\x01\x00\x02\x00"), "t": cbor2.CBORTag(79, b"\x01" + bytes(15))}
ISO = {"time": "2024-05-01T12:00:00Z", "value": -1, "rpm": 1e3, "x": "é"}


def sparkplug(kind: str) -> bytes:
    payload = payload_type()(timestamp=1714564800000, seq=0)
    if kind == "BIRTH":
        payload.metrics.add(name="bdSeq", datatype=8, long_value=4)
        payload.metrics.add(name="load", alias=1, datatype=9, float_value=0.5)
        payload.metrics.add(name="rpm", alias=2, datatype=3, int_value=1500, timestamp=1714564800000)
        payload.metrics.add(name="on", alias=3, datatype=11, boolean_value=True)
    else:
        payload.metrics.add(alias=1, float_value=0.75)
        payload.metrics.add(alias=2, int_value=2**32 - 1)
        payload.metrics.add(name="text", datatype=12, string_value="é")
    return bytes(payload.SerializeToString())


LINES = (
    b"motor,machine=press_07,site=Ulm value=61.5,running=true,count=3i,total=4u 1714564800000000000",
    b'my\\ motor,machine=a\\,b note="a \\" b",x\\=y=-1e-3\n# comment\n\nm f=1',
)

PAYLOADS: dict[Codec | StatefulCodec, Sequence[bytes]] = {
    JSONScalar(): [b"21.5", b" -3e7 "],
    JSONObject(machine="m", sample_rate="hz"): [msgspec.json.encode(one) for one in (RECORD, BLOCK)],
    JSONObject(value="*", machine="m", sample_rate="hz"): [msgspec.json.encode(one) for one in (RECORD, BLOCK)],
    JSONObject(value=("value", "rpm"), time_unit="iso"): [msgspec.json.encode(ISO)],
    JSONObject(time_unit="s"): [b'{"time": 1714564800.25, "value": 1}'],
    JSONBatch(machine="m", sample_rate="hz"): [
        msgspec.json.encode([RECORD, BLOCK]),
        msgspec.json.encode([RECORD] * 3),
    ],
    MessagePack(machine="m", sample_rate="hz"): [msgspec.msgpack.encode(one) for one in (RECORD, BLOCK)],
    MessagePack(value="*", time_unit="iso"): [msgspec.msgpack.encode(one) for one in (ISO, ISO | {"time": NOON})],
    CBOR(machine="m", sample_rate="hz"): [cbor2.dumps(one) for one in (RECORD, BLOCK)],
    CBOR(value="*", time_unit="iso"): [cbor2.dumps(one) for one in (ISO, ISO | {"time": NOON})],
    JSONScalar({"on": 1.0}): [b"on", b'"2.5"', b"\xef\xbb\xbf true\0"],
    **{JSONObject(**options): [msgspec.json.encode(NESTED)] for options in PATHS.values()},
    **{MessagePack(**options): [msgspec.msgpack.encode(NESTED)] for options in PATHS.values()},
    **{CBOR(**options): [cbor2.dumps(NESTED)] for options in PATHS.values()},
    JSONBatch(**PATHS["any"]): [msgspec.json.encode([NESTED, NESTED])],
    CBOR(value="1.*", time="0", sample_rate=10.0): [cbor2.dumps(INTEGERS)],
    CBOR(value="v", time="t"): [cbor2.dumps(TYPED)],
    CBOR(value="v[*]", time=None, sample_rate=10.0): [cbor2.dumps(TYPED)],
    MessagePack(value="1.*", time="0", sample_rate=10.0): [msgspec.msgpack.encode(INTEGERS)],
    MessagePack(value="raw", time="0", sample_rate=10.0, binary=Binary("none", "int16")): [
        msgspec.msgpack.encode(INTEGERS)
    ],
    WaveformBlock(): [
        encode_waveform([1.0, 2.0, 3.0], 1e3, 1_714_564_800_000_000),
        encode_waveform([1.0, -2.0], 1e3, None, "int16", 0.5),
    ],
    RawSamples(1e3): [np.arange(5, dtype="<f4").tobytes()],
    RawSamples(1e3, "float64", "big", scale=1e30): [np.arange(5, dtype=">f8").tobytes()],
    InfluxLine(): LINES,
    InfluxLine(machine_tag="machine", site_tag="site"): LINES,
    SparkplugB(): [sparkplug("DATA"), sparkplug("BIRTH")],
}

TEXT = (JSONScalar, JSONObject, InfluxLine)
"""Codecs whose format cannot say NaN or infinity: only samples among others are NaN, where there is no number."""

LISTS = [JSONObject(**options) for options in (PATHS["series"], PATHS["named"])]
"""Codecs of text that read scalars from lists, of which one may be NaN."""

NUMBER = re.compile(rb"[0-9][0-9.eE+-]*")
NUMBERS = (
    b"0",
    b"-1",
    b"1.5",
    b"1e308",
    b"1e999",
    b"-1e39",
    b"1e-400",
    b"9" * 25,
    b"9" * 400,
    b"9" * 5000,
    b"true",
)

TOKENS = (
    *(b'"', b"\\", b"[", b"{", b"}]", b",", b"=", b" ", b"\n", b"null", b"NaN", b"-Infinity"),
    *(b"nan", b"-inf", b'"nan"', b'"on"', b'"12.5"', b"[[]]", b'{"":0}', b"true"),
    *(b"\xef\xbb\xbf", b"\x00", b"\xff", b"\xc3", b"\xed\xa0\x80", b'"\\ud800"', b"[" * 2000, b'{"value":' * 500),
    *(b"\x7f\xff\xff\xff", b"\xff" * 4, b"\xff" * 8, b"\x80" * 12, b"\xff\xff\xff\xff\x0f"),
    # MessagePack: declared lengths, a timestamp, nesting
    *(b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff\xff", b"\xd6\xff", b"\x91" * 2000),
    # CBOR: declared and indefinite lengths, big integers, a float64 beyond float32, tags
    *(b"\x9b" + b"\xff" * 8, b"\xbb" + b"\xff" * 8, b"\x7b\x00\x00\x00\x00\xff\xff\xff\xff", b"\x9f", b"\xbf"),
    *(b"\xc2\x58\xff" + b"\xff" * 255, b"\xc2\x59\x0f\xff" + b"\xff" * 4095, b"\xfb\x7f\xef" + b"\xff" * 6),
    *(bytes([0xC0 + tag]) for tag in (0, 1, 2, 3, 4, 5)),
    *(bytes([0xD8, tag]) for tag in (40, 64, 65, 69, 72, 79, 83, 86, 25, 28, 29, 30, 35, 36, 37)),
    *(
        b"\xd8\x1c\x81\xd8\x1d\x00",
        b"\xd9\x01\x00",
        b"\xd9\x01\x02",
        b"\xd9\x01\x04",
        b"\xd9\x03\xec",
        b"\xd9\xd9\xf7",
    ),
    # Sparkplug: empty metrics, a declared length, groups, a sequence number, compression
    *(b"\x12\x00" * 50, b"\x12\xff\xff\xff\xff\x0f", b"\x0b" * 200, b"\x18\x80\x80\x04"),
    b"\x22\x12SPBV1.0_COMPRESSED",
)


def mutants(payloads: Sequence[bytes], noise: bytes, chance: random.Random) -> list[bytes]:
    """Good payloads with bits flipped, numbers changed, cut, spliced, repeated, and tokens and `noise` put in."""
    return [mutant(payloads, noise, chance) for _ in range(MUTANTS)]


def mutant(payloads: Sequence[bytes], noise: bytes, chance: random.Random) -> bytes:
    payload = bytearray(chance.choice(payloads))
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        here = chance.randrange(len(payload) + 1)
        there = min(len(payload), here + chance.randrange(12))
        kind = chance.randrange(10)
        numbers = list(NUMBER.finditer(payload)) if kind == 9 else []
        if numbers:
            payload[slice(*chance.choice(numbers).span())] = chance.choice(NUMBERS)
        elif kind == 8 and b"value" in payload:
            after = payload.index(b"value") + 5
            payload[after : after + chance.randrange(10)] = chance.choice(TOKENS)
        elif kind == 0 and payload:
            payload[here % len(payload)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del payload[here:]
        elif kind == 2:
            payload[here:there] = chance.choice(TOKENS)
        elif kind == 3:
            other = chance.choice(payloads)
            payload[here:there] = other[chance.randrange(len(other)) :]
        elif kind == 4:
            payload[here:there] = payload[here:there] * chance.randrange(20)
        elif kind == 5:
            payload[here:there] = noise
        elif kind == 6:
            payload[here:there] = chance.randbytes(there - here)
        else:
            payload[:] = noise + chance.randbytes(chance.randrange(40))
    return bytes(payload)


def reader(codec: Codec | StatefulCodec) -> Read:
    """How a codec reads one payload after the other; a stateful one is told the births first."""
    if isinstance(codec, Codec):
        return codec.decode
    session = codec.session()
    session.decode("spBv1.0/g/NBIRTH/e", sparkplug("BIRTH"))
    kinds = itertools.cycle(("NDATA/e", "NBIRTH/e", "DDATA/e/d", "DBIRTH/e/d", "NDEATH/e", "DDEATH/e/d"))
    return lambda payload: session.decode(f"spBv1.0/g/{next(kinds)}", payload)


def outcome(read: Read, payload: bytes) -> tuple[str, Sequence[Sample]]:
    """The error, if there is one, and the samples."""
    try:
        return "", read(payload)
    except CodecError as error:
        return str(error), error.samples


def owner(values: np.ndarray[Any, Any]) -> object:
    """What holds the memory of an array."""
    base: Any = values
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    return base


def check(samples: Sequence[Sample], payload: bytes) -> None:
    """Samples are what the contract says, and views lie within the payload, or in what was decoded of it."""
    assert repr(list(checked.checked(lambda _: samples)(payload))) == repr(list(samples))
    for sample in samples:
        if isinstance(sample.values, np.ndarray):
            assert sample.values.dtype == np.float32
            assert sample.values.ndim == 1
            assert sample.values.size
            assert sample.sample_rate is not None
            assert 0 < sample.sample_rate < math.inf
            if not sample.values.flags.owndata and owner(sample.values) is payload:
                start, end = np.lib.array_utils.byte_bounds(sample.values)
                first, last = np.lib.array_utils.byte_bounds(np.frombuffer(payload, np.uint8))
                assert first <= start < end <= last
        else:
            assert type(sample.values) is float
            assert abs(sample.values) <= FLOAT32_MAX or not math.isfinite(sample.values)
            assert sample.sample_rate is None
        assert sample.time is None or (type(sample.time) is int and EARLIEST <= sample.time < LATEST)
        assert all(name is None or (isinstance(name, str) and name) for name in (sample.machine, sample.site))
        assert sample.channel is None or isinstance(sample.channel, str)


def allocated(read: Read, payload: bytes) -> int:
    """Bytes allocated at the peak of reading a payload."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        outcome(read, payload)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("codec", PAYLOADS, ids=lambda codec: type(codec).__name__)
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
            if isinstance(codec, TEXT) and getattr(codec, "binary", None) is None:
                assert not any(np.isinf(sample.values).any() for sample in samples)
                assert codec in LISTS or not any(np.isnan(s.values) for s in samples if type(s.values) is float)
            assert len(fault) <= LONGEST_ERROR
            # Elsewhere in memory other bytes follow: had they been read, the outcome would differ.
            assert repr((fault, samples)) == repr(outcome(again, bytes(bytearray(payload)))), payload
            if i % TRACED == 0:
                assert allocated(reader(codec), payload) <= FACTOR * len(payload) + CONSTANT, payload
            cases += 1

    attack()
    assert cases >= share


@pytest.mark.parametrize("codec", PAYLOADS, ids=lambda codec: type(codec).__name__)
def test_what_is_attacked_is_good(codec: Codec | StatefulCodec) -> None:
    read = reader(codec)
    for payload in PAYLOADS[codec]:
        samples = read(payload)
        assert len(samples) >= 1
        check(samples, payload)


AMPLIFIERS = {
    "empty arrays": (MessagePack(), b"\x81\xa5value\xdc\x3f\xff" + b"\x90" * 16383),
    "empty maps": (MessagePack(value="*"), b"\x81\xa5value\xdc\x3f\xff" + b"\x80" * 16383),
    "CBOR empty arrays": (CBOR(), b"\xa1\x65value\x99\x3f\xff" + b"\x80" * 16383),
    "CBOR empty maps": (CBOR(), b"\xa1\x65value\x99\x3f\xff" + b"\xa0" * 16383),
    "CBOR numbers": (CBOR(sample_rate=1.0), b"\xa1\x65value\x99\x3f\xff" + b"\x00" * 16383),
    "CBOR big floats": (CBOR(sample_rate=1.0), b"\xa1\x65value\x99\x3f\xff" + b"\xf9\x3e\x01" * 16383),
    "CBOR channels": (
        CBOR(value="*"),
        b"\xb9\x40\x00" + b"".join(b"\x42%c%c\x00" % (i >> 8, i & 255) for i in range(16384)),
    ),
    "JSON channels": (JSONObject(value="*"), msgspec.json.encode({str(i): 1e38 for i in range(20000)})),
    "JSON numbers": (JSONObject(sample_rate=1.0), b'{"value":[' + b"0," * 16383 + b"0]}"),
    "JSON bad objects": (JSONBatch(), b"[" + b"{}," * 16383 + b"{}]"),
    "JSON bad members": (JSONBatch(), b"[" + b"0," * 16383 + b"0]"),
    "JSON bad and broken": (JSONBatch(), b"[" + b"0," * 16383),
    "JSON short objects": (JSONBatch(value="v"), b"[" + b'{"v":1},' * 20000 + b"0]"),
    "items": (MessagePack(value="value[*]"), b"\x81\xa5value\xdc\x3f\xff" + b"\x01" * 16383),
    "items of items": (JSONObject(value="[*][*]"), b"[" + b"[1]," * 16383 + b"[1]]"),
    "items that are none": (MessagePack(value="value[*].x"), b"\x81\xa5value\xdc\x3f\xff" + b"\x01" * 16383),
    "items in a block": (
        MessagePack(value="value[*]", sample_rate=1.0),
        b"\x81\xa5value\xdc\x3f\xff" + b"\x01" * 16383,
    ),
    "names of two keys": (
        JSONObject(value="*.*"),
        msgspec.json.encode({"outer": {str(i): 1e38 for i in range(20000)}}),
    ),
    "a long key": (JSONObject(value="*.*"), msgspec.json.encode({"k" * 9999: {str(i): 1 for i in range(9999)}})),
    "a long key over text": (
        JSONObject(value="*.*"),
        msgspec.json.encode({"k" * 9999: {str(i): "x" for i in range(9999)}}),
    ),
    "a long key over no objects": (
        JSONObject(value="*.*.*"),
        msgspec.json.encode({"k" * 9999: {str(i): "x" for i in range(9999)}}),
    ),
    "typed array": (CBOR(value="v[*]"), b"\xa1\x61v\xd8\x40\x59\x3f\xff" + b"\x01" * 16383),
    "packed samples": (
        JSONObject(sample_rate=1.0, binary=Binary("base64", "int8")),
        b'{"value": "' + b"AAAA" * 5000 + b'"}',
    ),
    "not a number": (JSONObject(value="value[*]"), b'{"value": [' + b"nan," * 10000 + b"0]}"),
    "lines": (InfluxLine(), b"a b=1\n" * 20000),
    "bad lines": (InfluxLine(), b"a\n" * 16383),
    "fields": (InfluxLine(), b"a " + b"b=1," * 20000 + b"b=1"),
    "tags": (InfluxLine(machine_tag="m"), b"a" + b",b=c" * 20000 + b" b=1"),
    "escapes": (InfluxLine(), b"a" + b"\\," * 16383 + b" b=1"),
    "metrics": (SparkplugB(), b"\x18\x01" + b"\x12\x00" * 16383),
    "groups": (SparkplugB(), b"\x18\x01" + b"\x0b" * 16383),
    "int8": (RawSamples(1.0, "int8", scale=2.0), b"\x01" * 16383),
}


@pytest.mark.parametrize(("codec", "payload"), AMPLIFIERS.values(), ids=AMPLIFIERS)
def test_small_bytes_do_not_become_much_memory(codec: Codec | StatefulCodec, payload: bytes) -> None:
    check(outcome(reader(codec), payload)[1], payload)
    peak = allocated(reader(codec), payload)
    assert peak <= FACTOR * len(payload) + CONSTANT, f"{peak / len(payload):.0f} bytes per byte"
