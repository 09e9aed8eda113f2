"""A plant that is recorded and watched, and whose broker, recorder and watch are killed at random moments.

`benchmarks.watch --kills` and the tests use it. The processes are real: mosquitto, `fml record`, `fml watch`. A
listener, whose session the broker keeps, hears what is published. `Trial.check` compares what was scored, told and
numbered with a watch of the same spool that nobody killed.

    python -m benchmarks.killed watch ...     # `fml watch ...` that writes snapshots every second
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from paho.mqtt.client import Client
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from fml_lightning.connectors.broker.broker import Broker
from fml_lightning.connectors.codecs import WaveformBlock
from fml_lightning.connectors.mqtt.connection import Connection
from fml_lightning.connectors.mqtt.publisher import Publisher
from fml_lightning.connectors.spool.reader import SpoolReader
from fml_lightning.live.alarm import AlarmRule
from fml_lightning.live.drift import DriftRule
from fml_lightning.live.event import Event
from fml_lightning.live.journal import JOURNAL
from fml_lightning.live.log import Log
from fml_lightning.live.records import Scored, loads
from fml_lightning.live.rules import Rules
from fml_lightning.live.scoring import RegistryModels
from fml_lightning.live.state import State
from fml_lightning.live.watcher import Settings, Watcher
from fml_lightning.personal.registry import Registry

HANGS = 300.0
"""Seconds after which a wait counts as a hang."""
PACE = 0.004
"""Seconds between two messages of the plant."""
SESSION = 86_400
"""Seconds that the broker keeps the listener's session."""
RULES = Rules(AlarmRule(on_delay=2.0, off_delay=3.0), DriftRule(baseline=180.0))
STATUS = "fml/watch/status"
VICTIMS = ("watch", "broker", "recorder")
Story = Iterable[tuple[str, bytes]]


class Process(Protocol):
    """A process, as `subprocess.Popen` has it."""

    pid: int

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, once it has ended."""
        ...

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        ...


Launch = Callable[[Sequence[str], Path], Process]
"""Starts `python -m` with a module and its arguments, and appends what it says to a file."""


class Window(NamedTuple):
    """A window that was scored."""

    machine: str
    sequence: int
    end: int
    score: float | None


class Found(NamedTuple):
    """What a journal holds."""

    windows: list[Window]
    changes: dict[str, list[Event]]
    """Of each machine, in order."""

    @property
    def alarms(self) -> dict[str, list[Event]]:
        """The changes but for those whose time is that of the watch's clock."""
        return {
            machine: [change for change in changes if change.what not in ("model", "stale", "data again")]
            for machine, changes in self.changes.items()
        }


class Trial:
    """Runs while it is entered.

    Args:
        folder: of everything; `run/machines` in it holds the models of the site `plant`.
        story: what the plant sends, without an end; `stop_plant` ends it.
        launch: starts a process.
        seed: of the moments.
    """

    def __init__(self, folder: Path, story: Story, launch: Launch, seed: int = 0) -> None:
        self.folder = folder
        self.heard: list[tuple[str, bytes]] = []
        """Topics and payloads, in the order in which the listener got them."""
        self.kills: list[str] = []
        """Who was killed, one after the other."""
        self._windows = set[tuple[str, int]]()  # machine and message of each that was heard
        self._story = iter(story)
        self._launch = launch
        self._random = random.Random(seed)
        roles = ["recorder", "plant", "listener", "later"]
        self.broker = Broker(folder / "broker", ["server"], roles=roles)
        self._processes: dict[str, Process] = {}
        self._end = threading.Event()
        self._last: tuple[str, bytes] | None = None
        self._plant = threading.Thread(target=self._send, daemon=True)
        self._listener = Listener(self._note)

    @property
    def windows(self) -> int:
        """How many were heard, each counted once: so there is something new before every kill."""
        return len(self._windows)

    # Life ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> Trial:
        self.broker.start()
        for name, config in (("record", self._record_settings()), ("watch", self._watch_settings())):
            (self.folder / f"{name}.json").write_text(json.dumps(config))
        self._listener.start(self.broker.connection("server.listener"))
        self.until(lambda: self._listener.subscriptions)
        saved, began = self.folder / "broker" / "mosquitto.db", time.time()
        self.until(lambda: saved.exists() and saved.stat().st_mtime > began)  # now a kill does not forget it
        self._start("recorder")
        self._start("watch")
        self.until(lambda: "recording" in self.said("recorder"))  # who listens first misses nothing
        self._plant.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._listener.stop()
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            process.wait(HANGS)
        self.broker.stop()

    def said(self, name: str) -> str:
        """What the processes of a name have said."""
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until it is true.

        Raises:
            RuntimeError: a process has ended by itself, or it hangs.
        """
        deadline = time.monotonic() + HANGS
        while not condition():
            for name, process in self._processes.items():
                if (code := process.poll()) is not None:
                    raise RuntimeError(f"the {name} ended by itself with {code}: {self.said(name)[-2000:]}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"it did not come true after {self.kills}: {self.said('watch')[-2000:]}")
            time.sleep(0.01)

    # Kills --------------------------------------------------------------------------------------------------

    def kill_some(self, victims: Sequence[str]) -> None:
        """Kill victims at a random moment while the others go on, then start them again."""
        until = self.windows + self._random.randrange(1, 80)
        self.until(lambda: self.windows >= until)
        time.sleep(self._random.uniform(0, 0.05))
        for victim in victims:
            self.kill(victim)
        for victim in victims:
            self.start(victim)

    def kill(self, victim: str) -> None:
        """Send it SIGKILL."""
        self.kills.append(victim)
        if victim == "broker":
            self.broker.kill()
        else:
            process = self._processes.pop(victim)
            process.send_signal(signal.SIGKILL)
            process.wait(HANGS)

    def start(self, victim: str) -> None:
        """Start it again."""
        if victim == "broker":
            self.broker.start()
        else:
            self._start(victim)

    def pick(self) -> list[str]:
        """Who is killed next: mostly one, sometimes two at once."""
        return self._random.sample(VICTIMS, 1 if self._random.random() < 0.7 else 2)

    # Ends ---------------------------------------------------------------------------------------------------

    def stop_plant(self) -> None:
        """Let the plant end, and wait until its last window's score is heard."""
        self._end.set()
        self._plant.join(HANGS)
        assert self._last is not None
        machine, end = self._last[0].split("/")[2], _time(self._last[1])
        self.until(lambda: any(end <= window[1] for window in self._newest(machine)))

    def stop(self, name: str) -> int:
        """End a process in good order; returns its exit status."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(HANGS)

    def retained(self) -> dict[str, bytes]:
        """What the broker keeps for somebody who comes now: payloads by topic."""
        marked = threading.Event()
        later = Listener(lambda topic, _: marked.set() if topic == "marker" else None, "marker")
        later.start(self.broker.connection("server.later"))
        try:
            self.until(lambda: later.subscriptions)
            with Publisher(self.broker.connection("server.plant"), "marker") as publisher:
                publisher.publish("marker", b"", threading.Event())  # what is retained comes before it
                self.until(marked.is_set)
        finally:
            later.stop()
        return later.retained

    def check(self) -> dict[str, Any]:
        """Compare what was scored and told with a watch that nobody killed; returns what was counted.

        Raises:
            AssertionError: something is lost, doubled or different.
        """
        scored = found(self.folder / "run" / "watch")
        whole = self._reference()
        assert len({(window.machine, window.sequence, window.end) for window in scored.windows}) == len(
            scored.windows
        ), "a window is scored twice"
        assert sorted(scored.windows) == sorted(whole.windows), "not the windows of a watch that nobody killed"
        blocks = {(topic, _time(payload)) for topic, payload in self._spooled()}
        assert len(scored.windows) == len(blocks), "a window of the spool is not scored"
        assert scored.alarms == whole.alarms, "not the alarms of a watch that nobody killed"
        told = [json.loads(payload) for topic, payload in self.heard if topic.endswith("/health")]
        windows = [Window(each["machine"], *window) for each in told for window in each["windows"]]
        assert set(windows) == set(scored.windows), "what was published is not what was scored"
        numbered: dict[tuple[str, int], tuple[str, str]] = {}
        for each in told:
            for change in each["changes"]:
                content = change["what"], change["reason"]
                assert numbered.setdefault((each["machine"], change["number"]), content) == content, (
                    "a number tells of two changes"
                )
        assert numbered == {
            (machine, change.number): (change.what, change.reason)
            for machine, changes in scored.changes.items()
            for change in changes
        }, "what was told is not what has changed"
        for machine, changes in scored.changes.items():
            numbers = [change.number for change in changes]
            assert numbers == list(range(1, len(numbers) + 1)), f"{machine}: a number is missing"
        return {
            "kills": len(self.kills),
            **{f"of {victim}": self.kills.count(victim) for victim in VICTIMS},
            "windows in the spool": len(blocks),
            "scored once": len(scored.windows),
            "published": len(set(windows)),
            "published again": len(windows) - len(set(windows)),
            "alarm changes": sum(map(len, scored.alarms.values())),
        }

    # Parts --------------------------------------------------------------------------------------------------

    def _record_settings(self) -> dict[str, Any]:
        codec = {"class_path": "fml_lightning.connectors.WaveformBlock"}
        return {
            "spool": str(self.folder / "spool"),
            "connection": self._connection("server.recorder"),
            "topics": [{"template": "plant/{site}/{machine}/{channel}", "codec": codec}],
            "commit_interval": 0.1,
            "startup_error_behavior": "retry",
        }

    def _watch_settings(self) -> dict[str, Any]:
        alarm = RULES.alarm
        return {
            "spools": {"plant": str(self.folder / "spool")},
            "alarm": {"on_delay": alarm.on_delay, "off_delay": alarm.off_delay, "stale": "1h"},
            "drift": {"baseline": RULES.drift.baseline},
            "connection": self._connection("server"),
            "publish": {"home_assistant": True},
        }

    def _connection(self, login: str) -> dict[str, Any]:
        connection = self.broker.connection(login)
        return {name: getattr(connection, name) for name in ("port", "username", "password_file")}

    def _start(self, name: str) -> None:
        command = {
            "recorder": ["fml_lightning", "record", "--config", str(self.folder / "record.json")],
            "watch": [
                "benchmarks.killed",
                "watch",
                str(self.folder / "run"),
                "--config",
                str(self.folder / "watch.json"),
            ],
        }[name]
        self._processes[name] = self._launch(command, self.folder / f"{name}.log")

    def _send(self) -> None:
        with Publisher(self.broker.connection("server.plant"), "plant") as publisher:
            for topic, payload in self._story:
                publisher.publish(topic, payload, threading.Event())
                self._last = topic, payload
                if self._end.wait(PACE):
                    break
            publisher.flush()

    def _note(self, topic: str, payload: bytes) -> None:
        self.heard.append((topic, payload))
        if topic.endswith("/health"):
            told = json.loads(payload)
            self._windows |= {(told["machine"], window[0]) for window in told["windows"]}

    def _newest(self, machine: str) -> Iterator[Sequence[Any]]:
        for topic, payload in self.heard[-50:]:
            if topic == f"fml/plant/{machine}/health":
                yield from json.loads(payload)["windows"]

    def _spooled(self) -> Iterator[tuple[str, bytes]]:
        for messages in SpoolReader(self.folder / "spool").read():
            yield from zip(messages["topic"], messages["payload"], strict=True)

    def _reference(self) -> Found:
        folder = self.folder / "reference"
        models = RegistryModels(Registry(self.folder / "run" / "machines"))
        watcher = Watcher(folder, {"plant": self.folder / "spool"}, models, Settings(RULES))
        while watcher.step(threading.Event()):
            pass
        return found(folder)


class Listener:
    """Hears what is published, over a session that the broker keeps, through every loss of the connection."""

    def __init__(self, note: Callable[[str, bytes], object], *more: str) -> None:
        self.subscriptions = 0
        """How often the broker has taken them."""
        self.retained: dict[str, bytes] = {}
        """What the broker had kept when they were taken: payloads by topic."""
        self._note = note
        self._topics = [("fml/#", 1), ("homeassistant/#", 1), *((topic, 1) for topic in more)]
        self._end = threading.Event()
        self._client: Any = None
        self._thread: threading.Thread | None = None

    def start(self, connection: Connection) -> None:
        """Connect, again and again."""
        client: Any = connection.client("listener", Client)
        client.on_connect = lambda *_: client.subscribe(self._topics)
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        self._client = client
        self._thread = threading.Thread(target=self._run, args=(connection,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Disconnect."""
        self._end.set()
        if self._thread is not None:
            self._client.disconnect()
            self._thread.join(HANGS)

    def _on_message(self, _client: Any, _userdata: Any, message: Any) -> None:
        if message.retain:
            self.retained[message.topic] = bytes(message.payload)
        self._note(message.topic, bytes(message.payload))

    def _on_subscribe(self, *_: Any) -> None:
        self.subscriptions += 1

    def _run(self, connection: Connection) -> None:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = SESSION
        while not self._end.is_set():
            with contextlib.suppress(OSError):
                self._client.connect(
                    connection.host, connection.effective_port, clean_start=False, properties=properties
                )
                self._client.loop_forever()
            self._end.wait(0.05)


def found(watch: Path) -> Found:
    """What the journal of a watch holds, from its begin on."""
    state, windows, changes = State(), list[Window](), dict[str, list[Event]]()
    for _, line in Log(watch / JOURNAL, writes=False).read():
        record = loads(line)
        for scores in record.machines if isinstance(record, Scored) else ():
            rows = zip(scores.sequence, scores.end, scores.score, strict=True)
            windows += [Window(scores.machine, *row) for row in rows]
        for change in state.apply(record):
            changes.setdefault(change.machine.name, []).extend(change.changes)
    return Found(windows, changes)


def _time(payload: bytes) -> int:
    """When the first sample of a block was measured, µs since 1970."""
    return WaveformBlock().decode(payload)[0].time or 0


def often() -> int:
    """`fml watch` with snapshots that are as frequent as kills, and a journal that keeps all."""
    import torch

    from fml_lightning.__main__ import run_command
    from fml_lightning.live import journal, publisher, watcher

    torch.set_num_threads(1)
    watcher.SNAPSHOT, journal.KEPT, publisher.AGAIN = 1.0, 10**6, 0.2
    return run_command(sys.argv[1], sys.argv[2:])


if __name__ == "__main__":
    sys.exit(often())
