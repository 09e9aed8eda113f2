"""The footer of a Parquet file, read without the file's contents, and which rows fit in memory together.

https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift

polars reads footers too; of damaged bytes it may abort the process, and of pages it tells nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fml_lightning.connectors.spool.thrift import Compact

MAGIC = b"PAR1"
"""The first and last four bytes of a Parquet file. Before the last come the footer and its length, 4 bytes."""
LARGEST = 16 << 20
"""Bytes of a footer, at most; ours have about a thousand."""
_DICTIONARY = 2
"""The type of a page that holds the distinct values of a column, not rows."""


class Chunk(NamedTuple):
    """The pages of one column in one row group."""

    begin: int
    """Of the bytes in the file."""
    end: int
    size: int
    """Bytes of its pages when they are decompressed."""


class Footer(NamedTuple):
    """What a file says of itself."""

    rows: int
    texts: dict[str, str]
    """What its writer has added: keys and values."""
    groups: list[tuple[int, list[Chunk]]]
    """The rows of each row group, and those of its columns that have values of any length."""

    @property
    def size(self) -> int:
        """Bytes of these columns' pages when they are decompressed."""
        return sum(chunk.size for _, chunks in self.groups for chunk in chunks)


def read_footer(file: IO[bytes]) -> Footer:
    """Read a file's footer.

    Raises:
        ValueError: it is no whole Parquet file, or its footer is damaged.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    begin = file.read(4)
    file.seek(max(0, size - 8))
    end = file.read(8)
    length = int.from_bytes(end[:4], "little")
    if begin != MAGIC or end[4:] != MAGIC or length > min(size - 12, LARGEST):
        raise ValueError("not a whole Parquet file")
    file.seek(size - 8 - length)
    fields = Compact(file.read(length)).struct()
    try:
        texts = {pair[1].decode(): pair.get(2, b"").decode() for pair in fields.get(5, [])}
        groups = [(group[3], [_chunk(c[3]) for c in group[1] if _is_of_bytes(c[3])]) for group in fields[4]]
        rows = fields[3]
        if rows < 0 or rows != sum(rows for rows, _ in groups) or min((rows for rows, _ in groups), default=0) < 0:
            raise ValueError("its row groups have other rows than the file")
        if any(not 4 <= chunk.begin <= chunk.end <= size or chunk.size < 0 for _, g in groups for chunk in g):
            raise ValueError("a column lies outside of the file")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its footer lacks {error}") from error
    return Footer(rows, texts, groups)


def slices(
    file: IO[bytes], footer: Footer, begin: int, most_bytes: int, most_rows: int
) -> Iterator[tuple[int, int]]:
    """Split the rows from `begin` on into ranges that fit in memory, each as long as possible.

    Pages are decompressed whole, so a range may take more than `most_bytes`, if a page does.

    Args:
        file: which the footer is of.
        footer: from `read_footer`.
        begin: the first row.
        most_bytes: of decompressed pages, at most.
        most_rows: in a range, at most.

    Raises:
        ValueError: a page's header is damaged.
    """
    first = 0
    for rows, chunks in footer.groups:
        if begin < first + rows:
            start = max(0, begin - first)
            is_small = sum(chunk.size for chunk in chunks) <= most_bytes
            columns = [] if is_small else [_pages(file, chunk, rows) for chunk in chunks]
            while start < rows:
                reaches = [_reach(ends, sizes, start, most_bytes // len(columns)) for ends, sizes in columns]
                stop = min([rows, start + most_rows, *reaches])
                yield first + start, first + stop
                start = stop
        first += rows


def _reach(ends: NDArray[np.int64], sizes: NDArray[np.int64], start: int, most_bytes: int) -> int:
    """The row up to which pages, from that of row `start` on, have `most_bytes` at most; at least one page."""
    page = int(np.searchsorted(ends, start, side="right"))
    before = sizes[page - 1] if page else 0
    last = int(np.searchsorted(sizes, before + most_bytes, side="right")) - 1
    return int(ends[max(page, last)])


def _pages(file: IO[bytes], chunk: Chunk, rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each page with rows: the row after its last one, and the decompressed bytes of all pages up to it."""
    ends, sizes, position, row, size = [], [], chunk.begin, 0, 0
    while position < chunk.end:
        header, position = _page_header(file, position, chunk.end)
        try:
            content = header.get(5) or header.get(8) or {}  # a data page of version 1 or 2
            row += 0 if header[1] == _DICTIONARY else content[1]
            size += 0 if header[1] == _DICTIONARY else header[2]
            position += header[3]
            if min(header[2], header[3]) < 0 or (header[1] != _DICTIONARY and content[1] < 1):
                raise ValueError("a page of less than nothing")
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the header of a page lacks {error}") from error
        if header[1] != _DICTIONARY:
            ends.append(row)
            sizes.append(size)
    if row != rows:
        raise ValueError("its pages have other rows than the file")
    return np.array(ends), np.array(sizes)


def _page_header(file: IO[bytes], position: int, end: int) -> tuple[dict[int, Any], int]:
    """The header of the page at a position, and where it ends."""
    for most in (256, 1 << 16):  # without statistics a header has about 20 bytes
        file.seek(position)
        header = Compact(file.read(min(most, end - position)))
        try:
            return header.struct(), position + header.position
        except ValueError:
            if most >= min(1 << 16, end - position):
                raise
    raise AssertionError("the second try returns or raises")


def _is_of_bytes(column: dict[int, Any]) -> bool:
    return bool(column[1] == 6)  # BYTE_ARRAY


def _chunk(column: dict[int, Any]) -> Chunk:
    begin = column.get(11) or column[9]  # the dictionary, if there is one, comes before the data
    return Chunk(begin, begin + column[7], column[6])
