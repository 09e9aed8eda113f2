"""Durable files: when a function here returns, what it wrote is on disk; if it fails, nothing was written.

So files outlive a kill and a power cut: whole and old, or whole and new, never half of each.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Literal

LARGE = 1 << 20
"""Bytes from which on a file is written past the system's page cache, where that is possible."""
BLOCK = 4096
"""Bytes in a block. Past the page cache only whole blocks can be written, from an address that is a multiple."""


class NotRegularError(OSError):
    """Something else lies where a file is expected: a folder, a link, a pipe, a device."""


def open_regular(path: Path, mode: Literal["rb", "wb", "ab+"] = "rb", permissions: int = 0o666) -> IO[bytes]:
    """Open a file, unbuffered, without following a link or waiting for a pipe.

    Args:
        path: of the file.
        mode: read it, make it (there must be none), or append to it and read it.
        permissions: of a file that is made: who may read and write it, less what the process's umask forbids.

    Raises:
        NotRegularError: it is no regular file.
        OSError: as of `os.open`.
    """
    flags = {"rb": os.O_RDONLY, "wb": os.O_WRONLY | os.O_CREAT | os.O_EXCL, "ab+": os.O_RDWR | os.O_CREAT}[mode]
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, permissions)
    except OSError as error:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(path.lstat().st_mode):
                raise NotRegularError(error.errno, "not a regular file", str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotRegularError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, mode, buffering=0)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, where they are missing; they are on disk when this returns."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def replace(path: Path, content: bytes | memoryview, permissions: int = 0o666) -> None:
    """Make a file's content `content`; until `sync_folder`, a power cut may bring the old content back, whole.

    Args:
        path: of the file.
        content: what it is to hold. It is written aside, as `NAME.tmp`, fsynced and renamed.
        permissions: who may read and write it, less what the process's umask forbids.

    Raises:
        OSError: the disk is full or failing; the file that was there, if any, is unchanged.
    """
    partial = path.with_name(f"{path.name}.tmp")
    try:
        partial.unlink(missing_ok=True)  # whatever a crash, or somebody else, has left there
        with open_regular(partial, "wb", permissions) as file:
            rest = memoryview(content)
            if len(rest) >= LARGE:
                rest = rest[_write_past_cache(file.fileno(), rest) :]
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        os.rename(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):  # it is a folder, or the disk fails: the first error says more
            partial.unlink(missing_ok=True)
        raise


def write(path: Path, content: bytes | memoryview, permissions: int = 0o666) -> None:
    """Make a file's content `content`; it is on disk when this returns.

    Args:
        path: of the file.
        content: what it is to hold.
        permissions: who may read and write it, less what the process's umask forbids.

    Raises:
        OSError: the disk is full or failing; the file that was there, if any, is whole, and none is there if none
            was.
    """
    existed = path.exists()
    replace(path, content, permissions)
    try:
        sync_folder(path.parent)
    except BaseException:
        if not existed:  # the caller, who learns of a failure, may write something else in place of this file
            path.unlink(missing_ok=True)
        raise


def _write_past_cache(file: int, content: memoryview) -> int:
    """Write the whole blocks of a content past the page cache (O_DIRECT), and return how many bytes were written.

    To copy a large file into the page cache takes longer than everything else that is done with it, and drives out
    the pages of other files. https://man7.org/linux/man-pages/man2/open.2.html
    """
    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    whole, done = len(content) // BLOCK * BLOCK, 0
    try:
        fcntl.fcntl(file, fcntl.F_SETFL, flags | getattr(os, "O_DIRECT", 0))
        while done < whole and done % BLOCK == 0:
            done += os.write(file, content[done:whole])
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL: this file system cannot, or not from this address
            raise
    finally:
        fcntl.fcntl(file, fcntl.F_SETFL, flags)
    return done


def add_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Append lines to a file, all of them or none; they are on disk when this returns.

    A last line that a crash has cut short is ended first.

    Raises:
        OSError: the disk is full or failing; the file is as it was.
    """
    is_new = not path.is_file()
    with open_regular(path, "ab+") as file:
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
