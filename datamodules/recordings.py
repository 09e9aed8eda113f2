"""Recordings: what a machine's sensor measured under one label and one operating condition."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Recording:
    """A gap-free stretch of one channel at one machine, under one label and one operating condition."""

    machine: str
    condition: str
    label: int
    """Index into the fleet's classes."""
    sample_rate: float
    """Hz."""
    values: NDArray[np.float32]
    """Samples, (n,), in the sensor's unit."""
