"""The folder of a run: where it is, and what is in it.

runs/cwru_unseen_load/1/     runs are named after their config and numbered
    config.yaml              the whole configuration, as it was run (config-2.yaml: as it was changed on resuming)
    checkpoints/last.ckpt    the state after the last round; best.ckpt, round-40.ckpt, …: see `round_checkpoint`
    logs/                    metrics per round
    fit.json, test.json, …   what each verb measured, with a chart
    machines/SITE/MACHINE/   each personalized model and its card, in versions: see `personal.registry`
    watch/                   what a watch has found: see `live.journal`
    exported/                models as files for gateways
    personal/                what simulated sites keep of their own
    lock                     held by the `fml fit` that trains here
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fml_lightning.errors import UserError

CHECKPOINTS = "checkpoints"
_CONFIG = re.compile(r"config(-\d+)?\.yaml")
"""How a run's own configurations are called."""


@dataclass(frozen=True)
class Runs:
    """The runs of one config below a root; `own` is the run whose own config.yaml was given, if one was."""

    root: Path
    name: str
    own: Path | None = None

    @classmethod
    def of(cls, config: Path, root: Path) -> Runs:
        """The runs of a config: they are called after its file's stem.

        A run's own config.yaml means that run and no other.
        """
        folder = config.resolve().parent
        if not (_CONFIG.fullmatch(config.name) and folder.name.isdecimal()):
            return cls(root, config.stem)
        is_run = folder.parent.parent == root.resolve() or (folder / CHECKPOINTS).is_dir()
        return cls(root, folder.parent.name, config.parent if is_run else None)

    def claim(self) -> Path:
        """Make a folder that no other run has."""
        number = len(self.all()) + 1
        while (folder := self.root / self.name / str(number)).exists():
            number += 1
        try:
            folder.mkdir(parents=True)
        except FileExistsError:  # another run was faster
            return self.claim()
        return folder

    def all(self) -> list[Path]:
        """All of them, the oldest first."""
        folder = self.root / self.name
        found = [path for path in folder.iterdir() if path.name.isdecimal()] if folder.is_dir() else []
        return sorted(found, key=lambda path: int(path.name))

    def newest(self) -> Path | None:
        """The run whose own config was given, or the newest; None if there is none yet."""
        return self.own or next(reversed(self.all()), None)

    def owner(self, ckpt: Path) -> Path | None:
        """The run that a checkpoint belongs to, if it belongs to one of `own` or below the root."""
        folder = ckpt.parent.parent
        if ckpt.parent.name != CHECKPOINTS or not folder.name.isdecimal():
            return None
        if self.own is not None and folder.resolve() == self.own.resolve():
            return self.own
        return folder if folder.resolve().parent.parent == self.root.resolve() else None

    def find_checkpoint(self, ckpt_path: str) -> Path:
        """The file that `--ckpt_path` means: `last` or `best` of the newest run that has one, or a path.

        A path may also be relative to the run's folder.

        Raises:
            UserError: there is no such file.
        """
        if ckpt_path in ("last", "best"):
            saved = [path for run in self._candidates() if (path := checkpoint(run, ckpt_path)).is_file()]
            if not saved:
                raise UserError(self._none_saved(ckpt_path))
            return saved[-1]
        newest = self.newest()
        places = [Path(ckpt_path), *([newest / ckpt_path] if newest else [])]
        found = next((path for path in places if path.is_file()), None)
        if found is None:
            raise UserError(f"--ckpt_path: no file {ckpt_path!r}; give a checkpoint's path, or last, or best")
        return found

    def find_resumable(self, ckpt_path: str | None) -> tuple[Path | None, Path | None]:
        """The run folder and the checkpoint to go on from, as far as there are any.

        `last` is the newest run and no other: where it was interrupted before its first checkpoint, it starts anew
        in its own folder.

        Raises:
            UserError: a path is given and there is no such file.
        """
        if ckpt_path is None:
            return None, None
        if ckpt_path == "last":
            folder = self.newest()
            return folder, checkpoint(folder) if folder and checkpoint(folder).is_file() else None
        found = self.find_checkpoint(ckpt_path)
        return self.owner(found), found

    def _candidates(self) -> list[Path]:
        return [self.own] if self.own else self.all()

    def _none_saved(self, ckpt_path: str) -> str:
        where = f"run {self.own}" if self.own else f"no run of {self.name!r} below {self.root}"
        has = "has no" if self.own else "has a"
        if ckpt_path == "best" and any(checkpoint(run).is_file() for run in self._candidates()):
            return (
                f"--ckpt_path best: {where} {has} best checkpoint, since no round was validated"
                " (trainer.check_val_every_n_epoch); use last, or a checkpoint's path"
            )
        return (
            f"--ckpt_path {ckpt_path}: {where} {has} checkpoint; train one with fml fit, or give the path of one"
        )


def checkpoint(folder: Path, name: str = "last") -> Path:
    """Where a run keeps a checkpoint: `last`, `best` or `round-40`."""
    return folder / CHECKPOINTS / f"{name}.ckpt"


def configs(folder: Path) -> list[Path]:
    """A run's own configurations, the one that it began with first."""
    found = [path for path in folder.glob("config*.yaml") if _CONFIG.fullmatch(path.name)]
    return sorted(found, key=lambda path: (len(path.name), path.name))


def next_config(folder: Path) -> Path:
    """Where a run keeps its next configuration: config.yaml, then config-2.yaml and so on."""
    kept = len(configs(folder))
    return folder / (f"config-{kept + 1}.yaml" if kept else "config.yaml")


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a small JSON file, complete or not at all."""
    return write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> Path:
    """Write a small file, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    return part.replace(path)
