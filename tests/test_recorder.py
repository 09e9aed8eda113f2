"""What the recorder counts and says of what comes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from probes import LONG, NOW, SECOND, said

from fml_lightning.connectors import (
    CBOR,
    Codec,
    Decoder,
    InfluxLine,
    JSONBatch,
    JSONObject,
    JSONScalar,
    Message,
    PartlyRead,
    Sample,
    Spool,
    Topic,
    Topics,
    WaveformBlock,
    encode_waveform,
)
from fml_lightning.connectors.spool import recorder as module
from fml_lightning.connectors.spool.inbox import Inbox
from fml_lightning.connectors.spool.recorder import OTHERS, Recorder

EVERY = JSONObject(value="*")


def record(folder: Path, codec: Codec, *payloads: bytes, group: int = 10, retained: bool = False) -> Recorder:
    """Record a message of each payload, a second apart."""
    with Spool(folder) as spool:
        inbox = Inbox(1 << 30)
        decoder = Decoder(Topics((Topic(codec=codec),)))
        recorder = Recorder(inbox, spool, decoder, lambda _: None, lambda *_: True, group, 0.01)
        for i, payload in enumerate(payloads):
            inbox.put(Message("plant/n/m/x", payload, NOW + i * SECOND, retained))
        inbox.close()
        recorder.start()
        assert recorder.finish(LONG)
    assert recorder.crashed is None
    return recorder


# What is left out -------------------------------------------------------------------------------------------


def test_nested_members_are_named_and_nothing_that_arrives_can_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    payload = json.dumps(
        {"MessageId": "a", "Payload": {"rms": {"Value": 0.5}, "peak": 1.5}, "ok": [True]}
    ).encode()
    recorder = record(tmp_path, EVERY, *[payload] * 30)
    assert (recorder.committed, recorder.buried, len(recorder.machines)) == (30, 0, 0)
    assert recorder.skipped == {"MessageId": 30, "Payload.rms": 30, "Payload.peak": 30, "ok": 30}
    assert recorder.unreadable == (
        "the members MessageId are text; the members Payload.rms, Payload.peak are within objects; the members ok"
        " are arrays without a sample rate;"
        " give their paths, states or sample rate in the topic's codec (docs/recording.md)"
    )
    (logged,) = [line for line in caplog.messages if "left out" in line]
    assert "MessageId (text), Payload.rms (within objects), Payload.peak (within objects)" in logged
    assert "ok (arrays without a sample rate)" in logged


def test_one_reading_is_enough_to_be_readable(tmp_path: Path) -> None:
    recorder = record(tmp_path, EVERY, *[b'{"unit": "g"}'] * 20, b'{"unit": "g", "rms": 0.5}', b'{"unit": "g"}')
    assert recorder.unreadable is None
    assert recorder.skipped == {"unit": 22}


@pytest.mark.parametrize("payload", [b"", b"{}", b'{"time": 1, "x": null}'])
def test_who_says_nothing_hides_nothing(tmp_path: Path, payload: bytes) -> None:
    recorder = record(tmp_path, EVERY, *[payload] * 20)
    assert (recorder.unreadable, recorder.skipped) == (None, {})


@dataclass(frozen=True)
class Own(Codec):
    """A codec of the user's own."""

    def decode(self, payload: bytes) -> Sequence[Sample]:
        return PartlyRead([Sample(1.0)], {"rest": "bits"})


@pytest.mark.parametrize(
    ("codec", "payload", "skipped"),
    [
        (EVERY, {"a": 1, "b": [1, 2], "c": {}, "d": False, "e": None, "time": 1}, {"b", "c"}),
        (JSONObject(value="*", sample_rate=10.0), {"a": 1, "b": [1, 2], "c": "x"}, {"c"}),
        (JSONObject(value=("a", "b")), {"a": 1, "c": {"d": 1}, "e": "x"}, set()),
        (JSONObject(value="a"), {"a": 1, "c": {"d": 1}, "e": "x"}, set()),
        (JSONBatch(value="*"), [{"a": 1, "b": "x"}, {"c": {"d": 1}}, {"a": 2}], {"b", "c.d"}),
        (JSONBatch(value="*"), [{"a": 1, "b": "x"}, 5], {"b"}),
        (
            CBOR(value="*"),
            bytes.fromhex("a3 6161 01 6162 41ff 4163 02"),
            {"b", "bytes"},
        ),  # a: 1, b: h'ff', h'63': 2
        (InfluxLine(), b'motor,m=a t=1,state="on"\nfan mode="x"', {"motor,m=a/state", "fan/mode"}),
        (Own(), b"", {"rest"}),
    ],
)
def test_what_each_codec_leaves_out(tmp_path: Path, codec: Codec, payload: object, skipped: set[str]) -> None:
    said = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    assert dict(record(tmp_path, codec, said).skipped) == dict.fromkeys(skipped, 1)


def test_only_so_many_names_are_counted_one_by_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    payloads = [json.dumps({f"{i}\x1b[2J" + "n" * 5_000: "x"}).encode() for i in range(module.MOST_NAMES + 50)]
    recorder = record(tmp_path, EVERY, *payloads)
    assert len(recorder.skipped) == module.MOST_NAMES + 1
    assert recorder.skipped[OTHERS] == 50
    assert max(map(len, recorder.skipped)) == module.LONGEST_NAME + len(r"\x1b") - 1
    assert "\x1b" not in "".join(recorder.skipped) + caplog.text + str(recorder.unreadable)
    assert len(str(recorder.unreadable)) < 1_000


def test_what_cannot_be_read_is_told_before_what_is_left_out(tmp_path: Path) -> None:
    recorder = record(tmp_path, EVERY, *[b'{"a": "x"}'] * 10, *[b"junk"] * 10)
    assert recorder.unreadable is not None
    assert recorder.unreadable.startswith("expected a JSON object")
    assert record(tmp_path / "b", JSONScalar(), *[b"junk"] * 9).unreadable is None


# What is doubtful -------------------------------------------------------------------------------------------


def test_doubtful_readings_are_counted_by_reason(tmp_path: Path) -> None:
    blocks = [
        encode_waveform([1, 2], 1.0, NOW),
        encode_waveform([2, 2], 1.0, NOW + 1),
        encode_waveform([math.nan, 2], 1.0, NOW + 2),
        encode_waveform([math.inf, 2], 1.0, 1),
        encode_waveform([math.inf, 2], 1.0, 1),  # repeated, and so not counted
        encode_waveform([1, 2], 1.0),
    ]
    recorder = record(tmp_path, WaveformBlock(), *blocks)
    assert recorder.doubtful == {"stuck": 1, "not_finite": 2, "implausible_time": 1, "late": 1}
    assert recorder.repeated == 1
    assert record(tmp_path / "b", JSONScalar(), b"1", retained=True).doubtful == {"retained": 1}


@pytest.mark.parametrize(
    ("unit", "divisor", "expected"),
    [
        ("ms", 1e6, "times are read as ms but look like s: set time_unit: s"),
        ("us", 1e6, "times are read as us but look like s: set time_unit: s"),
        ("us", 1e3, "times are read as us but look like ms: set time_unit: ms"),
        ("ns", 1e6, "times are read as ns but look like s: set time_unit: s"),
        ("ns", 1, "times are read as ns but look like us: set time_unit: us"),
    ],
)
def test_a_wrong_unit_is_recognized(tmp_path: Path, unit: str, divisor: float, expected: str) -> None:
    payloads = [json.dumps({"value": i, "time": int((NOW + i * SECOND) / divisor)}).encode() for i in range(40)]
    good = int((NOW + 40 * SECOND) * {"ms": 1e-3, "us": 1, "ns": 1e3}[unit])
    payloads[39] = json.dumps({"value": 1, "time": good}).encode()
    recorder = record(tmp_path, JSONObject(time_unit=unit), *payloads, group=7)  # type: ignore[arg-type]
    assert recorder.warning == f"39 of the last 40 readings (plant/n/m/x) have implausible times: {expected}"


def test_a_wrong_clock_is_recognized(tmp_path: Path) -> None:
    payloads = [said(i, i * SECOND) for i in range(41)]
    warning = record(tmp_path, JSONObject(), *payloads).warning
    assert warning is not None
    assert warning.startswith(
        "40 of the last 40 readings (plant/n/m/x) have implausible times: the device's clock is"
    )
    assert warning.endswith("at 1970-01-01 00:00 UTC, 19,844 days behind: set it")
    ahead = [said(i, NOW + 400 * 86_400 * SECOND) for i in range(41)]
    assert "at 2025-06-05 12:00 UTC, 399 days ahead" in str(record(tmp_path / "b", JSONObject(), *ahead).warning)


@dataclass(frozen=True)
class Seconds(Codec):
    """Takes seconds for microseconds."""

    def decode(self, payload: bytes) -> Sequence[Sample]:
        return [Sample(1.0, int(payload))]


def test_a_codec_of_the_users_own_may_be_wrong_by_a_factor(tmp_path: Path) -> None:
    warning = record(tmp_path, Seconds(), *[b"%d" % (NOW // SECOND + i) for i in range(40)]).warning
    assert "times are too small by a factor of 1,000,000: mend their unit in the codec" in str(warning)


@pytest.mark.parametrize("case", ["few", "half", "over", "untimed", "retained"])
def test_no_warning_without_most_of_many(tmp_path: Path, case: str) -> None:
    bad, good = [said(i, i) for i in range(40)], [said(i, NOW + i * SECOND) for i in range(40)]
    payloads = {
        "few": bad[:39],
        "half": bad[:20] + good[:20],
        "over": bad + good[:21],  # it was so, and is no more
        "untimed": [said(i, None) for i in range(40)] + bad[:39],
        "retained": bad,
    }[case]
    assert record(tmp_path, JSONObject(), *payloads, retained=case == "retained").warning is None
