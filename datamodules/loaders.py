"""Dataloaders: episodes drawn anew whenever they are iterated, and batches at hand.

They hold no lambda of their own, so that they pickle wherever what they draw from does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from fml_lightning.types import Episode

T = TypeVar("T")

MakeGenerator = Callable[[int], np.random.Generator]
"""Makes a generator for a process of this rank among those that train together."""


def common_generator(rank: int = 0) -> np.random.Generator:
    """A generator that torch's global one seeds, whatever the rank: for validation and test.

    Processes that train together (`strategy: ddp`) are seeded alike, so all evaluate the same episodes, and
    the metrics of each are those of a process alone.
    """
    return np.random.default_rng(_seed())


def own_generator(rank: int = 0) -> np.random.Generator:
    """A generator that torch's global one and the rank seed: for training.

    Of processes that train together, which are seeded alike, each draws other episodes; the first draws those that
    it would draw alone.
    """
    seed = _seed()
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(rank,)) if rank else seed)


def _seed() -> int:
    return int(torch.randint(2**62, ()))


def _rank() -> int:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if distributed else 0


class EpisodeLoader:
    """A dataloader of episodes, each time from a fresh generator.

    Args:
        draw: the episodes, from a generator.
        generator: makes the generator from the rank of the process; `common_generator` makes the same for all
            ranks, for episodes that are no training.
    """

    def __init__(
        self,
        draw: Callable[[np.random.Generator], Iterator[Episode]],
        generator: MakeGenerator = own_generator,
    ) -> None:
        self.draw = draw
        self.generator = generator
        self._parent_rank = 0

    def __iter__(self) -> Iterator[Episode]:
        return self.draw(self.generator(max(_rank(), self._parent_rank)))

    def __getstate__(self) -> dict[str, Any]:
        """With this process's rank, which a worker of a torch DataLoader does not know if it is spawned."""
        return {**vars(self), "_parent_rank": max(_rank(), self._parent_rank)}


class SizedEpisodeLoader(EpisodeLoader):
    """An `EpisodeLoader` that knows how many episodes it draws.

    Args:
        draw: the episodes, from a generator.
        size: how many.
        generator: makes the generator from the rank of the process; `common_generator` makes the same for all
            ranks, for episodes that are no training.
    """

    def __init__(
        self,
        draw: Callable[[np.random.Generator], Iterator[Episode]],
        size: int,
        generator: MakeGenerator = own_generator,
    ) -> None:
        super().__init__(draw, generator)
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


class OneBatch(Generic[T]):
    """A dataloader of one batch, made anew whenever it is iterated.

    Args:
        make: makes the batch.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self.make = make

    def __iter__(self) -> Iterator[T]:
        yield self.make()

    def __len__(self) -> int:
        return 1


class Chain(Generic[T]):
    """A dataloader that iterates several one after the other; only one batch is at hand at a time.

    Args:
        loaders: dataloaders.
    """

    def __init__(self, loaders: Iterable[Iterable[T]]) -> None:
        self.loaders = list(loaders)

    def __iter__(self) -> Iterator[T]:
        return chain.from_iterable(self.loaders)
