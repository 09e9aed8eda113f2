"""`fml shelve`: keep a machine's alarms from being told for a while, such as while it is repaired."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fml_lightning.commands.process import parser, settings_of
from fml_lightning.live.duration import told_duration

if TYPE_CHECKING:
    from fml_lightning.live.records import What


def run(arguments: Sequence[str]) -> int:
    """Ask the watch of a run; returns 0."""
    options = parser("shelve")
    options.add_argument("run", type=str, help="folder of the run that is watched")
    options.add_argument("machine", type=str, help="MACHINE, or SITE/MACHINE")
    options.add_argument("time", type=str, help="for how long, such as 8h, at most 7d; 0 ends it")
    options.add_argument("reason", type=str, nargs="?", default="", help="why")
    settings = settings_of(options, arguments)
    seconds = told_duration(settings["time"], "time")
    what: What = "shelve" if seconds else "unshelve"
    from fml_lightning.live.asking import ask

    name = ask(Path(settings["run"]), settings["machine"], what, seconds, settings["reason"])
    time = settings["time"].strip()
    print(f"{name}: its alarms are shelved for {time}" if seconds else f"{name}: its alarms are told again")
    return 0
