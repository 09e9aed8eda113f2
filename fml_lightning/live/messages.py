"""Messages: what a watch publishes of a machine's health, and how Home Assistant finds it.

A health message is published for every machine of which windows were scored or something has changed. It holds
each of these windows, and each change with its number: whoever gets a message twice sees by them what is new.

https://www.home-assistant.io/integrations/mqtt/#discovery-messages
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from fml_lightning.errors import UserError
from fml_lightning.live.board import MachineView
from fml_lightning.live.log import Place
from fml_lightning.live.outbox import Outgoing
from fml_lightning.live.state import Change
from fml_lightning.names import key, quoted

HOME_ASSISTANT = "homeassistant"
"""Where Home Assistant looks for what there is."""
LONGEST = 1000
"""Characters of a topic, without the names in it; a broker takes 65,535 bytes."""


class Topics(msgspec.Struct, frozen=True):
    """Where health is published."""

    template: str = "fml/{site}/{machine}/health"
    """With `{site}` and `{machine}`, whose characters that a topic cannot have are escaped as in a URL."""
    status: str = "fml/watch/status"
    """Says `online` while the watch scores, `not scoring` while it cannot, and `offline` when it is gone."""
    home_assistant: bool = False
    """Whether to tell Home Assistant what there is."""

    def __post_init__(self) -> None:
        if "{machine}" not in self.template or not _is_topic(
            self.template.replace("{site}", "").replace("{machine}", "")
        ):
            raise UserError(
                "publish.topic: expected a topic with {machine}, and perhaps {site}, without + and #, got"
                f" {self.template!r:.100}"
            )
        if not self.status or not _is_topic(self.status):
            raise UserError(f"publish.status: expected a topic without places, + and #, got {self.status!r:.100}")

    def health(self, site: str, machine: str) -> str:
        """The topic of a machine."""
        return self.template.replace("{site}", quoted(site)).replace("{machine}", quoted(machine))


def outgoing(topics: Topics, changes: Iterable[Change], record: Place) -> list[Outgoing]:
    """The messages that follow from what a record has changed.

    Args:
        topics: where they go.
        changes: of the record.
        record: where it ends.
    """
    messages: list[Outgoing] = []
    for change in changes:
        view = change.machine.view()
        payload: dict[str, Any] = {
            "site": view.site,
            "machine": view.machine,
            "health": view.health,
            "reason": view.reason,
            "since": _time(view.since),
            "fault": view.fault,
            "confidence": view.confidence,
            "score": view.score,
            "estimate": view.estimate,
            "quantity": view.quantity,
            "alarm": view.alarm,
            "last_alarm": _time(view.last_alarm),
            "acknowledged": view.acknowledged,
            "shelved_until": _time(view.shelved_until),
            "shelved_reason": view.shelved_reason,
            "version": view.version,
            "last_data": _time(view.last_data),
            "stale": view.stale,
            "number": change.machine.alarm.number,
            "changes": [
                {"number": each.number, "time": _time(each.time), "what": each.what, "reason": each.reason}
                for each in change.changes
            ],
            "windows": []
            if change.scores is None
            else list(zip(change.scores.sequence, change.scores.end, change.scores.score, strict=True)),
        }
        place = (record.segment, record.offset, len(messages) + 1)
        encoded = msgspec.Raw(msgspec.json.encode(payload))
        is_news = change.scores is None or bool(change.changes)
        messages.append(Outgoing(place, topics.health(view.site, view.machine), encoded, is_news))
    return messages


def discovery(topics: Topics, view: MachineView, expire_after: float) -> list[tuple[str, bytes]]:
    """What tells Home Assistant of a machine: topics and payloads, to be retained.

    Its alarm is off while alarms are shelved; its health says that they are.

    Args:
        topics: where health is published.
        view: of the machine.
        expire_after: seconds after which what was published last is no longer taken for true.
    """
    own = _identity(view.site, view.machine)
    name = f"{view.site} {view.machine}"
    common: dict[str, Any] = {
        "state_topic": topics.health(view.site, view.machine),
        "availability_topic": topics.status,
        "availability_template": "{{ 'online' if value == 'online' else 'offline' }}",
        "expire_after": max(1, round(expire_after)),
        "device": {"identifiers": [own], "name": name, "manufacturer": "fml-lightning"},
    }
    sensors: dict[str, dict[str, Any]] = {
        "sensor/health": {
            "name": "health",
            "value_template": "{{ value_json.health }}",
            "json_attributes_topic": common["state_topic"],
        },
        "sensor/score": {
            "name": "score",
            # None is what Home Assistant takes for no value; any other text is an error where it expects a number.
            "value_template": "{{ value_json.score | round(3) if value_json.score is not none else 'None' }}",
            "state_class": "measurement",
        },
        "binary_sensor/alarm": {
            "name": "alarm",
            "device_class": "problem",
            "value_template": (
                "{{ 'ON' if value_json.alarm in ['firing', 'recovering'] and value_json.shelved_until is none"
                " else 'OFF' }}"
            ),
        },
    }
    found = []
    for path, content in sensors.items():
        component, _, what = path.partition("/")
        unique = f"{own}_{what}"
        named = {"unique_id": unique, "default_entity_id": f"{component}.{unique}"}
        payload = msgspec.json.encode({**common, **content, **named})
        found.append((f"{HOME_ASSISTANT}/{component}/{unique}/config", payload))
    return found


def _is_topic(text: str) -> bool:
    """Whether a broker takes messages for a topic of this text."""
    return len(text) <= LONGEST and text.isprintable() and not set("{}+#") & set(text)


def _identity(site: str, machine: str) -> str:
    """A machine's name for Home Assistant, of letters, digits, `_` and `-`; no two machines have one."""
    is_plain = all(re.fullmatch("[A-Za-z0-9-]+", name) for name in (site, machine))
    name = f"{site}_{machine}" if is_plain else key(f"{site}\0{machine}").replace(".", "_")
    return f"fml_{name}"


def _time(microseconds: int | None) -> str | None:
    """As ISO 8601 has it."""
    if microseconds is None:
        return None
    try:
        return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):  # a clock that is far off
        return None
