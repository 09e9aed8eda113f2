from __future__ import annotations

import errno
import fcntl
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from probes import numbers, payloads, spooled

from fml_lightning import durable
from fml_lightning.connectors import Message, Spool, SpoolReader
from fml_lightning.connectors.decoding.dead_letter import DeadLetter
from fml_lightning.connectors.messages import MESSAGES, Messages
from fml_lightning.connectors.spool import gaps, segments
from fml_lightning.connectors.spool import spool as spool_module
from fml_lightning.connectors.spool.dead_letters import DeadLetters
from fml_lightning.connectors.spool.page_buffer import PageBuffer
from fml_lightning.connectors.spool.segments import Content, DamagedError, Segment
from fml_lightning.errors import UserError

BEGIN = 1_764_000_000_000_000


def message(number: int, packet_id: int = 0, redelivered: bool = False, payload: bytes | None = None) -> Message:
    text = str(number).encode() if payload is None else payload
    return Message("plant/a/m/x", text, BEGIN + number, False, packet_id, redelivered)


def at(number: int) -> datetime:
    """When a message was received."""
    return datetime.fromtimestamp(BEGIN / 1e6, UTC) + timedelta(microseconds=number)


def fill(folder: Path, *counts: int) -> list[Segment]:
    """A spool with segments of so many messages, numbered from 0."""
    with Spool(folder) as spool:
        for count in counts:
            spool.append([message(spool.next_sequence + i) for i in range(count)])
    return segments.listing(folder / "segments")


def merge(folder: Path, parts: Sequence[Segment]) -> Segment:
    frame = pl.concat(segments.read(part) for part in parts)
    return segments.write(folder / "segments", frame, Content.of(Messages.of(frame)), "zstd")


def fill_up(spool: Spool, messages: Sequence[Message]) -> None:
    while True:
        spool.append(messages)


def test_messages_come_back_in_order_and_go_on_after_a_restart(tmp_path: Path) -> None:
    fill(tmp_path, 3, 2)
    fill(tmp_path, 4)
    frame = spooled(tmp_path)
    assert frame.schema == MESSAGES
    assert frame["sequence"].to_list() == list(range(9))
    assert numbers(tmp_path) == list(range(9))
    assert frame["received"][0] == datetime.fromtimestamp(BEGIN / 1e6, UTC)


def test_a_redelivery_is_left_out_also_within_one_append_and_after_a_restart(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        assert len(spool.append([message(0, 1), message(1, 2), message(0, 1, True)])) == 2
        assert len(spool.append([message(1, 2, True), message(2, 3)])) == 1
        assert spool.redelivered == 2
    with Spool(tmp_path) as spool:
        assert len(spool.append([message(2, 3, True), message(3, 4, True)])) == 1  # 3 was lost on its way before
        assert spool.redelivered == 1
    assert numbers(tmp_path) == [0, 1, 2, 3]


def test_equal_messages_are_kept_unless_the_broker_says_that_it_repeats_itself(tmp_path: Path) -> None:
    same = [message(0, packet_id, payload=b"20.0") for packet_id in (1, 2, 1)]
    with Spool(tmp_path) as spool:
        spool.append(same)
        spool.append([message(0, payload=b"20.0"), message(0, payload=b"20.0", redelivered=True)])  # QoS 0
    assert len(spooled(tmp_path)) == 5


def test_deliveries_of_another_session_are_no_redeliveries(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        spool.append([message(0, 1)])
        spool.begin_session()
        assert len(spool.append([message(0, 1, True)])) == 1
        spool.begin_session()
        spool.note_lost_session(datetime.now(UTC), datetime.now(UTC), "a test")
    with Spool(tmp_path) as spool:  # which has to know this from the disk
        assert len(spool.append([message(0, 1, True)])) == 1


def test_what_a_crash_leaves_is_cleared_up(tmp_path: Path) -> None:
    parts = fill(tmp_path, 2, 2, 2, 2)
    (tmp_path / "segments" / "000000000000000008-000000000000000009-00000000.tmp").write_bytes(b"half")
    parts[1].path.write_bytes(parts[1].path.read_bytes()[:100])
    parts[2].path.write_bytes(os.urandom(500))
    parts[3].path.write_bytes(b"")
    with Spool(tmp_path) as spool:
        assert spool.quarantined == 3
        assert spool.next_sequence == 8  # though the last ones are unreadable, their numbers are not given again
        spool.append([message(8)])
    assert numbers(tmp_path) == [0, 1, 8]
    assert not list((tmp_path / "segments").glob("*.tmp"))
    assert len(list((tmp_path / "quarantine").iterdir())) == 3
    with Spool(tmp_path) as spool:
        assert spool.quarantined == 0  # again
        assert spool.next_sequence == 9


def test_damage_is_found_wherever_it_is(tmp_path: Path) -> None:
    (segment,) = fill(tmp_path, 300)
    good = segment.path.read_bytes()
    chance = random.Random(0)
    for _ in range(500):
        bad = bytearray(good)
        bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        segment.path.write_bytes(bad)
        with pytest.raises(DamagedError, match="its checksum is not that of its name"):
            segments.read(segment)
    with Spool(tmp_path) as spool:  # it reads the last ones, for redeliveries
        assert spool.quarantined == 1
        assert spool.next_sequence == 300


def test_a_reader_goes_past_damage_and_counts_what_it_missed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parts = fill(tmp_path, 2, 3, 4)
    parts[1].path.write_bytes(b"PAR1 garbage PAR1")
    reader = SpoolReader(tmp_path)
    assert [len(frame) for frame in reader.read()] == [2, 4]
    assert reader.missed == 3
    parts[2].path.write_bytes(b"")
    reader = SpoolReader(tmp_path)
    for _ in range(5):
        list(reader.read())
    assert (
        len([record for record in caplog.records if "cannot be read" in record.message]) == 3
    )  # not at each look


def test_one_writer_only(tmp_path: Path) -> None:
    script = (
        "import sys; from fml_lightning.connectors import Spool\n"
        "with Spool(sys.argv[1]): print('open', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], **pipes) as other:  # type: ignore[call-overload]
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(UserError, match="another process writes to it"), Spool(tmp_path):
            pass
        assert spooled(tmp_path).is_empty()  # reading is allowed
        other.kill()
        other.communicate()
    with Spool(tmp_path), pytest.raises(UserError, match="another process writes to it"), Spool(tmp_path):
        pass


def test_a_spool_that_is_not_open_takes_nothing(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    spool = Spool(tmp_path)
    for _ in range(2):
        with pytest.raises(UserError, match="it is not open"):
            spool.append([message(0)])
        with spool:
            pass
    assert numbers(tmp_path) == [0, 1]


def test_what_was_prepared_is_written_in_turn(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        first, second = spool.prepare([message(0)]), spool.prepare([message(1)])
        spool.write(first)
        with pytest.raises(ValueError, match="prepared as 0, but 1 is next"):
            spool.write(second)
    assert numbers(tmp_path) == [0]


def test_what_was_too_large_is_taken_again_when_it_is_redelivered(tmp_path: Path) -> None:
    large = Message("plant/a/m/x", b"", BEGIN, packet_id=1, oversized=9_999)
    again = large._replace(redelivered=True)
    with Spool(tmp_path) as spool:
        assert len(spool.append([large])) == 1
        assert len(spool.append([again])) == 0
    with Spool(tmp_path) as spool:
        assert list(spool.append([again]).oversized) == [9_999]  # was it buried before the crash? nobody knows
        assert len(spool.append([again])) == 0


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="name a folder that can be written"), Spool(tmp_path / "file"):
        pass
    with pytest.raises(UserError, match="start `fml record` first"):
        SpoolReader(tmp_path / "none")


def test_a_full_disk_takes_all_or_nothing(full_disk: Path) -> None:
    block = [message(i, payload=random.Random(i).randbytes(20_000)) for i in range(5)]
    with Spool(full_disk) as spool:
        spool.append(block)
        with pytest.raises(OSError, match="No space left") as caught:
            fill_up(spool, block)
        assert caught.value.errno == errno.ENOSPC
        assert not list(spool.segment_folder.glob("*.tmp"))
        before = spool.next_sequence
        assert len(spooled(full_disk)) == before
        segments.listing(spool.segment_folder)[0].path.unlink()
        spool.append(block)
        assert spooled(full_disk)["sequence"].to_list() == list(range(5, before + 5))


def test_retention_makes_room_where_merging_has_none(full_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "MANY", 2)
    with Spool(full_disk) as spool:
        with pytest.raises(OSError, match="No space left"):
            fill_up(spool, [message(0, payload=os.urandom(10_000))])
        spool.max_bytes = 50_000
        spool.maintain()
        assert sum(s.path.stat().st_size for s in segments.listing(spool.segment_folder)) <= 50_000


@pytest.mark.parametrize("size", [0, 1, 2**20 - 1, 2**20, 2**20 + 4096, 2**20 + 5000, 5 * 2**20 + 17])
@pytest.mark.parametrize("kind", ["on a page", "elsewhere", "no such thing"])
def test_files_of_any_size_are_written_whole(
    tmp_path: Path, size: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "no such thing":  # as on a file system that cannot write past the cache
        monkeypatch.setattr(durable.fcntl, "fcntl", refuse_direct)
    said = random.Random(size).randbytes(size)
    buffer = PageBuffer()
    for part in (said[: size // 3], said[size // 3 :]):
        buffer.write(part)
    with memoryview(b"x" + said)[1:] if kind == "elsewhere" else buffer.content() as content:
        assert content == said
        durable.write(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == said
    buffer.clear()
    buffer.write(b"again")
    with buffer.content() as content:
        assert content == b"again"


def test_a_buffer_grows_while_somebody_still_looks_at_it() -> None:
    buffer = PageBuffer()
    buffer.write(b"seen")
    seen = buffer.content()
    buffer.write(bytes(3 << 20))
    assert bytes(seen) == b"seen"
    with buffer.content() as content:
        assert (content[:5], len(content)) == (b"seen\0", 4 + (3 << 20))


def refuse_direct(file: int, command: int, flags: int = 0, real: Any = fcntl.fcntl) -> Any:
    if command == fcntl.F_SETFL and flags & os.O_DIRECT:
        raise OSError(errno.EINVAL, "Invalid argument")
    return real(file, command, flags)


def test_a_large_file_leaves_nothing_on_a_full_disk(full_disk: Path) -> None:
    content = random.Random(0).randbytes(8 * durable.LARGE)
    with pytest.raises(OSError, match="No space left"):
        durable.write(full_disk / "file", content)
    assert not list(full_disk.iterdir())


@pytest.mark.parametrize("fails", [1, 2])  # the fsync of the file, the fsync of the folder
def test_what_could_not_be_synced_may_be_appended_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    calls = []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == fails:
            raise OSError(errno.EIO, "Input/output error")

    with Spool(tmp_path) as spool:
        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="Input/output"):
            spool.append([message(0, 1), message(1, 2)])
        spool.append([message(7, 3)])  # or something else
        assert spool.next_sequence == 1
    assert numbers(tmp_path) == [7]
    with Spool(tmp_path):
        assert numbers(tmp_path) == [7]


def test_lines_are_added_all_or_none(full_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = full_disk / "lines"
    durable.add_lines(file, [b"one"])
    with pytest.raises(OSError, match="No space left"):
        durable.add_lines(file, [b"two", b"x" * 300_000])
    assert file.read_bytes() == b"one\n"
    file.write_bytes(b"one\ntw")  # as a crash leaves it
    durable.add_lines(file, [b"three"])
    assert file.read_bytes() == b"one\ntw\nthree\n"


def test_dead_letters_are_buried_once(tmp_path: Path) -> None:
    def letter(sequence: int) -> DeadLetter:
        return DeadLetter(sequence, datetime.now(UTC), "plant/a/m/x", b"\xff\x00", "not a number")

    file = tmp_path / "dead_letters.jsonl"
    DeadLetters(file).bury([letter(3), letter(5)])
    with open(file, "ab") as stream:
        stream.write(b'{"sequence": 7, "rec')  # a crash
    letters = DeadLetters(file)
    letters.bury([letter(3), letter(5), letter(7)])
    letters.bury([letter(7)])
    assert [found.sequence for found in DeadLetters(file)] == [3, 5, 7]
    assert next(iter(DeadLetters(file)))[2:] == ("plant/a/m/x", b"\xff\x00", "not a number")


def test_merging_keeps_every_message_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "MANY", 4)
    with Spool(tmp_path) as spool:
        for i in range(10):
            spool.append([message(i, i + 1)])
        spool.maintain()
        (merged,) = segments.listing(spool.segment_folder)
        assert (merged.first, merged.last) == (0, 9)
        assert len(segments.every(spool.segment_folder)) == 1
        assert len(spool.append([message(9, 10, True)])) == 0
    assert numbers(tmp_path) == list(range(10))


def test_an_interrupted_merge_shows_each_message_once(tmp_path: Path) -> None:
    parts = fill(tmp_path, 2, 3, 4, 1)
    merged = merge(tmp_path, parts[:3])
    parts[1].path.unlink()  # it was interrupted while it deleted its parts
    assert numbers(tmp_path) == list(range(10))
    for after in range(9):
        frames = list(SpoolReader(tmp_path, after).read())
        assert pl.concat(frames)["sequence"].to_list() == list(range(after + 1, 10))
    with Spool(tmp_path):
        assert {s.path for s in segments.every(tmp_path / "segments")} == {merged.path, parts[3].path}
    assert numbers(tmp_path) == list(range(10))


def test_a_merge_whose_result_is_damaged_leaves_its_parts(tmp_path: Path) -> None:
    parts = fill(tmp_path, 2, 3)
    merged = merge(tmp_path, parts)
    merged.path.write_bytes(merged.path.read_bytes()[:-1])
    with Spool(tmp_path) as spool:
        assert spool.quarantined == 1
    assert numbers(tmp_path) == list(range(5))


def test_a_merge_in_the_middle_of_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "MANY", 2)
    with Spool(tmp_path) as spool:
        for i in range(6):
            spool.append([message(2 * i), message(2 * i + 1)])
        reader = SpoolReader(tmp_path)
        passing = reader.read()
        seen = next(passing)["sequence"].to_list()
        spool.maintain()
        for frame in passing:
            seen += frame["sequence"].to_list()
    assert seen == list(range(12))
    assert reader.missed == 0


def test_readers_follow_while_a_writer_writes_and_merges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "MANY", 5)
    stop = threading.Event()
    seen: list[list[int]] = [[], [], []]

    def follow(found: list[int]) -> None:
        for frame in SpoolReader(tmp_path).tail(stop, poll=0.01):
            found += frame["sequence"].to_list()

    with Spool(tmp_path) as spool:
        threads = [threading.Thread(target=follow, args=(found,)) for found in seen]
        for thread in threads:
            thread.start()
        for i in range(80):
            spool.append([message(3 * i + k) for k in range(3)])
            if i % 7 == 0:
                spool.maintain()
        stop.set()
        for thread in threads:
            thread.join()
    assert seen == [list(range(240))] * 3


def test_retention_by_size_leaves_the_last_segment_and_says_what_it_deletes(tmp_path: Path) -> None:
    parts = fill(tmp_path, 5, 5, 5, 5)
    size = parts[0].path.stat().st_size
    reader = SpoolReader(tmp_path)
    next(reader.read())
    with Spool(tmp_path, max_bytes=2 * size + 100) as spool:
        spool.maintain()
        assert spooled(tmp_path)["sequence"][0] == 10
        spool.maintain()
    assert [len(frame) for frame in reader.read()] == [5, 5]
    assert reader.missed == 5  # numbers 5 to 9; 0 to 4 it had read
    with Spool(tmp_path, max_bytes=1) as spool:
        spool.maintain()
        assert len(segments.listing(spool.segment_folder)) == 1  # the last one knows the next number
    with Spool(tmp_path) as spool:
        assert spool.next_sequence == 20
    assert [(gap.kind, gap.first, gap.last, gap.begin, gap.end) for gap in gaps.read(tmp_path)] == [
        ("deleted", 0, 9, at(0), at(9)),
        ("deleted", 10, 14, at(10), at(14)),
    ]


def test_tail_ends_with_what_there_is(tmp_path: Path) -> None:
    stop = threading.Event()
    with Spool(tmp_path) as spool:
        spool.append([message(0)])
        tail = SpoolReader(tmp_path).tail(stop, poll=0.01)
        assert next(tail)["sequence"].to_list() == [0]
        spool.append([message(1)])
        stop.set()
        assert [frame["sequence"].to_list() for frame in tail] == [[1]]


def test_a_write_killed_at_any_moment_leaves_a_spool_that_opens(tmp_path: Path) -> None:
    script = (
        "import sys; from fml_lightning.connectors import Message, Spool\n"
        "with Spool(sys.argv[1]) as spool:\n"
        "    print('open', flush=True)\n"
        "    while True:\n"
        "        n = spool.next_sequence\n"
        "        spool.append([Message('t', b'%d' % (n + i), n + i) for i in range(50)])\n"
        "        print(n + 49, flush=True)\n"
    )
    for i in range(3):
        with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"open\n"
            said = [writer.stdout.readline() for _ in range(2 + i)]
            time.sleep(0.003 * i)  # into one of the next writes
            writer.kill()
            said += writer.stdout.read().splitlines(keepends=True)
            last = int([line for line in said if line.endswith(b"\n")][-1])
        with Spool(tmp_path) as spool:
            assert spool.quarantined == 0
            assert spool.next_sequence > last > 0
        assert payloads(tmp_path) == [b"%d" % i for i in range(spool.next_sequence)]
