"""What is in a spool: counted in full, and printed by `fml spool`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from fml_lightning.__main__ import run_command
from fml_lightning.connectors import (
    Codec,
    CodecError,
    JSONObject,
    JSONScalar,
    LabelTopic,
    Message,
    Sample,
    Spool,
    Topic,
    WaveformBlock,
    encode_waveform,
)
from fml_lightning.connectors.decoding.topics import Topics
from fml_lightning.connectors.spool import contents as contents_of_spools
from fml_lightning.connectors.spool import scalars as scalars_of_spools
from fml_lightning.connectors.spool.contents import read_contents
from fml_lightning.connectors.spool.dead_letters import DeadLetter, DeadLetters
from fml_lightning.connectors.spool.folder import write_topics
from fml_lightning.connectors.spool.scalars import last_scalars

NOON = 1_714_564_800_000_000
"""2024-05-01, 12:00 UTC, µs since 1970."""
SECOND = 1_000_000


def spool(folder: Path, messages: list[Message], batches: int = 1) -> Path:
    """A spool with these messages, in so many segments."""
    vibration = Topic("plant/{site}/{machine}/vibration", WaveformBlock())
    others = Topic("plant/{site}/{machine}/{channel}", JSONObject("*", time_unit="ms"))
    with Spool(folder) as written:
        write_topics(folder, Topics((vibration, others), (LabelTopic(),)))
        for part in range(batches):
            written.append(messages[part::batches])
    return folder


def messages() -> list[Message]:
    block = np.arange(500, dtype=np.float32)
    found = [
        Message("plant/n/pump/vibration", encode_waveform(block, 1000.0, time), NOON + i * SECOND)
        for i, time in enumerate([NOON, NOON, NOON + SECOND, NOON // 1000, NOON + SECOND // 2])
    ]  # the second is the first again, the fourth is of 1970, the fifth is late
    found += [
        Message("plant/n/fan/env", b'{"t": %d, "a": {"b": 1}, "on": true}' % i, NOON + i * SECOND)
        for i in range(3)
    ]
    found.append(Message("plant/n/fan/env", b"no json", NOON))
    found += [Message("plant/n/fan/events", b'{"time": "2024-05-01T12:00:00Z", "label": "worn"}', NOON)] * 2
    return found


@pytest.mark.parametrize("batches", [1, 3])
def test_everything_in_a_spool_is_counted(tmp_path: Path, batches: int) -> None:
    contents = read_contents(spool(tmp_path, messages(), batches))
    assert (contents.messages, contents.segments, contents.repeated) == (11, batches, 1)
    assert contents.bytes == sum(path.stat().st_size for path in (tmp_path / "segments").iterdir())
    rows = contents.streams.select("machine", "channel", "readings", "samples", "sample_rate").rows()
    assert rows == [
        ("fan", "env/on", 3, 3, None),
        ("fan", "env/t", 3, 3, None),
        ("pump", "vibration", 4, 2000, 1000.0),
    ]
    assert contents.streams["implausible_time"].to_list() == [0, 0, 1]
    assert contents.streams["begin"].to_list() == [datetime(2024, 5, 1, 12, tzinfo=UTC)] * 3  # not 1970
    assert contents.labels == {("n", "fan", "worn"): 2}
    assert contents.dead.total() == 1
    assert {name: count for (name, _), count in contents.skipped.items()} == {"a.b": 3}


def test_fml_spool_prints_a_table_with_what_is_doubtful_unread_and_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = spool(tmp_path / "s", messages())
    with Spool(folder) as written:
        written.note_lost_session(
            datetime(2024, 5, 1, tzinfo=UTC), datetime(2024, 5, 2, tzinfo=UTC), "it was away"
        )
    with Spool(folder, max_bytes=1) as written:
        written.append([Message("plant/n/fan/env", b'{"t": 2}', NOON + 9 * SECOND)])
        written.maintain()  # which deletes all but the last segment
    assert run_command("spool", [str(folder)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "session: 2024-05-01 00:00:00 to 2024-05-02 00:00:00: it was away" in printed.out
    assert (
        "deleted: 2024-05-01 12:00:00 to 2024-05-01 12:00:00, messages 0 to 10: more than max_bytes" in printed.out
    )
    assert "n/fan" in printed.out

    assert run_command("spool", [str(spool(tmp_path / "t", [*messages(), *escapes()]))]) == 0
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out
    for part in (
        "implausible time",
        "2 late",
        "1 repeated",
        "a.b",
        "n/fan: worn (2)",
        "1 messages",
        "1 x expected",
    ):
        assert part in printed.out, part


def escapes() -> list[Message]:
    return [Message("plant/n/\x1b[31mred/env", b'{"t": 1}', NOON)]


def test_fml_spool_shows_units(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Spool(tmp_path) as written:
        topics = (Topic("{site}/{machine}/flow", JSONScalar(), unit="l/min"), Topic(codec=JSONScalar()))
        write_topics(tmp_path, Topics(topics))
        written.append([Message("n/pump/flow", b"3", NOON), Message("plant/n/pump/rpm", b"1400", NOON)])
    assert run_command("spool", [str(tmp_path)]) == 0
    _, _, head, flow, rpm = (line.split() for line in capsys.readouterr().out.splitlines()[:5])
    assert head[:3] == ["machine", "channel", "unit"]
    assert (flow[:4], rpm[:4]) == (["n/pump", "flow", "l/min", "1"], ["n/pump", "rpm", "-", "1"])


def scalars(folder: Path) -> Path:
    """A spool with scalars of three machines, one of them with blocks too, and one with nothing else."""
    topics = (
        Topic("{site}/{machine}/wave", WaveformBlock()),
        Topic("{site}/{machine}/flow", JSONScalar(), unit="l/min"),
        Topic("{site}/{edge}/{device}/{channel}", JSONScalar(), machine="{edge}/{device}"),
        Topic("{site}/{machine}/{channel}", JSONScalar()),
    )
    wave = encode_waveform(np.ones(4), 10.0, NOON)
    found = [Message("n/pump/wave", wave, NOON), Message("n/only/wave", wave, NOON)]
    for i in range(25):
        at = NOON + i * 10 * SECOND
        found += [Message("n/pump/flow", b"%d.5" % i, at), Message("n/pump/temp", b"40", at + SECOND // 2)]
        found += [Message("n/edge/press/force", b"%d" % i, at)]
    found.append(Message("n/fan/flow", b"1e999", NOON))
    with Spool(folder) as written:
        write_topics(folder, Topics(topics))
        written.append(found[:40])
        written.append(found[40:])
    return folder


def test_fml_spool_prints_the_last_rows_of_a_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(scalars(tmp_path))
    assert run_command("spool", [folder, "--rows", "n/pump"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[:3] == ["n/pump: the last 20 rows", "", "time (UTC) flow [l/min] temp"]
    assert len(lines) == 3 + 20
    assert lines[3] == "2024-05-01 12:00:50.000 5.5 40"
    assert lines[-1] == "2024-05-01 12:04:00.000 24.5 40"
    # Those half a second apart are no longer one row.
    assert run_command("spool", [folder, "--rows", "n/pump", "--within", "0.4"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[-2:] == ["2024-05-01 12:04:00.000 24.5 -", "2024-05-01 12:04:00.500 - 40"]
    # A machine's name may have slashes.
    assert run_command("spool", [folder, "--rows", "n/edge/press"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["2024-05-01", "12:04:00.000", "24"]


@pytest.mark.parametrize(
    ("machine", "sentence"),
    [
        ("n/pmp", "it has no machine 'n/pmp'; near it: n/pump"),
        ("pump", "it has no machine 'pump'; near it: n/pump"),
        ("edge", "it has no machine 'edge'; near it: n/edge/press"),
        ("south/xyz", "it has no machine 'south/xyz'; it has n/edge/press, n/only, n/pump"),
        ("n/only", "n/only has no scalars, only blocks, which are no rows"),
    ],
)
def test_a_machine_that_has_no_rows_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], machine: str, sentence: str
) -> None:
    assert run_command("spool", [str(scalars(tmp_path)), "--rows", machine]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line


def test_only_the_last_scalars_of_a_machine_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = last_scalars(scalars(tmp_path), "n/pump")
    assert len(every) == 50
    monkeypatch.setattr(scalars_of_spools, "MOST_KEPT", 10)
    assert last_scalars(tmp_path, "n/pump").equals(every.tail(10))


def test_a_spool_that_is_empty_or_absent_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("spool", [str(spool(tmp_path / "empty", []))]) == 0
    assert "no messages yet" in capsys.readouterr().out
    assert run_command("spool", [str(tmp_path / "absent")]) == 1
    assert "no such folder" in capsys.readouterr().err
    assert run_command("spool", []) == 1
    assert "expected the folder of a spool, as in fml spool spools/north, got none" in capsys.readouterr().err


def test_the_most_frequent_is_printed_first_and_of_the_rest_only_how_many(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = [Message("plant/n/fan/env", b'{"t": 1, "time": "at %d"}' % i, NOON) for i in range(300)]
    frequent = [Message("plant/n/fan/env", b'{"t": 1, "often": "x"}', NOON)] * 5
    named = [Message("plant/n/fan/env", b'{"t": 1, "name%d": "x"}' % i, NOON) for i in range(300)]
    many = [Message("plant/n/fan/env", b"no json", NOON)] * 7
    folder = spool(tmp_path / "s", [*odd, *many, *named, *frequent])
    assert run_command("spool", [str(folder)]) == 0
    printed = capsys.readouterr().out.splitlines()
    dead = printed.index("could not be read, wholly or in part: 307 messages")
    assert printed[dead + 1].startswith("  7 x expected a JSON object")
    assert printed[dead + 201] == "  (101 more)"
    skipped = printed.index("in payloads, but not read:")
    assert printed[skipped + 1] == "  often (text): 5 messages"

    monkeypatch.setattr(contents_of_spools, "MOST_NAMES", 10)
    contents = read_contents(folder)
    assert (len(contents.dead), contents.dead.total()) == (11, 307)
    assert (len(contents.skipped), contents.skipped.total()) == (11, 305)


def test_a_packet_that_was_too_large_counts_once(tmp_path: Path) -> None:
    strict = Topics((Topic("w/{machine}", Strict(), "n", channel="x"),))
    with Spool(tmp_path) as written:
        write_topics(tmp_path, strict)
        written.append([Message("w/m", b"", NOON), Message("w/m", b"", NOON)])
    letters = DeadLetters(tmp_path / "dead_letters.jsonl")
    noon = datetime(2024, 5, 1, 12, tzinfo=UTC)
    letters.bury([DeadLetter(0, noon, "w/m", b"", "a packet of 20,000,000 bytes")])
    with (tmp_path / "dead_letters.jsonl").open("ab") as file:
        file.write(b'{"sequence":1,"received":"2024-05-01T12:00:00Z","topic":"w/m","error":"x","payload":"=a"}\n')
        file.write(b'{"sequence":1,"received":"2024-05-01T12:00:00Z","topic":"\xff","error":"x","payload":""}\n')
    assert read_contents(tmp_path).dead == {"a packet of 20,000,000 bytes": 1, "expected something": 1}


@dataclass(frozen=True)
class Strict(Codec):
    def decode(self, payload: bytes) -> Sequence[Sample]:
        raise CodecError("expected something")
