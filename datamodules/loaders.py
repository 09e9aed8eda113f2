"""Dataloaders: episodes drawn anew whenever they are iterated, and batches at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import numpy as np
import torch

from fml_lightning.types import Episode

T = TypeVar("T")


class EpisodeLoader:
    """A dataloader of episodes, each time from a fresh generator that torch's global one seeds.

    Args:
        draw: the episodes, from a generator.
    """

    def __init__(self, draw: Callable[[np.random.Generator], Iterator[Episode]]) -> None:
        self.draw = draw

    def __iter__(self) -> Iterator[Episode]:
        return self.draw(np.random.default_rng(int(torch.randint(2**62, ()))))


class SizedEpisodeLoader(EpisodeLoader):
    """An `EpisodeLoader` that knows how many episodes it draws.

    Args:
        draw: the episodes, from a generator.
        size: how many.
    """

    def __init__(self, draw: Callable[[np.random.Generator], Iterator[Episode]], size: int) -> None:
        super().__init__(draw)
        self.size = size

    def __len__(self) -> int:
        return self.size


class Batches(Generic[T]):
    """A dataloader over batches at hand; Lightning would take a plain list for a list of dataloaders."""

    def __init__(self, batches: Sequence[T]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[T]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)
