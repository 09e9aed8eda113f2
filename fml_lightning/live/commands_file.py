"""The file by which other processes ask a watch to acknowledge and to shelve: a line of JSON for each."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated

import msgspec

from fml_lightning import durable
from fml_lightning.durable import open_regular
from fml_lightning.errors import UserError
from fml_lightning.live.alarm import LONGEST_SHELF
from fml_lightning.live.records import What
from fml_lightning.live.state import State
from fml_lightning.names import find_machine, shown

log = logging.getLogger(__name__)


LONGEST = 1 << 20
"""Bytes from which on a file of commands that are obeyed is emptied."""
AT_ONCE = 1 << 20
"""Bytes that are read at once."""
MOST_CHARACTERS = 1000
"""Of a reason."""
Text = Annotated[str, msgspec.Meta(max_length=MOST_CHARACTERS)]


class Command(msgspec.Struct, frozen=True):
    """What somebody asks for."""

    site: str
    machine: str
    what: What
    who: Text
    time: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
    """µs since 1970."""
    reason: Text = ""
    seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """For which to shelve."""


_DECODER = msgspec.json.Decoder(Command)


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
    if len(command.reason) > MOST_CHARACTERS:
        raise UserError(
            f"{name}: expected a reason of at most {MOST_CHARACTERS} characters, got {len(command.reason)}"
        )
    with _locked(path):
        durable.add_lines(path, [msgspec.json.encode(command)])


def find(state: State, name: str) -> tuple[str, str]:
    """Site and name of the machine that a user means by its name, or by SITE/MACHINE.

    Raises:
        UserError: there is none, or there are several.
    """
    every = [(machine.site, machine.name) for machine in state.every()]
    return find_machine(every, name, "a machine that is watched")


def read(path: Path, offset: int) -> Iterator[tuple[int, Command | None]]:
    """The commands after a place in the file, each with where it ends; None in place of a line that is none.

    Places are bytes since the file was made for the first time: what is obeyed is deleted (`shorten`).
    """
    try:
        with open_regular(path) as file:
            begin, before = _begin(file)
            end = begin + os.fstat(file.fileno()).st_size - before
            offset = offset if begin <= offset <= end else begin  # the file was moved away, and is a new one
            file.seek(before + offset - begin)
            content = file.read(AT_ONCE)
    except FileNotFoundError:
        return
    *lines, rest = content.split(b"\n")
    if len(rest) == AT_ONCE:
        lines = [rest[:-1]]  # no command is so long
    for line in lines:
        offset += len(line) + 1
        try:
            yield offset, _DECODER.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("%s: a line before byte %d is no command (%s); it is left out", path, offset, error)
            yield offset, None


def shorten(path: Path, offset: int) -> None:
    """Delete the commands of a file that has become long, if all of them are obeyed.

    Args:
        path: of the file.
        offset: up to where they are.

    Raises:
        OSError: the disk is full or failing; the file is as it was.
    """
    with _locked(path), open_regular(path) as file:
        begin, before = _begin(file)
        size = os.fstat(file.fileno()).st_size
        if size > LONGEST and begin + size - before == offset:
            durable.write(path, msgspec.json.encode(_Begin(offset)) + b"\n")


class _Begin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line of a file that was shortened."""

    begin: int
    """The place of the next line."""


def _begin(file: IO[bytes]) -> tuple[int, int]:
    """The place of a file's first command, and how many bytes stand before it."""
    line, newline, _ = file.read(100).partition(b"\n")
    try:
        return msgspec.json.decode(line, type=_Begin).begin, len(line + newline)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0, 0


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Nobody else writes to the file meanwhile."""
    with open_regular(path.with_suffix(".lock"), "ab+") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        yield
