"""Durable files: on disk when a function returns, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def write(path: Path, content: bytes | memoryview) -> None:
    """Make a file's content `content`: written aside, fsynced, renamed, and the folder fsynced.

    Raises:
        OSError: the disk is full or failing; there is no such file, or the one before.
    """
    partial = path.with_suffix(".tmp")
    renamed = False
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        existed = path.exists()
        os.rename(partial, path)
        renamed = not existed
        sync_folder(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        if renamed:  # though not for certain: whoever is told that it failed may write something else
            path.unlink(missing_ok=True)
        raise


def add_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Append lines to a file, all of them or none; they are on disk when this returns.

    Raises:
        OSError: the disk is full or failing; the file is as it was.
    """
    is_new = not path.is_file()
    with open(path, "ab+", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        cut = file.read(1) not in (b"", b"\n")  # a crash has cut the last line short
        rest = memoryview((b"\n" if cut else b"") + b"".join(line + b"\n" for line in lines))
        try:
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except BaseException:
            os.ftruncate(file.fileno(), end)
            raise
    if is_new:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make what was renamed in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
