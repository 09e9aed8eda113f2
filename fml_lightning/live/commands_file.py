"""The file by which other processes ask a watch to acknowledge and to shelve: a line of JSON for each."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec

from fml_lightning import durable
from fml_lightning.durable import open_regular
from fml_lightning.errors import UserError
from fml_lightning.live.alarm import LONGEST_SHELF
from fml_lightning.live.state import State
from fml_lightning.names import shown

log = logging.getLogger(__name__)


class Command(msgspec.Struct, frozen=True):
    """What somebody asks for."""

    site: str
    machine: str
    what: str
    """acknowledge, shelve or unshelve."""
    who: str
    time: int
    """µs since 1970."""
    reason: str = ""
    seconds: float = 0.0
    """For which to shelve."""


def write(path: Path, command: Command, state: State) -> None:
    """Ask a watch for something; when this returns it is on disk, and will be obeyed once.

    Args:
        path: of the file.
        command: what is asked for.
        state: what is known of the machines.

    Raises:
        UserError: it makes no sense.
        OSError: the disk is full or failing.
    """
    machine = state.get(command.site, command.machine)
    name = f"{shown(command.site)}/{shown(command.machine)}"
    if machine is None:
        known = ", ".join(f"{shown(each.site)}/{shown(each.name)}" for each in list(state.every())[:8]) or "none"
        raise UserError(f"{name}: expected a machine that is watched, there are {known}")
    if command.what == "acknowledge" and not machine.alarm.is_raised:
        raise UserError(f"{name}: it has no alarm to acknowledge")
    if command.what == "shelve" and not 0 < command.seconds <= LONGEST_SHELF:
        raise UserError(
            f"{name}: expected to shelve for more than 0 s and at most {LONGEST_SHELF / 86400:g} days, got"
            f" {command.seconds:g} s"
        )
    if command.what == "shelve" and not command.reason.strip():
        raise UserError(f"{name}: expected a reason to shelve its alarms, got none")
    durable.add_lines(path, [msgspec.json.encode(command)])


def find(state: State, name: str) -> tuple[str, str]:
    """Site and name of the machine that a user means by its name, or by SITE/MACHINE.

    Raises:
        UserError: there is none, or there are several.
    """
    every = [(machine.site, machine.name) for machine in state.every()]
    found = [each for each in every if name in (each[1], "/".join(each))]
    if len(found) == 1:
        return found[0]
    names = ", ".join("/".join(map(shown, each)) for each in (found or sorted(every)[:8])) or "none"
    what = "several sites have one; say which" if found else "expected a machine that is watched"
    raise UserError(f"machine {shown(name)}: {what}: {names}")


def read(path: Path, offset: int) -> Iterator[tuple[int, Command | None]]:
    """The commands after a byte of the file, each with where it ends; None in place of a line that is none."""
    try:
        with open_regular(path) as file:
            file.seek(offset)
            content = file.read()
    except FileNotFoundError:
        return
    *lines, _ = content.split(b"\n")
    for line in lines:
        offset += len(line) + 1
        try:
            yield offset, msgspec.json.decode(line, type=Command)
        except msgspec.DecodeError as error:
            log.warning("%s: a line before byte %d is no command (%s); it is left out", path, offset, error)
            yield offset, None
