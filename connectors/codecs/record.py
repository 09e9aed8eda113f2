"""Records: types that msgspec decodes a message to, with nothing but the members that are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import msgspec

from fml_lightning.connectors.codecs.path import Key, Path


@dataclass(frozen=True)
class RecordType:
    """The type of messages in which paths say where all stands; what is not read then costs next to nothing.

    >>> record_type = RecordType.of({"value": Path.parse("up.rms"), "time": Path.parse("at")})
    >>> record = msgspec.json.decode(b'{"at": 5, "up": {"rms": 1.5, "other": [1, 2]}}', type=record_type.type)
    >>> record_type.members(record)
    (1.5, 5)
    """

    type: type[msgspec.Struct]
    """For msgspec; nested as the paths are."""
    members: Callable[[Any], Sequence[Any]]
    """What a record has at each path, in their order, UNSET or None where nothing stands there.

    It raises AttributeError where null stands on the way."""
    whole: Callable[[Any], Sequence[Any]] | None
    """What a record has at the outermost keys that are the whole text of a path with several keys; None if no path
    has several."""

    is_flat: bool
    """Whether a record has each member itself, as an attribute by the name of its path."""

    @classmethod
    def of(cls, paths: Mapping[str, Path]) -> RecordType | None:
        """The type for paths by their names; None if they have anything but keys, or one leads beyond another."""
        tree: dict[str, Any] = {}
        for name, path in paths.items():
            *outer, last = [step.name if isinstance(step, Key) else "" for step in path.steps]
            node = tree
            for key in outer:
                node = node.setdefault(key, {})
                if not isinstance(node, dict):
                    return None
            if last in node or "" in (*outer, last):
                return None
            node[last] = name
        whole = [path.text for path in paths.values() if path.may_be_one_key]
        if any(text in tree for text in whole):
            return None
        names = {text: f"whole_{i}" for i, text in enumerate(whole)}
        places: dict[str, str] = {}
        record = _struct({**tree, **names}, "", places)
        return cls(
            record,
            _getter([places[name] for name in paths]),
            _getter(list(names.values())) if whole else None,
            not whole and all(places[name] == name for name in paths),
        )


def _struct(tree: Mapping[str, Any], prefix: str, places: dict[str, str]) -> type[msgspec.Struct]:
    """The type of a map with these keys, a type or a name at each; where each name stands is added to `places`."""
    fields: list[tuple[str, Any, Any]] = []
    rename: dict[str, str] = {}
    for i, (key, below) in enumerate(tree.items()):
        if isinstance(below, dict):
            name = f"within_{i}"
            inner = _struct(below, f"{prefix}{name}.", places)
            fields.append((name, inner | None, inner()))
        else:
            name = below
            fields.append((name, Any, msgspec.UNSET))
            places[name] = prefix + name
        rename[name] = key
    return msgspec.defstruct("Record", fields, rename=rename, gc=False, frozen=True)


def _getter(places: Sequence[str]) -> Callable[[Any], Sequence[Any]]:
    """What gets the attributes at several places, as a tuple."""
    if len(places) > 1:
        return attrgetter(*places)
    one = attrgetter(places[0])
    return lambda record: (one(record),)
