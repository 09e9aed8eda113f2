"""Files that outlive a kill and a power cut: whole and old, or whole and new, never half of each."""

from __future__ import annotations

import os
from pathlib import Path


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, where they are missing; they are on disk when this returns."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def replace(path: Path, content: bytes | memoryview) -> None:
    """Make a file's content `content`; until `sync_folder`, a power cut may bring the old content back, whole."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def write(path: Path, content: bytes | memoryview) -> None:
    """Make a file's content `content`; it is on disk when this returns."""
    replace(path, content)
    sync_folder(path.parent)


def append(path: Path, line: bytes) -> None:
    """Append a line to a file; it is on disk when this returns. What a crash has cut short is ended first.

    Raises:
        OSError: the disk is full or failing; the file is as it was.
    """
    is_new = not path.exists()
    with path.open("ab+", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        cut = file.read(1) not in (b"", b"\n")
        try:
            rest = memoryview((b"\n" if cut else b"") + line + b"\n")
            while rest:
                rest = rest[file.write(rest) or 0 :]
            os.fsync(file.fileno())
        except BaseException:
            os.ftruncate(file.fileno(), end)
            raise
    if is_new:
        sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Make durable a file that others have written, and that its folder has it."""
    _sync(path)
    _sync(path.parent)


def sync_folder(folder: Path) -> None:
    """Make durable which files a folder has."""
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
