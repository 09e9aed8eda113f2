"""What may lie in the folder of a spool: pipes, links, folders, names that lie, segments of other versions."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import socket
import threading
import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import polars as pl
import pytest
from probes import LONG, numbers, spooled

from fml_lightning import durable
from fml_lightning.connectors import Message, Spool, SpoolReader
from fml_lightning.connectors.messages import Messages
from fml_lightning.connectors.spool import gaps, segments
from fml_lightning.connectors.spool import spool as spool_module
from fml_lightning.connectors.spool.folder import AGES, GAPS
from fml_lightning.connectors.spool.gaps import Gap
from fml_lightning.connectors.spool.segments import DamagedError, Segment
from fml_lightning.errors import UserError

BEGIN = 1_764_000_000_000_000


def message(number: int, packet_id: int = 0, redelivered: bool = False) -> Message:
    return Message("plant/a/m/x", b"%d" % number, BEGIN + number, False, packet_id, redelivered)


def messages(first: int, last: int) -> pl.DataFrame:
    return Messages.numbered([message(i) for i in range(first, last + 1)], first).frame()


def fill(folder: Path, *counts: int) -> None:
    with Spool(folder) as spool:
        for count in counts:
            spool.append([message(spool.next_sequence + i) for i in range(count)])


def plant(
    folder: Path, frame: pl.DataFrame, first: int, last: int, metadata: dict[str, str] | None = None
) -> Path:
    """A segment as versions before the first wrote it, or with whatever metadata, under any name."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "partial"
    frame.write_parquet(partial, compression="zstd", statistics=False, metadata=metadata)
    path = folder / f"{first:018}-{last:018}-{zlib.crc32(partial.read_bytes()):08x}.parquet"
    return partial.rename(path)


def name(first: int, last: int) -> str:
    return f"{first:018}-{last:018}-00000000.parquet"


def lie_there(path: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to itself":
        path.symlink_to(path.name)
    elif kind == "link to a device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            here = os.getcwd()
            os.chdir(path.parent)  # the path of a socket may not be long
            try:
                server.bind(path.name)
            finally:
                os.chdir(here)


KINDS = ["pipe", "folder", "link to itself", "link to a device", "socket"]


def in_time(work: Callable[[], object]) -> object:
    """The result of something that must not hang."""
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()
    thread.join(LONG)
    assert found, "it hangs, or failed"
    return found[0]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_no_segment(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, 2, 2)
    folder = tmp_path / "segments"
    lie_there(folder / name(0, 3), kind)
    lie_there(folder / name(4, 9), kind)
    lie_there(folder / "notes", kind)
    if kind != "link to itself":
        lie_there(folder / "000000000000000004-000000000000000005-00000000.tmp", kind)
    assert in_time(lambda: numbers(tmp_path)) == [0, 1, 2, 3]

    def write() -> int:
        with Spool(tmp_path) as spool:
            for _ in range(3):
                spool.append([message(spool.next_sequence)])
                spool.maintain()
            return spool.quarantined

    caplog.clear()
    assert in_time(write) == 0
    said = [record.getMessage() for record in caplog.records if "are no segments" in record.getMessage()]
    assert len(said) == 1
    assert "'notes'" in said[0]
    assert numbers(tmp_path) == list(range(7))


FILES = ("lock", GAPS, AGES, "dead_letters.jsonl", "quarantine", "states", "segments")
PLACES = [(kind, file) for kind in KINDS for file in FILES]
PLACES = [place for place in PLACES if place not in [("folder", file) for file in FILES[-3:]]]


@pytest.mark.parametrize(("kind", "file"), PLACES)
def test_what_lies_in_place_of_our_files_is_refused(tmp_path: Path, kind: str, file: str) -> None:
    lie_there(tmp_path / file, kind)

    def open_it() -> str:
        with pytest.raises(UserError, match=r"expected a f|File exists|Too many levels"), Spool(tmp_path):
            pass
        return "refused"

    assert in_time(open_it) == "refused"


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_not_written_through_what_lies_there(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "there.json"
    lie_there(path, kind)

    def add() -> str:
        with pytest.raises(OSError, match=r"."):
            durable.add_lines(path, [b"line"])
        with pytest.raises(durable.NotRegularError):
            durable.open_regular(path)
        return "refused"

    assert in_time(add) == "refused"
    lie_there(tmp_path / "other.json.tmp", kind)
    if kind == "folder":
        with pytest.raises(OSError, match=r"."):
            durable.write(tmp_path / "other.json", b"text")
    else:  # nobody needs what lies in place of our partial file
        in_time(lambda: durable.write(tmp_path / "other.json", b"text") or True)
        assert (tmp_path / "other.json").read_bytes() == b"text"


LYING = [
    "1" * 19 + "-" + "1" * 19 + "-00000000.parquet",
    name(0, 3).replace("0", "\u0660"),  # digits, to Unicode
    name(9, 4),
    name(0, 10**17),
    name(10**18 - 2, 10**18 - 1),
    name(0, 3) + "\n",
    "\udcff" + name(0, 3),
]


@pytest.mark.parametrize("lying", LYING, ids=ascii)
@pytest.mark.parametrize("content", [b"", b"PAR1 garbage PAR1", None], ids=["empty", "garbage", "a segment"])
def test_a_name_that_is_none_hides_nothing(tmp_path: Path, lying: str, content: bytes | None) -> None:
    fill(tmp_path, 2, 2)
    (good, _) = segments.listing(tmp_path / "segments")
    (tmp_path / "segments" / lying).write_bytes(good.path.read_bytes() if content is None else content)
    assert numbers(tmp_path) == [0, 1, 2, 3]
    fill(tmp_path, 1)
    assert numbers(tmp_path) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("crc", ["right", "wrong"])
@pytest.mark.parametrize(
    ("first", "last", "rows"),
    [
        (0, 5, [(0, 1)]),
        (0, 5, [(0, 0), (5, 5)]),  # as an old segment that lacks some, but those are there
        (0, 10**16, [(0, 0), (10**16, 10**16)]),
        (0, 5, [(7, 12)]),
        (0, 99_999, [(0, 5)]),
        (2, 9, [(2, 6)]),
        (0, 10**17 - 1, [(3, 3)]),
        (1, 5, [(1, 2), (2, 4)]),
        (0, 3, [(0, 1), (3, 3), (2, 2)]),
    ],
)
def test_a_segment_that_is_not_what_it_says_hides_nothing(
    tmp_path: Path, first: int, last: int, rows: Sequence[tuple[int, int]], crc: str
) -> None:
    fill(tmp_path, 2, 2, 2)
    path = plant(tmp_path / "segments", pl.concat(messages(*row) for row in rows), first, last)
    if crc == "wrong":
        path = path.rename(path.with_name(path.name[:38] + "01234567.parquet"))
    assert set(numbers(tmp_path)) >= {0, 1, 2, 3, 4, 5}
    with Spool(tmp_path) as spool:
        assert spool.quarantined == 1
        assert spool.next_sequence < segments.NUMBERS // 2
        before = spool.next_sequence
        spool.append([message(6)])
    assert numbers(tmp_path) == [0, 1, 2, 3, 4, 5, 6]
    assert spooled(tmp_path)["sequence"][-1] == before
    assert [path.name for path in (tmp_path / "quarantine").iterdir()] == [path.name]
    (gap,) = gaps.read(tmp_path)
    assert (gap.kind, gap.first, gap.last) == ("quarantined", first, last)
    assert path.name in gap.reason


def test_a_segment_that_lies_is_found_while_a_spool_is_open(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        for i in range(6):
            spool.append([message(i)])
        plant(tmp_path / "segments", pl.concat([messages(0, 0), messages(40, 40)]), 0, 40)
        spool.maintain()
        assert spool.quarantined == 1
        assert len(segments.every(spool.segment_folder)) == 6


def test_numbers_that_no_recording_reaches_are_refused(tmp_path: Path) -> None:
    far = 10**17 - 5
    plant(tmp_path / "segments", Messages.numbered([message(0)], far).frame(), far, far)
    with pytest.raises(UserError, match="expected sequence numbers that a recording can reach"), Spool(tmp_path):
        pass


def test_what_cannot_be_moved_to_quarantine_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, 2, 2)
    segments.listing(tmp_path / "segments")[1].path.write_bytes(b"junk")

    def replace(*paths: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "replace", replace)
    with Spool(tmp_path) as spool:
        assert spool.quarantined == 1
        assert spool.next_sequence == 4
        spool.append([message(4)])
        spool.maintain()
        spool.maintain()
        assert spool.quarantined == 1
    assert numbers(tmp_path) == [0, 1, 4]
    assert "cannot be moved to quarantine" in caplog.text


# Versions -----------------------------------------------------------------------------------------------------


def old_spool(folder: Path) -> list[Path]:
    """A spool as the version before the first made it: raw segments, a merged one that lacks messages."""
    here = folder / "segments"
    merged = pl.concat([messages(0, 9), messages(15, 19)])  # 10 to 14 went to quarantine before
    (folder / GAPS).parent.mkdir(exist_ok=True)
    line = {"begin": datetime.now(UTC), "end": datetime.now(UTC), "before": 22, "reason": "a test"}
    (folder / GAPS).write_bytes(msgspec.json.encode(line) + b"\n")
    return [
        plant(here, merged, 0, 19),
        plant(here, Messages.numbered([message(i, i + 1) for i in range(20, 24)], 20).frame(), 20, 23),
        plant(here, messages(24, 25), 24, 25),
    ]


def test_an_old_spool_opens_and_reads_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "MANY", 2)
    old_spool(tmp_path)
    expected = [*range(10), *range(15, 26)]
    reader = SpoolReader(tmp_path)
    assert [row for frame in reader.read() for row in frame["sequence"]] == expected
    assert reader.missed == 5
    assert [row for frame in SpoolReader(tmp_path, 12).read() for row in frame["sequence"]] == expected[10:]
    with Spool(tmp_path) as spool:
        assert (spool.next_sequence, spool.quarantined) == (26, 0)
        again = [message(i, i + 1, redelivered=True) for i in (21, 22, 23)]
        assert len(spool.append(again)) == 1  # 21 is of the session before
        spool.append([message(27)])
        spool.append([message(28)])
        spool.maintain()
    assert spooled(tmp_path)["sequence"].to_list() == [*expected, 26, 27, 28]
    assert len(segments.listing(tmp_path / "segments")) == 4  # the new ones are merged
    (gap,) = gaps.read(tmp_path)
    assert (gap.kind, gap.before, gap.reason) == ("session", 22, "a test")


def test_the_deletion_of_old_segments_says_when_they_were_received(tmp_path: Path) -> None:
    old_spool(tmp_path)
    with Spool(tmp_path, max_bytes=1) as spool:
        spool.maintain()
    gap = gaps.read(tmp_path)[-1]
    assert (gap.kind, gap.first, gap.last) == ("deleted", 0, 23)
    assert gap.begin is not None
    assert gap.end is not None
    assert (gap.end - gap.begin).microseconds == 23


def test_an_interrupted_merge_of_old_segments(tmp_path: Path) -> None:
    here = tmp_path / "segments"
    parts = [plant(here, messages(0, 4), 0, 4), plant(here, messages(7, 9), 7, 9)]
    merged = plant(here, pl.concat([messages(0, 4), messages(7, 9)]), 0, 9)
    assert numbers(tmp_path) == [0, 1, 2, 3, 4, 7, 8, 9]
    with Spool(tmp_path) as spool:
        assert spool.quarantined == 0
        assert [s.path for s in segments.every(here)] == [merged]
    assert not any(part.exists() for part in parts)


@pytest.mark.parametrize("version", ["2", "99999999999999999999999"])
def test_a_later_version_is_refused_and_left_alone(tmp_path: Path, version: str) -> None:
    fill(tmp_path, 2)
    path = plant(tmp_path / "segments", messages(2, 3), 2, 3, {"fml_version": version})
    with (
        pytest.raises(UserError, match=r"expected segments of version 1 or before, got \d+; upgrade"),
        Spool(tmp_path),
    ):
        pass
    reader = SpoolReader(tmp_path)
    passing = reader.read()
    assert next(passing)["sequence"].to_list() == [0, 1]
    with pytest.raises(UserError, match=r"upgrade fml-lightning"):
        next(passing)
    assert path.exists()
    assert not (tmp_path / "quarantine").exists()


def test_a_damaged_version_is_damage(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    (segment,) = segments.listing(tmp_path / "segments")
    content = segment.path.read_bytes()
    place = content.index(b"fml_version") + len(b"fml_version") + 2
    assert content[place : place + 1] == b"1"
    for version in (b"7", b"x", b"\xff"):
        segment.path.write_bytes(content[:place] + version + content[place + 1 :])
        with pytest.raises(DamagedError):
            segments.look(segment)
        with pytest.raises(DamagedError):
            list(segments.frames(segment))


def test_a_segment_says_what_is_in_it(tmp_path: Path) -> None:
    fill(tmp_path, 12)
    (segment,) = segments.listing(tmp_path / "segments")
    content = segments.look(segment)
    assert content.rows == 12
    assert content.size == 12 * len("plant/a/m/x") + 10 + 2 * 2  # 0 to 9, 10 and 11
    assert content.received == (BEGIN, BEGIN + 11)
    metadata = pl.read_parquet_metadata(segment.path)
    assert metadata["fml_version"] == "1"


def test_a_segment_that_holds_more_than_it_says_is_damaged(tmp_path: Path) -> None:
    about = {"fml_version": "1", "fml_bytes": "300", "fml_received": f"{BEGIN} {BEGIN}"}
    frame = messages(0, 5).with_columns(pl.lit(bytes(500)).alias("payload"))
    path = plant(tmp_path / "segments", frame, 0, 5, about)
    with pytest.raises(DamagedError, match="more bytes of messages than it says"):
        segments.read(Segment(0, 5, zlib.crc32(path.read_bytes()), path))


# Gaps ---------------------------------------------------------------------------------------------------------


def test_gaps_come_back_whatever_lies_between(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    noted = [
        Gap(now, now, "lost", before=5),
        Gap(None, None, "damaged", "quarantined", first=1, last=2),
        Gap(now, now, "old", "deleted", first=3, last=4),
        Gap(now, now, "jumped", "clock"),
    ]
    file = tmp_path / GAPS
    assert gaps.read(tmp_path) == []
    for gap, junk in zip(noted, [b"\xff\x00\n", b"[]\n", b"[" * 50_000 + b"\n", b'{"begin": "20'], strict=True):
        gaps.note(tmp_path, [gap])
        with open(file, "ab") as stream:
            stream.write(junk)
    gaps.note(tmp_path, [])
    found = gaps.read(tmp_path)
    assert [msgspec.structs.replace(gap, at=None) for gap in found] == noted
    assert all(gap.at is not None and gap.at >= now for gap in found)
    with Spool(tmp_path) as spool:
        spool.append([message(0)])
    assert numbers(tmp_path) == [0]


def test_deletions_are_no_sessions(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        spool.append([message(i, i + 1) for i in range(4)])
        spool.append([message(4, 5)])
        gaps.note(tmp_path, [Gap(None, None, "old", "deleted", first=0, last=4)])
    with Spool(tmp_path) as spool:
        assert len(spool.append([message(4, 5, redelivered=True)])) == 0


def test_the_file_of_gaps_stays_small_and_the_session_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gaps, "LARGEST", 20_000)
    monkeypatch.setattr(gaps, "NEWEST", 20)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    now = datetime.now(UTC)
    gaps.note(tmp_path, [Gap(now, now, "lost", before=7)])
    for i in range(500):
        gaps.note(tmp_path, [Gap(now, now, "old", "deleted", first=5 * i, last=5 * i + 4)])
        gaps.note(tmp_path, [Gap(now, now, "x" * 9_000, "quarantined", first=i, last=i)])
        assert (tmp_path / GAPS).stat().st_size < 40_000
    found = gaps.read(tmp_path)
    assert [gap.before for gap in found if gap.kind == "session"] == [7]
    deleted = [(gap.first, gap.last) for gap in found if gap.kind == "deleted"]
    assert deleted[0][0] == 0
    assert deleted[-1][1] == 2499
    assert all(other[0] == (one[1] or 0) + 1 for one, other in itertools.pairwise(deleted))


def test_a_flood_of_garbage_in_gaps_does_not_stop_an_opening(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, 2)
    with open(tmp_path / GAPS, "wb") as file:
        file.truncate(1 << 31)  # zeros, without a line
    with caplog.at_level(logging.ERROR), Spool(tmp_path) as spool:
        spool.note_lost_session(datetime.now(UTC), datetime.now(UTC), "a test")
        spool.append([message(2)])
    assert (tmp_path / GAPS).stat().st_size < 1 << 20
    assert [gap.reason for gap in gaps.read(tmp_path)] == ["a test"]
    assert not caplog.records
