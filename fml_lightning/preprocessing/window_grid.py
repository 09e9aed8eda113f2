"""The window grid: where windows lie in a stretch of samples, which may be resampled before it is cut."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fml_lightning.preprocessing.resampling import Resampling
from fml_lightning.preprocessing.windowing import Windowing


@dataclass(frozen=True)
class WindowGrid:
    """Windows of a resampled signal, a hop apart; places are in ticks of the signal as it came (`Resampling`)."""

    windowing: Windowing
    """Length and hop in samples of the resampled signal."""
    resampling: Resampling
    """How the signal is resampled."""

    @cached_property
    def tick(self) -> int:
        """Ticks per sample of the signal."""
        return self.resampling.up

    @cached_property
    def hop(self) -> int:
        """Ticks from one window's begin to the next one's."""
        return self.windowing.hop * self.resampling.down

    @cached_property
    def length(self) -> int:
        """Ticks that a window lasts."""
        return self.windowing.length * self.resampling.down

    @cached_property
    def before(self) -> int:
        """Samples before a window that its first sample is made of."""
        return -(-self.resampling.reach // self.tick)

    @cached_property
    def last(self) -> int:
        """Ticks from a window's begin to its last sample."""
        return self.length - self.resampling.down

    def end(self, begin: int) -> int:
        """The sample at which all is there that the window which begins at a tick is made of."""
        return (begin + self.last + self.resampling.reach) // self.tick + 1

    def count(self, samples: int, begin: int, has_ended: bool) -> int:
        """How many windows there are.

        Args:
            samples: of the signal.
            begin: tick of the first window's begin.
            has_ended: whether the signal goes on nowhere: then its last samples are resampled as if 0 followed.
        """
        end = samples * self.tick - (0 if has_ended else self.resampling.reach)
        return max(0, (end - 1 - self.last - begin) // self.hop + 1)

    def cut(self, samples: NDArray[np.float32], begin: int, count: int) -> NDArray[np.float32]:
        """So many windows of a signal from a tick on, (n,) → (`count`, length); as views, if they can be."""
        if not count:
            return np.empty((0, self.windowing.length), np.float32)
        wanted = self.windowing.length + (count - 1) * self.windowing.hop
        return self.windowing.cut(self.resampling.part(samples, begin, wanted))
