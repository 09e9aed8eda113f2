"""Few-shot episodes from any labelled examples: N ways, K shots, as the literature has them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fml_lightning.datamodules.loaders import MakeGenerator, SizedEpisodeLoader, own_generator
from fml_lightning.errors import UserError
from fml_lightning.types import Episode, Examples


@dataclass(frozen=True)
class FewShot:
    """How N-way K-shot episodes are drawn; labels are 0 to N − 1 in every task, in random order of classes."""

    ways: int = 5
    """Classes per task, N, at least 2."""
    shots: int = 1
    """Support examples per class, K, at least 1."""
    queries: int = 15
    """Query examples per class, at least 1."""
    tasks: int = 32
    """Tasks stacked in one episode, T, at least 1."""

    def __post_init__(self) -> None:
        if self.ways < 2 or min(self.shots, self.queries, self.tasks) < 1:
            raise UserError(f"FewShot: expected ways >= 2 and shots, queries, tasks >= 1, got {self}")

    def episodes(
        self, x: Tensor, labels: NDArray[np.int64], batches: int, generator: MakeGenerator = own_generator
    ) -> SizedEpisodeLoader:
        """A dataloader of `batches` episodes.

        Args:
            x: examples, (n, …).
            labels: the class of each, (n,), any integers.
            batches: episodes per pass.
            generator: makes the generator of each pass; `common_generator` for episodes that are no training.

        Raises:
            UserError: there are too few classes, or too few examples of one, or labels are no integers.
        """
        if labels.shape != x.shape[:1] or labels.dtype.kind not in "iu":
            raise UserError(
                f"FewShot: expected an integer label for each of {len(x)} examples, got {labels.dtype} of shape"
                f" {labels.shape}"
            )
        members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        fewest = min((len(rows) for rows in members), default=0)
        if len(members) < self.ways or fewest < self.shots + self.queries:
            raise UserError(
                f"FewShot: expected at least {self.ways} classes of {self.shots + self.queries} examples (shots"
                f" and queries), got {len(members)} classes of at least {fewest}; lower ways, shots or queries"
            )

        return SizedEpisodeLoader(partial(self._draw, x, members, batches), batches, generator)

    def _draw(
        self, x: Tensor, members: list[NDArray[np.intp]], batches: int, rng: np.random.Generator
    ) -> Iterator[Episode]:
        for _ in range(batches):
            rows = np.stack([self._task(members, rng) for _ in range(self.tasks)])  # (T, N, K + Q)
            yield Episode(self._examples(x, rows[..., : self.shots]), self._examples(x, rows[..., self.shots :]))

    def _task(self, members: list[NDArray[np.intp]], rng: np.random.Generator) -> NDArray[np.intp]:
        size = self.shots + self.queries
        classes = rng.choice(len(members), self.ways, replace=False)
        return np.stack([rng.choice(members[c], size, replace=False) for c in classes])

    def _examples(self, x: Tensor, rows: NDArray[np.intp]) -> Examples:
        """Rows (T, N, K) as examples in order of class, (T, N·K)."""
        flat = torch.from_numpy(rows.reshape(len(rows), -1))
        labels = torch.arange(self.ways).repeat_interleave(rows.shape[2]).expand(len(rows), -1)
        return Examples(x[flat], labels.contiguous())
