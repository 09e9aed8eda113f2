"""The lock of a folder: one process at a time works in it, such as one `fml fit` in the folder of its run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from types import TracebackType

from fml_lightning.errors import UserError


class FolderLock:
    """Held from `acquire` to `release`, or until the process ends, however it ends.

    The system releases it (flock(2)), so that a killed process leaves nothing that would have to be removed.

    Args:
        folder: what is locked, such as a run's folder.
        taken: what to say to whoever finds it locked: by what, and what to do.
        patience: seconds to wait for it, where others hold it for moments.
    """

    def __init__(self, folder: Path, taken: tuple[str, str], patience: float = 0.0) -> None:
        self.path = folder / "lock"
        self.taken = taken
        self.patience = patience
        self._file: int | None = None

    def acquire(self) -> FolderLock:
        """Take the lock.

        Raises:
            UserError: another process has it; which, is said.
        """
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._lock(self._file)
        except OSError as error:
            holder = os.pread(self._file, 20, 0).decode(errors="replace").strip()
            self.release()
            who, remedy = self.taken
            process = f"process {holder}" if holder.isdecimal() else "its process is unknown"
            raise UserError(f"{self.path.parent}: {who} ({process}); {remedy}") from error
        os.ftruncate(self._file, 0)
        with contextlib.suppress(OSError):  # the disk is full: it is locked, and only our number is not told
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)
        return self

    def _lock(self, file: int) -> None:
        until = time.monotonic() + self.patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise
            time.sleep(0.01)

    def release(self) -> None:
        """Let others work in the folder; nothing, if the lock is not held."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def fileno(self) -> int:
        """The descriptor of a lock that is held: a child process that inherits it holds the lock until it ends."""
        assert self._file is not None
        return self._file

    def __enter__(self) -> FolderLock:
        return self if self._file is not None else self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
