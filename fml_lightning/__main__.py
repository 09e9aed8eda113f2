"""`fml` and `python -m fml_lightning`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from fml_lightning.commands import COMMANDS
from fml_lightning.commands.parsing.working_folder import working_folder_last
from fml_lightning.errors import UserError

LEARNING = {
    "fit": "train a federation, then measure the unseen sites",
    "validate": "measure the training sites on later windows",
    "test": "measure the unseen sites",
    "predict": "adapt to every unseen machine and predict its later windows",
    "personalize": "adapt to a machine, and write its own model",
}
"""Name and purpose of the commands of `fml_lightning.commands.learning`."""

WATCH = ("export", "watch", "ack", "shelve", "rollback")
"""The other commands that keep and watch machines' own models."""
FEDERATE = ("provision", "server", "site", "fetch")
"""Those that bring hosts together; the rest move data."""


def main() -> None:
    """Run the command line; the heavy imports wait until a command needs them."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  # it was closed by who has started us
    working_folder_last()
    arguments = sys.argv[1:]
    first = arguments[0] if arguments else ""
    if first in COMMANDS:
        sys.exit(run_command(first, arguments[1:]))
    if first in ("--help", "-h"):
        print(overview())
        sys.exit(0)
    if first not in LEARNING and not first.startswith("-"):
        found = repr(first) if first else "none"
        names = ", ".join([*LEARNING, *COMMANDS])
        print(f"fml: error: expected a command, one of {names}, got {found}; see fml --help", file=sys.stderr)
        sys.exit(2)
    # A thread that waits for others sleeps, where OpenMP would have it spin: on a busy machine spinning costs a
    # multiple of the work itself. libgomp reads this once, when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        from fml_lightning.commands.learning import run
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(run(arguments))


def overview() -> str:
    """What `fml --help` says."""
    lines = ["usage: fml COMMAND [options]", "", "Federated meta-learning on machines."]
    watch, federate = ({name: COMMANDS[name] for name in names} for names in (WATCH, FEDERATE))
    move = {name: purpose for name, purpose in COMMANDS.items() if name not in (*WATCH, *FEDERATE)}
    groups = (("learn", LEARNING), ("watch", watch), ("move data", move), ("federate", federate))
    for title, commands in groups:
        lines += ["", f"{title}:", *(f"  {name:<12} {purpose}" for name, purpose in commands.items())]
    return "\n".join([*lines, "", "fml COMMAND --help lists a command's options."])


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Run a command that is not one of learning; its exit status is 1 or 2 for what the user can mend."""
    try:
        command = import_module(f"fml_lightning.commands.{name}")
        return int(command.run(arguments))
    except (UserError, OSError) as error:
        print(f"fml: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    main()
