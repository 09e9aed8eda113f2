"""The C allocator: keep freed memory instead of giving it back to the system after every step.

A meta-step allocates and frees the same megabytes over and over. By default glibc returns what lies free at the
top of the heap, and pays with a page fault for each of its pages in the next step: for stacked tasks a quarter
of the time (`python -m benchmarks.meta_step --trim`). What a process has once needed, it keeps.

https://man7.org/linux/man-pages/man3/mallopt.3.html
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
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
    mallopt = None if sys.platform == "win32" else getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_TRIM_THRESHOLD, KEPT)) and bool(mallopt(M_MMAP_THRESHOLD, LARGEST_ON_HEAP))
