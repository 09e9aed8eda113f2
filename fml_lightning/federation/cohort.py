"""The cohort: which sites take part in a round."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from fml_lightning.errors import UserError


@dataclass(frozen=True)
class Cohort:
    """How many sites take part in each round, drawn without replacement."""

    fraction: float = 1.0
    """Share of all sites, in (0, 1], rounded, but at least one site."""
    count: int | None = None
    """Number of sites; takes the place of `fraction`."""

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1 or (self.count is not None and self.count < 1):
            raise UserError(f"Cohort: expected 0 < fraction <= 1 and count >= 1, got {self}")

    def draw(self, sites: Sequence[str], seed: int) -> list[str]:
        """The cohort's names, sorted.

        >>> Cohort(count=2).draw(["c", "a", "b"], seed=0)
        ['b', 'c']

        Raises:
            UserError: there are fewer sites than `count`.
        """
        if self.count is not None and self.count > len(sites):
            raise UserError(f"Cohort: expected at least {self.count} sites, got {len(sites)}; lower count")
        size = self.count if self.count is not None else max(1, round(self.fraction * len(sites)))
        return sorted(random.Random(seed).sample(sorted(sites), size))
