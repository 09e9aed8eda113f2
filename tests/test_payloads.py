"""Payloads as devices of the field send them, each read by the YAML that docs/payloads.md shows for it."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from fml_lightning.commands.process import parser, settings_of
from fml_lightning.connectors import MQTT, Decoder, Message, Quality, Topics
from fml_lightning.connectors.messages import Messages

RECEIVED = 1_795_694_400_000_000
"""2026-11-26 12:00 UTC, a few minutes after the times in the payloads."""
DOCS = Path(__file__).parent.parent / "docs" / "payloads.md"
SHARED = Path(os.environ.get("FML_PAYLOADS", Path(__file__).parent.parent.parent / "shared/examples/payloads"))
NOWHERE = "a number that the configuration gives this state"


class Example(NamedTuple):
    topic: str
    payload: bytes
    yaml: str
    readings: list[dict[str, str]]


def examples() -> dict[str, Example]:
    """The sections of the page that have a payload, by their titles."""
    found = {}
    for section in re.split(r"^### ", DOCS.read_text(), flags=re.MULTILINE)[1:]:
        title, _, text = section.partition("\n")
        topic = re.search(r"[Tt]opic `([^`]+)`", text)
        payload = re.search(r"^```(json|text|hex)\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL)
        yaml = re.search(r"^```yaml\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL)
        assert topic is not None, title
        assert payload is not None, title
        assert yaml is not None, title
        lines = re.findall(r"^\| (.*)\|$", text[yaml.end() :], re.MULTILINE)
        head, *rows = [[cell.strip() for cell in line.split("|")] for line in lines]
        readings = [dict(zip(head, row, strict=True)) for row in rows]
        raw = bytes.fromhex(payload[2]) if payload[1] == "hex" else payload[2].encode()
        found[title.strip()] = Example(topic[1], raw, yaml[1], readings)
    return found


EXAMPLES = examples()


def topics_of(yaml: str, folder: Path) -> Topics:
    """The topics as `fml record` reads them, and as a spool gives them to another process."""
    config = folder / "record.yaml"
    kind = "labels" if _is_label(yaml) else "topics"
    config.write_text(f"{kind}:\n" + "".join(f"  {line}\n" for line in yaml.splitlines()))
    options = parser("record")
    options.add_class_arguments(MQTT, as_group=False)
    settings = settings_of(options, ["--config", str(config), "--spool", str(folder / "spool")])
    topics = Topics(tuple(settings["topics"]), tuple(settings["labels"]))
    again = Topics.loads(topics.dumps())
    assert again == topics
    return again


def _is_label(yaml: str) -> bool:
    return "label_key" in yaml


@pytest.mark.parametrize("name", [name for name in EXAMPLES if _is_label(EXAMPLES[name].yaml)])
def test_events_are_labels(name: str, tmp_path: Path) -> None:
    example = EXAMPLES[name]
    messages = Messages.numbered([Message(example.topic, example.payload, RECEIVED)], 0)
    decoded = Decoder(topics_of(example.yaml, tmp_path)).decode(messages)
    assert decoded.dead == []
    got = decoded.batch.labels.select("site", "machine", "label").rows()
    assert got == [("n", each["machine"], each["label"]) for each in example.readings]


@pytest.mark.parametrize("name", [name for name in EXAMPLES if not _is_label(EXAMPLES[name].yaml)])
def test_it_is_read_by_configuration_alone(name: str, tmp_path: Path) -> None:
    example = EXAMPLES[name]
    messages = Messages.numbered([Message(example.topic, example.payload, RECEIVED)], 0)
    decoded = Decoder(topics_of(example.yaml, tmp_path)).decode(messages)
    assert decoded.dead == []
    rows = decoded.batch.readings.to_dicts()
    got = [(row["machine"], row["channel"], row["values"], row["unit"] or "") for row in rows]
    assert got == [
        (each["machine"], each["channel"], values(each["value"]), each.get("unit", ""))
        for each in example.readings
    ]
    bad = [bool(row["quality"] & Quality.BAD) for row in rows]
    assert bad == [each.get("quality", "").strip() == "bad" for each in example.readings]
    assert not any(row["quality"] & Quality.IMPLAUSIBLE_TIME for row in rows)


def values(text: str) -> list[float]:
    return np.array(text.split(","), np.float32).tolist()  # type: ignore[no-any-return]


@pytest.mark.skipif(not (SHARED / "payloads.jsonl").is_file(), reason=f"no payloads in {SHARED}")
def test_every_payload_that_was_collected_is_on_the_page() -> None:
    for line in (SHARED / "payloads.jsonl").read_text().splitlines():
        expected = json.loads(line)
        example = EXAMPLES[expected["name"]]
        assert (example.topic, example.payload) == (expected["topic"], bytes.fromhex(expected["payload_hex"]))

        def flat(value: object) -> tuple[float, ...]:
            numbers = value if isinstance(value, list) else [value]
            return tuple(np.float32(number) for number in numbers)

        wanted = [r for r in expected["readings"] if r["value"] != NOWHERE]
        found = [(r["machine"], tuple(map(np.float32, values(r["value"])))) for r in example.readings]
        missing = Counter((r["machine"], flat(r["value"])) for r in wanted) - Counter(found)
        assert not missing, expected["name"]
        channels = {(r["machine"], r["channel"]) for r in expected["readings"]}
        assert len({(r["machine"], r["channel"]) for r in example.readings}) >= len(channels)
