"""`fml record`: MQTT into a spool, for ever."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack

from fml_lightning.commands.live_line import LiveLine
from fml_lightning.commands.process import (
    Port,
    log_to_stderr,
    parser,
    settings_of,
    settle,
    stopped_by_signal,
)
from fml_lightning.connectors.decoding.topics import Topic
from fml_lightning.connectors.mqtt.metrics import serve_metrics
from fml_lightning.connectors.mqtt.source import MQTT
from fml_lightning.connectors.mqtt.status import Status
from fml_lightning.errors import UserError

DEFAULT_TOPICS = [{"template": Topic().template, "codec": {"class_path": "fml_lightning.connectors.JSONScalar"}}]
"""`MQTT`'s default as YAML has it, so that it can be printed."""
LOOK = 1.0
"""Seconds between two looks at the recording's status."""
REASONS = {"implausible_time": "implausible times", "stuck": "stuck blocks"}
"""How the live line says why readings are doubtful, where the flag's name does not read well."""
SHOWN = 3
"""Names of skipped members in the live line, at most."""


def run(arguments: Sequence[str]) -> int:
    """Record until a signal ends it; returns 0, and raises if a message that came is not durable."""
    options = parser("record")
    options.add_class_arguments(MQTT, as_group=False)
    options.set_defaults(topics=DEFAULT_TOPICS)
    options.add_argument("--metrics_port", type=Port | None, default=None, help="serve Prometheus metrics here")
    options.add_argument("--metrics_host", type=str, default="127.0.0.1", help="address to serve them at")
    settings = settings_of(options, arguments)
    port, host = settings.pop("metrics_port"), settings.pop("metrics_host")
    mqtt = MQTT(**settings)
    log_to_stderr()
    settle()
    with stopped_by_signal(mqtt.stop), ExitStack() as stack:
        mqtt.open()
        stack.callback(mqtt.close)
        stack.enter_context(serve_metrics(mqtt.status, port, host))
        _wait_for_broker(mqtt)
        _watch(mqtt)
    if (left := mqtt.unfinished()) is not None:
        raise UserError(f"not all that came is recorded, the broker keeps the rest: {left}")
    status = mqtt.status()
    print(f"recorded {status.committed} messages; {status.dead_letters} dead letters", flush=True)
    return 0


def _wait_for_broker(mqtt: MQTT) -> None:
    """Show what keeps the recording from its beginning, until it begins or is stopped."""
    with LiveLine() as line:
        while mqtt.awaits_broker and not mqtt.wait(0.05):
            mqtt.check()
            if (status := mqtt.status()).problem is not None:
                line.show(lambda: describe(status, status, 1.0))  # it is called at once


def _watch(mqtt: MQTT) -> None:
    """Show how the recording goes, until it is stopped or cannot go on."""
    if mqtt.wait(0):
        return
    print(f"recording {mqtt.connection.address} into {mqtt.folder}", flush=True)
    moment, before = time.monotonic(), mqtt.status()

    def text() -> str:
        nonlocal moment, before
        seconds, earlier = time.monotonic() - moment, before
        moment, before = time.monotonic(), mqtt.status()
        return describe(before, earlier, seconds)

    with LiveLine() as line:
        while not mqtt.wait(LOOK):
            mqtt.check()
            line.show(text)


def describe(status: Status, before: Status, seconds: float) -> str:
    """The live line: what is wrong, and how fast messages come.

    Args:
        status: how the recording goes now.
        before: how it went earlier.
        seconds: between the two.
    """
    rate = (status.received - before.received) / seconds
    megabytes = (status.received_bytes - before.received_bytes) / seconds / 1e6
    parts = [
        f"{rate:,.0f} messages/s ({megabytes:.2f} MB/s)",
        f"{status.committed:,} durable",
        f"lag {status.lag:.1f} s",
        f"{status.dead_letters:,} dead letters",
        f"{status.machines} machines",
    ]
    counts = [(status.repeated, "repeated")]
    counts += [(count, REASONS.get(reason, reason.replace("_", " "))) for reason, count in status.doubtful.items()]
    counts += [(status.duplicates, "redelivered"), (status.gaps, "gaps"), (status.takeovers, "takeovers")]
    counts += [(status.restarts, "restarts"), (status.quarantined, "damaged segments")]
    parts += [f"{count:,} {name}" for count, name in counts if count]
    if names := sorted(status.skipped):
        more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
        parts.append(f"skipped: {', '.join(names[:SHOWN])}{more}")
    if status.warning is not None:
        parts.insert(0, f"WARNING: {status.warning}")
    if status.problem is not None:
        parts.insert(0, f"PROBLEM: {status.problem}")
    return " | ".join(parts)
