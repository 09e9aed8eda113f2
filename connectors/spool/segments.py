"""Segments: the immutable Parquet files of a spool, each with a run of consecutive messages.

A file is named by the sequence numbers of its first and last message and the checksum of its bytes,
`FIRST-LAST-CRC32.parquet`. It appears under that name complete and on disk, or not at all: written as `.tmp`,
fsynced, renamed, and the folder fsynced. Where the range of one lies within another's, the larger one replaces it
(what a merge leaves when it is interrupted).
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
"""With which a Parquet file begins and ends; between, at the end, the metadata and its length (4 bytes)."""


class DamagedError(Exception):
    """A file that is no segment, or no longer."""


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
        buffer: memory to use, again and again, for who writes often.

    Raises:
        OSError: the disk is full or failing; nothing is left behind.
    """
    first, last = messages["sequence"][0], messages["sequence"][-1]
    buffer = buffer or PageBuffer()  # polars, writing to a file, does not tell a full disk from a bug
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
    if zlib.crc32(content) != segment.checksum:  # before polars, whom damaged bytes may abort with the process
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
    """The segments of a folder in order, without those that a larger one replaces."""
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
    """All segments of a folder, in no order, replaced ones too."""
    return _named(os.listdir(folder), folder)
