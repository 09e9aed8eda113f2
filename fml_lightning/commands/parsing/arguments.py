"""Command-line arguments whose errors are one sentence."""

from __future__ import annotations

import sys
from typing import NoReturn, get_args

from jsonargparse import ArgumentParser, Namespace

from fml_lightning.commands.parsing.foreign_code import raised_by_user
from fml_lightning.commands.parsing.parse_error import sentence
from fml_lightning.names import escaped

__all__ = ["Parser", "sentence"]


class Parser(ArgumentParser):
    """jsonargparse's parser, which prints an error without the usage text."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong and exit with status 2."""
        if not self.exit_on_error:
            super().error(message, ex)
        why = (
            _of_a_module(ex) or sentence(message, self.options()) or "the arguments are refused, without a reason"
        )
        print(f"fml: error: {escaped(why)}", file=sys.stderr)
        sys.exit(2)

    def options(self) -> list[str]:
        """The keys of all options, those of subcommands too."""
        own = [action.dest for action in self._actions if action.option_strings]
        parsers = self._subcommands_action._name_parser_map.values() if self._subcommands_action else ()
        return own + [key for parser in parsers for key in parser.options()]

    def left_empty(self, settings: Namespace) -> list[str]:
        """The keys of options that are null in settings and cannot be, which jsonargparse lets pass."""
        return [
            action.dest
            for action in self._actions
            if action.option_strings
            and action.default is not None
            and action.dest in settings
            and settings[action.dest] is None
            and type(None) not in get_args(getattr(action, "_typehint", None))
        ]


def _of_a_module(error: BaseException | None) -> str | None:
    """What a module of the user's said as it was imported for a class_path."""
    while error is not None:
        if type(error).__name__ not in ("ArgumentError", "NSKeyError") and (said := raised_by_user(error)):
            return said
        error = error.__cause__ or error.__context__
    return None
