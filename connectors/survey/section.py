"""The section of a configuration that topics make: YAML with comments, ready to paste."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any

import yaml  # type: ignore[import-untyped]

from fml_lightning.connectors.codecs import Codec, StatefulCodec, describe, is_ours
from fml_lightning.connectors.decoding.topics import LabelTopic, Topic
from fml_lightning.names import escaped


@dataclass(frozen=True)
class Entry:
    """A topic, and what a person should know of it."""

    topic: Topic | LabelTopic
    head: Sequence[str] = ()
    """Lines of comment above it."""
    comments: Mapping[str, str] = field(default_factory=dict)
    """Comments beside fields of the topic and of its codec."""
    is_active: bool = True
    """Whether it can be used as it is; else all of it is a comment."""


def section(entries: Sequence[Entry]) -> str:
    """The keys `topics` and `labels` with all entries; entries that are only comments stand at their ends."""
    lines: list[str] = []
    for key, kind in (("topics", Topic), ("labels", LabelTopic)):
        own = [entry for entry in entries if isinstance(entry.topic, kind)]
        if not own:
            continue
        lines.append(f"{key}:" if any(entry.is_active for entry in own) else f"{key}: []")
        for entry in sorted(own, key=lambda entry: not entry.is_active):
            lines += entry_lines(entry)
    return "\n".join(lines) + "\n"


def entry_lines(entry: Entry) -> list[str]:
    """One item of the list of topics, in YAML."""
    head = [f"  # {escaped(line)}" for line in entry.head]
    body = _lines(_plain(entry.topic), entry.comments, "    ")
    body[0] = f"  - {body[0][4:]}"
    return head + (body if entry.is_active else [f"  # {line[2:]}" for line in body])


def _plain(value: Any) -> Any:
    """A topic, a codec or what is in them as YAML has it: of dataclasses, only what is not the default."""
    if isinstance(value, Codec | StatefulCodec):
        name = type(value).__name__ if is_ours(value) else str(describe(value)["codec"])
        arguments = _settings(value)
        return {"class_path": name, **({"init_args": arguments} if arguments else {})}
    if is_dataclass(value) and not isinstance(value, type):
        return _settings(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(one) for one in value]
    return value


def _settings(value: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not the default; a template, a codec and a time always are."""
    always = {"template", "codec", "value", "time", "encoding", "dtype"}
    always |= {"time_unit"} if getattr(value, "time", "") is not None else set()
    always |= {"pattern"} if getattr(value, "name", None) is not None else set()
    found: dict[str, Any] = {}
    for one in fields(value):
        own = getattr(value, one.name)
        default = one.default_factory() if one.default_factory is not MISSING else one.default
        if one.init and (own != default or one.name in always):
            found[one.name] = _plain(own)
    found = {name: found[name] for name in sorted(found, key=lambda name: name == "codec")}
    return found


def _lines(value: Mapping[Any, Any], comments: Mapping[str, str], indent: str) -> list[str]:
    """A mapping in block style, with comments at the ends of lines."""
    lines: list[str] = []
    for key, one in value.items():
        comment = f"  # {escaped(comments[key])}" if comments.get(str(key)) else ""
        name = _scalar(key)
        if isinstance(one, Mapping) and one:
            lines += [f"{indent}{name}:{comment}", *_lines(one, comments, indent + "  ")]
        elif isinstance(one, list) and any(isinstance(item, Mapping) for item in one):
            lines.append(f"{indent}{name}:{comment}")
            for item in one:
                inner = _lines(item, comments, indent + "    ")
                lines += [f"{indent}  - {inner[0].strip()}", *inner[1:]]
        else:
            lines.append(f"{indent}{name}: {_scalar(one)}{comment}")
    return lines


def _scalar(value: Any) -> str:
    """One value, or a list or mapping of values, on one line."""
    text: str = yaml.safe_dump(
        value, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False
    )
    text = text.removesuffix("\n").removesuffix("\n...").strip()
    if isinstance(value, str) and text == value and value in ("y", "n", "Y", "N"):
        return f'"{value}"'  # which YAML 1.1 may read as booleans
    return text
