"""Intervals: between which two numbers a metric lies with a confidence of 95 %, as far as its windows tell.

Windows of one recording are alike, so they tell less than as many independent ones: an interval is rather too
narrow than too wide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]
"""The lower and the upper end."""
DEVIATIONS = 1.959963984540054
"""Of a normal distribution, on both sides of its mean: 95 % lie between."""
RESAMPLES = 200
"""Of a bootstrap: enough for ends that are right to a tenth of the interval's length."""


def of_rate(hits: int, count: int) -> Interval:
    """Wilson's interval of a rate, which holds for rates near 0 and 1 and for few windows too.

    Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    https://doi.org/10.1080/01621459.1927.10502953

    >>> [round(end, 3) for end in of_rate(10, 10)]  # 0.722 in tables
    [0.722, 1.0]

    Args:
        hits: windows that count, of `count`, which is above 0.
        count: how many there are.
    """
    square = DEVIATIONS**2
    middle = (hits + square / 2) / (count + square)
    half = DEVIATIONS / (count + square) * math.sqrt(hits * (count - hits) / count + square / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def of_mean_rate(rates: Sequence[tuple[int, int]]) -> Interval:
    """The interval of the mean of independent rates, such as a balanced accuracy: the recalls' own, put together.

    Zou and Donner, Construction of confidence limits about effect measures, 2008. https://doi.org/10.1002/sim.3095

    >>> of_mean_rate([(10, 10)]) == of_rate(10, 10)
    True

    Args:
        rates: hits and count of each.
    """
    means = [hits / count for hits, count in rates]
    ends = [of_rate(hits, count) for hits, count in rates]
    mean = sum(means) / len(means)
    below = math.hypot(*(m - low for m, (low, _) in zip(means, ends, strict=True))) / len(means)
    above = math.hypot(*(high - m for m, (_, high) in zip(means, ends, strict=True))) / len(means)
    return max(0.0, mean - below), min(1.0, mean + above)


def by_resampling(metric: Callable[[NDArray[np.intp]], float], group: NDArray[np.integer]) -> Interval | None:
    """The bootstrap's interval of any metric; None where it is not finite for some of the windows.

    Efron, Bootstrap methods: another look at the jackknife, 1979. https://doi.org/10.1214/aos/1176344552

    Args:
        metric: of the windows with these places, which repeat.
        group: which group each window is of, such as its class, (N,): each is drawn from by itself, so that none
            is ever without windows.
    """
    rng = np.random.default_rng(0)
    groups = [np.flatnonzero(group == each) for each in np.unique(group)]
    found = [metric(np.concatenate([rng.choice(own, len(own)) for own in groups])) for _ in range(RESAMPLES)]
    if not np.isfinite(found).all():
        return None
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)
