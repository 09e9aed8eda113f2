"""Windowing: how long windows are, and how far apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fml_lightning.errors import UserError


@dataclass(frozen=True)
class Windowing:
    """How a stretch of samples becomes windows."""

    length: int = 2048
    """Samples per window, at least 1."""
    hop: int = 1024
    """Samples from one window's start to the next one's, at least 1; below `length`, windows overlap."""
    seconds: float | None = None
    """Length in seconds, in place of `length`."""
    hop_seconds: float | None = None
    """Hop in seconds, in place of `hop`; with `seconds` alone, half of them."""

    def __post_init__(self) -> None:
        durations = [value for value in (self.seconds, self.hop_seconds) if value is not None]
        if self.length < 1 or self.hop < 1 or not all(0 < value < math.inf for value in durations):
            raise UserError(f"Windowing: expected length >= 1, hop >= 1 and seconds above 0, got {self}")
        if self.seconds is None and self.hop_seconds is not None:
            raise UserError("Windowing: expected hop_seconds with seconds, got it alone; give hop, or seconds too")

    def at(self, sample_rate: float) -> Windowing:
        """The same in samples, of which there are `sample_rate` in a second; to the nearest one.

        >>> Windowing(seconds=0.5).at(100.0)
        Windowing(length=50, hop=25, seconds=None, hop_seconds=None)
        """
        if self.seconds is None:
            return self
        hop = self.seconds / 2 if self.hop_seconds is None else self.hop_seconds
        return Windowing(max(1, round(self.seconds * sample_rate)), max(1, round(hop * sample_rate)))

    def cut(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """All whole windows of a stretch, as a view: (…, n) → (windows, …, length).

        >>> Windowing(length=4, hop=2).cut(np.arange(7, dtype=np.float32))
        array([[0., 1., 2., 3.],
               [2., 3., 4., 5.]], dtype=float32)
        """
        *channels, samples = values.shape
        if samples < self.length:
            return np.empty((0, *channels, self.length), np.float32)
        *others, step = values.strides
        shape = ((samples - self.length) // self.hop + 1, *channels, self.length)
        # Of a short stretch, `sliding_window_view` would take most of the time.
        return np.lib.stride_tricks.as_strided(values, shape, (self.hop * step, *others, step), writeable=False)
