"""Segments: the immutable Parquet files of a spool, each with a run of consecutive messages.

A file is named by the sequence numbers of its first and last message and the checksum of its bytes,
`FIRST-LAST-CRC32.parquet`. It appears under that name complete and on disk, or not at all: written as `.tmp`,
fsynced, renamed, and the folder fsynced. A merge writes the larger segment before it deletes its parts; if it is
interrupted between, the parts are still there, and a segment whose range lies within another's counts for nothing,
provided that the other holds its messages.

The footer of a file says the format's version, the bytes of its messages and when they were received. Segments of
before there were versions say nothing, may decompress to gigabytes, and may lack messages within their range.
"""

from __future__ import annotations

import logging
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Literal, NamedTuple, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning import durable
from fml_lightning.connectors.messages import MESSAGES, Messages
from fml_lightning.connectors.spool.footer import Footer, read_footer, slices
from fml_lightning.connectors.spool.page_buffer import PageBuffer
from fml_lightning.errors import UserError

log = logging.getLogger(__name__)

VERSION = 1
"""Of the format of segments."""
NAME = re.compile(r"([0-9]{18})-([0-9]{18})-([0-9a-f]{8})\.parquet")
NUMBERS = 10**17
"""Sequence numbers are below it: at a million messages a second that takes three thousand years."""
FRAME_BYTES = 16 << 20
"""Bytes of topics and payloads in a frame that is read, at most, unless a single message has more."""
FRAME_ROWS = 1 << 16
"""Messages in such a frame, at most."""
GROUP_BYTES = 8 << 20
"""Bytes of topics and payloads in a row group, at least: polars compresses a group in memory."""
_SLACK = 64
"""Bytes of a message by which polars may overestimate its size."""
_CHUNK = 1 << 20
"""Bytes of a file that are in memory at once while its checksum is taken."""


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

    @property
    def messages(self) -> int:
        """How many messages there are in its range."""
        return self.last + 1 - self.first


class Content(NamedTuple):
    """What a segment's footer says of its messages."""

    rows: int
    """Messages in it."""
    size: int | None
    """Bytes of their topics and payloads; None: the segment is older than versions."""
    received: tuple[int, int] | None
    """When the first and the last one were received, µs since 1970, UTC; None likewise."""

    @classmethod
    def of(cls, messages: Messages) -> Content:
        """What the footer of a segment of these messages says."""
        size = sum(map(len, messages.payloads)) + len("".join(messages.topics).encode())
        return cls(len(messages), size, (int(messages.received[0]), int(messages.received[-1])))


def write(
    folder: Path,
    messages: pl.DataFrame,
    content: Content,
    compression: Literal["uncompressed", "zstd"] = "uncompressed",
    buffer: PageBuffer | None = None,
) -> Segment:
    """Make messages (at least one, `MESSAGES`) a segment that is on disk when this returns.

    Args:
        folder: where segments are.
        messages: consecutive ones, in order of `sequence`.
        content: what the footer says of them.
        compression: of the file.
        buffer: memory that a caller who writes often uses for every segment.

    Raises:
        OSError: the disk is full or failing; nothing is left behind.
    """
    first, last = messages["sequence"][0], messages["sequence"][-1]
    size = content.size or 0
    groups = max(1, size // GROUP_BYTES)
    about = {
        "fml_version": str(VERSION),
        "fml_bytes": str(size),
        "fml_received": " ".join(map(str, content.received or ())),
    }
    # Not straight into a file: of a full disk polars would raise what it raises of its own bugs.
    buffer = buffer or PageBuffer(size + (1 << 20))
    buffer.clear()
    messages.write_parquet(
        cast(IO[bytes], buffer),
        compression=compression,
        statistics=False,
        row_group_size=-(-len(messages) // groups),
        metadata=about,
    )
    with buffer.content() as written:
        checksum = zlib.crc32(written)
        path = folder / f"{first:018}-{last:018}-{checksum:08x}.parquet"
        durable.write(path, written)
    return Segment(first, last, checksum, path)


def frames(segment: Segment, after: int = -1) -> Iterator[pl.DataFrame]:
    """The messages of a segment, `MESSAGES`, in order, in frames of bounded size; a segment may be a large one.

    Args:
        segment: which.
        after: the sequence number after which to begin.

    Raises:
        FileNotFoundError: it has been merged, or deleted by retention.
        DamagedError: the file is damaged, or its messages are not those of its name.
        UserError: a later version of this package has written it.
    """
    with _opened(segment) as file:
        source = _checked(segment, file)
        footer = _footer(segment, file)
        size = _content(segment, footer).size
        left = None if size is None else size + _SLACK * footer.rows
        ranges = [(0, footer.rows)]
        is_large = footer.rows > FRAME_ROWS or footer.size > FRAME_BYTES
        if is_large:
            begin = int(np.searchsorted(_sequences(segment, source), after, side="right"))
            try:
                ranges = list(slices(file, footer, begin, FRAME_BYTES, FRAME_ROWS))
            except ValueError as error:
                raise DamagedError(f"{segment.path.name}: {error}") from error
    for start, stop in ranges:
        frame = _read(segment, source, start, stop, footer.rows)
        if not is_large:
            _check_sequence(segment, frame["sequence"].to_numpy())
        if left is not None and (left := left - _bytes(frame)) < 0:
            raise DamagedError(f"{segment.path.name}: more bytes of messages than it says")
        if frame["sequence"][0] <= after:
            frame = frame.filter(pl.col("sequence") > after)
        if len(frame):
            yield from _small(frame)
        del frame  # before the next one is read


def read(segment: Segment) -> pl.DataFrame:
    """All messages of a segment that is known to be small; raises as `frames` does."""
    return pl.concat([MESSAGES.to_frame(), *frames(segment)])


def look(segment: Segment) -> Content:
    """What a segment says of its messages, without reading them.

    Raises:
        FileNotFoundError: it has been merged, or deleted by retention.
        DamagedError: its beginning or its end is missing, or it has other messages than its name says.
        UserError: a later version of this package has written it.
    """
    with _opened(segment) as file:
        return _content(segment, _footer(segment, file))


def check_covers(segment: Segment, parts: Iterable[Segment]) -> None:
    """Look whether a segment holds the messages of others, whose ranges lie within its own.

    Raises:
        FileNotFoundError: it has been merged, or deleted by retention.
        DamagedError: it is damaged, or does not hold them.
        UserError: a later version of this package has written it.
    """
    with _opened(segment) as file:
        source = _checked(segment, file)
        _content(segment, _footer(segment, file))
        rows = _sequences(segment, source)
    for part in parts:
        held = int(np.searchsorted(rows, part.last, side="right") - np.searchsorted(rows, part.first))
        if held == part.messages:
            continue
        try:
            missing = look(part).rows > held
        except (DamagedError, FileNotFoundError):
            continue  # there is nothing in it to be hidden
        if missing:
            raise DamagedError(f"{segment.path.name}: it lacks messages of {part.path.name} in its range")


def every(folder: Path, strangers: set[str] | None = None) -> list[Segment]:
    """All segments of a folder, in no order, also those that were merged into a larger one.

    Args:
        folder: where segments are; only regular files count.
        strangers: names of entries that are no segments; those that are not among them are added and logged.
    """
    found, strange = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            match = NAME.fullmatch(entry.name)
            if match and entry.is_file(follow_symlinks=False) and int(match[1]) <= int(match[2]) < NUMBERS:
                path = folder / entry.name
                found.append(Segment(int(match[1]), int(match[2]), int(match[3], 16), path))
            elif strangers is not None and entry.name not in strangers and not entry.name.endswith(".tmp"):
                strange.append(entry.name)
    if strangers is not None and strange:
        strangers.update(strange)
        some = ", ".join(repr(name) for name in sorted(strange)[:20])
        log.warning("%s: %d entries are no segments, and are left alone: %s", folder, len(strange), some)
    return found


def listing(folder: Path) -> list[Segment]:
    """The segments of a folder in order, without those that were merged into a larger one."""
    return effective(every(folder))


def effective(segments: Iterable[Segment]) -> list[Segment]:
    """Segments in order, without those whose range lies within another's.

    >>> parts = [Segment(0, 4, 0, Path("a")), Segment(5, 9, 0, Path("b")), Segment(0, 9, 0, Path("ab"))]
    >>> [s.path.name for s in effective(parts)]
    ['ab']
    """
    return [segment for segment, _ in covering(segments)]


def covering(segments: Iterable[Segment]) -> list[tuple[Segment, list[Segment]]]:
    """Segments in order, each with those whose range lies within its own.

    >>> parts = [Segment(0, 4, 0, Path("a")), Segment(5, 9, 0, Path("b")), Segment(0, 9, 0, Path("ab"))]
    >>> [(s.path.name, [part.path.name for part in within]) for s, within in covering(parts)]
    [('ab', ['a', 'b'])]
    """
    kept: list[tuple[Segment, list[Segment]]] = []
    for segment in sorted(segments, key=lambda s: (s.first, -s.last, s.path.name)):
        if kept and segment.last <= kept[-1][0].last:
            kept[-1][1].append(segment)
        else:
            kept.append((segment, []))
    return kept


def _opened(segment: Segment) -> IO[bytes]:
    try:
        return durable.open_regular(segment.path)
    except durable.NotRegularError as error:
        raise DamagedError(f"{segment.path.name}: {error}") from error


def _checked(segment: Segment, file: IO[bytes]) -> bytes | Path:
    """What polars reads a segment from: its bytes, if they are few, or its path; its checksum is right.

    Before polars sees them: damaged bytes may make polars abort the whole process.
    """
    is_small = os.fstat(file.fileno()).st_size <= FRAME_BYTES
    file.seek(0)
    chunks, checksum = [], 0
    while chunk := file.read(_CHUNK):
        checksum = zlib.crc32(chunk, checksum)
        if is_small:
            chunks.append(chunk)
    if checksum != segment.checksum:
        raise DamagedError(f"{segment.path.name}: its checksum is not that of its name")
    return b"".join(chunks) if is_small else segment.path


def _footer(segment: Segment, file: IO[bytes]) -> Footer:
    try:
        footer = read_footer(file)
    except ValueError as error:
        raise DamagedError(f"{segment.path.name}: {error}") from error
    version = footer.texts.get("fml_version", "0")
    if not version.isdecimal():
        raise DamagedError(f"{segment.path.name}: no such version: {version[:20]!r}")
    if int(version) > VERSION:
        _checked(segment, file)
        raise UserError(
            f"{segment.path}: expected segments of version {VERSION} or before, got {version[:20]}; upgrade"
            " fml-lightning, since a later one has written this spool"
        )
    return footer


def _content(segment: Segment, footer: Footer) -> Content:
    """What a footer says, if that may be said of a segment of this name."""
    has_version = "fml_version" in footer.texts
    if not 0 < footer.rows <= segment.messages or (has_version and footer.rows != segment.messages):
        raise DamagedError(f"{segment.path.name}: expected {segment.messages} messages, got {footer.rows}")
    if not has_version:
        return Content(footer.rows, None, None)
    try:
        first, last = map(int, footer.texts["fml_received"].split())
        return Content(footer.rows, int(footer.texts["fml_bytes"]), (first, last))
    except (KeyError, ValueError) as error:
        raise DamagedError(f"{segment.path.name}: its footer is not ours: {error}") from error


def _sequences(segment: Segment, source: bytes | Path) -> NDArray[np.int64]:
    """The sequence numbers of a segment's messages, which are those that its name says."""
    rows: NDArray[np.int64] = _collected(segment, _scan(source).select("sequence"))["sequence"].to_numpy()
    _check_sequence(segment, rows)
    return rows


def _check_sequence(segment: Segment, rows: NDArray[np.int64]) -> None:
    if (rows[0], rows[-1]) != (segment.first, segment.last) or (np.diff(rows) < 1).any():
        raise DamagedError(f"{segment.path.name}: its messages are not those that its name says")


def _read(segment: Segment, source: bytes | Path, start: int, stop: int, rows: int) -> pl.DataFrame:
    scan = _scan(source)
    frame = _collected(segment, scan if (start, stop) == (0, rows) else scan.slice(start, stop - start))
    if frame.schema != MESSAGES or len(frame) != stop - start:
        raise DamagedError(f"{segment.path.name}: expected {stop - start} messages, got {frame.schema}")
    return frame


def _scan(source: bytes | Path) -> pl.LazyFrame:
    return pl.scan_parquet(source, glob=False, hive_partitioning=False)


def _collected(segment: Segment, scan: pl.LazyFrame) -> pl.DataFrame:
    try:
        return scan.collect()
    except (
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
    ) as error:  # an OSError says nothing of the file
        raise DamagedError(f"{segment.path.name}: {error}") from error


def _small(frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """A frame in parts of at most `FRAME_BYTES` each: equal payloads are one in memory, until they are decoded."""
    if _bytes(frame) <= FRAME_BYTES:
        yield frame
        return
    size = pl.col("topic").str.len_bytes().cast(pl.Int64) + pl.col("payload").bin.size().cast(pl.Int64)
    ends = frame.select(size.cum_sum()).to_series().to_numpy()
    start = 0
    while start < len(frame):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + FRAME_BYTES, side="right")))
        yield frame[start:stop]
        start = stop


def _bytes(frame: pl.DataFrame) -> int:
    """Bytes of topics and payloads, each counted as often as it is there, or a few more."""
    return int(frame["topic"].estimated_size() + frame["payload"].estimated_size())
