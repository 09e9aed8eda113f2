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
from fml_lightning.connectors.spool.contents import read_contents
from fml_lightning.connectors.spool.dead_letters import DeadLetter, DeadLetters
from fml_lightning.connectors.spool.source import TOPICS

NOON = 1_714_564_800_000_000
"""2024-05-01, 12:00 UTC, µs since 1970."""
SECOND = 1_000_000


def spool(folder: Path, messages: list[Message], batches: int = 1) -> Path:
    """A spool with these messages, in so many segments."""
    vibration = Topic("plant/{site}/{machine}/vibration", WaveformBlock())
    others = Topic("plant/{site}/{machine}/{channel}", JSONObject("*", time_unit="ms"))
    with Spool(folder) as written:
        (folder / TOPICS).write_bytes(Topics((vibration, others), (LabelTopic(),)).dumps())
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
    assert rows == [("fan", "env/t", 3, 3, None), ("pump", "vibration", 4, 2000, 1000.0)]
    assert contents.streams["implausible_time"].to_list() == [0, 1]
    assert contents.streams["begin"].to_list() == [datetime(2024, 5, 1, 12, tzinfo=UTC)] * 2  # not 1970
    assert contents.labels == {("n", "fan", "worn"): 2}
    assert contents.dead.total() == 1
    assert {name: count for (name, _), count in contents.skipped.items()} == {"a.b": 3, "on": 3}


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
    odd = [Message("plant/n/fan/env", b'{"t": 1, "time": "%d"}' % i, NOON) for i in range(300)]
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
        (tmp_path / TOPICS).write_bytes(strict.dumps())
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
