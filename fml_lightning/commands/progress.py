"""A progress bar over rounds."""

from __future__ import annotations

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from fml_lightning.federation import Federation


class RoundProgress(ProgressBar):
    """One bar for the whole run: rounds done, the meta-loss, and the deciding metric of the latest validation."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: tqdm[Any] | None = None
        self._enabled = True

    def disable(self) -> None:
        """Show nothing, as on all ranks but the first."""
        self._enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar at the round that training starts or resumes from."""
        limits = [limit for limit in (trainer.max_epochs, trainer.max_steps) if limit is not None and limit > 0]
        self._bar = tqdm(
            total=min(limits, default=None),
            initial=trainer.global_step,
            desc="training",
            unit="round",
            file=sys.stderr,
            dynamic_ncols=True,
            disable=not self._enabled,
        )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """One round more."""
        if self._bar is None:
            return
        assert isinstance(pl_module, Federation)
        metric = pl_module.learner.objective.metric
        names = {"meta_loss": "train/meta_loss"}
        names |= {f"{metric}_{moment}": f"val/{metric}_{moment}" for moment in ("before", "after")}
        shown = {short: trainer.callback_metrics.get(name) for short, name in names.items()}
        self._bar.set_postfix({k: f"{float(v):.3f}" for k, v in shown.items() if v is not None}, refresh=False)
        self._bar.update(1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the finished bar on the screen."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the bar where it stopped."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
