"""The contract of every executor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from lightning.pytorch import LightningDataModule

from fml_lightning.executors.site_memory import SiteMemory
from fml_lightning.executors.work import SiteFailure, SiteUpdate, Work
from fml_lightning.learners.learner import Learner


class Executor(Protocol):
    """Runs a round's work at the sites of a cohort."""

    def run(
        self, learner: Learner, work: Work, sites: Mapping[str, LightningDataModule], memory: SiteMemory
    ) -> Iterator[SiteUpdate | SiteFailure]:
        """Yield each site's outcome as it finishes, in any order; never raise for a site's own fault.

        The Federation may close the iterator before its end, once enough sites have replied: a generator then
        learns, by `finally`, that what the others do is not needed. It may ask sites that answered `not_yet` again
        in the same round, with the same work.

        `sites` maps each site's name to its data. `learner` is a template: an executor works on copies of it and
        leaves it as it is. An outcome bears the name of the site that sent it, which an executor knows better than
        the site says; what else is in it, the Federation checks. `memory` is where simulated sites keep what is
        personal; real sites have their own.
        """
        ...
