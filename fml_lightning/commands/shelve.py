"""`fml shelve`: keep a machine's alarms from being told for a while, such as while it is repaired."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from fml_lightning.commands.process import parser, settings_of
from fml_lightning.errors import UserError
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
    time = settings["time"].strip()
    seconds = told_duration(time, "time")
    if seconds and not time[-1].isalpha():
        raise UserError(f"time: expected a duration with its unit, such as 8h or 30min, got {time}")
    what: What = "shelve" if seconds else "unshelve"
    from fml_lightning.live.asking import ask

    name = ask(Path(settings["run"]), settings["machine"], what, seconds, settings["reason"])
    if not seconds:
        print(f"{name}: its alarms are told again")
        return 0
    until = datetime.now().astimezone() + timedelta(seconds=seconds)
    print(f"{name}: its alarms are shelved for {time}, until {until:%Y-%m-%d %H:%M:%S}")
    return 0
