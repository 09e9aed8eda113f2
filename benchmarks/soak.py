"""A day's messages in minutes: does the memory of a recording stay flat?

    python -m benchmarks.soak                 # ten million messages: about half an hour
    python -m benchmarks.soak --messages 200000

`fml record` in a process of its own, against a real mosquitto: QoS 1 messages, 116 a second for a day, are
published as fast as they are recorded. Retention is set to 256 MiB, so that merging and deleting segments
are part of it. Prints and writes the recorder's resident memory, how many messages are durable, and the speed, at
every tenth of the way; fails if memory grows by more than a tenth over the last nine tenths, or if a message is
lost.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.report import print_table, write
from fml_lightning.connectors.broker.broker import Broker, free_port

RECORDER = "server.recorder"
MACHINES = ("server.1", "server.2", "server.3", "server.4")
"""Logins: each is for one client."""
AHEAD = 20_000
"""Messages published and not yet durable, at most."""
RECORD = """
spool: {{class_path: fml_lightning.connectors.Spool, init_args: {{folder: {folder}/spool, max_bytes: 268435456}}}}
connection: {{port: {port}, username: {user}, password_file: {password_file}}}
topics: [{{codec: {{class_path: JSONObject, init_args: {{time_unit: ms}}}}}}]
metrics_port: {metrics_port}
"""


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=10_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, _broker(folder) as broker:
        port = free_port("127.0.0.1")
        config = Path(folder) / "record.yaml"
        config.write_text(
            RECORD.format(
                folder=folder,
                port=broker.port,
                user=broker.username(RECORDER),
                password_file=broker.password_file(RECORDER),
                metrics_port=port,
            )
        )
        recorder = subprocess.Popen([sys.executable, "-m", "fml_lightning", "record", "--config", str(config)])
        try:
            rows = soak(options.messages, broker, recorder.pid, port)
        finally:
            recorder.terminate()
            status = recorder.wait(60)
    print_table(rows)
    write("soak", rows, messages=options.messages)
    first, last = rows[0]["MiB"], rows[-1]["MiB"]
    assert status == 0, f"the recorder ended with {status}"
    if options.messages >= 1_000_000:  # before, what is remembered of messages still grows
        assert last <= 1.1 * first, f"memory grew from {first} to {last} MiB"


def _broker(folder: str) -> Broker:
    return Broker(Path(folder) / "broker", ["server"], roles=["recorder", "1", "2", "3", "4"])


def soak(messages: int, broker: Broker, pid: int, metrics_port: int) -> list[dict[str, Any]]:
    """Publish, never far ahead of the recorder; a row for every tenth."""
    pipes = []
    for machine, login in enumerate(MACHINES):
        command = ["mosquitto_pub", "-h", broker.host, "-p", str(broker.port), "-u", broker.username(login)]
        command += ["-P", broker.passwords[login], "-t", f"plant/north/machine{machine}/flow"]
        pipes.append(subprocess.Popen([*command, "-q", "1", "-l", "-V", "5"], stdin=subprocess.PIPE))
    rows: list[dict[str, Any]] = []
    began = time.monotonic()
    _wait_for(metrics_port, 0)
    base = 1_700_000_000_000
    for start in range(0, messages, AHEAD // 4):
        stop = min(start + AHEAD // 4, messages)
        for number, pipe in enumerate(pipes):
            lines = [b'{"time": %d, "value": %d.5, "unit": "l/min"}\n' % (base + i, i) for i in range(start, stop)]
            assert pipe.stdin is not None
            pipe.stdin.write(b"".join(lines[number :: len(pipes)]))
            pipe.stdin.flush()
        done = _wait_for(metrics_port, stop - AHEAD * 3 // 4)
        if done * 10 >= messages * (len(rows) + 1):
            rows.append(_row(pid, done, time.monotonic() - began))
            print(rows[-1], flush=True)
    for pipe in pipes:
        assert pipe.stdin is not None
        pipe.stdin.close()
        pipe.wait()
    done = _wait_for(metrics_port, messages)
    assert done == messages, f"{done} of {messages} are durable"
    return rows if rows[-1]["messages"] == done else [*rows, _row(pid, done, time.monotonic() - began)]


def _row(pid: int, done: int, seconds: float) -> dict[str, Any]:
    status = Path(f"/proc/{pid}/status").read_text()
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    speed = round(done / seconds)
    return {"messages": done, "seconds": round(seconds), "per_s": speed, "MiB": round(resident / 1024)}


def _wait_for(port: int, committed: int, patience: float = 120.0) -> int:
    """Wait until so many messages are durable; how many are."""
    deadline = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                lines = answer.read().decode().splitlines()
            found = next(line for line in lines if line.startswith("fml_mqtt_committed_total"))
            done = int(float(found.split()[1]))
            if done >= committed:
                return done
        except OSError:
            pass  # it is still starting
        if time.monotonic() > deadline:
            raise TimeoutError(f"{committed} messages were not durable after {patience} s")
        time.sleep(0.05)


if __name__ == "__main__":
    main()
