"""What `fml ack` and `fml shelve` do: ask the watch of a run for something, through its file of commands."""

from __future__ import annotations

import getpass
import time
from pathlib import Path

from fml_lightning.errors import UserError
from fml_lightning.live.commands_file import Command, find, write
from fml_lightning.live.journal import COMMANDS, recovered
from fml_lightning.live.records import What
from fml_lightning.names import shown


def ask(run_folder: Path, machine: str, what: What, seconds: float = 0.0, reason: str = "") -> str:
    """Ask the watch of a run for something, and return the machine's name.

    Raises:
        UserError: nothing was watched there, there is no such machine, or it makes no sense.
    """
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
