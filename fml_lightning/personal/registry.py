"""The registry: every version of every machine's model, which of them is current, and how that came about.

    machines/SITE/MACHINE/v3/model.safetensors, card.json
    machines/SITE/MACHINE/current          the text `v3`
    machines/SITE/MACHINE/history.jsonl    a line for each change, oldest first

Whatever moment a process is killed at, each version that is there is whole, and the current one is one of them.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fml_lightning.durable import add_lines, make_folder, sync_folder, write
from fml_lightning.errors import UserError
from fml_lightning.folder_lock import FolderLock
from fml_lightning.names import UNSEEN, file_name, find_machine, registry_names, shown
from fml_lightning.personal.card import Card, beats_current

if TYPE_CHECKING:
    from torch import nn

    from fml_lightning.objectives import Objective
    from fml_lightning.personal.personal_model import PersonalModel

MACHINES = "machines"
"""The folder of personal models, below that of a run or a site."""
MODEL, CARD, CURRENT, HISTORY = "model.safetensors", "card.json", "current", "history.jsonl"
PATIENCE = 10.0
"""Seconds to wait for another process that changes the same machine's models, which takes it milliseconds."""
_WRITING = ("another process is changing this machine's models", "wait until it has ended")
_VERSION = re.compile(r"v([1-9]\d{0,8})")


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the history."""

    time: str
    """UTC."""
    what: str
    """`added`, `current` or `rolled back`."""
    version: str
    verdict: str = ""
    reasons: tuple[str, ...] = ()
    why: str = ""
    """Why a version that was added has become the current one, or has not."""


@dataclass(frozen=True)
class Version:
    """One version of a machine's model."""

    site: str
    machine: str
    name: str
    """`v1`, `v2`, …"""
    folder: Path

    @property
    def card(self) -> Card:
        """Its card.

        Raises:
            UserError: it cannot be read.
        """
        return Card.read(self.folder / CARD)

    @property
    def model(self) -> Path:
        """The file of its model."""
        return self.folder / MODEL

    def load(self, net: nn.Module | None = None, objective: Objective | None = None) -> PersonalModel:
        """Its model, which must be the one that its card is of.

        Args:
            net: the network, where the file says that it cannot be described.
            objective: the objective, likewise.

        Raises:
            UserError: it cannot be read, or is another one.
        """
        from fml_lightning.personal.personal_model import PersonalModel

        self.check()
        return PersonalModel.load(self.model, net, objective)

    def check(self) -> None:
        """See that its model is there, and the one that its card is of.

        Raises:
            UserError: it is not, or cannot be read.
        """
        if not self.model.is_file():
            raise UserError(f"{self.model}: no such model; make it again with fml personalize")
        try:
            got = digest(self.model)
        except OSError as error:
            raise UserError(f"{self.model}: it cannot be read: {error.strerror or error}") from error
        if (expected := self.card.sha256) != got:
            raise UserError(
                f"{self.model}: it is not the model that its card is of (SHA-256 {got[:12]}, expected"
                f" {expected[:12]}); make it again with fml personalize"
            )


@dataclass(frozen=True)
class Registry:
    """The models of machines in a folder, such as that of a run, `RUN/machines`."""

    folder: Path

    @classmethod
    def of(cls, run: str | Path) -> Registry:
        """The registry in the folder of a run, or of a site.

        Raises:
            UserError: there is none.
        """
        folder = Path(run) / MACHINES
        if not folder.is_dir():
            raise UserError(f"{run}: there are no models of machines; make them with fml personalize")
        return cls(folder)

    def add(self, model: PersonalModel, card: Card, *, only_if_better: bool = False) -> Version:
        """Keep a model, with its card, as the machine's next version, and make it the current one if it may be.

        One to be shipped becomes current. A doubtful one takes the place of a refused or doubtful one, which is of
        older data, or of none; a machine with a current model to be shipped keeps that one. A refused one never
        becomes current by itself. The history says which of this was, and why.

        Args:
            model: the model.
            card: its card.
            only_if_better: whether it may become current only if it is better than the current one beyond doubt
                (`beats_current`).

        Raises:
            UserError: another process has been changing this machine's models for `PATIENCE`.
            OSError: the disk is full or failing; the current model is as it was.
        """
        folder = self._folder(card.site, card.machine)
        make_folder(folder)
        with FolderLock(folder, _WRITING, PATIENCE):
            name = self._next(card.site, card.machine)
            partial = folder / f"{name}.partial"
            shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
            partial.mkdir()
            try:
                model.card = card.to_json()
                model.save(partial / MODEL)
                card = msgspec.structs.replace(card, sha256=digest(partial / MODEL))
                write(partial / CARD, msgspec.json.format(msgspec.json.encode(card.to_json()), indent=2) + b"\n")
                partial.rename(folder / name)
                sync_folder(folder)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            version = Version(card.site, card.machine, name, folder / name)
            may_watch, why = self._decided(card, only_if_better)
            self._note(folder, "added", name, card, "" if may_watch else why)
            if may_watch:
                self._make_current(folder, name, card, "current", why)
        return version

    def _next(self, site: str, machine: str) -> str:
        """The name of the next version: no one has had it, though somebody may have deleted the newest ones.

        `current` may still name one of these, and whoever has loaded it knows it by its name. Nor has the machine
        one of this name where it was held out of its site (`registry_names`), as one watch takes either.
        """
        names = []
        for own in registry_names(site.removesuffix(UNSEEN)):
            names += [each.name for each in self.versions(own, machine)]
            names += [each.version for each in self.history(own, machine)]
            with suppress(OSError):
                names.append((self._folder(own, machine) / CURRENT).read_text(errors="replace").strip())
        return f"v{1 + max((_number(name) for name in names if _VERSION.fullmatch(name)), default=0)}"

    def current(self, site: str, machine: str) -> Version | None:
        """The current version of a machine's model; None if there is none.

        Raises:
            UserError: nobody knows, as `current` names no version that is there.
            OSError: the disk is failing.
        """
        folder = self._folder(site, machine)
        try:
            name = (folder / CURRENT).read_text(errors="replace").strip()
        except FileNotFoundError:
            return None
        except IsADirectoryError:
            name = "a folder"
        if not _VERSION.fullmatch(name) or not (folder / name).is_dir():
            raise UserError(f"{folder / CURRENT}: expected the name of a version that is there, got {name:.20}")
        return Version(site, machine, name, folder / name)

    def known_current(self, site: str, machine: str) -> Version | None:
        """The current version of a machine's model; None if there is none, or nobody knows which it is."""
        with suppress(UserError):
            return self.current(site, machine)
        return None

    def _decided(self, card: Card, only_if_better: bool) -> tuple[bool, str]:
        """Whether a model that is added becomes current, and why."""
        current, verdict, stands = None, "", "no model has watched the machine"
        try:
            if (current := self.current(card.site, card.machine)) is not None:
                current.check()
                verdict = current.card.verdict
                stands = f"{current.name} is {verdict}"
        except UserError:  # somebody has deleted or damaged it, or its card: no watch can use it
            current, stands = None, "the current model cannot be read"
        if only_if_better and (current is not None or card.verdict != "ship"):
            return beats_current(card, "" if current is None else current.name)
        if card.verdict == "refused":
            return False, "it is refused"
        if card.verdict == "doubtful":
            if current is not None and verdict == "ship":
                return False, f"it is doubtful, and {current.name} is not"
            return True, f"it is doubtful, and {stands}"
        return True, "it is to be shipped" if current is not None else f"it is to be shipped, and {stands}"

    def versions(self, site: str, machine: str) -> list[Version]:
        """All versions of a machine's model, oldest first."""
        folder = self._folder(site, machine)
        return [Version(site, machine, name, folder / name) for name in _version_names(folder)]

    def history(self, site: str, machine: str) -> list[Change]:
        """What has happened to a machine's models, oldest first; a line that a crash has cut short is left out."""
        path = self._folder(site, machine) / HISTORY
        lines = path.read_bytes().split(b"\n") if path.is_file() else []
        found = []
        for line in filter(None, lines):
            try:
                found.append(msgspec.json.decode(line, type=Change))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue
        return found

    def why(self, version: Version) -> str:
        """Why a version became the current one as it was added, or did not; empty where nobody knows."""
        found = [each.why for each in self.history(version.site, version.machine) if each.version == version.name]
        return next(filter(None, found), "")

    def machines(self) -> list[tuple[str, str]]:
        """Site and name of every machine that has a model with a card that can be read, sorted."""
        return sorted(
            (card.site, card.machine)
            for folder, card in self._newest_cards().items()
            if card is not None and folder == self._folder(card.site, card.machine)  # else it is somebody's copy
        )

    def unreadable(self) -> list[Path]:
        """The folders of machines that have models, of which no card can be read, sorted."""
        return [folder for folder, card in self._newest_cards().items() if card is None]

    def _newest_cards(self) -> dict[Path, Card | None]:
        """The newest card that can be read of each folder that holds models; None if none can be read."""
        found: dict[Path, Card | None] = {}
        for folder in sorted(self.folder.glob("*/*")):
            with suppress(OSError):  # another user's folder, or one that was deleted a moment ago
                for name in reversed(_version_names(folder)):
                    found[folder] = None
                    with suppress(UserError):
                        found[folder] = Version("", "", name, folder / name).card
                        break
        return found

    def find(self, machine: str) -> tuple[str, str]:
        """Site and name of the machine that a user means by its name, or by SITE/MACHINE.

        Raises:
            UserError: there is none, or there are several.
        """
        return find_machine(self.machines(), machine, f"one that has a model in {self.folder}")

    def rollback(self, site: str, machine: str, to: str | None = None) -> Version:
        """Make an earlier version the current one: `to`, or the newest before the current that is not refused.

        Raises:
            UserError: there is no such version, or its model is not whole: the current one stays.
        """
        folder = self._folder(site, machine)
        if not folder.is_dir():
            raise UserError(f"{self.folder}: there is no model of {shown(site)}/{shown(machine)}")
        with FolderLock(folder, _WRITING, PATIENCE):
            found = self._earlier(site, machine) if to is None else self._named(site, machine, to)
            self._make_current(folder, found.name, found.card, "rolled back")
        return found

    def _named(self, site: str, machine: str, name: str) -> Version:
        versions = self.versions(site, machine)
        found = next((each for each in versions if each.name == name), None)
        if found is None:
            names = ", ".join(each.name for each in versions)
            raise UserError(f"--to: no version {name:.20} of {shown(site)}/{shown(machine)}; there are {names}")
        found.check()
        return found

    def _earlier(self, site: str, machine: str) -> Version:
        """The newest version before the current one that is not refused; of all, where no current one is known."""
        current = self.known_current(site, machine)
        for each in reversed(self.versions(site, machine)):
            if current is None or _number(each.name) < _number(current.name):
                with suppress(UserError):  # its card cannot be read, or its model is not whole
                    each.check()
                    if each.card.verdict != "refused":
                        return each
        at = "there is no current one" if current is None else f"the current one is {current.name}"
        raise UserError(
            f"{shown(site)}/{shown(machine)}: there is no earlier version that is not refused ({at}); name one"
            " with --to"
        )

    def _folder(self, site: str, machine: str) -> Path:
        return self.folder / file_name(site) / file_name(machine)

    def _make_current(self, folder: Path, version: str, card: Card, what: str, why: str = "") -> None:
        write(folder / CURRENT, f"{version}\n".encode())
        self._note(folder, what, version, card, why)

    def _note(self, folder: Path, what: str, version: str, card: Card, why: str) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        change = Change(time=now, what=what, version=version, verdict=card.verdict, reasons=card.reasons, why=why)
        add_lines(folder / HISTORY, [msgspec.json.encode(change)])


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version_names(folder: Path) -> list[str]:
    """The versions in a machine's folder, oldest first; none if there is no such folder."""
    names = [each.name for each in folder.iterdir() if each.is_dir()] if folder.is_dir() else []
    return sorted(filter(_VERSION.fullmatch, names), key=_number)


def _number(version: str) -> int:
    return int(version[1:])
