"""How new models of watched machines are made: by `fml personalize`, of a run's folder or of a site's.

The folder of a run holds its configuration. That of a site does not: what a site fetches or personalizes leaves in
its folder where the configuration is (`remember_site`), so that `fml watch` finds it there.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from pydoc import ErrorDuringImport, locate

import msgspec
import yaml  # type: ignore[import-untyped]

from fml_lightning.commands.run.run_folder import Runs, checkpoint, configs
from fml_lightning.datamodules.spool.fleet import SpoolFleet
from fml_lightning.durable import make_folder, write
from fml_lightning.errors import UserError

SITE = "site.json"
"""The file of a site's folder that says where its configuration is."""


class SiteFile(msgspec.Struct, frozen=True):
    """What a site's folder knows of its configuration."""

    config: str
    """Its file, as it was given to `--site`."""
    directory: str
    """From where that was: relative paths, also those in the file, count from there."""
    data: str
    """The class of its data."""


def remember_site(folder: Path, config: str, data: object) -> None:
    """Leave in a site's folder where its configuration is.

    Args:
        folder: of the site.
        config: the file, as it was given.
        data: its fleet.
    """
    kind = type(data)
    content = msgspec.json.encode(SiteFile(config, str(Path.cwd()), f"{kind.__module__}.{kind.__qualname__}"))
    path = folder / SITE
    if not path.is_file() or path.read_bytes() != content:
        make_folder(folder)
        write(path, content)


@dataclass(frozen=True)
class ModelMaker:
    """What makes models of the machines of one folder."""

    arguments: tuple[str, ...] = ()
    """By which `fml personalize` means the folder; empty: none are known."""
    directory: Path = Path()
    """Where the command is to be run."""
    data: type | None = None
    """The class of the data that models are made of; None: it is not known here."""
    unattended: tuple[str, ...] = ()
    """Further arguments where nobody looks on."""
    problem: str = ""
    """Why nothing can be made of the folder; empty if it can."""

    @classmethod
    def of(cls, folder: Path) -> ModelMaker:
        """That of the folder of a run, or of a site."""
        try:
            if kept := configs(folder):
                return cls._of_run(folder, kept[-1])
            if (folder / SITE).is_file():
                return cls._of_site(folder / SITE)
        except UserError as error:
            return cls(problem=str(error))
        return cls(problem=f"there is neither config.yaml nor {SITE} in {folder}")

    @classmethod
    def _of_run(cls, folder: Path, config: Path) -> ModelMaker:
        problem = ""
        if not checkpoint(folder).is_file():
            problem = f"there is no {checkpoint(folder)}"
        elif Runs.of(config, Path("runs")).own is None:
            problem = f"a run's folder is called by a number, and this one is called {folder.resolve().name}"
        quiet = ("--trainer.enable_progress_bar", "false")
        return cls(("--config", str(config)), Path(), _data_class(config), quiet, problem)

    @classmethod
    def _of_site(cls, path: Path) -> ModelMaker:
        try:
            site = msgspec.json.decode(path.read_bytes(), type=SiteFile)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read ({error}); run fml fetch, which makes it anew") from error
        directory = Path(site.directory)
        if not (directory / site.config).is_file():
            raise UserError(
                f"{path} says that the site's configuration is {directory / site.config}, and there is no such"
                " file; run fml fetch with the one that there is"
            )
        return cls(("--site", site.config), directory, _class(site.data))

    @property
    def takes_since(self) -> bool:
        """Whether the data may tell when labels were said, so that `--data.since` can leave out earlier ones."""
        return self.data is None or issubclass(self.data, SpoolFleet)

    @property
    def command(self) -> str:
        """The command that a user pastes, but for the machine; empty where nobody knows it."""
        if not self.arguments:
            return ""
        moves = "" if self.directory.resolve() == Path.cwd() else f"cd {shlex.quote(str(self.directory))} && "
        return moves + shlex.join(["fml", "personalize", *self.arguments])

    def process(self) -> list[str]:
        """The command of a process that lets a model watch only if it is better, but for the machine.

        Raises:
            UserError: there can be none that knows new labels from old ones.
        """
        problem = self.problem
        if not problem and (self.data is None or not self.takes_since):
            problem = f"the data of {self.arguments[1]} are no SpoolFleet, whose labels tell when they were said"
        if problem:
            raise UserError(
                "repersonalize: auto makes models as fml personalize does, of a run that fml fit has made or at a"
                f" site that has fetched one, and {problem}; watch such a folder, or set repersonalize: ask"
            )
        program = [sys.executable, "-m", "fml_lightning", "personalize"]
        return [*program, *self.arguments, "--only_if_better", *self.unattended]


def _data_class(config: Path) -> type | None:
    """The class of the data of a run's configuration; None where there is none.

    Raises:
        UserError: the configuration cannot be read.
    """
    try:
        content = yaml.safe_load(config.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{config} cannot be read: {' '.join(str(error).split())}") from error
    data = content.get("data") if isinstance(content, dict) else None
    return _class(str(data.get("class_path"))) if isinstance(data, dict) else None


def _class(path: str) -> type | None:
    """The class of a path; None where there is none, or its module cannot be imported."""
    try:
        found = locate(path)
    except ErrorDuringImport:
        return None
    return found if isinstance(found, type) else None
