"""Sites one after another, in this process: the reference that every other executor must agree with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lightning.pytorch import LightningDataModule

from fml_lightning.executors.site_memory import SiteMemory
from fml_lightning.executors.site_work import work_at_site
from fml_lightning.learners.base import Learner
from fml_lightning.types import SiteFailure, SiteUpdate, Work


class SerialExecutor:
    """Runs each site's own `lightning.Trainer` on its own LightningDataModule, one site at a time.

    Args:
        accelerator: what the sites' Trainers run on, as in `Trainer(accelerator=…)`; small networks are
            fastest on the CPU.
    """

    def __init__(self, accelerator: str = "cpu") -> None:
        self.accelerator = accelerator

    def run(
        self, learner: Learner, work: Work, sites: Mapping[str, LightningDataModule], memory: SiteMemory
    ) -> Iterator[SiteUpdate | SiteFailure]:
        """Yield each site's outcome, in the given order."""
        for name, data in sites.items():
            yield work_at_site(learner, work, name, data, memory, self.accelerator)
