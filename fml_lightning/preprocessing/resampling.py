"""Resampling: a signal at another sample rate, by a polyphase filter against aliases; all of it, or a part."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

ZEROS = 10
"""Zero crossings of the filter on either side of its middle, as of `scipy.signal.resample_poly`."""


@dataclass(frozen=True)
class Resampling:
    """A sample rate times `up` over `down`, two numbers without a common divisor.

    Times within a signal are counted in *ticks*, of which a sample has `up`: sample i of the signal is at tick
    i · `up`, and sample k of the resampled signal at tick k · `down`.
    """

    up: int = 1
    down: int = 1

    @cached_property
    def is_identity(self) -> bool:
        """Whether the sample rate stays as it is."""
        return self.up == self.down

    @cached_property
    def reach(self) -> int:
        """Ticks from a resampled sample to the farthest samples that it is made of."""
        return 0 if self.is_identity else ZEROS * max(self.up, self.down)

    @cached_property
    def taps(self) -> NDArray[np.float32]:
        """The filter, a tap for each tick, (2 · `reach` + 1,); that of `scipy.signal.resample_poly`."""
        from scipy.signal import firwin

        taps = firwin(2 * self.reach + 1, 1 / max(self.up, self.down), window=("kaiser", 5.0))
        return np.asarray(taps, np.float32) * np.float32(self.up)

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """All of a signal, (C, n) → (C, ⌈n · up / down⌉), as if it were 0 before its begin and after its end."""
        if self.is_identity:
            return values
        from scipy.signal import resample_poly

        return np.asarray(resample_poly(values, self.up, self.down, axis=1), np.float32)

    def part(self, values: NDArray[np.float32], begin: int, count: int) -> NDArray[np.float32]:
        """A part of one channel, (n,) → (`count`,): what the same samples are of the whole signal, resampled.

        Samples that `values` lacks on either side count as 0, as they do of a whole signal.

        >>> Resampling().part(np.arange(5, dtype=np.float32), 1, 3).tolist()
        [1.0, 2.0, 3.0]

        Args:
            values: samples of the signal.
            begin: tick, from the first of these samples on, of the first one to compute.
            count: how many to compute.
        """
        if self.is_identity:
            return values[begin : begin + count]
        from scipy.signal import upfirdn

        first = max(0, (begin - self.reach) // self.up)
        last = (begin + (count - 1) * self.down + self.reach) // self.up
        middle = self.reach + begin - first * self.up  # the tick of the filtered signal at which `begin` is
        shift = -middle % self.down  # so that it is one of those that are kept
        taps = np.concatenate([np.zeros(shift, np.float32), self.taps])
        filtered = upfirdn(taps, values[first : last + 1], self.up, self.down)
        skip = (middle + shift) // self.down
        return np.asarray(filtered[skip : skip + count], np.float32)
