"""Windowing: signals split by time first and cut second, so that no sample is on both sides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fml_lightning.errors import UserError


@dataclass(frozen=True)
class Windowing:
    """How a recording becomes windows."""

    length: int = 2048
    """Samples per window, at least 1."""
    hop: int = 1024
    """Samples from one window's start to the next one's, at least 1; below `length`, windows overlap."""
    early_share: float = 0.5
    """Share of each recording, from its start, that training and support sets come from, in (0, 1). The rest,
    after a gap of one window, is for the query sets of validation, test and personalization."""

    def __post_init__(self) -> None:
        if self.length < 1 or self.hop < 1 or not 0 < self.early_share < 1:
            raise UserError(f"Windowing: expected length >= 1, hop >= 1 and 0 < early_share < 1, got {self}")

    def cut(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """All whole windows of a stretch, as a view: (n,) → (windows, length).

        >>> Windowing(length=4, hop=2).cut(np.arange(7, dtype=np.float32))
        array([[0., 1., 2., 3.],
               [2., 3., 4., 5.]], dtype=float32)
        """
        if len(values) < self.length:
            return np.empty((0, self.length), np.float32)
        (step,) = values.strides
        shape = ((len(values) - self.length) // self.hop + 1, self.length)
        # Of a short stretch, `sliding_window_view` would take most of the time.
        return np.lib.stride_tricks.as_strided(values, shape, (self.hop * step, step), writeable=False)

    def sides(self, samples: int) -> tuple[slice, slice]:
        """The early and the late part of a recording of so many samples; one window's length lies between them.

        >>> Windowing(length=10, early_share=0.5).sides(100)
        (slice(0, 50, None), slice(60, 100, None))
        """
        middle = int(samples * self.early_share)
        return slice(0, middle), slice(min(middle + self.length, samples), samples)
