"""Segments: the immutable Parquet files of a spool, each with a run of consecutive messages.

A file is named by the sequence numbers of its first and last message and the checksum of its bytes,
`FIRST-LAST-CRC32.parquet`. It appears under that name complete and on disk, or not at all: written as `.tmp`,
fsynced, renamed, and the folder fsynced. A merge writes the larger segment before it deletes its parts; if it is
interrupted between, the parts are still there, and a segment whose range lies within another's counts for nothing.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Literal, NamedTuple, cast

import polars as pl

from fml_lightning.connectors.spool import durable
from fml_lightning.connectors.spool.page_buffer import PageBuffer

NAME = re.compile(r"(\d{18})-(\d{18})-([0-9a-f]{8})\.parquet")
MAGIC = b"PAR1"
"""The first and last four bytes of a Parquet file. Before the last come the metadata and their length, 4 bytes."""


class DamagedError(Exception):
    """A file that is not what was written as a segment."""


class Segment(NamedTuple):
    """A file of messages."""

    first: int
    """Sequence number of its first message."""
    last: int
    """Of its last one."""
    checksum: int
    """CRC-32 of the file."""
    path: Path


def write(
    folder: Path,
    messages: pl.DataFrame,
    compression: Literal["uncompressed", "zstd"] = "uncompressed",
    buffer: PageBuffer | None = None,
) -> Segment:
    """Make messages (at least one, `MESSAGES`) a segment that is on disk when this returns.

    Args:
        folder: where segments are.
        messages: in order of `sequence`.
        compression: of the file.
        buffer: memory that a caller who writes often uses for every segment.

    Raises:
        OSError: the disk is full or failing; nothing is left behind.
    """
    first, last = messages["sequence"][0], messages["sequence"][-1]
    # Not straight into a file: of a full disk polars would raise what it raises of its own bugs.
    buffer = buffer or PageBuffer()
    buffer.clear()
    messages.write_parquet(cast(IO[bytes], buffer), compression=compression, statistics=False)
    with buffer.content() as content:
        checksum = zlib.crc32(content)
        path = folder / f"{first:018}-{last:018}-{checksum:08x}.parquet"
        durable.write(path, content)
    return Segment(first, last, checksum, path)


def read(segment: Segment) -> pl.DataFrame:
    """The messages of a segment, `MESSAGES`.

    Raises:
        FileNotFoundError: it has been merged, or deleted by retention.
        DamagedError: the file is damaged.
    """
    content = segment.path.read_bytes()
    # Before polars sees them: damaged bytes may make polars abort the whole process.
    if zlib.crc32(content) != segment.checksum:
        raise DamagedError(f"{segment.path.name}: its checksum is not that of its name")
    return pl.read_parquet(content)


def check(segment: Segment) -> None:
    """Look whether a file is whole, without reading all of it.

    Raises:
        DamagedError: its beginning or its end is missing.
    """
    with open(segment.path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        begin = file.read(4)
        file.seek(max(0, size - 8))
        end = file.read(8)
    if begin != MAGIC or end[4:] != MAGIC or int.from_bytes(end[:4], "little") > size - 12:
        raise DamagedError(f"{segment.path.name}: not a whole Parquet file")


def listing(folder: Path) -> list[Segment]:
    """The segments of a folder in order, without those that were merged into a larger one."""
    return effective(_named(os.listdir(folder), folder))


def effective(segments: Iterable[Segment]) -> list[Segment]:
    """Segments in order, without those whose range lies within another's.

    >>> parts = [Segment(0, 4, 0, Path("a")), Segment(5, 9, 0, Path("b")), Segment(0, 9, 0, Path("ab"))]
    >>> [s.path.name for s in effective(parts)]
    ['ab']
    """
    kept: list[Segment] = []
    for segment in sorted(segments, key=lambda s: (s.first, -s.last)):
        if not kept or segment.last > kept[-1].last:
            kept.append(segment)
    return kept


def _named(names: Iterable[str], folder: Path) -> list[Segment]:
    found = ((name, NAME.fullmatch(name)) for name in names)
    return [Segment(int(m[1]), int(m[2]), int(m[3], 16), folder / name) for name, m in found if m]


def every(folder: Path) -> list[Segment]:
    """All segments of a folder, in no order, also those that were merged into a larger one."""
    return _named(os.listdir(folder), folder)
