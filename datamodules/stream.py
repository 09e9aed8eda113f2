"""A stream: episodes drawn anew whenever a dataloader is iterated."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from fml_lightning.types import Episode


class Stream:
    """A dataloader of episodes, each time from a fresh generator that torch's global one seeds.

    Args:
        draw: the episodes, from a generator.
    """

    def __init__(self, draw: Callable[[np.random.Generator], Iterator[Episode]]) -> None:
        self.draw = draw

    def __iter__(self) -> Iterator[Episode]:
        return self.draw(np.random.default_rng(int(torch.randint(2**62, ()))))


class SizedStream(Stream):
    """A stream that knows how many episodes it draws.

    Args:
        draw: the episodes, from a generator.
        size: how many.
    """

    def __init__(self, draw: Callable[[np.random.Generator], Iterator[Episode]], size: int) -> None:
        super().__init__(draw)
        self.size = size

    def __len__(self) -> int:
        return self.size
