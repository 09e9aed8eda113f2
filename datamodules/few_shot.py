"""Few-shot episodes from any labelled examples: N ways, K shots, as the literature has them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fml_lightning.datamodules.loaders import SizedEpisodeLoader
from fml_lightning.errors import UserError
from fml_lightning.types import Episode, Examples


@dataclass(frozen=True)
class FewShot:
    """How N-way K-shot episodes are drawn; labels are 0 to N − 1 in every task, in random order of classes."""

    ways: int = 5
    """Classes per task, N."""
    shots: int = 1
    """Support examples per class, K."""
    queries: int = 15
    """Query examples per class."""
    tasks: int = 32
    """Tasks stacked in one episode, T."""

    def __post_init__(self) -> None:
        if self.ways < 2 or min(self.shots, self.queries, self.tasks) < 1:
            raise UserError(f"FewShot: expected ways >= 2 and shots, queries, tasks >= 1, got {self}")

    def episodes(self, x: Tensor, labels: NDArray[np.int64], batches: int) -> SizedEpisodeLoader:
        """A dataloader of `batches` episodes.

        Args:
            x: examples, (n, …).
            labels: the class of each, (n,), any integers.
            batches: episodes per pass.

        Raises:
            UserError: there are too few classes, or too few examples of one.
        """
        members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        fewest = min((len(rows) for rows in members), default=0)
        if len(members) < self.ways or fewest < self.shots + self.queries:
            raise UserError(
                f"FewShot: expected at least {self.ways} classes of {self.shots + self.queries} examples (shots"
                f" and queries), got {len(members)} classes of at least {fewest}; lower ways, shots or queries"
            )

        def draw(rng: np.random.Generator) -> Iterator[Episode]:
            for _ in range(batches):
                rows = np.stack([self._task(members, rng) for _ in range(self.tasks)])  # (T, N, K + Q)
                yield Episode(
                    self._examples(x, rows[..., : self.shots]), self._examples(x, rows[..., self.shots :])
                )

        return SizedEpisodeLoader(draw, batches)

    def _task(self, members: list[NDArray[np.intp]], rng: np.random.Generator) -> NDArray[np.intp]:
        size = self.shots + self.queries
        classes = rng.choice(len(members), self.ways, replace=False)
        return np.stack([rng.choice(members[c], size, replace=False) for c in classes])

    def _examples(self, x: Tensor, rows: NDArray[np.intp]) -> Examples:
        """Rows (T, N, K) as examples in order of class, (T, N·K)."""
        flat = torch.from_numpy(rows.reshape(len(rows), -1))
        labels = torch.arange(self.ways).repeat_interleave(rows.shape[2]).expand(len(rows), -1)
        return Examples(x[flat], labels.contiguous())
