"""Sites one after another, in this process: the reference that every other executor must agree with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from lightning.pytorch import LightningDataModule

from fml_lightning.executors.executor import Executor
from fml_lightning.executors.site_memory import SiteMemory
from fml_lightning.executors.site_work import work_at_site
from fml_lightning.executors.work import SiteFailure, SiteUpdate, Work
from fml_lightning.learners.learner import Learner


class SerialExecutor(Executor):
    """Runs each site's own `lightning.Trainer` on its own LightningDataModule, one site at a time.

    Args:
        accelerator: what the sites' Trainers run on, as in `Trainer(accelerator=…)`; small networks are
            fastest on the CPU.
        precision: as in `Trainer(precision=…)`; `bf16-mixed` pays on GPUs with large networks.
    """

    def __init__(self, accelerator: str = "cpu", precision: Literal["32-true", "bf16-mixed"] = "32-true") -> None:
        self.accelerator = accelerator
        self.precision = precision

    def run(
        self, learner: Learner, work: Work, sites: Mapping[str, LightningDataModule], memory: SiteMemory
    ) -> Iterator[SiteUpdate | SiteFailure]:
        """Yield each site's outcome, in the given order."""
        for name, data in sites.items():
            yield work_at_site(
                learner, work, name, data, memory, accelerator=self.accelerator, precision=self.precision
            )
