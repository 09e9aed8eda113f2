"""Codecs of the user's own, by their import path: `package.module.Class`."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from fml_lightning.connectors.codecs.codec import LONGEST_ERROR, Codec, StatefulCodec
from fml_lightning.errors import UserError


def import_path(codec: type[Codec] | type[StatefulCodec]) -> str:
    """Where another process finds a class.

    Raises:
        UserError: it would find none, or another one.
    """
    path = f"{codec.__module__}.{codec.__qualname__}"
    if codec.__module__ == "__main__":
        raise UserError(
            f"codec: {codec.__qualname__} is defined in the program that runs (__main__), where no other process"
            f" finds it; put the class into a module of its own, such as {codec.__name__.lower()}.py"
        )
    found: Any = sys.modules.get(codec.__module__)
    for name in codec.__qualname__.split("."):
        found = getattr(found, name, None)
    if found is not codec:
        raise UserError(
            f"codec: {path} is not to be found by this path, since it was defined within a function or replaced;"
            " define the class at the top of a module"
        )
    return path


def import_codec(path: str) -> type[Codec] | type[StatefulCodec]:
    """The class of that path.

    Raises:
        UserError: there is none, or it is no codec.
    """
    module, _, name = path.rpartition(".")
    if not all(part.isidentifier() for part in path.split(".")):
        raise UserError(f"codec: expected an import path such as package.module.Class, got {path!r}")
    try:
        found = _found(module, name)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever the module does as it is imported
        raise UserError(
            f"codec {path}: it cannot be imported ({type(error).__name__}: {error}); run in the folder that has"
            f" {module.split('.')[0]}, or put that folder on PYTHONPATH"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Codec | StatefulCodec)):
        raise UserError(f"codec {path}: expected a subclass of Codec or StatefulCodec, got {found!r:.100}")
    return found


def _found(module: str, name: str) -> object:
    """What a module, or a class in it, has under a name."""
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        outer, _, inner = module.rpartition(".")
        if not outer or error.name != module:
            raise
        return getattr(_found(outer, inner), name)


def said(error: BaseException) -> str:
    """What an error says, never long; an error may be a user's own, and unable to say anything."""
    try:
        return f"{type(error).__name__}: {error}"[:LONGEST_ERROR]
    except Exception:
        return type(error).__name__
