"""The cohort: which sites take part in a round."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from fml_lightning.errors import UserError


@dataclass(frozen=True)
class Cohort:
    """How many sites take part in each round, drawn without replacement.

    Where sites are slow, or lost on the way, more can be asked than are needed. The round then ends with the first
    that reply, and does not wait for the others; sites that are always slow are heard less often. Bonawitz et al.,
    Towards Federated Learning at Scale, MLSys 2019. https://arxiv.org/abs/1902.01046
    """

    fraction: float = 1.0
    """Share of all sites, in (0, 1], rounded, but at least one site."""
    count: int | None = None
    """Number of sites; takes the place of `fraction`."""
    spare: int = 0
    """Sites to ask beyond that number, as far as there are others."""

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1 or (self.count is not None and self.count < 1):
            raise UserError(f"Cohort: expected 0 < fraction <= 1 and count >= 1, got {self}")
        if self.spare < 0 or (self.spare and self.count is None and self.fraction == 1):
            raise UserError(
                "Cohort: expected spare of at least 0, and 0 where all sites are needed, as none is left to spare,"
                f" got {self}; give a count, or a fraction below 1"
            )

    def draw(self, sites: Sequence[str], seed: int) -> list[str]:
        """The cohort's names, sorted; after them, sorted too, the spare ones, which change nothing before them.

        >>> Cohort(count=2).draw(["c", "a", "b"], seed=0)
        ['b', 'c']
        >>> Cohort(count=2, spare=1).draw(["c", "a", "b"], seed=0)
        ['b', 'c', 'a']

        Raises:
            UserError: there are fewer sites than `count`.
        """
        generator = random.Random(seed)
        needed = sorted(generator.sample(sorted(sites), self.size(len(sites))))
        others = sorted(set(sites) - set(needed))
        return needed + sorted(generator.sample(others, min(self.spare, len(others))))

    def size(self, sites: int) -> int:
        """How many updates of so many sites make a round complete.

        Raises:
            UserError: there are fewer sites than `count`.
        """
        if self.count is not None and self.count > sites:
            raise UserError(f"Cohort: expected at least {self.count} sites, got {sites}; lower count")
        return self.count if self.count is not None else max(1, round(self.fraction * sites))
