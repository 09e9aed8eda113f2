"""Receivers that drain a session's queue, each a process of its own: `python -m benchmarks.receivers NAME ...`.

Prints one line of JSON: seconds of wall and CPU time from connecting to the last message, and the largest memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from benchmarks.report import measured
from fml_lightning.commands.process import settle
from fml_lightning.connectors import MQTT, Connection, JSONObject, Topic, WaveformBlock

WINDOW = 2_000
"""Messages that may be unacknowledged, for all receivers."""


def connection(options: argparse.Namespace) -> Connection:
    """As all receivers connect."""
    return Connection(port=options.port, username=options.user, password_file=options.password_file)


def topic(kind: str) -> Topic:
    """What the messages are."""
    return Topic("plant/{site}/{machine}/{channel}", JSONObject() if kind == "json" else WaveformBlock())


def paho(options: argparse.Namespace) -> None:
    """A bare paho loop that acknowledges by hand, and keeps nothing."""
    count = 0
    client = connection(options).client(options.client_id, Client, manual_ack=True)

    def on_message(client: Client, _userdata: Any, message: Any) -> None:
        nonlocal count
        client.ack(message.mid, message.qos)
        count += 1
        if count == options.count:
            client.disconnect()

    client.on_message = on_message
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval, properties.ReceiveMaximum = 3600, WINDOW
    client.connect("127.0.0.1", options.port, clean_start=False, properties=properties)
    if not options.count:
        client.subscribe("plant/#", 1)
        client.on_subscribe = lambda client, *_: client.disconnect()
    client.loop_forever()


def ours(options: argparse.Namespace) -> None:
    """This package: durable, decoded, then acknowledged."""
    mqtt = MQTT(
        options.spool,
        connection(options),
        [topic(options.kind)],
        client_id=options.client_id,
        receive_maximum=WINDOW,
    )
    with mqtt:
        while mqtt.status().committed < options.count:
            mqtt.check()
            time.sleep(0.005)
        status = mqtt.status()
        assert status.dead_letters == 0, status


def main() -> None:
    """Drain, and say what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=["paho", "ours"])
    parser.add_argument("--kind", choices=["json", "waveform"], default="json")
    parser.add_argument("--count", type=int, required=True, help="0: only subscribe")
    for name in ("user", "password_file", "client_id", "spool"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    settle()  # as `fml record` does
    with measured() as spent:
        {"paho": paho, "ours": ours}[options.name](options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"wall": spent.wall, "cpu": spent.cpu, "peak_MiB": peak}))


if __name__ == "__main__":
    main()
