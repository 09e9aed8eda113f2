"""The C allocator: keep freed memory instead of giving it back to the system after every step.

A meta-step allocates and frees the same megabytes over and over. By default glibc returns what lies free at the
top of the heap, and pays with a page fault for each of its pages in the next step: for stacked tasks a quarter
of the time (`python -m benchmarks.meta_step --trim`). What a process has once needed, it keeps.

https://man7.org/linux/man-pages/man3/mallopt.3.html
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
KEPT = 1 << 30
"""Free bytes at the top of the heap before any go back to the system."""
LARGEST_ON_HEAP = 1 << 25
"""Blocks beyond this size, in bytes, are still mapped and returned one by one: the largest value glibc takes."""


def keep_freed_memory() -> bool:
    """Let this process keep the memory it frees; glibc only: elsewhere nothing is done.

    A process's own affair: the command line calls it, the library never does.

    Returns:
        Whether it could be set.
    """
    return _set(M_TRIM_THRESHOLD, KEPT) and _set(M_MMAP_THRESHOLD, LARGEST_ON_HEAP)


def share_one_heap() -> bool:
    """Let all threads allocate from one heap, so that what one thread frees another takes up again.

    For processes whose threads hand memory on, under the interpreter's lock, and hardly ever allocate at once.

    Returns:
        Whether it could be set: glibc only.
    """
    return _set(M_ARENA_MAX, 1)


def _set(option: int, value: int) -> bool:
    mallopt = None if sys.platform == "win32" else getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt is not None and mallopt(option, value))
