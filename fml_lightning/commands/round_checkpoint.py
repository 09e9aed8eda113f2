"""A checkpoint after every round, complete or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint


class RoundCheckpoint(Checkpoint):
    """Replaces one checkpoint file after each round.

    Lightning's own `save_last` follows `save_top_k`, and moves its file from the temporary folder, which is a copy
    where that is another file system. This one writes beside the file, syncs, and renames, so that a kill at any
    moment leaves the last complete round.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the round that has just ended."""
        part = self.path.with_suffix(".part")
        trainer.save_checkpoint(part)
        if trainer.is_global_zero:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(self.path)
