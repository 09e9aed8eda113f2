"""A process in the background, one at a time in its folder, which may outlive the one that started it.

It holds the folder's lock for as long as it runs, and before it begins its work it writes down its number, and
when it began, as proc_pid_stat(5) tells them. So whoever works in the folder next finds it and can end it, and
never ends another process that was given the same number since.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fml_lightning.errors import UserError
from fml_lightning.folder_lock import FolderLock

OUTPUT, PROCESS = "output.txt", "process.txt"
LOWEST = 19
"""Its priority, as of nice(1): whoever started it comes first."""
_BEGIN = 'read -r stat 2> /dev/null < "/proc/$$/stat"; echo "$stat" > "$0" && exec "$@"'
"""In sh: write down which process this is, and go on as the command."""


class BackgroundProcess:
    """The process of a folder, if one runs.

    Args:
        folder: which holds its lock, its number and its output; made when it is needed.
        taken: what to say to whoever would start a second one: what runs, and what to do.
    """

    def __init__(self, folder: Path, taken: tuple[str, str]) -> None:
        self.folder = folder
        self._taken = taken
        self._child: subprocess.Popen[bytes] | None = None
        self._began = 0.0  # monotonic seconds

    def start(self, command: Sequence[str], directory: Path | None = None) -> None:
        """Start a command at the lowest priority, on one core; its output replaces that of the one before.

        Args:
            command: the program and its arguments.
            directory: where it runs; None: here.

        Raises:
            UserError: one runs already.
            OSError: it cannot be started.
        """
        self.folder.mkdir(exist_ok=True)
        with FolderLock(self.folder, self._taken) as lock, (self.folder / OUTPUT).open("wb") as output:
            self._child = subprocess.Popen(
                ["/bin/sh", "-c", _BEGIN, str((self.folder / PROCESS).absolute()), *command],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
                pass_fds=[lock.fileno()],
            )
        self._began = time.monotonic()
        with suppress(OSError):  # it has ended already
            os.setpriority(os.PRIO_PROCESS, self._child.pid, LOWEST)

    def is_running(self) -> bool:
        """Whether one runs, whoever started it."""
        if self._child is not None:
            if self._child.poll() is None:
                return True
            self._child = None
        if not self.folder.is_dir():
            return False
        try:
            FolderLock(self.folder, self._taken).acquire().release()
        except UserError:
            return True
        return False

    def seconds(self) -> float:
        """For how long it has been running; 0 where none runs, or nobody knows."""
        if not self.is_running():
            return 0.0
        if self._child is not None:
            return time.monotonic() - self._began
        found = self._found()
        return 0.0 if found is None else time.clock_gettime(time.CLOCK_BOOTTIME) - found[1]

    def end(self) -> None:
        """Kill it, with those that it has started. One of another parent may take a moment more to end."""
        if not self.is_running():
            return
        found = self._found()
        number = self._child.pid if self._child is not None else None if found is None else found[0]
        if number is not None:
            with suppress(OSError):  # it has ended meanwhile
                os.killpg(number, signal.SIGKILL)
        if self._child is not None:
            self._child.wait()
            self._child = None

    def output(self) -> str:
        """What the newest one has told; empty where there was none."""
        try:
            return (self.folder / OUTPUT).read_text(errors="replace")
        except OSError:
            return ""

    def forget(self) -> None:
        """Forget the one that has ended, and what it has told; nothing, while one runs."""
        if not self.is_running():
            for name in (OUTPUT, PROCESS):
                with suppress(OSError):
                    (self.folder / name).unlink()

    def _found(self) -> tuple[int, float] | None:
        """The number of the process that is written down, and when it began, in seconds since the computer did.

        None where there is no such process, or no /proc.
        """
        try:
            kept = (self.folder / PROCESS).read_text()
            number = int(kept.split()[0])
            began = _ticks(kept)
            if began != _ticks(Path(f"/proc/{number}/stat").read_text()):
                return None
        except (OSError, ValueError, IndexError):
            return None
        return number, began / os.sysconf("SC_CLK_TCK")


def _ticks(stat: str) -> int:
    """When a process began, of the line that /proc/NUMBER/stat holds: the 22nd word, the name in () being one.

    >>> _ticks("7 (a) b) S 1 7 7 0 -1 4 9 9 0 0 1 2 0 0 20 0 1 0 98765 4 5")
    98765
    """
    return int(stat.rpartition(")")[2].split()[19])
