"""Repersonalization: make a new model of a machine that drifts, in a process of its own beside the watch.

That process is `fml personalize`, at the lowest priority, one at a time. What comes of it stands in the registry:
a watch that was killed meanwhile finds it there. A process that outlives its watch ends by itself, and no other
begins before it has.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from fml_lightning.datamodules.spool.fleet import UNSEEN
from fml_lightning.errors import UserError
from fml_lightning.folder_lock import FolderLock
from fml_lightning.live.attempt import iso
from fml_lightning.live.records import Outcome
from fml_lightning.personal.registry import Registry

LIMIT = 600.0
"""Seconds that an attempt may take."""
LONGEST = 400
"""Characters of an error that are told."""
FOLDER, OUTPUT = "personalize", "output.txt"
ERROR = "fml: error: "
LOWEST = 19
"""The priority of the process, as of nice(1): what is watched comes first."""
_RUNNING = ("a new model of a machine is being made", "wait until it is")


class Repersonalizer:
    """Makes a new model of one machine at a time, which watches if it is better than the current one.

    Args:
        folder: of the watch; what the process says is kept there until the next one.
        registry: where models are kept.
        command: `fml personalize`, with all but the machine and since when labels count.
        limit: seconds that an attempt may take.
    """

    def __init__(self, folder: Path, registry: Registry, command: Sequence[str], limit: float = LIMIT) -> None:
        self.folder = folder / FOLDER
        self.registry = registry
        self.command = tuple(command)
        self.limit = limit
        self._process: subprocess.Popen[bytes] | None = None
        self._end = 0.0  # monotonic seconds
        self._problem = ""

    def __enter__(self) -> Repersonalizer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop("the watch has ended")

    def newest(self, site: str, machine: str) -> dict[str, str]:
        """The newest version of a machine's model under each name that its site has in the registry."""
        found = {name: self.registry.versions(name, machine) for name in (site, site + UNSEEN)}
        return {name: versions[-1].name for name, versions in found.items() if versions}

    def start(self, site: str, machine: str, since: int) -> None:
        """Begin to make a model of a machine.

        Args:
            site: of the machine.
            machine: its name.
            since: from which on windows and labels count, µs since 1970.

        Raises:
            UserError: another one is being made, such as by a watch that was killed.
            OSError: the process cannot be started.
        """
        self._problem = ""
        self.folder.mkdir(exist_ok=True)
        with FolderLock(self.folder, _RUNNING) as lock, (self.folder / OUTPUT).open("wb") as output:
            self._process = subprocess.Popen(
                [*self.command, f"--machine={site}/{machine}", f"--data.since={iso(since)}"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
                pass_fds=[lock.fileno()],
            )
        self._end = time.monotonic() + self.limit
        with suppress(OSError):  # it has ended already
            os.setpriority(os.PRIO_PROCESS, self._process.pid, LOWEST)

    def stop(self, why: str) -> None:
        """End the process, if one runs."""
        if self._process is not None and self._process.poll() is None:
            self._problem = why
            with suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)  # the registry stays whole
            self._process.wait()

    def outcome(self, site: str, machine: str, newest: dict[str, str]) -> tuple[Outcome, str] | None:
        """What has become of an attempt, and a sentence that says so; None while its process runs.

        Args:
            site: of the machine.
            machine: its name.
            newest: as `newest` gave them before the attempt.
        """
        if self._process is not None and self._process.poll() is None and time.monotonic() > self._end:
            self.stop(f"it took longer than {self.limit:g} s")
        if self._is_running():
            return None
        self._process = None
        for name, version in self.newest(site, machine).items():
            if version != newest.get(name):
                return self._of_version(name, machine, version)
        return "failed", f"no new model: {self._problem or self._error() or 'it was interrupted'}"

    def _is_running(self) -> bool:
        """Whether a process runs, of this watch or of one that was killed."""
        if self._process is not None:
            return self._process.poll() is None
        if not self.folder.is_dir():
            return False
        try:
            FolderLock(self.folder, _RUNNING).acquire().release()
        except UserError:
            return True
        return False

    def _of_version(self, site: str, machine: str, version: str) -> tuple[Outcome, str]:
        """What has become of a version that was made."""
        made = next(each for each in self.registry.versions(site, machine) if each.name == version)
        why, stays = self.registry.why(made) or "that was interrupted", "no model"
        with suppress(UserError):
            if (current := self.registry.current(site, machine)) is not None:
                stays = current.name
        if stays == version:
            return "watches", f"{version} watches now: {why}"
        return "kept back", f"{stays} goes on watching, and {version} does not: {why}"

    def _error(self) -> str:
        """The last error that the process has told."""
        try:
            lines = (self.folder / OUTPUT).read_text(errors="replace").splitlines()
        except OSError:
            return ""
        errors = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
        return errors[-1][:LONGEST] if errors else ""
