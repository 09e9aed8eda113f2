"""The block: samples of one channel that a machine sent together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Block(NamedTuple):
    """Samples of one channel that a machine sent together."""

    time: int
    """Time of the first sample, µs since 1970, UTC."""
    sample_rate: float
    """Hz."""
    values: NDArray[np.float32]
    """Samples in the sensor's unit, (n,), n ≥ 1."""
    timed: bool = True
    """False: the device sends no time, and `time` is when the block was received."""
    source: str = ""
    """Who sent it, where several devices are one machine, such as before and after a change of its name."""
