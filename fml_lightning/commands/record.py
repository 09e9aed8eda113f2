"""`fml record`: MQTT into a spool, for ever."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from jsonargparse import Namespace

from fml_lightning.commands.check import check_broker, check_file
from fml_lightning.commands.live_line import LiveLine
from fml_lightning.commands.parsing.arguments import Parser
from fml_lightning.commands.process import (
    Port,
    log_to_stderr,
    parser,
    settings_of,
    settle,
    stopped_by_signal,
)
from fml_lightning.connectors.decoding.topics import Topic, Topics
from fml_lightning.connectors.mqtt.metrics import serve_metrics
from fml_lightning.connectors.mqtt.source import MQTT
from fml_lightning.connectors.mqtt.status import Status
from fml_lightning.connectors.quality import DOUBTFUL, Quality
from fml_lightning.connectors.spool.spool import Spool
from fml_lightning.errors import UserError

DEFAULT_TOPICS = [{"template": Topic().template, "codec": {"class_path": "fml_lightning.connectors.JSONScalar"}}]
"""`MQTT`'s default as YAML has it, so that it can be printed."""
CHECK: dict[str, tuple[Any, str]] = {
    "check": (
        float | None,
        "record nothing: listen for so many seconds, then print what would be read of each topic, what would not"
        " and why, and topics in YAML that read more",
    ),
    "check_file": (
        str | None,
        "the same of a file: JSON lines with topic and payload, payload_hex or payload_base64",
    ),
    "check_output": (str | None, "a file to write the proposed topics to"),
}
"""Settings of a check, with their types and purposes."""
LOOK = 1.0
"""Seconds between two looks at the recording's status."""
REASONS = {Quality.IMPLAUSIBLE_TIME: "implausible times", Quality.STUCK: "stuck blocks"}
"""How the live line says why readings are doubtful, where the flag's name does not read well."""
SHOWN = 3
"""Names of skipped members in the live line, at most."""


def run(arguments: Sequence[str]) -> int:
    """Record until a signal ends it; returns 0, and raises if a message that came is not durable."""
    options = _options()
    settings = settings_of(options, arguments, _complete)
    port, host = settings.pop("metrics_port"), settings.pop("metrics_host")
    seconds, file, output = (settings.pop(name) for name in CHECK)
    if seconds is not None or file is not None:
        return _check(settings, seconds, file, output)
    if output is not None:
        raise UserError("check_output: expected check or check_file with it, got neither")
    if settings["spool"] is None:
        options.error("the following arguments are required: spool")
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


def _options() -> Parser:
    """The parser of the command line."""
    options = parser("record")
    spool = "where messages are kept; a folder, or a `Spool` with its limits; `--check` needs none"
    options.add_argument("--spool", type=str | Spool | None, default=None, help=spool)
    options.add_class_arguments(MQTT, as_group=False, skip={"spool"})
    options.set_defaults(topics=DEFAULT_TOPICS)
    options.add_argument("--metrics_port", type=Port | None, default=None, help="serve Prometheus metrics here")
    options.add_argument("--metrics_host", type=str, default="127.0.0.1", help="address to serve them at")
    for name, (kind, purpose) in CHECK.items():
        options.add_argument(f"--{name}", type=kind, default=None, help=purpose)
    return options


def _complete(parsed: Namespace) -> None:
    """A check without a login needs no encryption, as it sends nothing that anybody may not read."""
    is_check = parsed.check is not None or parsed.check_file is not None
    if is_check and parsed.connection.username is None:
        parsed.connection.unencrypted = True


def _check(settings: dict[str, Any], seconds: float | None, file: str | None, output: str | None) -> int:
    """Print what would be read, and record nothing."""
    topics = Topics(tuple(settings["topics"]), tuple(settings["labels"]))
    if seconds is not None and file is not None:
        raise UserError("expected check or check_file, got both")
    if file is not None:
        return check_file(file, topics, output)
    assert seconds is not None
    if not 0 < seconds < math.inf:
        raise UserError(f"check: expected seconds above 0, got {seconds}")
    return check_broker(settings["connection"], topics, seconds, settings["max_packet_bytes"], output)


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
    counts += [(status.doubtful.get(flag.word, 0), REASONS.get(flag, flag.words)) for flag in DOUBTFUL]
    counts += [(status.redelivered, "redelivered"), (status.gaps, "gaps"), (status.takeovers, "takeovers")]
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
