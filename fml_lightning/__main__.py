"""`fml` and `python -m fml_lightning`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from fml_lightning.commands import COMMANDS
from fml_lightning.errors import UserError


def main() -> None:
    """Run the command line; the heavy imports wait until a command needs them."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] in COMMANDS:
        sys.exit(run_command(arguments[0], arguments[1:]))
    from fml_lightning.cli import run

    sys.exit(run(arguments))


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Run one of the commands that move data; its exit status is 1 or 2 for what the user can mend."""
    command = import_module(f"fml_lightning.commands.{name}")
    try:
        return int(command.run(arguments))
    except (UserError, OSError) as error:
        print(f"fml: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    main()
