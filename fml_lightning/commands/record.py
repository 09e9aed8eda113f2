"""`fml record`: MQTT into a spool, for ever."""

from __future__ import annotations

import time
from collections.abc import Sequence

from fml_lightning.commands import COMMANDS
from fml_lightning.commands.process import LiveLine, log_to_stderr, parser, settle, stopped_by_signal
from fml_lightning.connectors.metrics import serve_metrics
from fml_lightning.connectors.mqtt import MQTT, Status
from fml_lightning.errors import UserError


def run(arguments: Sequence[str]) -> int:
    """Record until a signal ends it; 0 if all that came is durable."""
    options = parser("record", COMMANDS["record"])
    options.add_class_arguments(MQTT)
    options.add_argument("--metrics_port", type=int | None, default=None, help="serve Prometheus metrics here")
    options.add_argument("--metrics_host", type=str, default="127.0.0.1", help="address to serve them at")
    settings = options.instantiate_classes(options.parse_args(list(arguments)))
    port, host = settings.pop("metrics_port"), settings.pop("metrics_host")
    settings.pop("config")
    mqtt = MQTT(**settings)
    log_to_stderr()
    settle()
    with stopped_by_signal(mqtt.stop), mqtt, serve_metrics(mqtt.status, port, host):
        print(f"recording {mqtt.connection.address} into {mqtt.folder}", flush=True)
        _watch(mqtt)
    if mqtt.recorder.problem is not None:
        raise UserError(f"not all is recorded: {mqtt.recorder.problem}")
    status = mqtt.status()
    print(f"recorded {status.committed} messages; {status.dead_letters} dead letters", flush=True)
    return 0


def _watch(mqtt: MQTT) -> None:
    """Show how it goes until it is stopped, or cannot go on."""
    line = LiveLine()
    moment, before = time.monotonic(), mqtt.status()
    try:
        while not mqtt.wait(line.interval):
            mqtt.check()
            status, now = mqtt.status(), time.monotonic()
            shown = describe(status, before, now - moment)
            line.show(lambda text=shown: text, now=True)  # type: ignore[misc]
            moment, before = now, status
    finally:
        line.end()


def describe(status: Status, before: Status, seconds: float) -> str:
    """The live line: rates since `before`, `seconds` ago, and what is wrong.

    Args:
        status: now.
        before: earlier.
        seconds: between them.
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
    for count, name in ((status.duplicates, "redelivered"), (status.gaps, "gaps"), (status.restarts, "restarts")):
        if count:
            parts.append(f"{count:,} {name}")
    if status.problem is not None:
        parts.append(f"PROBLEM: {status.problem}")
    return " | ".join(parts)
