"""Paths: where in a nested message something stands, such as `uplink.decoded.vib[*].x`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, get_args

import numpy as np

from fml_lightning.connectors.codecs import json_text
from fml_lightning.connectors.codecs.codec import MOST_SKIPPED, CodecError
from fml_lightning.connectors.codecs.numbers import shown
from fml_lightning.errors import UserError

Named = Literal["channel", "machine", "site"]
"""What a key may name."""

SHOWN_KEY = 128
"""Characters of a key in an error or a count, at most: a long key would be repeated in each of them."""
SHOWN_KEYS = 4
"""Keys of an object that an error tells, at most."""
ABSENT: Final = object()
"""What is found where there is nothing; null is something."""

_SEGMENT = re.compile(
    r"""(?: "(?P<quoted>[^"]+)" | (?=\[(?:\*|-?\d+)\]) | (?P<plain>[^."][^.]*?) )
        (?P<items>(?:\[(?:\*|-?\d+)\])*) (?:\.(?!$)|$)""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_ITEM = re.compile(r"\[(\*|-?\d+)\]", re.ASCII)
_INTEGER = re.compile(r"-?(?:0|[1-9]\d{0,18})", re.ASCII)


@dataclass(frozen=True)
class Key:
    """One key of an object; its digits are also that number, which CBOR and MessagePack may have as a key."""

    name: str

    @cached_property
    def number(self) -> int | None:
        """The key as a number."""
        return int(self.name) if _INTEGER.fullmatch(self.name) else None

    def of(self, node: object) -> Any:
        """What an object has there, or `ABSENT`."""
        if type(node) is not dict:
            return ABSENT
        child = node.get(self.name, ABSENT)
        if child is ABSENT and self.number is not None:
            child = node.get(self.number, ABSENT)
        return child


@dataclass(frozen=True)
class Index:
    """One item of a list; a negative number counts from its end."""

    number: int

    def of(self, node: object) -> Any:
        """What a list has there, or `ABSENT`."""
        return child_of(node, self.number)


@dataclass(frozen=True)
class Each:
    """Every item of a list, one after the other."""


@dataclass(frozen=True)
class AnyKey:
    """Any key of an object, or the index of any item of a list; the key is a name, or a part of one."""

    names: Named | None = None
    """What the key names; None: it is a part of the channel's name, as are the keys after it."""


Step = Key | Index | Each | AnyKey


@dataclass(frozen=True)
class Path:
    """The keys and indexes that lead to a member of a message.

    Keys are joined by `.`; `[3]` is an item of a list, `[-1]` its last one, and `[*]` every item; `*` is any key,
    which becomes the channel's name or a part of it, and `{channel}`, `{machine}`, `{site}` are any key, which is
    that name. A key with a dot stands in double quotes. A text that is no path, such as `Temp.`, is one key. Where
    a message has JSON within a text, the path leads on into it.

    >>> Path.parse('Messages[*].Payload.{channel}."v.1"').steps
    (Key(name='Messages'), Each(), Key(name='Payload'), AnyKey(names='channel'), Key(name='v.1'))
    """

    text: str
    steps: tuple[Step, ...]

    @classmethod
    def parse(cls, text: str) -> Path:
        """The path that a text says.

        Raises:
            UserError: it is empty, or `{...}` in it names nothing that a key can name.
        """
        if not text:
            raise UserError('expected a path such as value or decoded.vib[*].x, got ""')
        steps: list[Step] = []
        end = 0
        while end < len(text):
            match = _SEGMENT.match(text, end)
            if match is None:
                return cls(text, (Key(text),))
            end = match.end()
            if match["quoted"] is not None:
                steps.append(Key(match["quoted"]))
            elif match["plain"] is not None:
                steps.append(_step(match["plain"], text))
            steps += [Each() if item == "*" else Index(int(item)) for item in _ITEM.findall(match["items"])]
        return cls(text, tuple(steps))

    @cached_property
    def wildcards(self) -> int:
        """How many steps it takes to the last `[*]`, `*` or `{...}`, and through it; 0 if there is none."""
        return max((i + 1 for i, step in enumerate(self.steps) if isinstance(step, Each | AnyKey)), default=0)

    @cached_property
    def first_wildcard(self) -> int:
        """How many steps it takes to the first `[*]`, `*` or `{...}`; all of them, if there is none."""
        wild = (i for i, step in enumerate(self.steps) if isinstance(step, Each | AnyKey))
        return next(wild, len(self.steps))

    @cached_property
    def last_each(self) -> int | None:
        """The place of the last `[*]` among the steps."""
        return max((i for i, step in enumerate(self.steps) if isinstance(step, Each)), default=None)

    @cached_property
    def is_open(self) -> bool:
        """Whether it ends with any key, so that nobody knows beforehand what it finds."""
        return isinstance(self.steps[-1], AnyKey)

    @cached_property
    def only_key(self) -> str | None:
        """Its key, if it is but one."""
        (step,) = self.steps if len(self.steps) == 1 else (None,)
        return step.name if isinstance(step, Key) else None

    @cached_property
    def may_be_one_key(self) -> bool:
        """Whether its whole text may also be a key of the outermost object, as `rms.x` may."""
        return len(self.steps) > 1 or self.only_key not in (None, self.text)

    def goes_with(self, other: Path) -> bool:
        """Whether, up to its last wildcard, it leads to the same items as another path does."""
        mine, theirs = self.steps[: self.wildcards], other.steps[: self.wildcards]
        return len(mine) == len(theirs) and all(
            a == b or (isinstance(a, AnyKey) and isinstance(b, AnyKey)) for a, b in zip(mine, theirs, strict=True)
        )

    def follows(self, other: Path) -> bool:
        """Whether another path has the same wildcards in the same order, and perhaps more of them after these.

        What that path finds by some keys, this one then has something beside, by the same keys: `units.{channel}`
        beside `values.{channel}`, `stamps[*]` beside `samples[*].v`.
        """
        mine, theirs = self.wild_steps, other.wild_steps
        return len(mine) <= len(theirs) and all(
            a == b or (isinstance(a, AnyKey) and isinstance(b, AnyKey)) for a, b in zip(mine, theirs, strict=False)
        )

    @cached_property
    def wild_steps(self) -> Sequence[Step]:
        """Its `[*]`, `*` and `{...}`."""
        return [step for step in self.steps if isinstance(step, Each | AnyKey)]

    def with_keys_of(self, other: Path, keys: Sequence[object]) -> tuple[object, ...]:
        """The keys to what it has beside what a path that it `follows` finds by these keys."""
        found = (key for step, key in zip(other.steps, keys, strict=False) if isinstance(step, Each | AnyKey))
        return tuple(_fixed(step) if isinstance(step, Key | Index) else next(found, "*") for step in self.steps)

    def at(self, content: object, keys: Sequence[object]) -> Any:
        """What stands at the end of its way through a message by these keys, or `ABSENT`."""
        for step, key in zip(self.steps, keys, strict=True):
            content = step.of(content) if isinstance(step, Key | Index) else child_of(content, key)
            if content is ABSENT:
                break
        return content

    def fits(self, keys: Sequence[object]) -> bool:
        """Whether it leads to where the first keys lead, as many as it has steps."""
        return all(
            isinstance(step, Each | AnyKey) or key_text(key) == key_text(_fixed(step))
            for step, key in zip(self.steps, keys, strict=False)
        )

    def written(self, keys: Sequence[object]) -> str:
        """How one writes the path to what it found by these keys, or to where it ended on its way.

        >>> Path.parse("values[*].v").written(("values", 2))
        'values[2]'
        """
        text = ""
        for step, key in zip(self.steps, keys, strict=False):
            if isinstance(step, Each | Index):
                text += f"[{key}]"
            else:
                name = key_text(key) or shown(key)
                name = name if len(name) <= SHOWN_KEY else name[:SHOWN_KEY] + "…"
                text += ("." if text else "") + (f'"{name}"' if "." in name else name)
        return text or "payload"


def fixed_keys(steps: Sequence[Step]) -> tuple[str | int, ...]:
    """The keys and indexes of steps that are no wildcards."""
    return tuple(_fixed(step) for step in steps if isinstance(step, Key | Index))


def key_text(key: object) -> str | None:
    """A key of an object as text; None for those that no path can name."""
    if type(key) is str:
        return key
    return str(key) if type(key) is int and key.bit_length() <= 64 else None


def child_of(node: object, key: object) -> Any:
    """What an object has at a key, or a list or a typed array at an index; or `ABSENT`."""
    if type(node) is dict:
        return node.get(key, ABSENT)
    if type(key) is int and isinstance(node, list | np.ndarray) and -len(node) <= key < len(node):
        item = node[key]
        return item.item() if isinstance(item, np.generic) else item
    return ABSENT


def as_list(node: object) -> list[Any] | None:
    """The items of a list or of a typed array; None if it is neither."""
    if type(node) is list:
        return node
    return node.tolist() if isinstance(node, np.ndarray) else None


def opened(text: str) -> Any:
    """What a text says in JSON, where it is an object or a list: gateways pack the messages of others so.

    >>> opened('{"a": [1]}'), opened("[x"), opened("5")
    ({'a': [1]}, '[x', '5')
    """
    if text.lstrip()[:1] not in ("{", "["):
        return text
    try:
        return json_text.content(text.encode())
    except (CodecError, UnicodeEncodeError):  # the latter of a lone surrogate
        return text


def kind(value: object) -> str:
    """What a value is, for an error, never long.

    >>> kind({"a": 1, "b": 2}), kind([]), kind(None), kind("n/a")
    ('an object with a, b', 'a list', 'null', "'n/a'")
    """
    if value is None:
        return "null"
    if type(value) is dict:
        names = [key_text(key) or shown(key) for key in list(value)[: SHOWN_KEYS + 1]]
        names = [name if len(name) <= 24 else name[:24] + "…" for name in names]
        more = ", …" if len(names) > SHOWN_KEYS else ""
        return f"an object with {', '.join(names[:SHOWN_KEYS])}{more}" if names else "an empty object"
    return "a list" if isinstance(value, list | np.ndarray) else shown(value)


class Walk:
    """The way along a path through one message.

    While it is iterated over, `keys` and `nodes` say how the way goes to what was found last.
    """

    def __init__(
        self, path: Path, content: object, passes_over: Callable[[Sequence[object], int], bool] | None
    ) -> None:
        """A way that has not begun.

        Args:
            path: where to go.
            content: the message.
            passes_over: whether `*` passes over the member that the first keys lead to, as many as the number
                says; None: over none.
        """
        self.keys: list[object] = [None] * len(path.steps)
        self.nodes: list[object] = [content] + [None] * len(path.steps)
        self.fault: str | None = None
        """Where the way first ended before its end, and what was there, as a sentence."""
        self.passed: list[tuple[str, object]] = []
        """Where it ended beyond a wildcard, as there is no object or no list, and what is there: one of many items
        may be another thing. `MOST_SKIPPED` of them at most."""
        self._path = path
        self._passes_over = passes_over

    def __iter__(self) -> Iterator[object]:
        """What the path finds, null too."""
        return self._from(0)

    def _from(self, start: int) -> Iterator[object]:
        steps, keys, nodes = self._path.steps, self.keys, self.nodes
        node = nodes[start]
        for depth in range(start, len(steps)):
            step = steps[depth]
            if type(node) is str:
                nodes[depth] = node = opened(node)
            if isinstance(step, Key | Index):
                child = step.of(node)
                if child is ABSENT:
                    self._end(depth, node)
                    return
                keys[depth] = _fixed(step)
                node = nodes[depth + 1] = child
                continue
            is_last = depth + 1 == len(steps)
            passes_over = self._passes_over if isinstance(step, AnyKey) else None
            for key, child in self._children(depth, node):
                keys[depth] = key
                if passes_over is not None and passes_over(keys, depth + 1):
                    continue
                nodes[depth + 1] = child
                if is_last:
                    yield child
                else:
                    yield from self._from(depth + 1)
            return
        yield node

    def _children(self, depth: int, node: object) -> Iterable[tuple[object, object]]:
        """The keys or indexes of what `[*]`, `*` or `{...}` finds, and what is there."""
        if type(node) is dict and isinstance(self._path.steps[depth], AnyKey):
            return node.items()
        items = as_list(node)
        if items is not None:
            return enumerate(items)
        self._end(depth, node)
        return ()

    def _end(self, depth: int, node: object) -> None:
        """Keep in mind that the way ends at a node that does not have the next step."""
        step, beyond = self._path.steps[depth], depth > self._path.first_wildcard
        is_other = node is not None and not isinstance(node, dict if isinstance(step, Key | AnyKey) else list)
        where = self._path.written(self.keys[:depth]) if self.fault is None or (beyond and is_other) else ""
        if beyond and is_other and len(self.passed) < MOST_SKIPPED:
            self.passed.append((where, node))
        if self.fault is None and not (beyond and isinstance(step, Each | AnyKey)):
            self.fault = f"{where}: expected {_wanted(step)}, got {kind(node)}"


def _wanted(step: Step) -> str:
    match step:
        case Key():
            return f"an object with {step.name}"
        case Index():
            return f"a list with an item {step.number}"
        case Each():
            return "a list"
        case AnyKey():
            return "an object"


def _fixed(step: Key | Index) -> str | int:
    return step.name if isinstance(step, Key) else step.number


def _step(plain: str, text: str) -> Step:
    """The step of a key without quotes."""
    if plain == "*":
        return AnyKey()
    if re.fullmatch(r"\{\w*\}", plain):
        name: Any = plain[1:-1]
        if name not in get_args(Named):
            raise UserError(f"path {text!r}: expected {{channel}}, {{machine}} or {{site}} in braces, got {plain}")
        return AnyKey(name)
    return Key(plain)
