"""The past of a number that is measured for ever, in a bounded number of points: the older, the coarser."""

from __future__ import annotations

import msgspec


class Past(msgspec.Struct):
    """Points of time and mean; of more than `most` the older half is joined in pairs.

    >>> past = Past(4)
    >>> for at in range(6):
    ...     past.add(at, float(at))
    >>> past.points()
    ((0, 1.0), (3, 3.0), (4, 4.0), (5, 5.0))
    """

    most: int
    times: list[int] = []
    """µs since 1970, of each point's first value."""
    means: list[float] = []
    counts: list[int] = []
    """Values of each mean."""

    def add(self, time: int, value: float) -> None:
        """Add a value."""
        self.times.append(time)
        self.means.append(value)
        self.counts.append(1)
        if len(self.times) > self.most:
            self._join()

    def points(self) -> tuple[tuple[int, float], ...]:
        """Times and means, oldest first."""
        return tuple(zip(self.times, self.means, strict=True))

    def _join(self) -> None:
        end = max(2, len(self.times) // 4 * 2)
        times, means, counts = [], [], []
        for i in range(0, end, 2):
            count = self.counts[i] + self.counts[i + 1]
            total = self.means[i] * self.counts[i] + self.means[i + 1] * self.counts[i + 1]
            times.append(self.times[i])
            means.append(total / count)
            counts.append(count)
        self.times[:end], self.means[:end], self.counts[:end] = times, means, counts
