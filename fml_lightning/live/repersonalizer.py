"""Repersonalization: make a new model of a machine that drifts, in a process of its own beside the watch.

That process is `fml personalize`, one at a time. What comes of it stands in the registry: a watch that was killed
meanwhile finds it there. A process that outlives its watch belongs to the next one, which ends it as its own: when
it takes too long, and when there may be a fault. No other begins before it has ended.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from errno import ENOENT
from pathlib import Path
from types import TracebackType

from fml_lightning.live.attempt import iso
from fml_lightning.live.background_process import BackgroundProcess
from fml_lightning.live.records import Outcome
from fml_lightning.names import registry_names
from fml_lightning.personal.registry import Registry

LIMIT = 600.0
"""Seconds that an attempt may take."""
LONGEST = 400
"""Characters of an error that are told."""
FOLDER = "personalize"
ERROR = "fml: error: "
_RUNNING = ("a new model of a machine is being made", "wait until it is")


class Repersonalizer:
    """Makes a new model of one machine at a time, which watches if it is better than the current one.

    Args:
        folder: of the watch; what the process says is kept there until the next one.
        registry: where models are kept.
        command: `fml personalize`, with all but the machine and since when labels count.
        limit: seconds that an attempt may take.
        directory: where the command runs; None: where the watch does.
    """

    def __init__(
        self,
        folder: Path,
        registry: Registry,
        command: Sequence[str],
        limit: float = LIMIT,
        directory: Path | None = None,
    ) -> None:
        self.registry = registry
        self.command = tuple(command)
        self.limit = limit
        self.directory = directory
        self.process = BackgroundProcess(folder / FOLDER, _RUNNING)
        self._problem = ""

    def __enter__(self) -> Repersonalizer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop("the watch has ended")

    def newest(self, site: str, machine: str) -> dict[str, str]:
        """The newest version of a machine's model under each name that its site has in the registry."""
        found = {name: self.registry.versions(name, machine) for name in registry_names(site)}
        return {name: versions[-1].name for name, versions in found.items() if versions}

    def prepare(self, site: str, machine: str) -> dict[str, str]:
        """Forget what the attempt before has told, before another one is written down and `start` begins it.

        Returns:
            The newest versions of the machine's model, by which `outcome` sees whether there is a new one.

        Raises:
            OSError: its models cannot be listed.
        """
        self._problem = ""
        self.process.forget()
        return self.newest(site, machine)

    def start(self, site: str, machine: str, since: int) -> None:
        """Begin to make a model of a machine.

        Args:
            site: of the machine.
            machine: its name.
            since: from which on windows and labels count, µs since 1970.

        Raises:
            UserError: another one is being made.
            OSError: the process cannot be started.
        """
        self._stop_if_late()
        if shutil.which(self.command[0]) is None:
            raise FileNotFoundError(ENOENT, "No such file, or it cannot be run", self.command[0])
        which = [f"--machine={site}/{machine}", f"--data.since={iso(since)}"]
        self.process.start([*self.command, *which], self.directory)

    def stop(self, why: str) -> None:
        """End the process, if one runs, of this watch or of one that was killed."""
        if self.process.is_running():
            self._problem = why
            self.process.end()  # the registry stays whole

    def outcome(self, site: str, machine: str, newest: dict[str, str]) -> tuple[Outcome, str] | None:
        """What has become of an attempt, and a sentence that says so; None while its process runs.

        Args:
            site: of the machine.
            machine: its name.
            newest: as `prepare` gave them before the attempt.
        """
        self._stop_if_late()
        if self.process.is_running():
            return None
        try:
            for name, version in self.newest(site, machine).items():
                if version != newest.get(name):
                    return self._of_version(name, machine, version)
        except OSError as error:  # its models cannot be listed
            return failed(error)
        return failed(self._problem or self._error() or "it was interrupted")

    def _stop_if_late(self) -> None:
        if self.process.seconds() > self.limit:
            self.stop(f"it took longer than {self.limit:g} s")

    def _of_version(self, site: str, machine: str, version: str) -> tuple[Outcome, str]:
        """What has become of a version that was made."""
        made = next(each for each in self.registry.versions(site, machine) if each.name == version)
        why = self.registry.why(made) or "that was interrupted"
        current = self.registry.known_current(site, machine)
        if current is not None and current.name == version:
            return "watches", f"{version} watches now: {why}"
        stays = "no model watches" if current is None else f"{current.name} goes on watching"
        return "kept back", f"{stays}, and {version} does not: {why}"

    def _error(self) -> str:
        """The last error that the process has told."""
        lines = self.process.output().splitlines()
        errors = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
        return errors[-1][:LONGEST] if errors else ""


def failed(why: object) -> tuple[Outcome, str]:
    """The outcome of an attempt of which no model came, and the sentence that says why."""
    return "failed", f"no new model: {why}"
