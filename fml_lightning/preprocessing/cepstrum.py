"""The cepstrum: what repeats in the logarithm of a spectrum, such as a family of harmonics or sidebands.

Bogert, Healy and Tukey, The quefrency alanysis of time series for echoes, 1963; Randall, A history of cepstrum
analysis and its application to mechanical problems, Mechanical Systems and Signal Processing 97, 2017,
https://doi.org/10.1016/j.ymssp.2016.12.026.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fml_lightning.errors import UserError
from fml_lightning.preprocessing.envelope import batches, largest
from fml_lightning.preprocessing.features import Column, Features
from fml_lightning.preprocessing.shaft_speed import check_speed, speeds_of

FLOOR = 1e-6
"""Least amplitude, as a share of the spectrum's mean: below it lines are rounding noise."""


class Cepstrum(Features):
    """The real cepstrum in bins of equal width in revolutions of the shaft; the largest value of each bin.

    A family of lines that are k orders apart stands at 1 / k revolutions. Windows whose speed is not known or
    whose `longest` is more than half of the window, and windows that are silent or not finite, have NaN.

    Args:
        shortest: revolutions in the middle of the first bin.
        longest: revolutions in the middle of the last bin.
        points: number of bins.
        speed: of the shaft, Hz; none: told of every window.
    """

    def __init__(
        self, shortest: float = 0.05, longest: float = 1.2, points: int = 128, speed: float | None = None
    ) -> None:
        check_speed(speed, "Cepstrum")
        if not (0 < shortest < longest < np.inf and points >= 2):
            raise UserError(
                f"Cepstrum: expected 0 < shortest < longest and points >= 2, got {shortest}, {longest} and"
                f" {points}"
            )
        self.shortest = shortest
        self.longest = longest
        self.points = points
        self.speed = speed
        self.needs = ("speed",) if speed is None else ()

    def columns(self, length: int, sample_rate: float) -> list[Column]:
        """`cepstrum_REVOLUTIONS`."""
        return [Column(f"cepstrum_{at:.6g}", "1") for at in self.grid()]

    def __call__(
        self, windows: NDArray[np.float32], sample_rate: float, told: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """(n, W) → (n, points)."""
        import torch

        speeds = speeds_of(windows, self.speed, told, "Cepstrum")
        length = windows.shape[1]
        taper = np.hanning(length).astype(np.float32)
        edges = self.edges()
        table = np.full((len(windows), self.points), np.nan, np.float32)
        for some in batches(len(windows)):
            x = windows[some].astype(np.float64)  # logs of lines that are all but empty show every rounding
            x[np.isnan(largest(np.require(windows[some], np.float32, ["C", "W"])))] = np.nan
            x -= x.mean(1, keepdims=True)
            amplitude = torch.fft.rfft(torch.from_numpy(x * taper)).abs()
            logs = torch.log(amplitude + FLOOR * amplitude.mean(1, keepdim=True))
            values = torch.fft.irfft(logs, length).numpy()  # (n, W) over samples
            for row, speed in enumerate(speeds[some]):
                if edges[-1] * sample_rate < speed * length / 2:
                    at = np.maximum(np.ceil(edges * sample_rate / speed).astype(np.intp), 1)
                    table[some][row] = np.maximum.reduceat(values[row, : at[-1] + 1], at[:-1])
        table[~np.isfinite(table).all(1)] = np.nan
        return table

    def grid(self) -> NDArray[np.float64]:
        """Revolutions in the middle of the bins, (points,)."""
        return np.linspace(self.shortest, self.longest, self.points)

    def edges(self) -> NDArray[np.float64]:
        """Revolutions at the borders of the bins, (points + 1,)."""
        grid = self.grid()
        half = (grid[1] - grid[0]) / 2
        return np.append(grid - half, grid[-1] + half)
