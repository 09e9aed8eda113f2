"""Durable files: when a function here returns, what it wrote is on disk; if it fails, nothing was written."""

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


def write(path: Path, content: bytes | memoryview, permissions: int = 0o666) -> None:
    """Make a file's content `content`: written aside, fsynced, renamed, and the folder fsynced.

    Args:
        path: of the file.
        content: what it is to hold.
        permissions: who may read and write it, less what the process's umask forbids.

    Raises:
        OSError: the disk is full or failing; the file that was there, if any, is unchanged.
    """
    partial = path.with_suffix(".tmp")
    is_created = False
    try:
        partial.unlink(missing_ok=True)  # whatever a crash, or somebody else, has left there
        with open_regular(partial, "wb", permissions) as file:
            rest = memoryview(content)
            if len(rest) >= LARGE:
                rest = rest[_write_past_cache(file.fileno(), rest) :]
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        existed = path.exists()
        os.rename(partial, path)
        is_created = not existed
        sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):  # it is a folder, or the disk fails: the first error says more
            partial.unlink(missing_ok=True)
        if is_created:  # the caller, who learns of a failure, may write something else in place of this file
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


def sync_folder(folder: Path) -> None:
    """Make durable which files a folder has, after one was made or renamed."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
