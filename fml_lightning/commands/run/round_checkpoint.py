"""The checkpoints of a run: the last round, the best one, and a few to go back to; each complete or not at all."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from fml_lightning.errors import UserError
from fml_lightning.federation import Federation


@dataclass(frozen=True)
class Kept:
    """Which checkpoints a run keeps beside the last and the best."""

    every: int = 10
    """Keep the state after every so many rounds, as checkpoints/round-10.ckpt, round-20.ckpt, …"""
    keep: int = 3
    """How many of those, the newest; 0 for none."""

    def __post_init__(self) -> None:
        if self.every < 1 or self.keep < 0:
            raise UserError(f"checkpoints: expected every >= 1 and keep >= 0, got {self.every} and {self.keep}")


class RoundCheckpoint(Checkpoint):
    """Keeps `last.ckpt` after each round, `best.ckpt` of the rounds that were validated, and `round-N.ckpt`.

    Best is the round with the best `val/<metric>_after`, where the objective names the metric and says whether
    more of it is better.

    Lightning's `save_last` follows `save_top_k`, and moves its file from the temporary folder, which is a copy
    where that is another file system. This one writes beside the file, syncs, and renames, so that a kill at any
    moment leaves the last complete round. The others are links to the same bytes, made before `last.ckpt` is
    replaced: where a kill comes between, the resumed run makes them again.

    Args:
        folder: where the files are.
        kept: which others to keep.
    """

    def __init__(self, folder: Path, kept: Kept = Kept()) -> None:
        self.folder = folder
        self.kept = kept
        self.best: float | None = None
        """The best value of the metric so far."""
        self.best_round: int | None = None
        """How many rounds the parameters in `best.ckpt` have been through."""
        self._validated: float | None = None
        """The metric of the round at hand, if it was validated."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"best": self.best, "best_round": self.best_round}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what the interrupted run knew."""
        self.best, self.best_round = state_dict["best"], state_dict["best_round"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Where the run goes back to an earlier round, let go of the rounds after it: they are run anew.

        What the sites kept of those rounds is replaced as they are run again, so that a checkpoint of them would
        be without its personal state. The checkpoint that the run goes back to becomes the last.
        """
        done = trainer.global_step
        rounds = {path: _rounds(path) for path in self.folder.glob("*.ckpt")}
        last = self._path("last")
        if done and rounds.get(last, 0) > done and trainer.ckpt_path:
            _link(Path(trainer.ckpt_path), last)
            rounds[last] = done
        for path, round_ in rounds.items():
            if round_ > done:
                path.unlink()
        if self.best_round is not None and rounds.get(self._path("best")) != self.best_round:
            self.best = self.best_round = None  # the best of other rounds; the next one validated replaces it
        self._tell(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the metric of a round that was validated."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            assert isinstance(pl_module, Federation)
            value = trainer.callback_metrics.get(f"val/{pl_module.learner.objective.metric}_after")
            self._validated = None if value is None else float(value)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the round that has just ended."""
        assert isinstance(pl_module, Federation)
        done = trainer.global_step
        is_best = self._is_best(pl_module.learner.objective.higher_is_better)
        if is_best:
            self.best, self.best_round = self._validated, done
        self._validated = None
        part = self.folder / "last.part"
        trainer.save_checkpoint(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        if is_best:
            _link(part, self._path("best"))
        if self.kept.keep and done % self.kept.every == 0:
            _link(part, self._path(f"round-{done}"))
            for stale in self._rolling()[: -self.kept.keep]:
                stale.unlink()
        part.replace(self._path("last"))
        self._tell(pl_module)

    def _is_best(self, higher_is_better: bool) -> bool:
        new, old = self._validated, self.best
        if new is None or math.isnan(new):
            return False
        return old is None or (new > old if higher_is_better else new < old)

    def _tell(self, pl_module: LightningModule) -> None:
        """Let sites keep the personal state that belongs to the checkpoints."""
        assert isinstance(pl_module, Federation)
        rolling = {int(path.stem.removeprefix("round-")) for path in self._rolling()}
        pl_module.revisitable = frozenset(rolling | ({self.best_round} if self.best_round is not None else set()))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.ckpt"

    def _rolling(self) -> list[Path]:
        found = [path for path in self.folder.glob("round-*.ckpt") if path.stem[len("round-") :].isdecimal()]
        return sorted(found, key=lambda path: int(path.stem.removeprefix("round-")))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds; nothing in the file is executed."""
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint["state_dict"], checkpoint["global_step"]
    except Exception as error:  # whatever a file that is no checkpoint makes of the reader
        raise UserError(
            f"--ckpt_path: {path} is not a checkpoint ({type(error).__name__} on reading it)"
        ) from error
    return checkpoint


def _rounds(path: Path) -> int:
    """How many rounds a checkpoint's parameters have been through; 0 if it cannot be read."""
    try:
        return int(torch.load(path, map_location="cpu", weights_only=True)["global_step"])
    except Exception:  # whatever a file that is no checkpoint makes of the reader
        return 0


def _link(source: Path, target: Path) -> None:
    """Give the bytes of `source` the name `target` too, at once; a copy where the file system has no links."""
    part = target.with_suffix(".part")
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:
        shutil.copyfile(source, part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
    part.replace(target)
