"""A file of payloads: JSON lines, each with a topic and a payload."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from fml_lightning.connectors.messages import Message
from fml_lightning.errors import UserError

LARGEST_LINE = 64 << 20
"""Characters of a line."""


def messages_of(file: str) -> Iterator[Message]:
    """The messages of a file, as if they were received now.

    Each line is an object with `topic`, and with the payload as text (`payload`; what is no text stands for its
    JSON), in hexadecimal digits (`payload_hex`) or in base64 (`payload_base64`); other members are passed over.

    Raises:
        UserError: there is no such file, or a line is none of these.
    """
    try:
        with Path(file).open(encoding="utf-8") as lines:
            for number, line in enumerate(iter(lambda: lines.readline(LARGEST_LINE), ""), 1):
                if line.strip():
                    topic, payload = _message(line, f"{file}, line {number}")
                    yield Message(topic, payload, time.time_ns() // 1000)
    except OSError as error:
        raise UserError(f"check_file: cannot read {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: expected JSON lines in UTF-8, each with topic and payload ({error})") from error


def _message(line: str, where: str) -> tuple[str, bytes]:
    expected = (
        f'{where}: expected an object such as {{"topic": "a/b", "payload": "21.5"}}, with payload, payload_hex or'
        " payload_base64"
    )
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{expected}; got no JSON ({error})") from error
    topic = content.get("topic") if isinstance(content, dict) else None
    if not isinstance(topic, str) or not topic:
        raise UserError(f"{expected}; got no topic")
    payload = _payload(content, expected)
    return topic, payload


def _payload(content: dict[str, Any], expected: str) -> bytes:
    for key, decode in (
        ("payload_hex", bytes.fromhex),
        ("payload_base64", partial(base64.b64decode, validate=True)),
    ):
        if isinstance(text := content.get(key), str):
            try:
                return decode(text)
            except ValueError as error:
                raise UserError(f"{expected}; got {text[:24]!r} in {key} ({error})") from error
    if "payload" not in content:
        raise UserError(f"{expected}; got no payload")
    payload = content["payload"]
    return payload.encode() if isinstance(payload, str) else json.dumps(payload).encode()
