"""The spectrum of a machine's newest windows beside that of its first calm ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from fml_lightning.preprocessing.shaft_speed import SPEED

LINES = 512
"""Frequencies of a spectrum, at most."""
NEWEST = 0.2
"""Share of the newest window in the mean of the newest ones."""
FLOOR = 1e-12
"""The power of silence: -120 dB."""


class Spectra(msgspec.Struct):
    """Mean powers of the first channel; its windows are tapered (Hann)."""

    step: float = 0.0
    """Hz from one frequency to the next; the first is that many Hz."""
    newest: list[float] = []
    baseline: list[float] = []
    count: int = 0
    """Windows in the baseline."""
    ORDERS: ClassVar = ("bpfo", "bpfi", "bsf", "ftf")

    def add(self, window: NDArray[np.float32], sample_rate: float, is_baseline: bool) -> None:
        """Take in a window (C, W).

        Args:
            window: of the machine.
            sample_rate: Hz.
            is_baseline: whether it is one of the first ones, and calm.
        """
        power, step = _power(window[0], sample_rate)
        if not np.isfinite(power).all():
            return
        if step != self.step or len(power) != len(self.newest):
            self.step, self.newest, self.baseline, self.count = step, power.tolist(), [], 0
        mean = np.asarray(self.newest)
        self.newest = (mean + NEWEST * (power - mean)).tolist()
        if is_baseline:
            self.count += 1
            before = np.asarray(self.baseline) if self.baseline else np.zeros(len(power))
            self.baseline = (before + (power - before) / self.count).tolist()

    def frequencies(self) -> tuple[float, ...]:
        """Hz."""
        return tuple(round(self.step * (i + 1), 3) for i in range(len(self.newest)))

    @staticmethod
    def decibels(power: list[float]) -> tuple[float, ...]:
        """Powers in dB."""
        return tuple(np.round(10 * np.log10(np.maximum(np.asarray(power), FLOOR)), 2).tolist())

    @classmethod
    def fault_lines(cls, told: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
        """Where faults of a bearing would show, from its orders and the shaft's speed (Hz), as far as told."""
        speed = told.get(SPEED, 0.0)
        return tuple((name.upper(), told[name] * speed) for name in cls.ORDERS if name in told and speed > 0)


def _power(samples: NDArray[np.float32], sample_rate: float) -> tuple[NDArray[np.float64], float]:
    """The power at evenly spaced frequencies, and the step from one to the next, Hz."""
    taper = np.hanning(len(samples) + 2)[1:-1]
    lines = np.abs(np.fft.rfft((samples - samples.mean()) * taper))[1:] ** 2 / np.square(taper).sum()
    joined = max(1, -(-len(lines) // LINES))
    whole = len(lines) // joined * joined
    return lines[:whole].reshape(-1, joined).mean(1), sample_rate / len(samples) * joined
