"""NVFlare's long-lived process of a kit, server or client: started, watched, restarted, and ended with ours."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from logging.handlers import RotatingFileHandler
from pathlib import Path

from fml_lightning.errors import UserError
from fml_lightning.executors.nvflare.handshake import refusal
from fml_lightning.executors.nvflare.kit import Kit
from fml_lightning.executors.nvflare.namesakes import HOLD, TOLD, in_use_twice
from fml_lightning.executors.nvflare.turned_away import TurnedAway

log = logging.getLogger(__name__)

OLDEST, NEWEST = (2, 8, 3), (2, 10)
"""NVFlare's versions from and below which the hubs are tried; as in pyproject.toml."""
LONGEST_WAIT = 60.0
"""Seconds between two starts, at most."""
LOOK = 0.25
"""Seconds between two looks at the process."""
PROBE_EVERY = 15.0
"""Seconds between two handshakes that find out why a site is not connected."""
PROBE_AFTER = 3.0
"""Seconds without a connection before the first of them."""
SETTLED = 1.0
"""Seconds that a line must have been up: NVFlare logs one as created, and closes it, where nobody listens."""
BEAT_LOST = 15.0
"""Seconds for which a heartbeat that failed means that the server is not reached; they come every 10 s."""
LOG_BYTES = 5_000_000
"""Bytes of NVFlare's log, after which it is moved to log.txt.1."""
HEAP = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(2**20)}
"""How the C library allocates in NVFlare's process, unless the user's environment says otherwise: its many threads
hand messages on, one at a time, and with a heap each they would all keep what messages once took; large messages
go back to the system.
https://www.gnu.org/software/libc/manual/html_node/Memory-Allocation-Tunables.html
"""
LAUNCH = """
import os, runpy, signal, sys, threading, time

ours, module = int(sys.argv[1]), sys.argv[2]

def end_with_ours():
    while os.getppid() == ours:
        time.sleep(0.2)
    os.killpg(0, signal.SIGKILL)

threading.Thread(target=end_with_ours, daemon=True).start()
del sys.argv[:2]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
"""Runs a module in a process that ends when ours does, however ours ends. It looks who its parent is: a pipe would
be held open by whatever else we have forked, and Linux's parent-death signal comes when a mere thread ends.
"""
_REGISTERED = re.compile(r"Successfully registered client")
_LINE_UP = re.compile(r"Connection \[(CN\d+) [^\]]*=> [^\]]*\] is created")
_LINE_DOWN = re.compile(r"Connection \[(CN\d+) [^\]]*\] is closed")
_BEAT_FAILED = re.compile(r"Failed to send heartbeat|TP=heart_beat .*(cannot send|no connection|timeout)")
_DISABLED = re.compile(r"Client '[^']*' is disabled")
_ADMITTED = re.compile(r"the server lets this host take part again")
_SERVING = re.compile(r"Server started")


@dataclass(frozen=True)
class ParentStatus:
    """How NVFlare's process is doing."""

    running: bool = False
    """The process runs."""
    connected: bool = False
    """A server takes connections; a site is registered at its server, and its line is up."""
    since: float = 0.0
    """When `connected` became what it is, in seconds since 1970."""
    restarts: int = 0
    """How often the process has been started again."""
    problem: str | None = None
    """Why it is not connected, in one sentence, as far as that can be seen."""


class NVFlareParent:
    """Keeps NVFlare's process of a kit alive: `with NVFlareParent(kit, folder, {"FML_SITE": ...}) as parent: ...`.

    When the process ends by itself, it is started again, after 1, 2, 4 ... 60 seconds. When the kit's certificate
    is replaced, it is started again at once, so that a renewed one takes effect. The process never outlives
    ours, not even where ours is killed.

    Args:
        kit: whose process it is.
        folder: the folder of `fml server` or `fml site`; NVFlare's output goes to `nvflare/log.txt` in it.
        environment: what the hub in the process finds its folder by.

    Raises:
        UserError: NVFlare is not installed, or in a version that the hubs are not tried with.
    """

    def __init__(self, kit: Kit, folder: Path, environment: Mapping[str, str]) -> None:
        refuse_other_versions()
        self.kit = kit
        self.folder = folder.absolute() / "nvflare"
        self.environment = dict(environment)
        self._heard = Heard(kit.role == "server")
        self.turned_away = TurnedAway(kit)
        """At a server: whom it does not let take part, and why."""
        self._lock = threading.Lock()
        self._status = ParentStatus(since=time.time())
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None

    @property
    def log_file(self) -> Path:
        """What NVFlare has written."""
        return self.folder / "log.txt"

    @property
    def pid(self) -> int | None:
        """NVFlare's process while it runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def status(self) -> ParentStatus:
        """How it is doing now."""
        with self._lock:
            return self._status

    def start(self) -> None:
        """Start it, and keep it alive from now on."""
        if self._thread is None:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._stopping.clear()
            self._thread = threading.Thread(target=self._supervise, name="nvflare", daemon=True)
            self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """End it with SIGTERM; after `timeout` seconds with SIGKILL, and whatever it has started with it."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(PROBE_EVERY)  # it may be in a handshake
            self._thread = None
        process = self._process
        if process is not None:
            _end(process, timeout)
        self._tell(running=False, connected=False, problem=None)

    def __enter__(self) -> NVFlareParent:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _supervise(self) -> None:
        """Start the process again whenever it has ended, until `stop`."""
        wait, first = 1.0, True
        while not self._stopping.is_set():
            if (obstacle := self._obstacle()) is None:
                if not first:
                    self._tell(restarts=self.status().restarts + 1)
                first = False
                was_connected, replaced = self._live()
                wait = 1.0 if was_connected else wait
                if replaced:
                    continue
            else:
                self._tell(problem=obstacle)
            self._stopping.wait(wait if obstacle is None else min(wait, PROBE_EVERY))
            wait = min(2 * wait, LONGEST_WAIT)

    def _obstacle(self) -> str | None:
        """Why it is no use to start the process now."""
        try:
            self.kit = Kit(self.kit.folder)  # its certificate may have been renewed
            self.kit.prepare(self.folder)
        except (UserError, OSError) as error:
            return str(error)
        if not self._is_of_today():  # NVFlare's process would only end with a traceback
            if self.kit.role == "site":
                refusal(self.kit)  # dials, so that the server's end hears of it too
            return self.kit.warning()
        if self.kit.role == "server" and is_taken(self.kit.port):
            return f"port {self.kit.port} is taken: end what listens there, or move the server to another port"
        return None

    def _live(self) -> tuple[bool, bool]:
        """One life of the process; whether it was ever connected, and whether its certificate was replaced."""
        stamp = _stamp(self.kit.certificate_file)
        began = probed = time.monotonic()
        was_connected = replaced = False
        self._heard.begin()
        try:
            process = self._launch()
        except OSError as error:
            self._tell(running=False, problem=f"NVFlare's process cannot be started ({error})")
            return False, False
        reader = threading.Thread(target=self._read, args=(process,), name="nvflare log", daemon=True)
        reader.start()
        self._tell(running=True)
        while process.poll() is None and not self._stopping.wait(LOOK):
            connected = self._heard.connected
            was_connected = was_connected or connected
            now = time.monotonic()
            if connected:
                self._tell(connected=True, problem=None)
                probed = now
            else:
                self._tell(connected=False)
                if self._heard.twice or self._heard.disabled:
                    self._tell(problem=self._diagnosis())
                elif now - began > PROBE_AFTER and now - probed > (
                    PROBE_EVERY if self.status().problem else PROBE_AFTER
                ):
                    self._tell(problem=self._diagnosis())
                    probed = time.monotonic()
            if (seen := _stamp(self.kit.certificate_file)) != stamp and seen is not None:
                log.warning("%s: the certificate was replaced, NVFlare is started again with it", self.kit.name)
                replaced = True
                break
        if self._stopping.is_set():
            return was_connected, False  # `stop` ends the process
        _end(process, 10.0)
        reader.join(10.0)
        problem = (
            None
            if replaced
            else self._diagnosis()
            or (f"NVFlare's process ended with status {process.returncode}; see {self.log_file}")
        )
        self._tell(running=False, connected=False, problem=problem)
        return was_connected, replaced

    def _launch(self) -> subprocess.Popen[bytes]:
        environment = {
            **HEAP,
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "GRPC_VERBOSITY": "INFO",  # from where on it tells of handshakes that fail
            **self.environment,
        }
        command = [sys.executable, "-u", "-P", "-c", LAUNCH, str(os.getpid()), *self._module()]
        # A session of its own: Ctrl-C is for us, who end it when we are done.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=self.folder,
            start_new_session=True,
        )
        return self._process

    def _module(self) -> list[str]:
        """NVFlare's module and its arguments, as the kit's own `sub_start.sh` has them."""
        kit, settings = self.kit, ["secure_train=true", f"org={self.kit.federation}", "config_folder="]
        if kit.role == "server":
            module, file = "nvflare.private.fed.app.server.server_train", "fed_server.json"
        else:
            module, file = "nvflare.private.fed.app.client.client_train", "fed_client.json"
            settings.insert(1, f"uid={kit.name}")
        return [module, "-m", str(kit.folder), "-s", file, "--set", *settings]

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        """Write NVFlare's output to a log of bounded size, and take from it what it says of the connection."""
        assert process.stdout is not None
        with _bounded_log(self.log_file) as kept, process.stdout:
            for line in process.stdout:
                text = line.decode(errors="replace").rstrip()
                self._heard.line(text)
                if self._heard.is_server:
                    self.turned_away.line(text)
                kept.emit(logging.makeLogRecord({"msg": text}))

    def _diagnosis(self) -> str | None:
        """Why it is not connected, as far as that can be seen from here."""
        if not self._is_of_today():
            return self.kit.warning()
        if self.kit.role == "server":
            return None
        if self._heard.disabled:
            return (
                f"the server at {self.kit.host}:{self.kit.port} has disabled {self.kit.name}; whoever runs it can"
                f" let it in again with fml server enable {self.kit.name}"
            )
        if self._heard.twice:
            return in_use_twice(self.kit.name)
        if (problem := refusal(self.kit)) is not None or not self._heard.refused:
            return problem
        return (
            f"the server at {self.kit.host}:{self.kit.port} takes the certificate of {self.kit.name}, but not its"
            " messages: it has disabled it (fml server enable), or another host runs with the same kit"
        )

    def _is_of_today(self) -> bool:
        """Whether the certificate is valid now."""
        return self.kit.starts <= datetime.now(UTC) < self.kit.ends

    def _tell(self, **changed: object) -> None:
        with self._lock:
            if "connected" in changed and changed["connected"] != self._status.connected:
                changed["since"] = time.time()
            self._status = replace(self._status, **changed)  # type: ignore[arg-type]


class Heard:
    """What NVFlare's log says of its connection.

    Args:
        is_server: whether it is a server's log.
    """

    def __init__(self, is_server: bool) -> None:
        self.is_server = is_server
        self.begin()

    def begin(self) -> None:
        """Forget what an earlier process has said."""
        self._up = False
        self._line: str | None = None
        self._line_since = 0.0
        self._beat_failed = -BEAT_LOST
        self._refused_twice = -HOLD
        self.disabled = False
        """Whether the server has said last that it has disabled this site."""

    def line(self, text: str) -> None:
        """Take in a line of the log."""
        now = time.monotonic()
        if (_SERVING if self.is_server else _REGISTERED).search(text):
            self._up, self.disabled, self._beat_failed = True, False, -BEAT_LOST
        elif _DISABLED.search(text):
            self.disabled = True
        elif TOLD.search(text):
            self._refused_twice = now
        elif _ADMITTED.search(text):
            self._refused_twice, self.disabled = -HOLD, False
        elif (up := _LINE_UP.search(text)) is not None:
            self._line, self._line_since, self._beat_failed = up[1], now, -BEAT_LOST
        elif (down := _LINE_DOWN.search(text)) is not None and down[1] == self._line:
            self._line = None
        elif _BEAT_FAILED.search(text):
            self._beat_failed = now

    @property
    def twice(self) -> bool:
        """Whether the server says that another host runs with the same kit."""
        return time.monotonic() - self._refused_twice < HOLD

    @property
    def refused(self) -> bool:
        """Whether the line is up and heartbeats fail nevertheless."""
        return self._line is not None and time.monotonic() - self._beat_failed < BEAT_LOST

    @property
    def connected(self) -> bool:
        """Whether the server serves, or the site is registered and its line is up."""
        if self.is_server:
            return self._up
        now = time.monotonic()
        is_steady = self._line is not None and now - self._line_since >= SETTLED
        return (
            self._up and is_steady and not (self.disabled or self.twice) and now - self._beat_failed >= BEAT_LOST
        )


def refuse_other_versions() -> None:
    """Check that NVFlare is installed, in a version that the hubs are tried with.

    Raises:
        UserError: it is not.
    """
    expected = f"nvflare >= {'.'.join(map(str, OLDEST))}, < {'.'.join(map(str, NEWEST))}"
    try:
        found = version("nvflare")
    except PackageNotFoundError:
        raise UserError(f"federation: needs {expected}; pip install 'fml-lightning[flare]'") from None
    numbers = tuple(int(number) for number in re.findall(r"\d+", found)[:3])
    if not OLDEST <= numbers < NEWEST:
        raise UserError(
            f"federation: expected {expected}, got {found}; pip install 'fml-lightning[flare]', the same version"
            " at every host"
        )


def is_taken(port: int) -> bool:
    """Whether something listens at a port of this machine."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else connections that have ended count
        try:
            listener.bind(("", port))
        except OSError:
            return True
    return False


def _bounded_log(path: Path) -> _Log:
    kept = _Log(path, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8", errors="replace")
    kept.setFormatter(logging.Formatter("%(message)s"))
    return kept


class _Log(RotatingFileHandler):
    """A file of lines that is moved away when it is long."""

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _end(process: subprocess.Popen[bytes], timeout: float) -> None:
    """End a process and all of its group."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what it has started, or itself where it did not heed SIGTERM
    process.wait()


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes when a file is replaced; None where it cannot be read."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino
