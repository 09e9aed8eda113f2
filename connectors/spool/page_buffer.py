"""A page buffer: a file in memory that begins where a page begins, as writing past the page cache requires."""

from __future__ import annotations

import mmap


class PageBuffer:
    """Takes what is written to it, as a binary file does; its memory is used again after `clear`.

    Args:
        size: bytes that fit before it must grow, for which it briefly takes twice its memory; pages that nothing
            was written to take none.
    """

    def __init__(self, size: int = 1 << 20) -> None:
        self._pages = mmap.mmap(-1, size)
        self._length = 0

    def write(self, data: bytes) -> int:
        """Append bytes, and return how many."""
        end = self._length + len(data)
        if end > len(self._pages):
            pages = mmap.mmap(-1, max(end, 2 * len(self._pages)))
            with self.content() as content:
                pages[: self._length] = content
            self._pages = pages  # the old pages are freed once nobody holds a view of them
        self._pages[self._length : end] = data
        self._length = end
        return len(data)

    def flush(self) -> None:
        """Does nothing; polars calls it."""

    def clear(self) -> None:
        """Forget what was written. Every view that `content` has returned must have been released."""
        self._length = 0

    def content(self) -> memoryview:
        """A view of what was written since `clear`; release it before anything else is written."""
        with memoryview(self._pages) as pages:
            return pages[: self._length]
