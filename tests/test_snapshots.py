"""What stateful codecs have learnt is kept beside the segments, and later messages are read with it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from probes import BIRTH, LONG, NOW, SECOND, spark

from fml_lightning.connectors import (
    CodecSession,
    Decoder,
    JSONScalar,
    LabelTopic,
    Message,
    Sample,
    SparkplugB,
    Spool,
    SpoolSource,
    StatefulCodec,
    Topic,
    Topics,
)
from fml_lightning.connectors.spool import segments, snapshots, spool
from fml_lightning.connectors.spool import source as source_module
from fml_lightning.connectors.spool.dead_letters import DeadLetters
from fml_lightning.connectors.spool.folder import STATES, write_topics
from fml_lightning.connectors.spool.inbox import Inbox
from fml_lightning.connectors.spool.recorder import Recorder
from fml_lightning.connectors.spool.snapshots import Snapshot

SPARKPLUG = Topics((Topic("spBv1.0/#", SparkplugB()),))
NODE = "spBv1.0/Ulm/{}/edge"
BORN = (NODE.format("NBIRTH"), spark(0, BIRTH))


def data(*numbers: int) -> list[tuple[str, bytes]]:
    """Messages that only a birth explains."""
    return [(NODE.format("NDATA"), spark(i % 256, {"alias": 1, "float_value": float(i)})) for i in numbers]


def record(folder: Path, *groups: Sequence[tuple[str, bytes]], topics: Topics = SPARKPLUG) -> Recorder:
    """Record each group as a segment, in a process of its own as it were; what was recorded before is there."""
    with Spool(folder) as opened:
        write_topics(folder, topics)
        inbox = Inbox(1 << 30)
        size = max(map(len, groups), default=1)
        acknowledged: list[Message] = []
        recorder = Recorder(inbox, opened, Decoder(topics), acknowledged.extend, lambda *_: True, size, 0.01)
        for link, group in enumerate(groups):
            inbox.note_link(link, True)
            for topic, payload in group:
                inbox.put(
                    Message(topic, payload, NOW + opened.next_sequence + SECOND * inbox.put_count, link=link)
                )
        inbox.close()
        recorder.start()
        assert recorder.finish(LONG)
        assert recorder.crashed is None
        assert len(acknowledged) == sum(map(len, groups))
    return recorder


def values(folder: Path, after: int = -1, topics: Topics | None = None) -> list[float]:
    batches = SpoolSource(folder, topics, after, speed=None).new()
    return [value for batch in batches for value in batch.readings["values"].list.first()]


def taken(folder: Path) -> list[int]:
    """The last message of each snapshot."""
    return [int(path.stem) for path in sorted((folder / STATES).glob("*.json"))]


def delete_segments(folder: Path, before: int) -> None:
    """As retention does."""
    for segment in segments.listing(folder / "segments"):
        if segment.last < before:
            segment.path.unlink()


def buried(folder: Path) -> list[int]:
    return [letter.sequence for letter in DeadLetters(folder / "dead_letters.jsonl")]


def test_messages_are_read_after_their_birth_was_deleted(tmp_path: Path) -> None:
    record(tmp_path, [BORN, *data(1, 2)], data(3, 4), data(5, 6))
    assert taken(tmp_path) == [2]
    delete_segments(tmp_path, 3)
    assert values(tmp_path) == [3, 4, 5, 6]
    assert values(tmp_path, after=4) == [5, 6]
    record(tmp_path, data(7))  # and recorded on
    delete_segments(tmp_path, 5)
    assert values(tmp_path) == [5, 6, 7]
    assert buried(tmp_path) == []


def test_a_reader_left_behind_by_retention_learns_what_it_missed(tmp_path: Path) -> None:
    record(tmp_path, [BORN, *data(1)])
    source = SpoolSource(tmp_path)
    assert [len(batch.readings) for batch in source.new()] == [2]
    other = {"name": "Pressure", "alias": 2, "datatype": 9, "float_value": 1.0}
    told = (NODE.format("NDATA"), spark(3, {"alias": 2, "float_value": 7.0}))
    record(tmp_path, [(BORN[0], spark(0, BIRTH, other))], data(2), [told])
    delete_segments(tmp_path, 3)
    assert [batch.readings["channel"].to_list() for batch in source.new()] == [["Temperature"], ["Pressure"]]


def test_of_every_oldest_segment_all_is_read(tmp_path: Path) -> None:
    """Births between groups, each with another name for the same alias, and every retention there may be."""
    groups = []
    for i in range(8):
        birth = {"name": f"Metric {i // 2}", "alias": 1, "datatype": 9, "float_value": 0.0}
        groups.append([(BORN[0], spark(0, birth)), *data(1, 2)] if i % 2 else data(3, 4, 5))
    record(tmp_path, [BORN], *groups)
    whole = [
        row
        for batch in SpoolSource(tmp_path).new()
        for row in batch.readings.select("sequence", "channel", "values").rows()
    ]
    for first in range(1, 25, 3):
        delete_segments(tmp_path, first)
        rows = [
            row
            for batch in SpoolSource(tmp_path).new()
            for row in batch.readings.select("sequence", "channel", "values").rows()
        ]
        assert rows == [row for row in whole if row[0] >= first]
    assert len(whole) == 24 + 1 + 4 - 4


def test_a_restart_long_after_the_birth_buries_nothing_good(tmp_path: Path) -> None:
    count = spool.REDELIVERY_WINDOW + 2_000
    record(tmp_path, [BORN], data(*range(1, 1_001)), data(*range(1_001, count)))
    recorder = record(tmp_path, data(count))
    assert (buried(tmp_path), recorder.buried) == ([], 0)
    assert recorder.decoder.requests(0.0) == []  # and asks for no birth
    bad = (NODE.format("NDATA"), spark((count + 1) % 256, {"alias": 9, "float_value": 1.0}))
    record(tmp_path, [bad])
    assert buried(tmp_path) == [count + 1]
    assert len(values(tmp_path)) == count  # the birth says 20 too, at the same time


def test_a_crash_before_the_snapshot_is_made_good_at_the_next_start(tmp_path: Path) -> None:
    """Killed between segment and snapshot, and then the segment with the birth is deleted."""
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import test_snapshots as t
t.snapshots.Snapshots.write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
t.record(Path({str(tmp_path)!r}), [t.BORN], t.data(1, 2))
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (taken(tmp_path), len(segments.listing(tmp_path / "segments"))) == ([], 1)
    record(tmp_path, data(1, 2))
    assert taken(tmp_path) == [0]
    delete_segments(tmp_path, 1)
    assert values(tmp_path) == [1, 2]


def test_what_a_crash_left_unburied_is_buried_though_a_codec_is_stateful(tmp_path: Path) -> None:
    bad = (NODE.format("NDATA"), spark(2, {"alias": 9, "float_value": 1.0}))
    record(tmp_path, [BORN, *data(1)], [bad])
    (tmp_path / "dead_letters.jsonl").unlink()
    record(tmp_path, data(3))
    assert buried(tmp_path) == [2]


def snapshot(sequence: int, states: list[bytes | None], topics: str | None = None, since: int = 0) -> bytes:
    digest = topics if topics is not None else snapshots.Snapshots(Path(), Decoder(SPARKPLUG)).topics
    return msgspec.json.encode(Snapshot(sequence, since, digest, states))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04cposix\nsystem\n.",
        b"[" * 100_000,
        b"{}",
        snapshot(4, [b"[]"]),  # not what its name says
        snapshot(5, []),
        snapshot(5, [None]),
        snapshot(5, [b"[" * 100_000]),
        snapshot(5, [b'[["Ulm", "edge", true, null, [[null, [[1, "", 9]]]]]]']),
        snapshot(5, [b'[["Ulm", "edge", true, null, [[null, [[1, "' + b"x" * 1_000 + b'", 9]]]]]]']),
        snapshot(5, [b'[["Ulm", "edge", 1, null, []]]']),
    ],
)
def test_a_strangers_snapshot_is_ignored_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(source_module, "WARM_UP", 0)
    record(tmp_path, [BORN, *data(1, 2)], data(3, 4, 5), data(6))
    (tmp_path / STATES / f"{5:018}.json").write_bytes(content)
    assert values(tmp_path, after=5) == [6]
    assert "it is no snapshot of this spool and is ignored" in caplog.text
    delete_segments(tmp_path, 3)
    assert values(tmp_path) == [3, 4, 5, 6]


@pytest.mark.parametrize("kind", ["other topics", "link", "pipe", "folder", "large", "name", "too young"])
def test_what_looks_like_a_snapshot_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    record(tmp_path, [BORN, *data(1, 2)], data(3, 4, 5))
    file = tmp_path / STATES / f"{3:018}.json"
    (tmp_path / "elsewhere").write_bytes(snapshot(3, [b"[]"]))
    if kind == "link":
        file.symlink_to(tmp_path / "elsewhere")
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "large":
        monkeypatch.setattr(snapshots, "LARGEST", 1_000)
        file.write_bytes(snapshot(3, [b"[]" + b" " * 1_000]))
    elif kind == "name":
        file.with_name("3.json").write_bytes(snapshot(3, [b"[]"]))
    elif kind == "too young":  # it has seen less than there is
        file.write_bytes(snapshot(3, [b"[]"], since=3))
    else:
        file.write_bytes(snapshot(3, [b"[]"], topics="another"))
    record(tmp_path, data(6))
    assert values(tmp_path) == [20, 1, 2, 3, 4, 5, 6]
    delete_segments(tmp_path, 3)
    assert values(tmp_path) == [3, 4, 5, 6]


def test_a_changed_configuration_uses_no_snapshot(tmp_path: Path) -> None:
    record(tmp_path, [BORN, *data(1, 2)], data(3))
    other = Topics((Topic("spBv1.0/#", SparkplugB(5.0)),))
    assert values(tmp_path, topics=other) == [20, 1, 2, 3]
    record(tmp_path, data(4), topics=other)
    kept = [msgspec.json.decode(path.read_bytes())["topics"] for path in (tmp_path / STATES).iterdir()]
    assert set(kept) == {snapshots.Snapshots(tmp_path, Decoder(other)).topics}
    delete_segments(tmp_path, 3)
    assert values(tmp_path) == [3, 4]


def test_an_old_spool_is_read_as_before_and_its_snapshots_count_once_they_tell_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Spool(tmp_path) as opened:
        write_topics(tmp_path, SPARKPLUG)
        for group in ([BORN, *data(1, 2)], data(3, 4, 5)):
            opened.append([Message(topic, payload, NOW) for topic, payload in group])
    monkeypatch.setattr("fml_lightning.connectors.spool.recorder.REDELIVERY_WINDOW", 3)
    record(tmp_path, data(6))  # begins with 3, and knows no birth
    assert buried(tmp_path) == [6]
    assert values(tmp_path) == [20, 1, 2, 3, 4, 5, 6]  # from the oldest on, whatever the snapshots say
    record(tmp_path, [BORN], data(1))
    delete_segments(tmp_path, 8)
    assert values(tmp_path) == [1]


def test_no_snapshot_is_taken_where_no_codec_is_stateful(tmp_path: Path) -> None:
    record(tmp_path, [("plant/n/m/x", b"1")], topics=Topics((Topic(codec=JSONScalar()),)))
    assert not (tmp_path / STATES).exists()


def test_only_so_many_snapshots_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("snapshots", "recorder"):
        monkeypatch.setattr(f"fml_lightning.connectors.spool.{module}.REDELIVERY_WINDOW", 40)
    births = [[(BORN[0], spark(0, {**BIRTH, "name": f"T{i}"})), *data(1)] for i in range(100)]
    record(tmp_path, *births)
    with Spool(tmp_path) as opened:
        opened.maintain()
    record(tmp_path, [BORN])
    firsts = [segment.first for segment in segments.listing(tmp_path / "segments")]
    found = taken(tmp_path)
    assert len(found) <= len(firsts) + 4
    for first in firsts[1:]:
        assert first - 1 in found  # no birth between the snapshot and the segment
    assert found[-1] == 200
    assert any(200 - 3 * 40 <= sequence <= 200 - 40 for sequence in found)  # for the next start


@dataclass(frozen=True)
class Sums(StatefulCodec):
    """Says the sum of all numbers so far: every message changes what it knows."""

    broken_from: int = 1_000

    def session(self) -> CodecSession:
        return SumsSession(self.broken_from)


class SumsSession(CodecSession):
    def __init__(self, broken_from: int) -> None:
        self.broken_from = broken_from
        self.total = 0

    def decode(self, topic: str, payload: bytes) -> Sequence[Sample]:
        self.total += int(payload)
        return (Sample(float(self.total), channel="x", machine="m", site="n"),)

    def state(self) -> bytes:
        if self.total >= self.broken_from:
            raise ZeroDivisionError
        return str(self.total).encode() + b" " * (self.total // 100 * 1_000)

    def restore(self, state: bytes) -> None:
        self.total = int(state)


def test_a_codec_of_the_users_own_has_a_state_too(tmp_path: Path) -> None:
    topics = Topics((Topic("n/#", Sums()), Topic(codec=JSONScalar())))
    record(tmp_path, *[[("n/x", b"1"), ("plant/n/m/y", b"0")] for _ in range(5)], topics=topics)
    delete_segments(tmp_path, 6)
    assert values(tmp_path) == [4, 0, 5, 0]
    record(tmp_path, [("n/x", b"1")], topics=topics)
    assert values(tmp_path) == [4, 0, 5, 0, 6]


def test_a_codec_whose_state_cannot_be_taken_out_is_read_from_the_oldest_message_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    topics = Topics((Topic("n/#", Sums(broken_from=2)),))
    record(tmp_path, [("n/x", b"1")], topics=topics)
    assert taken(tmp_path) == [0]
    record(tmp_path, [("n/x", b"1")], [("n/x", b"1")], topics=topics)
    assert taken(tmp_path) == []
    assert values(tmp_path, after=0, topics=topics) == [2, 3]
    assert len(re.findall("a bug of a codec: SumsSession.state: ZeroDivisionError", caplog.text)) == 1


def test_a_state_that_is_too_large_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(snapshots, "LARGEST", 1_000)
    topics = Topics((Topic("n/#", Sums()),))
    record(tmp_path, [("n/x", b"1")], [("n/x", b"200")], [("n/x", b"1")], topics=topics)
    assert taken(tmp_path) == []
    assert "a snapshot is too large" in caplog.text
    assert values(tmp_path, after=1) == [202]


def test_other_topics_may_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fml_lightning.connectors.spool.recorder.REDELIVERY_WINDOW", 2)
    record(tmp_path, [BORN, *data(1, 2)], data(3, 4, 5))
    delete_segments(tmp_path, 3)
    more = Topics((Topic(codec=JSONScalar()), Topic("spBv1.0/#", SparkplugB(), qos=0)), (LabelTopic(),))
    record(tmp_path, [("plant/n/m/x", b"6")], data(7), topics=more)
    assert buried(tmp_path) == []
    assert values(tmp_path) == [3, 4, 5, 6, 7]
    record(tmp_path, data(8))
    assert values(tmp_path) == [3, 4, 5, 7, 8]  # no topic of these reads the 6


def test_another_codec_deletes_snapshots_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record(tmp_path, [BORN, *data(1, 2)])
    record(tmp_path, data(3), topics=Topics((Topic("spBv1.0/+/#", SparkplugB()),)))
    assert "1 snapshots are deleted" in caplog.text


def test_letters_of_messages_that_somebody_deleted_do_not_count_as_buried(tmp_path: Path) -> None:
    lost = data(1)  # whose birth is missing
    record(tmp_path, [BORN, *data(1, 2)], [BORN], [("spBv1.0/Ulm/NDATA/other", lost[0][1])])
    assert buried(tmp_path) == [4]
    delete_segments(tmp_path, 5)
    record(tmp_path, [("spBv1.0/Ulm/NDATA/other", lost[0][1])])
    record(tmp_path, *[[("spBv1.0/Ulm/NDATA/other", lost[0][1])]] * 5)
    assert buried(tmp_path) == [4, 0, 1, 2, 3, 4, 5]


def test_max_bytes_counts_the_snapshots_that_go_with_old_segments(tmp_path: Path) -> None:
    metrics = [{**BIRTH, "name": f"Line/Machine/Channel {i}", "alias": i} for i in range(1, 300)]
    born = (BORN[0], spark(0, *metrics))
    births = [[(BORN[0], spark(0, *metrics, {**BIRTH, "name": f"T{i}"})), *data(1)] for i in range(20)]

    def sizes(name: str) -> list[int]:
        return [path.stat().st_size for path in (tmp_path / name).iterdir()]

    record(tmp_path, *births, [born])
    most = 150_000  # a birth has 12 kB, a snapshot of it 35 kB
    assert sum(sizes("segments")) + sum(sizes("states")) > 5 * most
    with Spool(tmp_path, max_bytes=most) as opened:
        opened.maintain()
    assert 2 < len(sizes("segments")) < 10
    assert sum(sizes("segments")) + sum(sizes("states")) < most + 4 * max(sizes("states"))
    first = segments.listing(tmp_path / "segments")[0].first
    assert len([sequence for sequence in taken(tmp_path) if sequence < first]) == 1
    record(tmp_path, data(5))
    assert values(tmp_path)[-1] == 5


def test_one_snapshot_larger_than_max_bytes_deletes_nothing(tmp_path: Path) -> None:
    metrics = [{**BIRTH, "name": f"Line/Machine/Channel {i}", "alias": i} for i in range(1, 300)]
    record(tmp_path, [(BORN[0], spark(0, *metrics))], data(1), data(2))
    with Spool(tmp_path, max_bytes=sum(p.stat().st_size for p in (tmp_path / "segments").iterdir())) as opened:
        opened.maintain()
    assert len(segments.listing(tmp_path / "segments")) == 3
