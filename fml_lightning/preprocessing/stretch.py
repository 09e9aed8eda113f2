"""The stretch: blocks of one channel that follow one another without a gap, and the windows cut from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from fml_lightning.preprocessing.block import Block
from fml_lightning.preprocessing.packed import Packed
from fml_lightning.preprocessing.window_grid import WindowGrid

SECOND = 1_000_000
"""µs."""
JITTER = 50_000.0
"""µs that a time stamp may be wrong by, at most, where a clock has jitter."""
SHARE = 0.125
"""The share of its deviation by which a block corrects the sample clock: with it, the clock of a stretch has about
a quarter of the jitter of its time stamps, and a drift of 100 ppm leaves it behind by 0.8 ms per second of a
block's duration."""

Count = Annotated[int, msgspec.Meta(ge=0)]
"""Of things in a state."""
Cut = tuple[NDArray[np.float32], NDArray[np.floating]]
"""Windows, (n, length), and the time of each one's first sample, µs since 1970, UTC, (n,)."""


class Kind(NamedTuple):
    """What blocks that follow one another have in common; as in `Block`."""

    sample_rate: float
    source: str
    timed: bool

    @classmethod
    def of(cls, block: Block) -> Kind:
        """The kind of a block."""
        return cls(block.sample_rate, block.source, block.timed)


class Edge(NamedTuple):
    """The begin or the end of a stretch."""

    time: float
    """When the first sample was taken or, at the end, when the next one is due, by the sample clock; µs since
    1970."""
    room: float
    """µs by which the true time may be later, where time stamps may be whole seconds; else 0."""
    stamp: int
    """The time stamp of the block at this edge, µs since 1970."""
    duration: float
    """µs that this block lasts."""


class Meeting(NamedTuple):
    """How a stretch meets the one after it."""

    time: float
    """When the first sample of the later one was taken, as far as the sample clocks of both say; µs since 1970."""
    room: float
    """µs by which the true time may be later."""
    deviation: float
    """µs by which the later one begins after it was due."""
    is_jitter: bool = False
    """Whether that is so much that only jitter explains it."""


class StretchState(msgspec.Struct, frozen=True):
    """All of a stretch but its grid, which follows from its sample rate; as plain types."""

    kind: Kind
    begin: Edge
    end: Edge
    samples: Count
    tail: Packed
    waiting: list[tuple[int, int]]
    head: Packed
    first: int | None
    next: Count
    between: Count
    is_block: bool
    has_bursts: bool


@dataclass(eq=False, slots=True)
class Stretch:
    """Blocks that follow one another; it keeps the samples that later windows need, and no others.

    Blocks may be added at its end and at its begin. Its windows lie on one grid of hops, which begins with its
    first sample until a window is cut, and goes on in both directions from then on. Where the signal is resampled,
    a window waits for the samples after it that its last ones are made of; the stretch's first window is as if 0
    came before it, as is the first one of a whole signal.
    """

    kind: Kind
    """What all its blocks are."""
    grid: WindowGrid
    """How windows are cut; places on it are in ticks, of which a sample has one unless it is resampled."""
    begin: Edge
    end: Edge
    samples: int
    """How many it consists of."""
    tail: NDArray[np.float32]
    """Its last samples, from the first that the next window is made of; fewer than a window's."""
    waiting: list[tuple[int, int]]
    """Begin and end, in samples since the stretch's begin, of each block of which no sample is in a window yet."""
    head: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    """The samples up to the last that the first window is made of; empty until there is one."""
    first: int | None = None
    """Where the first window begins, in ticks from the begin of `head`; None until there is one."""
    next: int = 0
    """Where the next window begins, in ticks from the begin of `tail`, or of what follows it."""
    between: int = 0
    """Blocks that lie between two windows, where hop exceeds length."""
    is_block: bool = True
    """Whether it is one block still."""
    has_bursts: bool = False
    """Whether several blocks had one and the same time stamp."""

    @classmethod
    def of(cls, block: Block, grid: WindowGrid) -> Stretch:
        """A stretch of one block."""
        n = len(block.values)
        duration = n * 1e6 / block.sample_rate
        room = _room(block.time, duration)
        return cls(
            kind=Kind.of(block),
            grid=grid,
            begin=Edge(float(block.time), room, block.time, duration),
            end=Edge(block.time + duration, room, block.time, duration),
            samples=n,
            tail=block.values,
            waiting=[(0, n)],
        )

    @classmethod
    def restored(cls, state: StretchState, grid: WindowGrid) -> Stretch:
        """The stretch that a state is of.

        Raises:
            ValueError: it is none.
        """
        return cls(
            kind=state.kind,
            grid=grid,
            begin=state.begin,
            end=state.end,
            samples=state.samples,
            tail=state.tail.array(np.float32),
            waiting=list(state.waiting),
            head=state.head.array(np.float32),
            first=state.first,
            next=state.next,
            between=state.between,
            is_block=state.is_block,
            has_bursts=state.has_bursts,
        )

    def state(self) -> StretchState:
        """All of it but its grid."""
        return StretchState(
            kind=self.kind,
            begin=self.begin,
            end=self.end,
            samples=self.samples,
            tail=Packed.of(self.tail),
            waiting=list(self.waiting),
            head=Packed.of(self.head),
            first=self.first,
            next=self.next,
            between=self.between,
            is_block=self.is_block,
            has_bursts=self.has_bursts,
        )

    @property
    def held(self) -> int:
        """Samples that it keeps."""
        return len(self.head) + len(self.tail)

    def meets(self, later: Stretch, has_jitter: bool | None) -> Meeting | None:
        """How another stretch follows this one without a gap; None if it does not.

        It does if it is of the same kind and begins when this one's next sample is due. Of that, an exact clock's
        stamp differs by 1 ms, 1.5 samples or 0.1 % of the earlier block's duration, whichever is most; where the
        clock has jitter, also by `JITTER`. It never differs by half of the shorter block's duration: a block that
        is lost between makes a difference of all of its duration. Jitter alone explains a block that begins too
        early. One that begins too late may come after lost samples: that is taken for jitter where the clock is
        known to have some or, where nothing is known of it, if no whole number of samples explains it.

        Where a clock drifts so fast that the sample clock cannot keep up, it is enough that the stamp differs as
        an exact one from the stamp before. Where devices send no time, half of the earlier block's duration is
        allowed.

        Blocks with one and the same time stamp follow one another as they come. Where stamps are whole seconds
        because the clock knows no parts of one, a block follows if it was due within that second. One stamp does
        not tell such a clock from one that is exact; blocks that share a stamp, or last a second or more, do.

        Args:
            later: the other stretch.
            has_jitter: whether the clock has jitter; None where that is not known.
        """
        if self.kind != later.kind:
            return None
        end, begin = self.end, later.begin
        if end.stamp == begin.stamp and self.kind.timed and later.is_block:
            return Meeting(end.time, end.room, 0.0)
        period = 1e6 / self.kind.sample_rate
        exact = max(1000.0, 1.5 * period, end.duration / 1000)
        most = min(end.duration, begin.duration) / 2 if self.kind.timed else max(exact, end.duration / 2)
        low, high, to = end.time, end.time, begin.time
        if end.room and begin.room and (self.has_bursts or later.has_bursts or end.duration >= SECOND):
            high, to = end.time + end.room, begin.time + begin.room
            if low <= to and begin.time <= high:
                time = max(low, begin.time)
                return Meeting(time, min(high, to) - time, 0.0)
        due, deviation = (high, begin.time - high) if begin.time > high else (low, to - low)
        share = SHARE if later.is_block else 1 - SHARE if self.is_block else 0.5
        time = due + share * deviation
        if abs(deviation) >= most:
            return None
        if abs(deviation) <= exact or not self.kind.timed:
            return Meeting(time, 0.0, deviation)
        if abs(begin.time - (end.stamp + end.duration)) <= exact:
            return Meeting(begin.time, 0.0, deviation)
        whole_samples = abs(deviation - period * round(deviation / period)) <= 1
        explained = deviation < 0 or has_jitter or (has_jitter is None and not whole_samples)
        if explained and abs(deviation) <= JITTER:
            return Meeting(time, 0.0, deviation, is_jitter=True)
        return None

    def go_on(self, block: Block) -> Cut | None:
        """Take in a block that begins when the next sample is due, within 1 ms, as most do; None if it does not.

        It is what `meets` and `absorb` would do, in half the time.
        """
        end = self.end
        deviation = block.time - end.time
        n = len(block.values)
        duration = n * 1e6 / block.sample_rate
        if (
            not -1000 <= deviation <= 1000
            or abs(deviation) >= min(duration, end.duration) / 2
            or self.kind != (block.sample_rate, block.source, block.timed)
            or end.stamp == block.time
        ):
            return None
        room = 0.0
        if end.room and block.time % SECOND == 0:
            if deviation:
                return None
            if self.has_bursts or end.duration >= SECOND:
                room = min(end.room, _room(block.time, duration))
        self.waiting.append((self.samples, self.samples + n))
        self.samples += n
        self.end = Edge(end.time + SHARE * deviation + duration, room, block.time, duration)
        self.is_block = False
        self.tail = np.concatenate([self.tail, block.values])
        return self.cut()

    def cut(self, has_ended: bool = False) -> Cut:
        """The windows at its end that are not cut yet.

        Args:
            has_ended: whether no block will go on with it, as far as is known: then its last window does not wait
                for the samples after it.
        """
        grid, samples, begin = self.grid, self.tail, self.next
        count = grid.count(len(samples), begin, has_ended)
        if not count and grid.hop <= grid.length:
            return grid.cut(samples, begin, 0), np.empty(0)
        windows = grid.cut(samples, begin, count)
        following = begin + grid.hop * count
        kept_from = min(len(samples), max(0, following // grid.tick - grid.before))
        self.tail, self.next = samples[kept_from:].copy(), following - kept_from * grid.tick
        if self.first is None and count:
            self.first, self.head = begin, samples[: grid.end(begin)].copy()
        self._wait((self.samples - len(samples)) * grid.tick + begin, count)
        starts = (begin + grid.hop * np.arange(count)) / grid.tick - len(samples)
        return windows, self.end.time + starts * (1e6 / self.kind.sample_rate)

    def absorb(self, later: Stretch, meeting: Meeting) -> Cut:
        """Take in a stretch that follows this one, and cut the windows that both have samples of.

        Where the later one has windows and this one has none, its grid goes on backwards. Where both have windows,
        this one's grid goes on until the later one's begins, so that no sample between is left out.
        """
        behind, before = len(self.tail), self.samples
        self.waiting += [(begin + before, end + before) for begin, end in later.waiting]
        self.samples += later.samples
        self.between += later.between
        if self.is_block and not later.is_block:
            self.begin = Edge(meeting.time - self.begin.duration, meeting.room, *self.begin[2:])
        shares_stamp = later.is_block and self.end.stamp == later.end.stamp
        self.has_bursts |= later.has_bursts or shares_stamp
        self.end = later.end
        if later.is_block:
            self.end = Edge(meeting.time + later.end.duration, meeting.room, *later.end[2:])
        self.is_block = False
        if later.first is None:
            self.tail = np.concatenate([self.tail, later.tail])
            return self.cut()

        grid, samples = self.grid, np.concatenate([self.tail, later.head])
        to = behind * grid.tick + later.first  # where the later one's windows begin
        begin = to % grid.hop if self.first is None else self.next
        count = max(0, -((begin - to) // grid.hop))  # of those that begin before
        windows = grid.cut(samples, begin, count)
        self.tail, self.next = later.tail, later.next
        if self.first is None:
            self.first = begin if count else to
            self.head = samples[: grid.end(self.first)].copy()
        self._wait((before - behind) * grid.tick + begin, count)
        starts = (begin + grid.hop * np.arange(count)) / grid.tick - behind
        return windows, meeting.time + starts * (1e6 / self.kind.sample_rate)

    def _wait(self, start: int, windows: int) -> None:
        """Find out which blocks still wait for a window after new ones were cut.

        Args:
            start: where the first new window begins, in ticks since the stretch's begin.
            windows: how many are new.
        """
        length, hop, tick = self.grid.length, self.grid.hop, self.grid.tick
        if self.first is None or (not windows and hop <= length):
            return
        following = (self.samples - len(self.tail)) * tick + self.next  # where the next window will begin
        last = start + hop * (windows - 1)
        left: list[tuple[int, int]] = []
        for begin, end in self.waiting:
            window = start + hop * max(
                0, (begin * tick - length - start) // hop + 1
            )  # the first that ends after it
            if windows and window < end * tick and window <= last:
                continue
            if self.first <= begin * tick and end * tick <= following:
                self.between += 1
            else:
                left.append((begin, end))
        self.waiting = left


def _room(stamp: int, duration: float) -> float:
    """µs by which the time of a block may be later than its stamp, if that is of a clock of whole seconds.

    It is so much less than a second that a block which came after a lost one of a second does not follow.
    """
    return 0.0 if stamp % SECOND else max(0.0, SECOND - 2 * min(duration / 2, JITTER))
