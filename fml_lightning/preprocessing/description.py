"""Descriptions of features in JSON: the class by its import path, and what it was made with."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from importlib import import_module
from typing import Any

from fml_lightning.errors import UserError
from fml_lightning.preprocessing.features import Features

OURS = "fml_lightning.preprocessing"


def describe(features: Features) -> dict[str, Any]:
    """Features as a mapping that JSON can hold, from which `from_description` makes them again.

    A class keeps each argument of its constructor under the argument's name. A dataclass among them is described
    by its fields: the constructor takes such a mapping too.

    >>> from fml_lightning.preprocessing.spectral import LogBandPowers
    >>> describe(LogBandPowers(bands=16))
    {'class_path': 'fml_lightning.preprocessing.LogBandPowers', 'init_args': {'bands': 16}}

    Raises:
        UserError: another process could not make them again.
    """
    kind = type(features)
    module = OURS if kind.__module__.startswith(f"{OURS}.") else kind.__module__
    path = f"{module}.{kind.__qualname__}"
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
        raise UserError(
            f"features {kind.__qualname__}: expected a class at the top of a module, which another process can"
            " import"
        )
    arguments = {}
    for name in inspect.signature(kind).parameters:
        if not hasattr(features, name):
            raise UserError(f"features {path}: expected the attribute {name}, the argument it was made with")
        arguments[name] = _plain(getattr(features, name), f"features {path}.{name}")
    return {"class_path": path, "init_args": arguments}


def from_description(description: object) -> Features:
    """The features that `describe` described.

    The class's module is imported, which runs it: whoever writes a description chooses among the modules that
    Python finds. Nothing but features comes of it.

    Raises:
        UserError: the class cannot be imported, is none of features, or refuses its arguments.
    """
    content = description if isinstance(description, Mapping) else {}
    path, arguments = content.get("class_path"), content.get("init_args", {})
    if not isinstance(path, str) or "." not in path or not isinstance(arguments, Mapping):
        raise UserError(f"features: expected class_path and init_args, got {description!r:.200}")
    module, _, name = path.rpartition(".")
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"features {path}: it cannot be imported ({error}); is its module here?") from error
    if not (isinstance(kind, type) and issubclass(kind, Features)):
        raise UserError(f"features {path}: expected a subclass of Features")
    try:
        return kind(**{key: _made(value) for key, value in arguments.items()})
    except TypeError as error:
        raise UserError(f"features {path}: {error}") from error


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, Features):
        return describe(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each, where) for key, each in value.items()}
    if isinstance(value, Sequence):
        return [_plain(each, where) for each in value]
    raise UserError(f"{where}: expected numbers, text, lists or features, which JSON can hold, got {value!r:.100}")


def _made(value: Any) -> Any:
    if isinstance(value, Mapping) and "class_path" in value:
        return from_description(value)
    return [_made(each) for each in value] if isinstance(value, list) else value
