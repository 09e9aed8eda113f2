"""The C allocator, in processes of their own: a setting of it cannot be undone."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from fml_lightning.commands import allocator

FAULTS = """
import resource
import numpy as np
from fml_lightning.commands.allocator import keep_freed_memory
if {kept}:
    assert keep_freed_memory()
def step():
    for _ in range(4):
        arrays = [np.ones(4 << 20, np.uint8) for _ in range(8)]  # 32 MiB, more than glibc keeps by itself
        del arrays
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the allocator is not glibc's")
def test_what_was_needed_once_is_kept() -> None:
    def faults(kept: bool) -> int:
        done = subprocess.run(
            [sys.executable, "-c", FAULTS.format(kept=kept)], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    assert faults(True) < 100  # a page is 4 KiB: 32,768 of them if none is kept
    assert faults(False) > 10_000


def test_other_allocators_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert not allocator.keep_freed_memory()
    monkeypatch.setattr("sys.platform", "win32")
    assert not allocator.keep_freed_memory()
