"""Python processes that begin with the heavy imports done: forked from one that has done them.

Every one of them is a process of its own that runs the module's own entry; it only does not take the seconds of
processor time, each, that torch and Lightning take to be imported.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PRELOADED = [
    "lightning.pytorch",
    "torchmetrics.classification",
    "jsonargparse",
    "cryptography.x509",
    "fml_lightning",
    "fml_lightning.datamodules",
    "fml_lightning.commands.learning",
    "fml_lightning.commands.server",
    "fml_lightning.commands.site",
]
PR_SET_PDEATHSIG = 1
"""Of Linux's prctl."""
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


class Forked:
    """A process that runs `python -m MODULE ARGUMENTS`; used as `subprocess.Popen` is.

    Args:
        module: the module, and its arguments.
        log: the file to which its output is appended.
        folder: where it runs.
        environment: all of it.
    """

    def __init__(self, module: Sequence[str], log: Path, folder: Path, environment: Mapping[str, str]) -> None:
        before = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"  # OpenMP reads it once, where torch is imported
        try:
            self._process = _context.Process(
                target=_run, args=(list(module), str(log), str(folder), dict(environment))
            )
            self._process.start()
        finally:
            if before is None:
                del os.environ["OMP_NUM_THREADS"]
            else:
                os.environ["OMP_NUM_THREADS"] = before

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None
        return pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return code

    def send_signal(self, how: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, how)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(module: list[str], log: str, folder: str, environment: dict[str, str]) -> None:
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # not to outlive tests that are killed
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    for text in (sys.stdout, sys.stderr):
        text.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = module
    runpy.run_module(module[0], run_name="__main__", alter_sys=True)
