"""What tests of a real federation share: `kits` of one authority, made once, which `conftest` makes known."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

import pytest
from forked import Forked

from fml_lightning.commands.demo_federation import DemoFederation

SITES = 3
PATIENCE = 600.0
"""Seconds for whatever is waited for: the machine may be busy. Nothing is proved by time."""
Process = subprocess.Popen[bytes] | Forked


@pytest.fixture(scope="session")
def kits(tmp_path_factory: pytest.TempPathFactory) -> DemoFederation:
    """A server and three sites of this machine, by `fml provision demo`; tests copy what they change."""
    demo = DemoFederation(SITES, str(tmp_path_factory.mktemp("federation") / "demo"))
    demo.make(lambda line: None)
    return demo


def kit_folder(demo: DemoFederation, name: str, to: Path) -> Path:
    """A copy of a kit of `kits`, of a site or of the `server`, that a test may change."""
    return Path(shutil.copytree(demo.kit(name), to / name))


def wait_for(what: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until something holds; how long that takes is no part of a test."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)


class Processes:
    """Processes of a federation, each with a log: `with Processes(folder) as processes: ...` ends them all.

    Args:
        folder: where they write their logs, and run unless `home` says otherwise.
        environment: of theirs, beside ours.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] = MappingProxyType({})) -> None:
        self.folder = folder
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **environment}
        self.running: dict[str, Process] = {}

    def module(self, name: str, *module: str) -> Process:
        """Start `python -m MODULE`, a module and its arguments, whose output is appended to NAME.log."""
        if self.launcher(name):
            return self.start(name, "-m", *module)
        log = self.folder / f"{name}.log"
        self.running[name] = started = Forked(module, log, self.home(name), self.environment)
        return started

    def home(self, name: str) -> Path:
        """Where a process runs."""
        return self.folder

    def launcher(self, name: str) -> list[str]:
        """What starts a process, before Python: nothing."""
        return []

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start `python ARGUMENTS`, whose output is appended to NAME.log."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = started = subprocess.Popen(
                [*self.launcher(name), sys.executable, *arguments],
                stdout=log,
                stderr=log,
                env=self.environment,
                cwd=self.home(name),
                start_new_session=True,
            )
        return started

    def fml(self, name: str, *arguments: str) -> Process:
        """Start `fml ARGUMENTS`."""
        return self.module(name, "fml_lightning", *arguments)

    def log(self, name: str) -> str:
        """What a process has written; nothing before it is started."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait(self, name: str, text: str, seconds: float = PATIENCE) -> None:
        """Wait until a process has written something."""
        end = time.monotonic() + seconds
        while text not in self.log(name):
            assert self.running[name].poll() is None, f"{name} ended: {self.log(name)[-2000:]}"
            assert time.monotonic() < end, f"{name} did not write {text!r}: {self.log(name)[-2000:]}"
            time.sleep(0.05)

    def end(self, name: str, how: signal.Signals = signal.SIGTERM) -> int:
        """Send a process a signal, and return its status."""
        self.running[name].send_signal(how)
        return self.running[name].wait(PATIENCE)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
