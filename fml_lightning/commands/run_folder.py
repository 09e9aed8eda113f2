"""The folder of a run: where it is, and what is in it.

runs/cwru_unseen_load/1/     runs are named after their config and numbered
    config.yaml              the whole configuration, as it was run
    checkpoints/last.ckpt    the state after the last round, for --ckpt_path last
    logs/                    metrics per round
    fit.json, test.json, …   what each verb measured, with a chart
    machines/NAME.pt         each personalized model, with its card NAME.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fml_lightning.errors import UserError

CHECKPOINTS = "checkpoints"


def name_of(config: Path) -> str:
    """The name of a config's runs: its file's stem, or for a run's own config.yaml the name of that run."""
    folder = config.resolve().parent
    return folder.parent.name if config.name == "config.yaml" and folder.name.isdecimal() else config.stem


def claim(root: Path, name: str) -> Path:
    """Make a folder below `root` that no other run has."""
    number = len(runs(root, name)) + 1
    while (folder := root / name / str(number)).exists():
        number += 1
    try:
        folder.mkdir(parents=True)
    except FileExistsError:  # another run was faster
        return claim(root, name)
    return folder


def runs(root: Path, name: str) -> list[Path]:
    """All runs of this name below `root`, the oldest first."""
    folder = root / name
    found = [path for path in folder.iterdir() if path.name.isdecimal()] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(path.name))


def checkpoint(folder: Path) -> Path:
    """Where a run keeps its last checkpoint."""
    return folder / CHECKPOINTS / "last.ckpt"


def owner(ckpt: Path, root: Path) -> Path | None:
    """The run below `root` that a checkpoint belongs to, if it belongs to one."""
    folder = ckpt.parent.parent
    is_run = ckpt.parent.name == CHECKPOINTS and folder.name.isdecimal()
    return folder if is_run and folder.resolve().parent.parent == root.resolve() else None


def find_checkpoint(root: Path, name: str, ckpt_path: str) -> Path:
    """The file that `--ckpt_path` means: a path, or `last` for the newest run of this name that has one.

    Raises:
        UserError: there is no such file.
    """
    if ckpt_path != "last":
        if not Path(ckpt_path).is_file():
            raise UserError(f"--ckpt_path: no file {ckpt_path!r}; give a checkpoint's path, or last")
        return Path(ckpt_path)
    saved = [checkpoint(folder) for folder in runs(root, name) if checkpoint(folder).is_file()]
    if not saved:
        raise UserError(
            f"--ckpt_path last: no run of {name!r} below {root} has a checkpoint; train one with fml fit,"
            " or give a checkpoint's path"
        )
    return saved[-1]


def find_resumable(root: Path, name: str, ckpt_path: str | None) -> tuple[Path | None, Path | None]:
    """The run folder and the checkpoint to go on from, as far as there are any.

    `last` is the newest run and no other: where it was interrupted before its first checkpoint, it starts anew in
    its own folder.

    Raises:
        UserError: a path is given and there is no such file.
    """
    if ckpt_path is None:
        return None, None
    if ckpt_path == "last":
        folder = next(reversed(runs(root, name)), None)
        return folder, checkpoint(folder) if folder and checkpoint(folder).is_file() else None
    found = find_checkpoint(root, name, ckpt_path)
    return owner(found, root), found


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a small JSON file, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=2) + "\n")
    return part.replace(path)
