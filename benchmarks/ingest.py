"""Ingestion over MQTT: how fast messages become durable, and how fast they become readings.

    pip install -c constraints.txt -e '.[dev]'      # and mosquitto with its clients
    python -m benchmarks.ingest

*Receive*: each receiver has a session at a real mosquitto in which the same QoS 1 messages wait, 200 B of JSON or
waveforms of 16 KiB, and drains it: `mosquitto_sub` (C, keeps nothing), `paho` (a bare loop that acknowledges by
hand, keeps nothing), and `ours` (fsynced Parquet, decoded, then acknowledged). They take turns, each first in its
turn; medians. `of_paho` is the speed over paho's.

*Decode*: readings as a polars frame from raw messages in memory, this process's CPU time, one thread.

Prints the tables; writes benchmarks/results/ingest.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.receivers import WINDOW
from benchmarks.report import measured, print_table, write
from fml_lightning.connectors import (
    CBOR,
    Decoder,
    InfluxLine,
    JSONObject,
    JSONScalar,
    MessagePack,
    Topic,
    Topics,
    WaveformBlock,
    encode_waveform,
)
from fml_lightning.connectors.broker.broker import Broker
from fml_lightning.connectors.messages import MESSAGES

USER = "server"
COUNTS = {"json": 40_000, "waveform": 20_000}
RECEIVERS = ("mosquitto_sub", "paho", "ours")


def json_200(i: int) -> bytes:
    """200 B of JSON as a gateway sends it."""
    reading = {
        "time": 1.7e9 + i / 1000,
        "value": i * 0.125,
        "unit": "mm/s",
        "sensor": "VIB-0231",
        "status": "good",
    }
    text = json.dumps(reading)
    return (text[:-1] + ', "note": "' + "x" * (200 - len(text) - 11) + '"}').encode()


def waveform_16k(i: int) -> bytes:
    """4,084 samples of float32 and a header: 16 KiB."""
    rng = np.random.default_rng(i % 64)
    return encode_waveform(rng.normal(size=4084).astype(np.float32), 12_000.0, time=1_700_000_000_000_000 + i)


PAYLOADS = {"json": json_200, "waveform": waveform_16k}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="times as many messages")
    options = parser.parse_args()
    rows = [*receive(options.repeats, options.scale), *decode(options.repeats)]
    print_table([row for row in rows if row["part"] == "receive"])
    print_table([row for row in rows if row["part"] == "decode"])
    write("ingest", rows, repeats=options.repeats, scale=options.scale, cores=os.cpu_count())


def receive(repeats: int, scale: float) -> Iterator[dict[str, Any]]:
    """Every receiver drains the same queue, in turn."""
    for kind, count in COUNTS.items():
        count = int(count * scale)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in RECEIVERS}
        order = list(RECEIVERS)
        size = len(PAYLOADS[kind](0))
        for _ in range(repeats):
            order.append(order.pop(0))
            with tempfile.TemporaryDirectory(dir=".") as folder, _broker(Path(folder), count) as broker:
                for name in RECEIVERS:
                    drain(name, broker, kind, 0, folder)
                publish(broker, kind, count)
                for name in order:
                    found[name].append(drain(name, broker, kind, count, folder))
        wall = {name: statistics.median(run["wall"] for run in runs) for name, runs in found.items()}
        for name, runs in found.items():
            yield {
                "part": "receive",
                "messages": f"{size} B {kind}",
                "receiver": name,
                "messages_per_s": round(count / wall[name]),
                "MB_per_s": round(count * size / wall[name] / 1e6, 1),
                "cpu_us": round(1e6 * statistics.median(run["cpu"] for run in runs) / count, 1),
                "of_paho": round(wall["paho"] / wall[name], 2),
                "peak_MiB": round(max(run["peak_MiB"] for run in runs)),
            }


def _broker(folder: Path, count: int) -> Broker:
    settings = {
        "max_queued_messages": str(count + 1),
        "max_inflight_messages": str(WINDOW),
        "persistence": "false",
    }
    return Broker(folder / "broker", [USER], settings=settings, roles=RECEIVERS)


def publish(broker: Broker, kind: str, count: int) -> None:
    """Put the messages into every session's queue."""
    from paho.mqtt.client import Client, MQTTv5
    from paho.mqtt.enums import CallbackAPIVersion

    client = Client(CallbackAPIVersion.VERSION2, "publisher", protocol=MQTTv5)
    client.username_pw_set(USER, broker.passwords[USER])
    client.max_inflight_messages_set(WINDOW)
    client.connect(broker.host, broker.port)
    client.loop_start()
    for i in range(count):
        info = client.publish(f"plant/north/machine{i % 20}/c{i % 5}", PAYLOADS[kind](i), qos=1)
        if i % 1000 == 999:
            info.wait_for_publish()
    info.wait_for_publish()
    client.disconnect()
    client.loop_stop()


def drain(name: str, broker: Broker, kind: str, count: int, folder: str) -> dict[str, float]:
    """Let one receiver drain its session (`count` 0: make the session); what it took, interpreter excluded."""
    login = f"{USER}.{name}"
    if name == "mosquitto_sub":
        command = [
            "mosquitto_sub",
            "-h",
            broker.host,
            "-p",
            str(broker.port),
            "-u",
            broker.username(login),
            "-i",
            name,
            "-c",
            "-q",
            "1",
        ]
        command += ["-P", broker.passwords[login], "-t", "plant/#", "-V", "5", "-x", "3600"]
        command += ["-D", "connect", "receive-maximum", str(WINDOW), *(["-C", str(count)] if count else ["-E"])]
        began, before = time.perf_counter(), os.times()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        spent = os.times()
        cpu = spent.children_user + spent.children_system - before.children_user - before.children_system
        return {"wall": time.perf_counter() - began, "cpu": cpu, "peak_MiB": 0.0}
    command = [sys.executable, "-m", "benchmarks.receivers", "ours" if count and name == "ours" else "paho"]
    command += [
        "--kind",
        kind,
        "--count",
        str(count),
        "--port",
        str(broker.port),
        "--user",
        broker.username(login),
    ]
    command += [
        "--password_file",
        str(broker.password_file(login)),
        "--client_id",
        name,
        "--spool",
        f"{folder}/spool",
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def decode(repeats: int) -> Iterator[dict[str, Any]]:
    """Every codec turns the same number of messages into frames, ten thousand at a time."""
    import cbor2
    import msgspec

    def map_of(i: int) -> dict[str, Any]:
        return {"time": 1.7e9 + i / 1000, "value": i * 0.125}

    cases: dict[str, tuple[Any, Any, int]] = {
        "JSON object, 200 B": (JSONObject(), json_200, 50_000),
        "JSON object, small": (JSONObject(), lambda i: msgspec.json.encode(map_of(i)), 50_000),
        "JSON scalar": (JSONScalar(), lambda i: str(i * 0.125).encode(), 50_000),
        "MessagePack, small": (MessagePack(), lambda i: msgspec.msgpack.encode(map_of(i)), 50_000),
        "CBOR, small": (CBOR(), lambda i: cbor2.dumps(map_of(i)), 50_000),
        "Influx line": (
            InfluxLine(machine_tag="m"),
            lambda i: f"flow,m=a value={i}.5 {10**18 + i}".encode(),
            50_000,
        ),
        "waveform, 16 KiB": (WaveformBlock(), waveform_16k, 5_000),
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    frames = {name: list(_frame(make, n).iter_slices(10_000)) for name, (_, make, n) in cases.items()}
    for _ in range(repeats):
        for name, (codec, _, n) in cases.items():
            decoder = Decoder(Topics((Topic("plant/{site}/{machine}/{channel}", codec),)))
            with measured() as spent:
                rows = sum(len(decoder.decode(part).batch.readings) for part in frames[name])
            assert rows == n, (name, rows)
            seconds[name].append(spent.cpu)
    for name, (_, make, n) in cases.items():
        median = statistics.median(seconds[name])
        yield {
            "part": "decode",
            "messages": name,
            "messages_per_s": round(n / median),
            "cpu_us": round(1e6 * median / n, 2),
            "MB_per_s": round(n * len(make(0)) / median / 1e6, 1),
        }


def _frame(make: Any, count: int) -> pl.DataFrame:
    columns = {
        "sequence": range(count),
        "received": [1_700_000_000_000_000] * count,
        "topic": [f"plant/north/machine{i % 20}/c{i % 5}" for i in range(count)],
        "payload": [make(i) for i in range(count)],
        "retained": [False] * count,
        "packet_id": [0] * count,
    }
    return pl.DataFrame(columns).cast(MESSAGES)


if __name__ == "__main__":
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    main()
