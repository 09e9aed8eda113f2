"""A watch of 20 machines: how late, how large, how often wrong?

    python -m benchmarks.watch                     # accelerated: 10 machine-hours, faults, a drift; then latency
    python -m benchmarks.watch --windows 1000000   # and the memory over so many windows
    python -m benchmarks.watch --kills 50          # only: watch, broker and recorder killed so often
    python -m benchmarks.watch --new_machine       # only: how soon a new machine is watched

Machines send a window of 2,048 samples a second each. In the accelerated part 20 machines run normally for half an
hour (10 machine-hours); then five get a fault that grows, one loses 12 dB of gain in 20 minutes, and the others
go on. In the live part messages are recorded one by one while a watch in a process of its own follows them and
publishes to a real mosquitto: the latency is from the moment the spool has a window's last sample to the moment a
subscriber has its score. Prints and writes what was found.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.killed import Trial
from benchmarks.new_machine import new_machine
from benchmarks.report import print_table, write
from fml_lightning.connectors.broker.broker import Broker
from fml_lightning.connectors.codecs import WaveformBlock
from fml_lightning.connectors.codecs.waveform import encode_waveform
from fml_lightning.connectors.decoding.topics import LabelTopic, Topic, Topics
from fml_lightning.connectors.messages import Message
from fml_lightning.connectors.spool.folder import write_topics
from fml_lightning.connectors.spool.spool import Spool
from fml_lightning.live.rules import Rules
from fml_lightning.live.scoring import RegistryModels
from fml_lightning.live.watcher import Settings, Watcher
from fml_lightning.objectives import Classification
from fml_lightning.personal.card import Card, Windows
from fml_lightning.personal.personal_model import PersonalModel
from fml_lightning.personal.registry import Registry
from fml_lightning.preprocessing import LogBandPowers, Preprocessing, Windowing

MACHINES, LENGTH, RATE = 20, 2048, 12_000.0
SECOND = 1_000_000
BEGIN = 1_800_000_000 * SECOND
NORMAL_MINUTES, FAULT_MINUTES = 30, 15
FAULTY = range(5)
DRIFTING = 5
TOPICS = Topics((Topic("plant/{site}/{machine}/{channel}", WaveformBlock()),), (LabelTopic(),))
PREPROCESSING = Preprocessing(Windowing(LENGTH, LENGTH), LogBandPowers(128), ("vibration",), RATE)


class Plant:
    """Machines with coloured noise and tones; a fault rings a resonance at 3.2 kHz, 105 times a second."""

    def __init__(self) -> None:
        self._generator = np.random.default_rng(0)
        n = np.arange(LENGTH)
        self._tones = [np.sin(2 * np.pi * (25 + m) * k * n / RATE) for m in range(MACHINES) for k in (1, 2, 3)]
        ring = 3 * np.exp(-n[:200] / 30) * np.sin(2 * np.pi * 3200 * n[:200] / RATE)
        hits = np.zeros(LENGTH)
        hits[:: round(RATE / 105)] = 1
        self._fault = np.convolve(hits, ring)[:LENGTH]

    def window(self, machine: int, fault: float = 0.0, gain: float = 1.0) -> NDArray[np.float32]:
        """A window; a fault of 1 is one to be found."""
        noise = self._generator.normal(size=LENGTH + 1)
        load = 1 + 0.05 * self._generator.normal()
        signal = (
            noise[1:] + 0.4 * noise[:-1] + sum(self._tones[3 * machine : 3 * machine + 3]) + fault * self._fault
        )
        made: NDArray[np.float32] = (gain * load * signal).astype(np.float32)
        return made


def trained(plant: Plant, machine: int) -> PersonalModel:
    """A model of a machine, of 200 windows of each class."""
    torch.manual_seed(machine)
    windows = [plant.window(machine, fault) for fault in [0.0] * 200 + [1.0] * 200]
    x = torch.from_numpy(PREPROCESSING(np.stack(windows)[:, None], RATE))
    y = torch.tensor([0] * 200 + [1] * 200)
    centre = x[:200].mean(0)
    net = nn.Sequential(nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 2))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x - centre), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    name = f"machine{machine:02d}"
    return PersonalModel(
        net,
        Classification(),
        centre,
        None,
        ("normal", "outer"),
        preprocessing=PREPROCESSING,
        site="plant",
        machine=name,
    )


def give_models(run: Path, plant: Plant) -> None:
    """A model of each machine."""
    none = Windows(count=0)
    for machine in range(MACHINES):
        model = trained(plant, machine)
        card = Card(
            site="plant",
            machine=model.machine,
            before=0.5,
            after=1.0,
            metric="accuracy",
            shots=200,
            support=none,
            query=none,
            steps=60,
            learner="benchmark",
            adaptation="by hand",
            seconds=0.0,
            made="2027-01-01T00:00:00+00:00",
            verdict="ship",
        )
        Registry(run / "machines").add(model, card)


def second(plant: Plant, at: int, normal_seconds: int) -> list[Message]:
    """What all machines send in a second."""
    messages = []
    for machine in range(MACHINES):
        since = max(0, at - normal_seconds) / 60  # minutes
        fault = min(2.0, 0.2 * since) if machine in FAULTY else 0.0
        gain = 10 ** (-12 / 20 * min(1.0, since / 20)) if machine == DRIFTING else 1.0
        time_ = BEGIN + at * SECOND
        payload = encode_waveform(plant.window(machine, fault, gain), RATE, time_)
        topic = f"plant/plant/machine{machine:02d}/vibration"
        messages.append(Message(topic, payload, time_ + round(LENGTH / RATE * 1e6)))
    return messages


def accelerated(run: Path, plant: Plant) -> list[dict[str, Any]]:
    """Alarms and drift of half an hour of normal running, and of what comes after it."""
    normal = NORMAL_MINUTES * 60
    stop = threading.Event()
    with Spool(run / "spool") as spool:
        write_topics(run / "spool", TOPICS)
        watcher = Watcher(
            run / "watch", {"plant": run / "spool"}, RegistryModels(Registry(run / "machines")), Settings(Rules())
        )
        began, windows = time.perf_counter(), 0
        for at in range(normal + FAULT_MINUTES * 60):
            spool.append(second(plant, at, normal))
            windows += MACHINES
            if at % 30 == 29:
                while watcher.step(stop):
                    pass
        while watcher.step(stop):
            pass
        seconds = time.perf_counter() - began
    false, delays, drifts = 0, [], []
    for machine in watcher.state.every():
        number = int(machine.name[-2:])
        for change in machine.alarm.changes:
            after = (change.time - BEGIN) / SECOND - normal
            if change.what == "raised" and (number not in FAULTY or after < 0):
                false += 1
            elif change.what == "raised":
                delays.append(after)
            elif change.what == "drift":
                drifts.append(number)
    found = {
        "machine-hours normal": NORMAL_MINUTES * MACHINES / 60,
        "false alarms": false,
        "faults found": f"{len(delays)} of {len(FAULTY)}",
        "median delay s (fault grows from 0 to 2 in 10 min)": float(np.median(delays)) if delays else None,
        "drift called drift": f"{drifts.count(DRIFTING)} of 1",
        "other drifts": sum(number != DRIFTING and number not in FAULTY for number in drifts),
        "windows/s with making them": round(windows / seconds),
    }
    return [found]


def live(run: Path, plant: Plant, seconds: int) -> dict[str, Any]:
    """Latency of a watch in a process of its own, that publishes to a broker."""
    heard: dict[int, float] = {}
    wanted: dict[int, float] = {}
    with Broker(run / "broker", ["server"], roles=["watcher"]) as broker, _listening(broker, heard):
        config = {
            "spools": {"plant": str(run / "live")},
            "connection": {
                "port": broker.port,
                "username": broker.username("server"),
                "password_file": str(broker.password_file("server")),
            },
        }
        (run / "watch.yaml").write_text(json.dumps(config))
        command = [sys.executable, "-m", "fml_lightning", "watch", str(run), "--config", str(run / "watch.yaml")]
        with Spool(run / "live") as spool:
            write_topics(run / "live", TOPICS)
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            sequence = 0
            spool.append(second(plant, 0, 10**9))
            sequence += MACHINES
            while len(heard) < MACHINES and process.poll() is None:
                time.sleep(0.1)
            due = time.monotonic()
            for at in range(1, seconds):
                messages = second(plant, at, 10**9)
                for each in messages:  # machines do not send all at once
                    due += 1 / MACHINES
                    time.sleep(max(0.0, due - time.monotonic()))
                    spool.append([each])
                    wanted[sequence] = time.monotonic()
                    sequence += 1
            time.sleep(2)
            peak = _resident(process.pid)
            process.terminate()
            process.wait(30)
    late = sorted(heard[number] - began for number, began in wanted.items() if number in heard)
    return {
        "windows": len(wanted),
        "published": len(late),
        "median ms": round(1000 * late[len(late) // 2], 1),
        "p99 ms": round(1000 * late[int(0.99 * len(late))], 1),
        "max ms": round(1000 * late[-1], 1),
        "MiB": peak,
    }


@contextlib.contextmanager
def _listening(broker: Broker, heard: dict[int, float]) -> Iterator[None]:
    from paho.mqtt.client import Client

    client: Any = broker.connection("server.watcher").client("benchmark", Client)

    def note(_client: Any, _userdata: Any, message: Any) -> None:
        now = time.monotonic()
        for window in json.loads(message.payload).get("windows", []) if message.payload[:1] == b"{" else []:
            heard.setdefault(window[0], now)

    client.on_connect = lambda *_: client.subscribe("fml/#", qos=1)
    client.on_message = note
    client.connect(broker.host, broker.port)
    client.loop_start()
    yield
    client.disconnect()
    client.loop_stop()


def memory(run: Path, plant: Plant, windows: int) -> list[dict[str, Any]]:
    """Resident memory of `fml watch` in a process of its own, and its snapshot, at every tenth of the windows."""
    rows: list[dict[str, Any]] = []
    group = 50
    give_models(run, plant)
    with Spool(run / "spool", max_bytes=512 << 20) as spool:
        write_topics(run / "spool", TOPICS)
        process = launched(["fml_lightning", "watch", str(run), "--spools.plant", str(run / "spool")], run / "log")
        signals = [second(plant, at, 10**9) for at in range(group)]
        begin, done = time.monotonic(), 0
        while done < windows and process.poll() is None:
            shift = done // MACHINES * SECOND
            for at in range(group):
                spool.append([_later(each, shift) for each in signals[at]])
            done += group * MACHINES
            while process.poll() is None and _watched(run / "watch") < done - group * MACHINES:
                time.sleep(0.02)
            if done * 10 // windows > len(rows):
                seconds = round(time.monotonic() - begin)
                snapshot = run / "watch/snapshot"  # one is written every five minutes
                size = round(snapshot.stat().st_size / 1e6, 1) if snapshot.exists() else None
                row = {"windows": done, "MiB": _resident(process.pid), "snapshot MB": size, "seconds": seconds}
                rows.append(row)
                print(rows[-1], flush=True)
        process.terminate()
        process.wait(60)
    return rows


def _watched(folder: Path) -> int:
    """How many messages of its one spool a watch has scored, as the end of its journal says."""
    segments = sorted((folder / "journal").glob("*.log"))
    if not segments:
        return 0
    with segments[-1].open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - (1 << 20)))
        found = re.findall(rb'"type":"scored","spool":"plant","position":(\d+)', file.read())
    return int(found[-1]) + 1 if found else 0


def killed(folder: Path, plant: Plant, kills: int, seed: int) -> dict[str, Any]:
    """Kill watch, broker and recorder at random moments, and compare with a watch that nobody killed."""
    give_models(folder / "run", plant)
    with Trial(folder, _endless(plant), launched, seed) as trial:
        while len(trial.kills) < kills:
            trial.kill_some(trial.pick())
            print(f"{len(trial.kills)} kills, {trial.windows} windows were published", flush=True)
        trial.stop_plant()
        trial.stop("watch")
        trial.stop("recorder")
        return trial.check()


def _endless(plant: Plant) -> Iterator[tuple[str, bytes]]:
    """What machines send from an hour ago on; some have a fault every other 40 seconds."""
    begin = time.time_ns() // 1000 - 3600 * SECOND
    for at in itertools.count():
        for machine in range(MACHINES):
            fault = 2.0 if machine in FAULTY and at // 40 % 2 else 0.0
            payload = encode_waveform(plant.window(machine, fault), RATE, begin + at * SECOND)
            yield f"plant/plant/machine{machine:02d}/vibration", payload


def launched(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start `python -m` with a module and its arguments, and append what it says to a file."""
    with log.open("ab") as file:
        return subprocess.Popen([sys.executable, "-m", *command], stdout=file, stderr=subprocess.STDOUT)


def _later(message: Message, shift: int) -> Message:
    """The same samples, measured later."""
    sample = WaveformBlock().decode(message.payload)[0]
    payload = encode_waveform(sample.values, RATE, (sample.time or 0) + shift)
    return message._replace(payload=payload, received=message.received + shift)


def _resident(process: int) -> int:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * resource.getpagesize() >> 20


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=0, help="of the memory part")
    parser.add_argument("--seconds", type=int, default=60, help="of the live part")
    parser.add_argument("--kills", type=int, default=0, help="kill processes so often, and measure nothing else")
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which they are killed")
    parser.add_argument("--new_machine", action="store_true", help="time a new machine, and nothing else")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    plant = Plant()
    if options.kills or options.new_machine:
        with tempfile.TemporaryDirectory() as folder:
            is_kills = bool(options.kills)
            row = (
                killed(Path(folder), plant, options.kills, options.seed)
                if is_kills
                else new_machine(Path(folder), launched)
            )
        print_table([row])
        write("watch_killed" if is_kills else "watch_new_machine", [row])
        return
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        give_models(run, plant)
        found = accelerated(run, plant)
        print_table(found)
        (run / "watch").rename(run / "watch-accelerated")
        latency = live(run, plant, options.seconds)
        print_table([latency])
        rows = memory(run / "memory", plant, options.windows) if options.windows else []
    write("watch", [*found, latency, *rows], machines=MACHINES, windows=options.windows)


if __name__ == "__main__":
    main()
