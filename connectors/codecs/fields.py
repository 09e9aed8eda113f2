"""Fields: which members of a nested message are values, and which say whose, when and in what unit these are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import msgspec

from fml_lightning.connectors.codecs.checked import MOST_SAMPLES
from fml_lightning.connectors.codecs.codec import MOST_SKIPPED, CodecError
from fml_lightning.connectors.codecs.field import Field, channel_names, naming_keys
from fml_lightning.connectors.codecs.path import (
    ABSENT,
    AnyKey,
    Index,
    Key,
    Path,
    Step,
    Walk,
    fixed_keys,
    key_text,
    opened,
)
from fml_lightning.errors import UserError

Values = str | tuple[str, ...] | Mapping[str, str]
"""One path, several, or several with the name of each one's channel."""


class Member(msgspec.Struct, gc=False):
    """A value that a message has, raw as it stands there, and what the message says of it."""

    value: Any
    """Null only as an item of a list, or in one: others follow it, which it must not shift."""
    roles: Mapping[str, Any]
    """What stands at the paths of the roles, by their names; those that are absent or null are not in it."""
    field: Field
    """The path that found it."""
    keys: tuple[object, ...]
    """The keys and indexes that lead to it."""

    @property
    def where(self) -> str:
        """How one writes where it stands."""
        return self.field.path.written(self.keys)

    @property
    def is_one_key(self) -> bool:
        """Whether the path's whole text is the one key that leads to it."""
        return len(self.keys) < len(self.field.path.steps)

    @property
    def channel(self) -> str | None:
        """The name that keys give to its channel; None if they give none.

        Raises:
            CodecError: one of the keys is no text, or the name is too long.
        """
        return self.field.channel(self.keys)

    def named(self, role: str) -> str | None:
        """The machine or the site, where a key names it: `{machine}`, `{site}`.

        Raises:
            CodecError: the key is no text.
        """
        place = self.field.places.get(role)
        return None if place is None else self.field.text(self.keys, place)


@dataclass(frozen=True)
class Fields:
    """The paths to the values of a message, and to what it says of them.

    >>> fields = Fields.of("JSONObject", "values[*].v", {"time": "values[*].t", "site": "plant"})
    >>> message = {"plant": "Ulm", "values": [{"v": 1.5, "t": 10}, {"v": 2.5}]}
    >>> [(member.value, member.roles, member.where) for member in fields.select(message, {})]
    [(1.5, {'site': 'Ulm', 'time': 10}, 'values[0].v'), (2.5, {'site': 'Ulm'}, 'values[1].v')]
    """

    values: tuple[Field, ...]
    roles: Mapping[str, Path]
    """The path of each role."""
    passed_over: tuple[Path, ...]
    """The members that are no values, whatever `*` finds."""

    @classmethod
    def of(cls, owner: str, value: Values, roles: Mapping[str, str], ignore: Sequence[str] = ()) -> Fields:
        """The fields of paths as one writes them.

        A path of a role that has wildcards begins, up to the last of them, as the path of a value does: it stands
        in the same item. Or it has the same wildcards elsewhere, for which the keys of the value stand. Without
        wildcards it holds for the whole message.

        Args:
            owner: the class that is configured, for the errors.
            value: the paths of values. Of one path without `*`, no key names the channel; of several, the last
                key does, or as many of the last keys as tell them apart.
            roles: the path of each role, such as the time; a role's member is no value.
            ignore: paths of what `*` passes over.

        Raises:
            UserError: paths that cannot be meant.
        """
        names: Sequence[str | None]
        whole: Sequence[str | None]
        texts = (
            [value] if isinstance(value, str) else [*value.values()] if isinstance(value, Mapping) else [*value]
        )
        every = [*texts, *roles.values()]
        if not texts:
            raise UserError(f"{owner}.value: expected a path, several, or *, got none")
        if "" in every or "" in ignore:
            raise UserError(f"{owner}: expected paths that are not empty, got {[*every, *ignore]}")
        paths = [Path.parse(text) for text in texts]
        of_roles = {role: Path.parse(text) for role, text in roles.items()}
        steps = [path.steps for path in [*paths, *of_roles.values()]]
        if len(set(steps)) < len(steps):
            raise UserError(f"{owner}: expected paths that differ from one another, got {every}")
        for role, path in of_roles.items():
            if path.wildcards and not any(path.follows(other) for other in paths):
                raise UserError(
                    f"{owner}.{role}: expected a path without wildcards, or one with those of a value's path, in"
                    f" the same order; got {path.text!r} beside {', '.join(texts)}"
                )
        in_item = {role for role, path in of_roles.items() if any(path.goes_with(other) for other in paths)}
        if isinstance(value, str):
            names, whole = [None], [None]
        elif isinstance(value, Mapping):
            names = whole = list(value)
        else:
            names, whole = channel_names(owner, paths), texts
        fields = []
        for path, name, of_one_key in zip(paths, names, whole, strict=True):
            beside = tuple(
                (role, other.wildcards, other.steps[other.wildcards :])
                for role, other in of_roles.items()
                if other.wildcards and other.goes_with(path)
            )
            alike = tuple(
                (role, other)
                for role, other in of_roles.items()
                if other.wildcards and role not in in_item and other.follows(path)
            )
            parts = naming_keys(owner, path, isinstance(value, Mapping))
            fields.append(Field(path, name, parts, of_one_key, beside, alike))
        passed = [*of_roles.values(), *map(Path.parse, ignore), *(path for path in paths if not path.wildcards)]
        passed += [Path(path.text, (Key(path.text),)) for path in passed if path.may_be_one_key]
        return cls(tuple(fields), of_roles, tuple(passed))

    def select(self, content: Any, skipped: dict[str, object]) -> Iterator[Member]:
        """The values of a message, in the order of the paths, and for each path in that of the message.

        Args:
            content: a message, decoded: dicts, lists, and what is in them.
            skipped: what was passed over though it might be a value is added to it: where it stands, and what it
                is. No more than `MOST_SKIPPED` are.

        Raises:
            CodecError: after all members: there is none, as a path leads to nothing, or there are too many.
        """
        found, fault = 0, None
        shared = self.of_message(content)
        for field in self.values:
            path, roles = field.path, shared
            if path.only_key is not None and type(content) is dict:
                value = content.get(path.only_key)
                if value is not None:  # else it may be a number or in quotes, or there is none
                    found += 1
                    yield Member(value, shared, field, (path.only_key,))
                    continue
            is_one_key = path.may_be_one_key and type(content) is dict and path.text in content
            if is_one_key or not path.wildcards:
                value = content[path.text] if is_one_key else _follow(path.steps, content)
                if value is None:
                    fault = fault or _why(path, content)
                    continue
                found += 1
                yield Member(value, shared, field, (path.text,) if is_one_key else fixed_keys(path.steps))
                continue
            walk = Walk(path, content, self._passes_over.get(path.text))
            for value in walk:
                if value is None and path.last_each is None:
                    continue
                if (found := found + 1) > MOST_SAMPLES:
                    raise CodecError(
                        f"{path.text}: expected at most {MOST_SAMPLES:,} values in one message, got more"
                    )
                if field.beside or field.alike:
                    roles = shared | _of_item(field, walk)
                yield Member(value, roles, field, tuple(walk.keys))
            fault = fault or walk.fault
            skipped.update(walk.passed[: max(0, MOST_SKIPPED - len(skipped))])
        if not found and fault is not None:
            if len(self.values) > 1:
                every = ", ".join(field.path.text for field in self.values)
                fault = f"expected at least one of {every}, got none: {fault}"
            raise CodecError(fault)

    def where(self, role: str, member: Member) -> str:
        """How one writes where a role of a member stands."""
        path = self.roles[role]
        return path.written(path.with_keys_of(member.field.path, member.keys))

    def of_message(self, content: Any) -> dict[str, Any]:
        """What stands at the paths of the roles that hold for the whole message."""
        return {role: value for role, path in self._of_message if (value := _at(path, content)) is not None}

    @cached_property
    def every(self) -> Field | None:
        """The field of `*` or `object.*`, if that is all there is, and keys say all that it passes over."""
        (field, *others) = self.values
        *outer, last = field.path.steps
        if others or field.name is not None or field.beside or field.alike:
            return None
        passed = [path.steps for path in self.passed_over if len(path.steps) == len(field.path.steps)]
        is_known = all(isinstance(step, Key) for steps in [outer, *passed] for step in steps)
        return field if is_known and last in (AnyKey(), AnyKey("channel")) else None

    def object_of_every(self, content: Any) -> dict[Any, Any] | None:
        """The object all members of which `every` finds; None if there is none, or it takes `select` to see."""
        if self.every is None or type(content) is not dict:
            return None
        path, node = self.every.path, cast("object", content)
        if len(path.steps) > 1:
            node = None if path.text in content else _follow(path.steps[:-1], content)
        return node if type(node) is dict else None

    @cached_property
    def passed_over_keys(self) -> frozenset[str]:
        """The keys of that object that `every` passes over."""
        outer = [] if self.every is None else [*self.every.path.steps[:-1]]
        lasts = [path.steps[-1] for path in self.passed_over if [*path.steps[:-1]] == outer]
        return frozenset(step.name for step in lasts if isinstance(step, Key))

    @cached_property
    def _of_message(self) -> Sequence[tuple[str, Path]]:
        """The roles that hold for the whole message."""
        return [(role, path) for role, path in self.roles.items() if not path.wildcards]

    @cached_property
    def _passes_over(self) -> Mapping[str, Callable[[Sequence[object], int], bool]]:
        """For each path with any key in it, whether that passes over the member that keys lead to."""
        named: dict[tuple[object, int], list[Path]] = {}  # by the last key, and the number of keys
        others: list[Path] = []
        for path in self.passed_over:
            if isinstance(last := path.steps[-1], Key):
                named.setdefault((last.name, len(path.steps)), []).append(path)
            else:
                others.append(path)

        def passes_over(keys: Sequence[object], count: int) -> bool:
            key = keys[count - 1]
            found = named.get((key if type(key) is str else key_text(key), count))
            if found is not None and any(path.fits(keys) for path in found):
                return True
            return bool(others) and any(len(path.steps) == count and path.fits(keys) for path in others)

        wild = [field.path for field in self.values if any(isinstance(step, AnyKey) for step in field.path.steps)]
        return {path.text: passes_over for path in wild} if self.passed_over else {}


def _of_item(field: Field, walk: Walk) -> dict[str, Any]:
    """What stands at the paths of the roles of the item that was found last."""
    roles = {
        role: own for role, depth, steps in field.beside if (own := _follow(steps, walk.nodes[depth])) is not None
    }
    for role, path in field.alike:
        own = path.at(walk.nodes[0], path.with_keys_of(field.path, walk.keys))
        if own is not ABSENT and own is not None:
            roles[role] = own
    return roles


def _at(path: Path, content: Any) -> Any:
    """What stands at a path without wildcards, or at its whole text as a key; None if nothing does."""
    if type(content) is dict:
        if path.only_key is not None and (value := content.get(path.only_key)) is not None:
            return value
        if path.may_be_one_key and path.text in content:
            return content[path.text]
    return _follow(path.steps, content)


def _follow(steps: Sequence[Step], node: Any) -> Any:
    for step in steps:
        assert isinstance(step, Key | Index)
        node = step.of(opened(node) if type(node) is str else node)
        if node is ABSENT:
            return None
    return node


def _why(path: Path, content: object) -> str:
    """Why nothing stands at a path without wildcards."""
    walk = Walk(path, content, None)
    for _ in walk:
        return f"{path.text}: expected a value, got null"
    assert walk.fault is not None
    return walk.fault
