"""The contents of a spool: what is in it, of whom and from when, what is doubtful or missing, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from fml_lightning.connectors.codecs.codec import LONGEST_NAME
from fml_lightning.connectors.quality import DOUBTFUL, Quality
from fml_lightning.connectors.spool import gaps, segments
from fml_lightning.connectors.spool.dead_letters import DeadLetters
from fml_lightning.connectors.spool.folder import DEAD_LETTERS, SEGMENTS
from fml_lightning.connectors.spool.gaps import Gap
from fml_lightning.connectors.spool.segments import Segment
from fml_lightning.connectors.spool.source import SpoolSource

MOST_NAMES = 10_000
"""Labels, names and reasons that are counted one by one, of each kind."""
OTHERS = "(further ones)"
"""Under which all others are counted."""
STREAM = ["site", "machine", "channel", "unit"]


@dataclass
class Contents:
    """What is in a spool."""

    folder: Path
    messages: int = 0
    """Messages that were read."""
    begin: datetime | None = None
    """When the first of them was received, UTC; None if there is none."""
    end: datetime | None = None
    """When the last one was."""
    segments: int = 0
    """Files that hold them."""
    bytes: int = 0
    """Of these files."""
    streams: pl.DataFrame = field(default_factory=pl.DataFrame)
    """A row for each channel of each machine, in order of their names: `site`, `machine`, `channel`; `unit`, null
    where nobody says; `readings`, how many; `samples`, how many of them all; `sample_rate`, Hz, the last one, null
    for scalars; `begin` and `end`, the first and the last time that is plausible; and how many readings have each
    flag of `DOUBTFUL`, by its `word`."""
    labels: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """How many labels there are, by site, machine and label."""
    repeated: int = 0
    """Readings that a device sent again, and that are left out."""
    skipped: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How many messages had something that no codec reads, by its name and what it is."""
    dead: Counter[str] = field(default_factory=Counter)
    """How many messages could not be read, wholly or in part, by the reason."""
    gaps: list[Gap] = field(default_factory=list)
    """What may be missing, or was deleted."""


def read_contents(folder: str | Path, on_progress: Callable[[int], None] = lambda messages: None) -> Contents:
    """Read all messages of a spool, and count what is in them.

    Args:
        folder: the spool's.
        on_progress: called now and then with how many messages were read so far.

    Raises:
        UserError: there is no such spool, or it does not say how it is read.
    """
    source = SpoolSource(folder)
    segment_folder = source.folder / SEGMENTS
    files = segments.listing(segment_folder) if segment_folder.is_dir() else []
    contents = Contents(
        source.folder,
        segments=len(files),
        bytes=sum(map(_size, files)),
        gaps=gaps.read(source.folder),
    )
    # Of a packet that was too large only its dead letter tells.
    oversized: set[int] = set()
    for letter in DeadLetters(source.folder / DEAD_LETTERS):
        if not letter.payload:
            oversized.add(letter.sequence)
            _count(contents.dead, letter.error)
    rows = pl.DataFrame()
    for frame, decoded in source.decoded():
        contents.messages += len(frame)
        contents.begin = contents.begin or frame["received"][0]
        contents.end = frame["received"][-1]
        contents.repeated += decoded.repeated
        for (what, kind), count in decoded.skipped.items():
            _count(contents.skipped, (what[:LONGEST_NAME], kind), count)
        for letter in decoded.dead:
            if letter.sequence not in oversized:
                _count(contents.dead, letter.error)
        for row in decoded.batch.labels.select("site", "machine", "label").iter_rows():
            _count(contents.labels, row)
        rows = _joined(pl.concat([rows, _counted(decoded.batch.readings)], how="diagonal"))
        on_progress(contents.messages)
    contents.streams = rows.sort(STREAM) if len(rows) else rows
    return contents


def _size(segment: Segment) -> int:
    """Bytes of a segment; none, if it was merged or deleted a moment ago."""
    try:
        return segment.path.stat().st_size
    except FileNotFoundError:
        return 0


def _count(counts: Counter[Any], what: str | tuple[str, ...], count: int = 1) -> None:
    """Count something, of which there may be as many as strangers make up."""
    if what not in counts and len(counts) >= MOST_NAMES:
        what = OTHERS if isinstance(what, str) else (OTHERS,) * len(what)
    counts[what] += count


def _counted(readings: pl.DataFrame) -> pl.DataFrame:
    """The rows of `Contents.streams` of some readings."""
    is_plausible = (pl.col("quality") & int(Quality.IMPLAUSIBLE_TIME)) == 0
    return readings.group_by(STREAM).agg(
        readings=pl.len().cast(pl.Int64),
        samples=pl.col("values").list.len().sum().cast(pl.Int64),
        sample_rate=pl.col("sample_rate").drop_nulls().last(),
        begin=pl.col("time").filter(is_plausible).min(),
        end=pl.col("time").filter(is_plausible).max(),
        **{flag.word: ((pl.col("quality") & int(flag)) != 0).sum().cast(pl.Int64) for flag in DOUBTFUL},
    )


def _joined(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of `Contents.streams`, of which several may be of one stream, as one of each."""
    counts = ["readings", "samples", *(flag.word for flag in DOUBTFUL)]
    return rows.group_by(STREAM, maintain_order=True).agg(
        *(pl.col(count).sum() for count in counts),
        pl.col("sample_rate").drop_nulls().last(),
        pl.col("begin").min(),
        pl.col("end").max(),
    )
