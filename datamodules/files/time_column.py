"""A column of times: the sample rate that follows from it, and its gaps."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fml_lightning.errors import UserError

GAP = 1.5
"""Steps in time longer than so many usual ones are gaps."""
JITTER = 0.5
"""Share of the usual step in time that a step has at least."""
PIECES = 10
"""Parts of a column whose sample rates have to agree."""
DRIFT = 0.02
"""Share by which they may differ."""


class Steady(NamedTuple):
    """What a column of times tells."""

    stretches: list[slice]
    """The rows without a gap between them, in order."""
    sample_rate: float | None
    """Hz, to 6 digits; None of a single row."""


def find_stretches(seconds: NDArray[np.float64], where: Callable[[int], str], column: str) -> Steady:
    """The stretches without a gap of a column of times, and the sample rate of them all.

    Args:
        seconds: times, (n,), n ≥ 1.
        where: what messages call a row.
        column: what messages call the column, and the file.

    Raises:
        UserError: a time is missing, is not later than the one before, or the steps are too uneven.

    >>> find_stretches(np.array([0.0, 0.1, 0.2, 5.0, 5.1]), str, "t").stretches
    [slice(0, 3, None), slice(3, 5, None)]
    """
    if not (known := np.isfinite(seconds)).all():
        raise UserError(f"{column}: expected a time in each row, got none in {where(int(np.argmin(known)))}")
    steps = np.diff(seconds)
    if not len(steps):
        return Steady([slice(0, len(seconds))], None)
    if steps.min() <= 0:
        row = int(np.argmax(steps <= 0))
        raise UserError(
            f"{column}: expected times that increase, got {seconds[row + 1]:.12g} s in {where(row + 1)} after"
            f" {seconds[row]:.12g} s; sort the rows, or give sample_rate in place of time if the clock is coarse"
        )
    usual = float(np.median(steps))
    is_gap = steps > GAP * usual
    if steps.min() < JITTER * usual:
        row = int(np.argmax(steps < JITTER * usual))
        raise UserError(
            f"{column}: expected steps of about {usual:.6g} s, got {steps[row]:.6g} s up to {where(row + 1)}; give"
            " sample_rate in place of time if only the clock is uneven"
        )
    mean = float(steps[~is_gap].mean())
    borders = np.linspace(0, len(steps), min(PIECES, len(steps) // 100) + 1).astype(int)
    for begin, end in pairwise(borders.tolist()):
        here = steps[begin:end][~is_gap[begin:end]]
        if len(here) and abs(here.mean() / mean - 1) > DRIFT:
            raise UserError(
                f"{column}: expected one sample rate, {1 / mean:.6g} Hz, got {1 / here.mean():.6g} Hz from"
                f" {where(begin)} to {where(end)}; part the file, or give sample_rate in place of time"
            )
    ends = [*(np.flatnonzero(is_gap) + 1).tolist(), len(seconds)]
    stretches = [slice(begin, end) for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
    return Steady(stretches, float(f"{1 / mean:.6g}"))
