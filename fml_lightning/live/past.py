"""The past of a number that is measured for ever, in a bounded number of points."""

from __future__ import annotations

import msgspec


class Past(msgspec.Struct):
    """All of it, the older the coarser: a point stands for at most a small share of the values after it.

    So the last hour, the last day and the last year are all seen with some hundred points each.

    >>> past = Past(8)
    >>> for at in range(13):
    ...     past.add(at, float(at))
    >>> past.points()
    ((0, 2.0), (5, 6.5), (9, 9.5), (11, 11.0), (12, 12.0))
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
            self._thin()

    def points(self) -> tuple[tuple[int, float], ...]:
        """Times and means in order of time, also where the machine's clock was set back."""
        return tuple(sorted(zip(self.times, self.means, strict=True)))

    def _thin(self) -> None:
        """Free a quarter of the room."""
        share = 4 / self.most
        while len(self.times) > 3 * self.most // 4:
            share *= 2
            self._join(share)

    def _join(self, share: float) -> None:
        """Join neighbours as long as a point has at most this share of the values after it."""
        times, means, counts = [self.times[-1]], [self.means[-1]], [self.counts[-1]]  # newest first
        after = 0
        for time, mean, count in zip(self.times[-2::-1], self.means[-2::-1], self.counts[-2::-1], strict=True):
            together = counts[-1] + count
            if together <= share * after:
                times[-1] = time
                means[-1] += (mean - means[-1]) * count / together
                counts[-1] = together
            else:
                after += counts[-1]
                times.append(time)
                means.append(mean)
                counts.append(count)
        self.times, self.means, self.counts = times[::-1], means[::-1], counts[::-1]


class Trend(msgspec.Struct):
    """Its last hours, in means of equally many values: of one at first, of twice as many once there is no room.

    >>> trend = Trend(4)
    >>> for at in range(6):
    ...     trend.add(at, float(at))
    >>> trend.points()
    ((0, 0.5), (2, 2.5), (4, 4.5))
    """

    most: int
    """Points; even."""
    span: int = 8 * 3_600_000_000
    """µs after which a point is forgotten: a shift."""
    times: list[int] = []
    """µs since 1970, of each point's first value."""
    means: list[float] = []
    size: int = 1
    """Values of each mean but the last, which may have fewer."""
    newest: int = 0
    """Values of the last mean."""

    def add(self, time: int, value: float) -> None:
        """Add a value."""
        while self.times and abs(time - self.times[0]) > self.span:  # a clock may have been set, so on both sides
            del self.times[0], self.means[0]
        if not self.times:
            self.size = 1
        if self.times and self.newest < self.size:
            self.newest += 1
            self.means[-1] += (value - self.means[-1]) / self.newest
            return
        if len(self.times) == self.most:
            self.times = self.times[::2]
            self.means = [(one + other) / 2 for one, other in zip(self.means[::2], self.means[1::2], strict=True)]
            self.size *= 2
        self.times.append(time)
        self.means.append(value)
        self.newest = 1

    def points(self) -> tuple[tuple[int, float], ...]:
        """Times and means in order of time, also where the machine's clock was set back."""
        return tuple(sorted(zip(self.times, self.means, strict=True)))
