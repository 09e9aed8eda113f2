"""How old a spool's messages are, whatever the computer's clock shows, and what retention by age deletes."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from probes import numbers, spooled, until

from fml_lightning.connectors import Message, Spool
from fml_lightning.connectors.spool import ages, gaps, segments
from fml_lightning.connectors.spool import spool as spools
from fml_lightning.connectors.spool.ages import Ages, Moment
from fml_lightning.connectors.spool.folder import AGES

DAY = 86_400.0
NOW = 1_764_000_000.0
"""2025-11-24, seconds since 1970."""
IN_2030 = 1_900_000_000.0
IN_1971 = 40_000_000.0


class Computer:
    """A computer with a clock that can be set, one that cannot, and boots."""

    def __init__(self) -> None:
        self.wall = NOW
        self.uptime = 1_000.0
        self.boot = "boot 1"

    def now(self) -> Moment:
        return Moment(self.wall, self.uptime, self.boot)

    def run(self, seconds: float) -> None:
        """Time passes."""
        self.wall += seconds
        self.uptime += seconds

    def boot_again(self, off: float = 60.0) -> None:
        """It is off for so many seconds."""
        self.boot += "'"
        self.wall += off
        self.uptime = 10.0


@pytest.fixture
def computer(monkeypatch: pytest.MonkeyPatch) -> Computer:
    computer = Computer()
    monkeypatch.setattr(ages, "now", computer.now)
    return computer


def append(spool: Spool, computer: Computer, count: int = 2) -> None:
    first = spool.next_sequence
    spool.append([Message("t", b"%d" % i, int(computer.wall * 1e6)) for i in range(first, first + count)])


def fill_up(spool: Spool) -> None:
    chance = random.Random(0)
    for size in (10_000, 10):  # at last there is no room for a line
        with contextlib.suppress(OSError):
            while True:
                spool.append([Message("t", chance.randbytes(size), 0)])
    spool.append([Message("t", chance.randbytes(10_000), 0)])


def kept(spool: Spool) -> list[int]:
    """First sequence numbers of the segments."""
    return [segment.first for segment in segments.listing(spool.segment_folder)]


def kinds(folder: Path) -> list[str]:
    return [gap.kind for gap in gaps.read(folder)]


def set_to(wall: float) -> Callable[[Computer], None]:
    return lambda computer: setattr(computer, "wall", wall)


def boot_at(wall: float) -> Callable[[Computer], None]:
    def change(computer: Computer) -> None:
        computer.boot_again()
        computer.wall = wall

    return change


def move_away(computer: Computer) -> None:
    """The folder is used on another computer, which has run for long."""
    computer.boot = "another"
    computer.uptime = 900 * DAY


CLOCKS = {
    "forwards": set_to(IN_2030),
    "backwards": set_to(IN_1971),
    "a boot in 2030": boot_at(IN_2030),
    "a boot in 1971": boot_at(IN_1971),
    "another computer": move_away,
}


@pytest.mark.parametrize("change", CLOCKS.values(), ids=CLOCKS)
def test_no_clock_deletes_anything_while_a_spool_is_away(
    tmp_path: Path, computer: Computer, change: Callable[[Computer], None]
) -> None:
    for _ in range(5):
        with Spool(tmp_path, max_age_days=1) as spool:
            for _ in range(3):
                append(spool, computer)
        change(computer)
    with Spool(tmp_path, max_age_days=1) as spool:
        for _ in range(20):
            spool.maintain()
        assert numbers(tmp_path) == list(range(30))
    assert "deleted" not in kinds(tmp_path)


@pytest.mark.parametrize("change", [set_to(IN_2030), set_to(IN_1971)], ids=["forwards", "backwards"])
@pytest.mark.parametrize("mtime", [0.0, IN_1971, IN_2030])
def test_no_clock_deletes_anything_while_a_spool_is_open(
    tmp_path: Path,
    computer: Computer,
    change: Callable[[Computer], None],
    mtime: float,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Spool(tmp_path, max_age_days=1) as spool:
        for _ in range(6):
            append(spool, computer)
        for segment in segments.every(spool.segment_folder):
            os.utime(segment.path, (mtime, mtime))
        spool.maintain()
        computer.run(3_600)
        change(computer)
        append(spool, computer)
        for _ in range(20):
            spool.maintain()
        assert kept(spool) == list(range(0, 14, 2))
        (gap,) = gaps.read(tmp_path)  # said once
        assert gap.kind == "clock"
        assert gap.begin == datetime.fromtimestamp(NOW + 3_600, UTC)
        assert gap.end == datetime.fromtimestamp(computer.wall, UTC)
        assert "the computer's clock jumped" in caplog.text


def test_a_year_passes(tmp_path: Path, computer: Computer) -> None:
    with Spool(tmp_path) as spool:
        append(spool, computer)
        computer.run(600)  # marks are ten minutes apart
        spool.maintain()
        computer.run(DAY)
        append(spool, computer)
        computer.run(600)
        spool.maintain()
        for _ in range(364):
            computer.run(DAY - 2)
            spool.maintain()
        assert kept(spool) == [0, 2]  # the first were marked less than 365 days ago
        append(spool, computer)
        computer.run(DAY / 2)
        spool.maintain()
        assert kept(spool) == [2, 4]
        computer.run(DAY)
        spool.maintain()
        assert kept(spool) == [4]
        computer.run(900 * DAY)
        spool.maintain()
        assert kept(spool) == [4]  # the last one knows the next number
    first, second = gaps.read(tmp_path)
    assert (first.kind, first.first, first.last, first.reason) == ("deleted", 0, 1, "older than max_age_days, 365")
    assert first.begin == first.end == datetime.fromtimestamp(NOW, UTC)
    assert (second.first, second.last) == (2, 3)


def test_age_counts_also_while_no_process_writes_but_not_between_boots(tmp_path: Path, computer: Computer) -> None:
    with Spool(tmp_path, max_age_days=10) as spool:
        append(spool, computer)
        append(spool, computer)
    computer.run(4 * DAY)  # the computer runs, and nothing records
    with Spool(tmp_path, max_age_days=10) as spool:
        computer.run(5 * DAY)
    computer.boot_again(off=30 * DAY)
    with Spool(tmp_path, max_age_days=10) as spool:
        spool.maintain()
        assert kept(spool) == [0, 2]
        computer.run(2 * DAY)
        spool.maintain()
        assert kept(spool) == [2]
    assert kinds(tmp_path) == ["deleted"]  # a month between two boots is no jump


def test_one_pass_deletes_a_bounded_share(tmp_path: Path, computer: Computer) -> None:
    with Spool(tmp_path, max_age_days=1) as spool:
        for _ in range(250):
            append(spool, computer, 1)
        spool._mark(always=True)
        computer.run(2 * DAY)
        counts = []
        for _ in range(3):
            spool._mark()
            spool._retain()
            counts.append(len(kept(spool)))
        assert counts == [248, 246, 244]  # a hundredth, rounded down
    assert [(gap.first, gap.last) for gap in gaps.read(tmp_path)] == [(0, 1), (2, 3), (4, 5)]


def test_a_spool_of_before_there_were_marks_counts_as_of_its_opening(tmp_path: Path, computer: Computer) -> None:
    with Spool(tmp_path, max_age_days=2) as spool:
        append(spool, computer)
        append(spool, computer)
    (tmp_path / AGES).unlink()
    for segment in segments.every(tmp_path / "segments"):
        os.utime(segment.path, (0, 0))
    with Spool(tmp_path, max_age_days=2) as spool:
        computer.run(1.9 * DAY)
        spool.maintain()
        assert kept(spool) == [0, 2]
        computer.run(0.2 * DAY)
        spool.maintain()
        assert kept(spool) == [2]


def test_damaged_marks_make_nothing_older(tmp_path: Path, computer: Computer) -> None:
    chance = random.Random(0)
    file = tmp_path / "marks"
    honest = Ages(file, 0, 10 * DAY)
    for i in range(30):
        honest.advance()
        honest.mark(i, always=True)
        computer.run(DAY)
    good = file.read_bytes()
    junk = [
        b'{"sequence":29,"seconds":1e9,"wall":1,"uptime":1,"boot":"x"}\n',
        b'{"sequence":999999,"seconds":5,"wall":1,"uptime":1e9,"boot":"x"}\n',
        b'{"sequence":1,"seconds":1e999,"wall":1e999,"uptime":1e999,"boot":"x"}\n',
        b'{"sequence":29,"seco',
        b"\xff\x00\n",
        b"[" * 100_000 + b"\n",
        os.urandom(1000),
    ]
    for line in junk:
        for damaged in (line + good, good + line, good[:777] + line + good[777:]):
            file.write_bytes(damaged)
            found = Ages(file, 29, 10 * DAY)
            found.advance()
            assert found.older(10 * DAY) <= 20
    for _ in range(300):
        bad = bytearray(good)
        bad[chance.randrange(len(bad))] = chance.randrange(256)
        file.write_bytes(bad)
        found = Ages(file, 29, 10 * DAY)
        found.advance()
        assert found.older(12 * DAY) <= 20
    file.write_bytes(good)
    found = Ages(file, 29, 10 * DAY)
    found.advance()
    assert found.older(10 * DAY - 1) == 20  # of day 20; now is day 30
    assert found.older(10 * DAY) == 19


def test_marks_stay_few_and_ages_nearly_exact(tmp_path: Path, computer: Computer) -> None:
    file = tmp_path / "marks"
    of_spool = Ages(file, 0, 100 * DAY)
    for hour in range(24 * 300):
        of_spool.advance()
        of_spool.mark(hour)
        computer.run(3_600)
    of_spool.advance()
    assert len(file.read_bytes().splitlines()) <= ages.MOST_MARKS
    exact = 24 * 200  # of the hour 100 days before the last
    for found in (of_spool, Ages(file, 24 * 300, 100 * DAY)):
        found.advance()
        assert exact - 24 <= found.older(100 * DAY) <= exact


def test_a_full_disk_keeps_no_mark_and_no_harm_is_done(
    full_disk: Path, computer: Computer, caplog: pytest.LogCaptureFixture
) -> None:
    with Spool(full_disk, max_bytes=100_000, max_age_days=1) as spool:
        with pytest.raises(OSError, match="No space left"):
            fill_up(spool)
        computer.run(DAY / 2)
        spool.maintain()
        assert sum(s.path.stat().st_size for s in segments.listing(spool.segment_folder)) <= 100_000
        last = gaps.read(full_disk)[-1]
        assert last.kind == "deleted"  # noted once there was room
        assert last.last == spooled(full_disk)["sequence"][0] - 1


def test_the_real_clocks_go_forwards(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    one, other = ages.now(), ages.now()
    assert one.boot == other.boot != ""
    assert other.uptime >= one.uptime > 0
    with caplog.at_level(logging.WARNING), Spool(tmp_path) as spool:
        spool.maintain()
    assert not caplog.records


def test_marks_of_messages_that_somebody_deleted_make_later_ones_no_older(
    tmp_path: Path, computer: Computer
) -> None:
    with Spool(tmp_path, max_age_days=10.0) as spool:
        for _ in range(9):
            append(spool, computer)
            computer.run(DAY)
            spool.maintain()
    for segment in segments.listing(tmp_path / "segments"):
        segment.path.unlink()
    for _ in range(8):  # the numbers begin anew, and grow beyond those of the marks
        with Spool(tmp_path, max_age_days=10.0) as spool:
            append(spool, computer, 3)
            computer.run(DAY)
            spool.maintain()
            assert min(kept(spool)) == 0
    assert "deleted" not in kinds(tmp_path)


def test_a_disk_that_fails_for_long_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []

    def maintain(_: Spool) -> None:
        calls.append(len(calls))
        if len(calls) not in (4, 5):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(spools, "KEEP", 0.001)
    monkeypatch.setattr(Spool, "maintain", maintain)
    with Spool(tmp_path):
        until(lambda: len(calls) > 10)
    said = [record for record in caplog.records if "not maintained" in record.getMessage()]
    assert len(said) == 2  # before and after the two times that it went well
    assert all(record.exc_info is None for record in said)
