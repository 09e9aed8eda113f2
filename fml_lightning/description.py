"""Descriptions of objects in JSON: the class by its import path, and what it was made with.

A description is `{"class_path": "package.Class", "init_args": {...}}`, as in YAML. It holds no code: who makes an
object of it says of which kind the object has to be, and nothing else comes of it.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from importlib import import_module
from typing import Any, Generic, TypeVar

from fml_lightning.errors import UserError

T = TypeVar("T")

CLASS, ARGUMENTS = "class_path", "init_args"
"""The keys of a description."""
RESERVED = (CLASS, "zeros", "import_path", "torch_module")
"""Keys that no mapping among the arguments has: they mark what is no mapping."""
DEEPEST = 100
"""Descriptions, lists and mappings in one another, at most, so that no file exhausts Python's stack."""
MADE_WITH = "_made_with"
"""The attribute under which `Describer.remember` keeps what an object was made with, as JSON can hold it."""


@dataclass(frozen=True)
class Describer(Generic[T]):
    """Describes objects of a kind, and makes them again."""

    kind: type[T]
    """The class of the objects, and of those among their arguments that are described likewise."""
    what: str
    """What they are, for errors: `features`."""
    arguments: Callable[[T, str], Mapping[str, Any]] | None = None
    """What an object was made with, given its name for errors; `kept_arguments` unless you say otherwise."""
    build: Callable[[type[T], dict[str, Any]], T] | None = None
    """Makes an object of its class and arguments; unless you say otherwise the class is called."""
    other: Callable[[Any, str], Mapping[str, Any] | None] | None = None
    """Describes an argument that is neither plain nor of the kind, as a mapping, given its name for errors; None
    where it cannot."""
    other_made: Callable[[Mapping[str, Any]], Any] | None = None
    """What `other` described; None of a mapping that it did not make."""

    def describe(self, value: T) -> dict[str, Any]:
        """An object as a mapping that JSON can hold, from which `made` makes it again.

        Raises:
            UserError: another process could not make it again.
        """
        path = class_path(type(value), self.what)
        found = vars(value).get(MADE_WITH) if hasattr(value, "__dict__") else None
        if isinstance(found, str):
            raise UserError(found)
        if found is None:
            where = f"{self.what} {path}"
            given = (self.arguments or kept_arguments)(value, where)
            found = {name: self._plain(each, f"{where}.{name}") for name, each in given.items()}
        return {CLASS: path, ARGUMENTS: found}

    def remember(self, value: T, arguments: Mapping[str, Any]) -> None:
        """Keep with an object what it was made with, as its class might not; or why that cannot be described."""
        where = f"{self.what} {type(value).__module__}.{type(value).__qualname__}"
        try:
            vars(value)[MADE_WITH] = {
                name: self._plain(each, f"{where}.{name}") for name, each in arguments.items()
            }
        except UserError as error:
            vars(value)[MADE_WITH] = str(error)

    def made(self, description: object, deepest: int = DEEPEST) -> T:
        """The object that `describe` described.

        The class's module is imported, which runs it: whoever writes a description chooses among the modules that
        Python finds, but for those of Python itself. Nothing but an object of the kind comes of it.

        Args:
            description: of the object.
            deepest: how many may lie in one another.

        Raises:
            UserError: the class cannot be imported, is of another kind, or refuses its arguments; or the
                description is too deep.
        """
        content = description if isinstance(description, Mapping) else {}
        path, arguments = content.get(CLASS), content.get(ARGUMENTS, {})
        if not isinstance(path, str) or "." not in path or not isinstance(arguments, Mapping):
            raise UserError(f"{self.what}: expected class_path and init_args, got {description!r:.200}")
        made_of = imported(path, self.kind, self.what)
        given = {str(name): self._given(value, deepest - 1) for name, value in arguments.items()}
        try:
            return made_of(**given) if self.build is None else self.build(made_of, given)
        except UserError:
            raise
        except Exception as error:  # whatever a class says of arguments that it does not take
            why = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise UserError(f"{self.what} {path}: {why}") from error

    def _plain(self, value: Any, where: str) -> Any:
        """A value as JSON can hold it; a dataclass by its fields, as constructors take such a mapping too."""
        if isinstance(value, self.kind):
            return self.describe(value)
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float) and math.isfinite(value):
            return value
        if self.other is not None and (found := self.other(value, where)) is not None:
            return found
        if is_dataclass(value) and not isinstance(value, type):
            value = asdict(value)
        if isinstance(value, Mapping) and not any(str(key) in RESERVED for key in value):
            return {str(key): self._plain(each, where) for key, each in value.items()}
        if isinstance(value, Sequence):
            return [self._plain(each, where) for each in value]
        raise UserError(
            f"{where}: expected numbers, text, lists or {self.what}, which JSON can hold, got {value!r:.100}"
        )

    def _given(self, value: Any, deepest: int) -> Any:
        """The value that `_plain` described."""
        if not isinstance(value, list | Mapping):
            return value
        if deepest <= 0:
            raise UserError(f"{self.what}: the description is too deep: expected at most {DEEPEST} levels")
        if isinstance(value, list):
            return [self._given(each, deepest - 1) for each in value]
        if CLASS in value:
            return self.made(value, deepest)
        if self.other_made is not None and (found := self.other_made(value)) is not None:
            return found
        return {key: self._given(each, deepest - 1) for key, each in value.items()}


def class_path(kind: type, what: str) -> str:
    """The shortest path by which another process can import a class.

    >>> from fml_lightning.errors import UserError
    >>> class_path(UserError, "error")
    'fml_lightning.UserError'

    Raises:
        UserError: none can.
    """
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
        raise UserError(
            f"{what} {kind.__qualname__}: expected a class at the top of a module, which another process can"
            " import"
        )
    parts = kind.__module__.split(".")
    for count in range(1, len(parts) + 1):
        module = ".".join(parts[:count])
        if getattr(sys.modules.get(module), kind.__qualname__, None) is kind:
            return f"{module}.{kind.__qualname__}"
    raise UserError(f"{what} {kind.__module__}.{kind.__qualname__}: expected a class that its module has")


def imported(path: str, kind: type[T], what: str) -> type[T]:
    """The class of an import path.

    Raises:
        UserError: it cannot be imported, or is of another kind.
    """
    module, _, name = path.rpartition(".")
    expected = f"{what} {path}: expected a subclass of {kind.__name__}"
    if module.partition(".")[0] in sys.stdlib_module_names:  # some of them act as they are imported
        raise UserError(f"{expected}, which Python's own library has none of")
    try:
        found = getattr(import_module(module), name)
    except (Exception, SystemExit) as error:  # whatever a module does as it is imported
        raise UserError(f"{what} {path}: it cannot be imported ({error}); is its module here?") from error
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise UserError(expected)
    return found


def kept_arguments(value: object, where: str, left_out: Collection[str] = ()) -> dict[str, Any]:
    """What an object was made with, of a class that keeps each argument under the argument's name.

    Args:
        value: the object.
        where: its name, for errors.
        left_out: arguments that nobody needs to know.

    Raises:
        UserError: it does not keep one.
    """
    arguments = {}
    for name in [each for each in inspect.signature(type(value)).parameters if each not in left_out]:
        if not hasattr(value, name):
            raise UserError(f"{where}: expected the attribute {name}, the argument it was made with")
        arguments[name] = getattr(value, name)
    return arguments
