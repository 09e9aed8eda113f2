"""A page buffer: a file in memory that begins on a page, as writing past the page cache requires."""

from __future__ import annotations

import mmap


class PageBuffer:
    """Takes what is written to it, as a binary file does, and keeps its memory for the next time."""

    def __init__(self) -> None:
        self._pages = mmap.mmap(-1, 1 << 20)
        self._length = 0

    def write(self, data: bytes) -> int:
        """Append bytes; how many."""
        end = self._length + len(data)
        if end > len(self._pages):
            pages = mmap.mmap(-1, max(end, 2 * len(self._pages)))
            with self.content() as content:
                pages[: self._length] = content
            self._pages = pages  # the old ones go with whoever still looks at them
        self._pages[self._length : end] = data
        self._length = end
        return len(data)

    def flush(self) -> None:
        """Does nothing; polars calls it."""

    def clear(self) -> None:
        """Begin anew; release what `content` has returned before."""
        self._length = 0

    def content(self) -> memoryview:
        """What was written since; release it before anything else is written."""
        with memoryview(self._pages) as pages:
            return pages[: self._length]
