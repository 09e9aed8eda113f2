"""A spool as a source: what is new, what follows, and replays."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest
from probes import BIRTH, LONG, NOW, SECOND, said, spark, until

from fml_lightning.connectors import (
    Batch,
    JSONObject,
    LabelTopic,
    Message,
    Quality,
    SparkplugB,
    Spool,
    SpoolSource,
    Topic,
    Topics,
)
from fml_lightning.connectors.spool.folder import TOPICS, write_topics
from fml_lightning.errors import UserError


def record(folder: Path, topics: Topics, *groups: list[tuple[str, bytes]], received: int = NOW) -> None:
    """A segment for each group of messages, received a second apart."""
    count = itertools.count()
    with Spool(folder) as spool:
        write_topics(folder, topics)
        for group in groups:
            spool.append([Message(t, p, received + next(count) * SECOND) for t, p in group])


def values(batches: Sequence[Batch]) -> list[float]:
    return [value for batch in batches for value in batch.readings["values"].list.first()]


OBJECTS = Topics((Topic(codec=JSONObject()),), (LabelTopic(),))


def numbered(*numbers: int) -> list[tuple[str, bytes]]:
    return [("plant/n/m/x", said(i, NOW + i * SECOND)) for i in numbers]


def test_a_spool_source_reads_what_is_new(tmp_path: Path) -> None:
    record(tmp_path, OBJECTS, numbered(0, 1), numbered(2))
    source = SpoolSource(tmp_path)
    assert values(list(source.new())) == [0, 1, 2]
    assert list(source.new()) == []
    with Spool(tmp_path) as spool:
        spool.append([Message(t, p, NOW + 9 * SECOND) for t, p in numbered(3)])
    assert values(list(source.new())) == [3]


@pytest.mark.parametrize(
    ("after", "expected"), [(-1, [0, 1, 2, 3]), (0, [1, 2, 3]), (1, [2, 3]), (3, []), (9, [])]
)
def test_a_spool_source_goes_on_after_what_is_known(tmp_path: Path, after: int, expected: list[int]) -> None:
    record(tmp_path, OBJECTS, numbered(0, 1), numbered(2, 3))
    assert values(list(SpoolSource(tmp_path, after=after).new())) == expected


def test_a_stateful_codec_reads_from_the_beginning_and_yields_from_the_middle(tmp_path: Path) -> None:
    birth = ("spBv1.0/Ulm/NBIRTH/edge", spark(0, BIRTH))
    data = [("spBv1.0/Ulm/NDATA/edge", spark(i, {"alias": 1, "float_value": float(i)})) for i in (1, 2, 3)]
    record(tmp_path, Topics((Topic("spBv1.0/#", SparkplugB()),)), [birth, data[0]], data[1:])
    batches = list(SpoolSource(tmp_path, after=1).new())
    assert values(batches) == [2.0, 3.0]
    assert batches[0].readings["sequence"].to_list() == [2, 3]
    assert values(list(SpoolSource(tmp_path, after=2).new())) == [3.0]


def test_a_spool_source_follows_until_it_is_closed(tmp_path: Path) -> None:
    record(tmp_path, OBJECTS, numbered(0))
    source = SpoolSource(tmp_path)
    seen: list[Batch] = []
    with source as readings:

        def follow() -> None:
            seen.extend(readings)

        thread = threading.Thread(target=follow)
        thread.start()
        until(lambda: seen)
        with Spool(tmp_path) as spool:
            spool.append([Message(t, p, NOW) for t, p in numbered(1)])
    thread.join(LONG)
    assert not thread.is_alive()
    assert values(seen) == [0, 1]  # what had come by then is not left behind


def test_a_spool_source_replays_at_a_pace(tmp_path: Path) -> None:
    record(tmp_path, OBJECTS, numbered(0, 1), numbered(2))
    began = time.monotonic()
    arrivals = [(time.monotonic() - began, values([batch])) for batch in SpoolSource(tmp_path, speed=5.0)]
    assert [value for _, each in arrivals for value in each] == [0, 1, 2]
    # Received a second apart, so due every 0.2 s, and never before.
    assert arrivals[-1][0] >= 0.4
    assert values(list(SpoolSource(tmp_path, speed=math.inf))) == [0, 1, 2]
    with pytest.raises(UserError, match=r"speed: expected above 0, got -1"):
        SpoolSource(tmp_path, speed=-1.0)


def test_a_replay_that_waits_long_can_be_ended(tmp_path: Path) -> None:
    record(tmp_path, OBJECTS, numbered(0, 1))
    source = SpoolSource(tmp_path, speed=0.001)
    batches = iter(source)
    assert values([next(batches)]) == [0]
    threading.Timer(0.2, source.__exit__).start()
    assert list(batches) == []  # else the next one would come after a quarter of an hour


def test_a_spool_that_does_not_say_how_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such folder; start `fml record` first"):
        SpoolSource(tmp_path / "nowhere")
    record(tmp_path, OBJECTS, numbered(0))
    (tmp_path / TOPICS).unlink()
    with pytest.raises(UserError, match=r"no topics.json in it, so its topics must be given"):
        SpoolSource(tmp_path)
    assert values(list(SpoolSource(tmp_path, OBJECTS).new())) == [0]
    (tmp_path / TOPICS).write_bytes(b"\x80\x04cposix\nsystem\n")
    with pytest.raises(UserError, match=r"topics: expected what `fml record` writes"):
        SpoolSource(tmp_path)


def test_batches_of_nothing_but_dead_letters_are_not_yielded(tmp_path: Path) -> None:
    record(tmp_path, OBJECTS, [("plant/n/m/x", b"junk")], numbered(1))
    assert [len(batch.readings) for batch in SpoolSource(tmp_path).new()] == [1]


# What a source does beside reading: it warms up, follows a recorder that was restarted, and keeps its place ------


LATER = NOW + 100 * SECOND
"""After all times of these devices."""


def told(source: SpoolSource) -> list[tuple[int, float, int]]:
    """Sequence, value and quality of all that a replay or a look at what is new yields."""
    batches = list(source.new()) if source.speed is None else list(source)
    return [
        row
        for b in batches
        for row in b.readings.select("sequence", pl.col("values").list.first(), "quality").rows()
    ]


@pytest.mark.parametrize("speed", [None, math.inf])
def test_quality_is_the_same_from_wherever_a_spool_is_read(tmp_path: Path, speed: float | None) -> None:
    record(
        tmp_path, OBJECTS, numbered(5, 7), numbered(6, 7, 8), received=LATER
    )  # 6 is late; the second 7 is a repetition
    late = int(Quality.LATE)
    whole = [(0, 5.0, 0), (1, 7.0, 0), (2, 6.0, late), (4, 8.0, 0)]
    for after in range(-1, 5):
        rows = told(SpoolSource(tmp_path, after=after, speed=speed))
        assert rows == [row for row in whole if row[0] > after]


def test_a_source_follows_a_recorder_that_reads_topics_in_another_way(tmp_path: Path) -> None:
    record(tmp_path, OBJECTS, numbered(0, 5), received=LATER)
    given, source, untold = SpoolSource(tmp_path, OBJECTS), SpoolSource(tmp_path), SpoolSource(tmp_path)
    assert told(source) == [(0, 0.0, 0), (1, 5.0, 0)]
    other = Topics((Topic("works/{site}/{machine}/{channel}", JSONObject()), *OBJECTS.readings))
    new = [("works/n/m/y", said(3.0, NOW)), ("plant/n/m/x", said(4.0, NOW + 4 * SECOND))]
    record(tmp_path, other, new, received=LATER)
    late = int(Quality.LATE)
    expected = [(0, 0.0, 0), (1, 5.0, 0), (2, 3.0, 0), (3, 4.0, late)]
    assert told(source) == expected[2:]  # and what came before is still known
    assert told(untold) == expected
    assert [row[0] for row in told(given)] == [0, 1, 3]  # as the user says
    (tmp_path / TOPICS).write_bytes(b"{}")
    with Spool(tmp_path) as spool:
        spool.append([Message(t, p, NOW) for t, p in numbered(6)])
    with pytest.raises(UserError, match=rf"spool {tmp_path}: topics: expected what `fml record` writes"):
        told(source)


def test_the_readers_of_a_source_share_its_position(tmp_path: Path) -> None:
    record(tmp_path, OBJECTS, numbered(0, 1), [("plant/n/m/x", b"junk")], numbered(2))
    source = SpoolSource(tmp_path, after=0)
    assert source.position == 0
    new = source.new()
    assert values([next(new)]) == [1]
    assert source.position == 1
    assert [len(decoded.dead) for _, decoded in source.decoded()] == [1, 0]
    assert (source.position, source.missed) == (3, 0)
    assert list(source.new()) == []
