"""The folder of a run: where it is, and what is in it.

runs/cwru_unseen_load/       one folder per run, named after its config; the next run is cwru_unseen_load-2
    config.yaml              the whole configuration, as it was run
    checkpoints/last.ckpt    the state after the last round, for --ckpt_path last
    logs/                    metrics per round
    fit.json, test.json, …   what each verb measured
    machines/NAME.pt         each personalized model, with its card NAME.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fml_lightning.errors import UserError

CHECKPOINTS = "checkpoints"


def claim(root: Path, name: str) -> Path:
    """Make a folder below `root` that no other run has."""
    taken = runs(root, name)
    folder = root / (f"{name}-{_number(taken[-1], name) + 1}" if taken else name)
    try:
        folder.mkdir(parents=True)
    except FileExistsError:  # another run was faster
        return claim(root, name)
    return folder


def runs(root: Path, name: str) -> list[Path]:
    """All runs of this name below `root`, the oldest first."""
    found = [path for path in root.glob(f"{name}*") if path.is_dir() and _number(path, name)]
    return sorted(found, key=lambda path: _number(path, name))


def checkpoint(folder: Path) -> Path:
    """Where a run keeps its last checkpoint."""
    return folder / CHECKPOINTS / "last.ckpt"


def owner(ckpt: Path, root: Path) -> Path | None:
    """The run below `root` that a checkpoint belongs to, if it belongs to one."""
    folder = ckpt.parent.parent
    inside = root.resolve() in folder.resolve().parents
    return folder if ckpt.parent.name == CHECKPOINTS and inside else None


def find_checkpoint(root: Path, name: str, ckpt_path: str | None, *, must_exist: bool) -> Path | None:
    """The file that `--ckpt_path` means: a path, or `last` for the newest run of this name.

    Without `must_exist`, `last` is None where no round has been saved yet: start at round 0.

    Raises:
        UserError: there is no such file.
    """
    if ckpt_path is None:
        return None
    if ckpt_path != "last":
        if not Path(ckpt_path).is_file():
            raise UserError(f"--ckpt_path: no file {ckpt_path!r}; give a checkpoint's path, or last")
        return Path(ckpt_path)
    saved = [checkpoint(folder) for folder in runs(root, name) if checkpoint(folder).is_file()]
    if not saved and must_exist:
        raise UserError(
            f"--ckpt_path last: no run of {name!r} below {root} has a checkpoint; train one with fml fit,"
            " or give a checkpoint's path"
        )
    return saved[-1] if saved else None


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a small JSON file, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=2) + "\n")
    return part.replace(path)


def _number(path: Path, name: str) -> int:
    """1 for `name`, n for `name-n`, 0 for anything else."""
    rest = path.name.removeprefix(name)
    if not rest:
        return 1
    number = rest.removeprefix("-")
    return int(number) if rest.startswith("-") and number.isdecimal() else 0
