"""`fml ack`: say that somebody knows of a machine's alarm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fml_lightning.commands.process import parser, settings_of


def run(arguments: Sequence[str]) -> int:
    """Ask the watch of a run; returns 0."""
    options = parser("ack")
    options.add_argument("run", type=str, help="folder of the run that is watched")
    options.add_argument("machine", type=str, help="MACHINE, or SITE/MACHINE")
    settings = settings_of(options, arguments)
    from fml_lightning.live.asking import ask

    name = ask(Path(settings["run"]), settings["machine"], "acknowledge")
    print(f"{name}: its alarm is acknowledged")
    return 0
