"""`fml ack`: say that somebody knows of a machine's alarm."""

from __future__ import annotations

import getpass
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fml_lightning.commands.process import parser, settings_of
from fml_lightning.errors import UserError

if TYPE_CHECKING:
    from fml_lightning.live.commands_file import What


def run(arguments: Sequence[str]) -> int:
    """Ask the watch of a run; returns 0."""
    options = parser("ack")
    options.add_argument("run", type=str, help="folder of the run that is watched")
    options.add_argument("machine", type=str, help="MACHINE, or SITE/MACHINE")
    settings = settings_of(options, arguments)
    name = ask(Path(settings["run"]), settings["machine"], "acknowledge")
    print(f"{name}: its alarm is acknowledged")
    return 0


def ask(run_folder: Path, machine: str, what: What, seconds: float = 0.0, reason: str = "") -> str:
    """Ask the watch of a run for something, and return the machine's name.

    Raises:
        UserError: nothing was watched there, there is no such machine, or it makes no sense.
    """
    from fml_lightning.live.commands_file import Command, find, write
    from fml_lightning.live.journal import COMMANDS, recovered
    from fml_lightning.names import shown

    if not run_folder.is_dir():
        raise UserError(f"{run_folder}: expected the folder of a run, such as runs/live/1")
    folder = run_folder / "watch"
    state = recovered(folder)
    site, name = find(state, machine)
    command = Command(site, name, what, _user(), time.time_ns() // 1000, reason, seconds)
    write(folder / COMMANDS, command, state)
    return f"{shown(site)}/{shown(name)}"


def _user() -> str:
    """Who asks, as far as the system says."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"
