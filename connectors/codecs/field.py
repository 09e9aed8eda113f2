"""A field: a path to values, and how the names of their channels come from keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from fml_lightning.connectors.codecs.codec import LONGEST_NAME, CodecError
from fml_lightning.connectors.codecs.numbers import shown
from fml_lightning.connectors.codecs.path import AnyKey, Index, Key, Path, Step, key_text
from fml_lightning.errors import UserError


@dataclass(frozen=True)
class Field:
    """A path to values, and how their channels are named."""

    path: Path
    name: str | None
    """The name of the channel, or its beginning; None: keys that the path finds are it, or nothing here is."""
    parts: tuple[int, ...]
    """Which keys are the rest of the name, by their places in the path."""
    whole: str | None
    """The name where the path's whole text is one key."""
    beside: tuple[tuple[str, int, tuple[Step, ...]], ...]
    """The roles that stand in the same item: their names, how many steps lead to it, and the steps from there."""
    alike: tuple[tuple[str, Path], ...]
    """The roles that stand elsewhere, by the same keys: their names and paths."""

    @cached_property
    def places(self) -> Mapping[str, int]:
        """Which keys name a machine or a site."""
        return {
            step.names: place
            for place, step in enumerate(self.path.steps)
            if isinstance(step, AnyKey) and step.names in ("machine", "site")
        }

    def channel(self, keys: Sequence[object]) -> str | None:
        """See `Member.channel`."""
        if len(keys) < len(self.path.steps):  # the whole text is one key
            return self.whole
        if not self.parts:
            return self.name
        if self.name is None and len(self.parts) == 1:
            return self.text(keys, self.parts[0])
        words = [self.text(keys, place) for place in self.parts]
        if sum(map(len, words)) > LONGEST_NAME:
            raise CodecError(
                f"{self.path.written(keys)}: expected a name of at most {LONGEST_NAME} characters of its keys"
            )
        return "/".join(words if self.name is None else [self.name, *words])

    def text(self, keys: Sequence[object], place: int) -> str:
        """The key at a place of the path, which is a name or a part of one."""
        name = key_text(keys[place])
        if name is None:
            raise CodecError(
                f"{self.path.written(keys[:place])}: expected keys that are names, got {shown(keys[place])}"
            )
        return name


def channel_names(owner: str, paths: Sequence[Path]) -> list[str | None]:
    """The names of several paths' channels; None for those that are named by the keys that `*` finds."""
    fixed = [path for path in paths if not _places(path)]
    wild = [path for path in paths if _places(path)]
    names: dict[Path, str] = {}
    for count in range(1, 1 + max((len(path.steps) for path in fixed), default=0)):
        names = {path: _tail(path, count) for path in fixed}
        if len(set(names.values())) == len(fixed):
            break
    if len(set(names.values())) < len(fixed) or len({_signature(path) for path in wild}) < len(wild):
        raise UserError(
            f"{owner}.value: expected paths whose channels get different names, got"
            f" {', '.join(path.text for path in paths)}; name them in a mapping, value: {{NAME: PATH, ...}}"
        )
    return [names.get(path) for path in paths]


def _tail(path: Path, count: int) -> str:
    """The last keys of a path, as many as `count`; of more than one, with the indexes among them."""
    keys = [place for place, step in enumerate(path.steps) if isinstance(step, Key)][-count:]
    if not keys:
        return path.text
    if count == 1:
        return str(_word(path.steps[keys[0]]))
    rest = [_word(step) for step in path.steps[keys[0] :]]
    return "/".join(name for name in rest if name is not None)


def _word(step: Step) -> str | None:
    """A fixed step as a part of a name."""
    return step.name if isinstance(step, Key) else str(step.number) if isinstance(step, Index) else None


def _signature(path: Path) -> tuple[str | None, ...]:
    """What of a path is in the names that its keys give: two paths with the same would give the same names."""
    return tuple(_word(path.steps[place]) for place in _places(path))


def _places(path: Path) -> tuple[int, ...]:
    """Which keys of a path name the channel: those that `{channel}` and `*` find.

    Without `{channel}`, also the others after the first `*`.
    """
    any_key = [place for place, step in enumerate(path.steps) if isinstance(step, AnyKey)]
    naming = [place for place in any_key if path.steps[place] in (AnyKey(), AnyKey("channel"))]
    if not naming or any(path.steps[place] == AnyKey("channel") for place in naming):
        return tuple(naming)
    others = (place for place, step in enumerate(path.steps) if isinstance(step, Key) and place > naming[0])
    return tuple(sorted([*naming, *others]))


def naming_keys(owner: str, path: Path, is_named: bool) -> tuple[int, ...]:
    """As `_places`; where the configuration names the channel, without the keys that stand in the path."""
    names = [step.names for step in path.steps if isinstance(step, AnyKey) and step.names is not None]
    if len(set(names)) < len(names):
        raise UserError(
            f"{owner}.value: expected each of {{channel}}, {{machine}}, {{site}} once, got {path.text!r}"
        )
    places = _places(path)
    return tuple(place for place in places if isinstance(path.steps[place], AnyKey)) if is_named else places
