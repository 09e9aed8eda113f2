"""How much memory it takes to merge, open, read and replay a spool, whatever its messages are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MOST = 350
"""MiB."""

WRITE = """
spool = Spool(folder)
spool.maintain = lambda: None
with spool:
    group = []
    for i in range(count):
        group.append(message(i))
        if sum(len(m.payload) for m in group) >= 8 << 20 or len(group) == 1000:  # as a recorder does
            spool.append(group)
            group = []
    spool.append(group)
"""
WRITE_OLD = """
frame = pl.concat([Messages.numbered([message(i)], i).frame() for i in range(count)])
os.makedirs(folder + "/segments")
partial = folder + "/segments/partial"
frame.write_parquet(partial, compression="zstd", statistics=False)
checksum = zlib.crc32(open(partial, "rb").read())
os.rename(partial, f"{folder}/segments/{0:018}-{count - 1:018}-{checksum:08x}.parquet")
"""
MERGE = """
with Spool(folder) as spool:
    for _ in range(3):
        spool.maintain()
    assert spool.next_sequence == count, spool.next_sequence
"""
OPEN = """
with Spool(folder) as spool:
    assert spool.next_sequence == count, spool.next_sequence
    assert len(spool._recent) == min(count, 20_000), len(spool._recent)
"""
REPLAY = """
published = []

class Publisher:
    acknowledged = 0
    def __init__(self, *args): pass
    def __enter__(self): return self
    def __exit__(self, *error): pass
    def flush(self, *args, **options): return True
    def publish(self, topic, payload, stop):
        published.append(zlib.crc32(payload))
        return True

republish_module.Publisher = Publisher
assert republish_module.republish(folder, None, threading.Event(), None) == count
assert published == [zlib.crc32(message(i).payload) for i in range(count)]
"""
PROGRAM = """
import os, random, sys, threading, zlib
import polars as pl
from fml_lightning.connectors import Message, Spool, SpoolReader
from fml_lightning.connectors.messages import Messages
from fml_lightning.connectors.plant import republish as republish_module

folder, kind, count, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

def message(i):
    payload = {{
        "equal": lambda: bytes(size),
        "zeros": lambda: i.to_bytes(4, "little") + bytes(size - 4),
        "random": lambda: random.Random(i).randbytes(size),
        "mixed": lambda: i.to_bytes(4, "little") + bytes(size if i >= count - 20 else 4),
    }}[kind]()
    return Message("plant/a/m/x", payload, 1_764_000_000_000_000 + i, False, i % 60_000 + 1)
{}
status = open("/proc/self/status").read().splitlines()
print(next(int(line.split()[1]) >> 10 for line in status if line.startswith("VmHWM")))
"""

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is told by Linux only"),
]


def peak(what: str, folder: Path, kind: str, count: int, size: int) -> int:
    """The most memory that a process of its own needs for something, in MiB."""
    arguments = [str(folder), kind, str(count), str(size)]
    program = PROGRAM.format(what)
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


@pytest.mark.parametrize(
    ("kind", "count", "size"),
    [
        ("equal", 1_000, 500_000),
        ("zeros", 1_000, 500_000),
        ("random", 160, 500_000),
        ("zeros", 60_000, 20),
        ("zeros", 24, (16 << 20) - 100),
        ("random", 6, (16 << 20) - 100),
        ("mixed", 20_000, 8 << 20),
    ],
)
def test_memory_does_not_depend_on_the_messages(tmp_path: Path, kind: str, count: int, size: int) -> None:
    peak(WRITE, tmp_path, kind, count, size)
    for what in (OPEN, REPLAY, MERGE, OPEN, REPLAY):
        assert peak(what, tmp_path, kind, count, size) <= MOST, what


@pytest.mark.parametrize(
    ("kind", "count", "size"), [("equal", 1_000, 500_000), ("zeros", 1_000, 500_000), ("random", 120, 500_000)]
)
def test_nor_do_merged_segments_of_old_spools_need_more(tmp_path: Path, kind: str, count: int, size: int) -> None:
    peak(WRITE_OLD, tmp_path, kind, count, size)
    for what in (OPEN, MERGE, REPLAY):
        assert peak(what, tmp_path, kind, count, size) <= MOST, what
