"""`fml server release`: hand a checkpoint's shared parameters out to sites."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fml_lightning.commands.process import parser, settings_of
from fml_lightning.commands.run import run_folder
from fml_lightning.commands.run.round_checkpoint import read_checkpoint
from fml_lightning.durable import make_folder, write
from fml_lightning.errors import UserError
from fml_lightning.executors.nvflare.envelope import RELEASED
from fml_lightning.executors.release import Release


def release(arguments: Sequence[str]) -> int:
    """Write the release of a run, in place of an earlier one of it."""
    options = parser("server")
    options.prog = "fml server release"
    options.description = (
        "Hand out what a run has learned, so that sites can fetch it (fml fetch): the shared parameters alone."
    )
    options.add_argument("run", type=str, help="a checkpoint, a run's folder (its last checkpoint), or a run's id")
    options.add_argument("--folder", type=str, default="server", help="the server's folder, as in fml server")
    options.add_argument(
        "--runs", type=str, default="runs", help="the folder below which a run's id is looked for"
    )
    settings = settings_of(options, arguments)
    folder = Path(settings["folder"])
    if not folder.is_dir():
        raise UserError(f"--folder: there is no folder {folder}; give the one that fml server runs in")
    path, checkpoint = _found(settings["run"], Path(settings["runs"]))
    released = Release.of(checkpoint)
    make_folder(folder / RELEASED)
    file = folder / RELEASED / f"{released.run}.ckpt"
    message = released.pack()
    write(file, message)
    print(
        f"released {path}: run {released.run} after {released.rounds} rounds, {len(released.params)} tensors,"
        f" {len(message) / 1e6:.2f} MB, learner {released.digest}; sites get it with fml fetch"
    )
    return 0


def _found(run: str, runs: Path) -> tuple[Path, dict[str, Any]]:
    """The checkpoint that is meant, and its file.

    Raises:
        UserError: there is none.
    """
    given = Path(run)
    if given.is_file():
        return given, read_checkpoint(given)
    if given.is_dir():
        last = run_folder.checkpoint(given)
        if not last.is_file():
            raise UserError(f"release: {given} has no checkpoint; give a run's folder, or a checkpoint")
        return last, read_checkpoint(last)
    for path in _last_checkpoints(runs):
        if (checkpoint := read_checkpoint(path)).get("federation_run") == run:
            return path, checkpoint
    raise UserError(
        f"release: {run!r} is no checkpoint, no run's folder, and no id of a run below {runs}; a run's folder is"
        " what fml fit printed first"
    )


def _last_checkpoints(runs: Path) -> Iterator[Path]:
    """The last checkpoint of each run, the newest first."""
    yield from sorted(runs.glob("*/*/checkpoints/last.ckpt"), key=lambda path: -path.stat().st_mtime)
