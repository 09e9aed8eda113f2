"""How soon a new machine is watched after `fml personalize`, with five labelled windows of each class, no restart.

`benchmarks.watch` and the tests use it. Real processes: mosquitto, `fml fit`, `watch` and `personalize`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.killed import HANGS, Launch, Listener, Process
from fml_lightning.connectors.broker.broker import Broker
from fml_lightning.connectors.codecs import WaveformBlock
from fml_lightning.connectors.codecs.waveform import encode_waveform
from fml_lightning.connectors.decoding.topics import LabelTopic, Topic, Topics
from fml_lightning.connectors.messages import Message
from fml_lightning.connectors.spool.folder import write_topics
from fml_lightning.connectors.spool.spool import Spool

RATE, LENGTH = 1024.0, 256
SHOTS = 5
PITCH = {"normal": 50.0, "outer": 300.0}
"""Hz, of the tone that a machine of a class sends."""
TOPICS = Topics((Topic("plant/{site}/{machine}/{channel}", WaveformBlock()),), (LabelTopic(),))


class Machine:
    """Sends tones, in real time an hour ago and later."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self._generator = np.random.default_rng(seed)
        self._at = time.time_ns() // 1000 - 3600 * 1_000_000

    def event(self, label: str) -> Message:
        """From now on it is of a class."""
        when = datetime.fromtimestamp(self._at / 1e6, UTC).isoformat()
        payload = json.dumps({"time": when, "label": label}).encode()
        return Message(f"plant/plant/{self.name}/events", payload, self._at)

    def window(self, label: str) -> Message:
        """The next window."""
        tone = np.sin(2 * np.pi * PITCH[label] / RATE * np.arange(LENGTH))
        values = (tone + 0.2 * self._generator.normal(size=LENGTH)).astype(np.float32)
        payload = encode_waveform(values, RATE, self._at)
        self._at += round(LENGTH / RATE * 1e6)
        return Message(f"plant/plant/{self.name}/vibration", payload, self._at)

    def labelled(self) -> Iterator[Message]:
        """Windows of each class: `SHOTS` to learn from, about as many to judge by, and two between them."""
        for label in PITCH:
            yield self.event(label)
            for _ in range(2 * SHOTS + 2):
                yield self.window(label)


def new_machine(folder: Path, launch: Launch) -> dict[str, Any]:
    """Watch a plant, make a new machine's model meanwhile, and measure when its first score is published.

    Args:
        folder: of everything.
        launch: starts a process.
    """
    old, new = [Machine(name, seed) for seed, name in enumerate(("old1", "old2"))], Machine("new", 7)
    config = folder / "fit.json"
    config.write_text(json.dumps(_settings(folder)))
    scored = threading.Event()
    is_heard = threading.Event()

    def note(topic: str, payload: bytes) -> None:
        if topic == "fml/plant/new/health":
            is_heard.set()
            if json.loads(payload)["windows"]:
                scored.set()

    listener, end = Listener(note), threading.Event()
    with Spool(folder / "spool") as spool, Broker(folder / "broker", roles=["listener"]) as broker:
        write_topics(folder / "spool", TOPICS)
        for machine in (*old, new):
            spool.append(list(machine.labelled()))
        said = folder / "fml.log"
        _finish(launch(["fml_lightning", "fit", "--config", str(config)], said), said)
        (checkpoints,) = (folder / "runs").rglob("checkpoints")
        connection = broker.connection("server")
        watch = {
            "spools": {"plant": str(folder / "spool")},
            "connection": {n: getattr(connection, n) for n in ("port", "username", "password_file")},
        }
        (folder / "watch.json").write_text(json.dumps(watch))
        listener.start(broker.connection("server.listener"))
        run = str(checkpoints.parent)
        watching = launch(["fml_lightning", "watch", run, "--config", str(folder / "watch.json")], said)

        def send() -> None:
            while not end.wait(0.1):
                spool.append([new.window("normal")])

        sending = threading.Thread(target=send, daemon=True)
        try:
            sending.start()
            _await(is_heard, watching, said)
            began = time.monotonic()
            _finish(
                launch(["fml_lightning", "personalize", "--config", str(config), "--machine", "new"], said), said
            )
            ended = time.monotonic()
            _await(scored, watching, said)
            first = time.monotonic()
        finally:
            end.set()
            listener.stop()
            watching.send_signal(15)
            watching.wait(HANGS)
            sending.join()
    return {
        "labelled windows per class": SHOTS,
        "fml personalize s": round(ended - began, 1),
        "first score s after its start": round(first - began, 1),
        "first score s after its end": round(first - ended, 1),
    }


def _settings(folder: Path) -> dict[str, Any]:
    return {
        "seed_everything": 0,
        "model": {
            "learner": {
                "class_path": "fml_lightning.MAML",
                "init_args": {
                    "net": {
                        "class_path": "fml_lightning.MLP",
                        "init_args": {"in_features": 16, "out_features": len(PITCH), "hidden": [16]},
                    },
                    "inner_loop": {"lr": 0.3, "steps": 3},
                },
            },
            "local_steps": 10,
        },
        "data": {
            "class_path": "fml_lightning.datamodules.SpoolFleet",
            "init_args": {
                "spools": {"plant": str(folder / "spool")},
                "classes": list(PITCH),
                "unseen": ["new"],
                "windowing": {"length": LENGTH, "hop": LENGTH},
                "features": {
                    "class_path": "fml_lightning.preprocessing.LogBandPowers",
                    "init_args": {"bands": 16},
                },
                "episodes": {"shots": SHOTS, "training_shots": 1, "tasks": 2},
            },
        },
        "trainer": {"max_steps": 5, "check_val_every_n_epoch": 5, "default_root_dir": str(folder / "runs")},
    }


def _finish(process: Process, said: Path) -> None:
    if (code := process.wait(HANGS)) != 0:
        raise RuntimeError(f"a command ended with {code}: {said.read_text()[-2000:]}")


def _await(event: threading.Event, process: Process, said: Path) -> None:
    deadline = time.monotonic() + HANGS
    while not event.wait(0.05):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the watch scores nothing: {said.read_text()[-2000:]}")
