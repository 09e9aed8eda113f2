"""The window cutter: cuts one channel, which arrives block by block in any order, into windows.

It knows nothing of labels, and keeps only the samples that later windows need.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from fml_lightning.preprocessing.block import Block
from fml_lightning.preprocessing.covered import Covered, CoveredState
from fml_lightning.preprocessing.resampling import Resampling
from fml_lightning.preprocessing.seen import Seen, SeenState
from fml_lightning.preprocessing.stretch import JITTER, SECOND, Count, Cut, Kind, Meeting, Stretch, StretchState
from fml_lightning.preprocessing.window_grid import WindowGrid
from fml_lightning.preprocessing.windowing import Windowing

MOST_OPEN = 1024
"""Stretches of a channel that are open at most."""
HELD_WINDOWS, LEAST_WINDOWS, LEAST_HELD, MOST_HELD = 32, 6, 2**16, 2**20
"""Samples, as they came, that the open stretches of a channel keep at most: those of 32 windows, but that bound is
never below 256 KiB, nor above 4 MiB or 6 windows: a stretch keeps up to two, and blocks may change places. A
device whose blocks come as bursts, each of which is a stretch, fills it."""
NEAR = 1000.0
"""µs: if the stretch that the last block went to is so near, no other one is looked for."""
SLACK = 1000.0
"""µs that a time stamp may be rounded by."""
MOST_KINDS = 16
"""Sample rates and sources of a channel whose covered times, and whose grids, are remembered."""
NEVER = -9e18
"""µs: earlier than any time."""
ALL_LATE = 16
"""If so many blocks begin too late and none too early, it is no jitter: the device loses samples between them."""
TYPICAL = 1000
"""Gaps whose median is told."""
ENDED = 10.0
"""A stretch after which nothing has come for so many blocks' duration, and then something has, is taken to have
ended, as a burst does: its last window waits no longer for samples that resampling would need."""


def as_it_came(sample_rate: float) -> Resampling:
    """No resampling, whatever a signal's sample rate is."""
    return Resampling()


class WindowCutterState(msgspec.Struct, frozen=True):
    """All that a window cutter has learnt, as plain types."""

    held: int
    overlapping: Count
    stretches: int
    open: list[StretchState]
    """That which has waited longest first."""
    newest: StretchState | None
    untimed: StretchState | None
    lasting: list[Count]
    """Places, among the open ones and the newest after them."""
    by_stamp: list[Count]
    """Places, among the open ones, of those that are found by their stamps."""
    covered: list[tuple[Kind, CoveredState]]
    covered_to: float
    seen: SeenState
    has_jitter: bool | None
    late: Count
    longest: float
    deviations: list[float]
    waiting: Count
    between: Count


class WindowCutter:
    """Cuts the blocks of one channel into windows; no window reaches over a gap.

    Blocks may come in any order: what a device stored comes hours after what it measured since, out of order and
    twice. The cutter keeps *stretches*, blocks that follow one another without a gap (`Stretch.meets` says when
    they do). A block begins a stretch of its own, goes on with one, or joins two; the windows are those of the
    blocks in order of time where all blocks are as long as so many hops, and else some more at the joints. What a
    cutter does depends on the order of the blocks alone.

    A block that has come before is left out. Where others have covered a block's time, and none of them is the
    same, the clock was set back: the block has a stretch of its own, for nothing tells which clock is right, and
    none of its samples is lost. If all its time is covered, it is left out in two cases: another source has
    covered it, or that is so long ago that it cannot be known whether the block has come (`Seen`). Blocks without
    a device's time go by the order in which they come.

    Where blocks are resampled, each stretch is one signal, and its windows are those of the whole stretch
    resampled. Only where blocks come so late that windows after them are cut already, samples of these windows as
    near to the joint as the filter reaches are as if 0 came before.

    Beyond the samples of `HELD_WINDOWS` windows and `MOST_OPEN` stretches, the stretch that has waited for a block
    longest is closed: no block goes on with it.

    >>> cutter = WindowCutter(Windowing(length=4, hop=2))
    >>> windows, start = cutter.update(Block(0, 1000.0, np.arange(5, dtype=np.float32)))
    >>> windows.tolist(), start.tolist()
    ([[0.0, 1.0, 2.0, 3.0]], [0])
    >>> windows, start = cutter.update(Block(8000, 1000.0, np.arange(8, 12, dtype=np.float32)))
    >>> windows.tolist(), start.tolist()
    ([[8.0, 9.0, 10.0, 11.0]], [8000])
    >>> windows, start = cutter.update(Block(5000, 1000.0, np.arange(5, 8, dtype=np.float32)))
    >>> windows.tolist(), start.tolist()
    ([[2.0, 3.0, 4.0, 5.0], [4.0, 5.0, 6.0, 7.0], [6.0, 7.0, 8.0, 9.0]], [2000, 4000, 6000])

    Args:
        windowing: length and hop of the windows, in samples as they are after resampling.
        resampling: how a signal of a sample rate (Hz) is resampled.
    """

    def __init__(self, windowing: Windowing, resampling: Callable[[float], Resampling] = as_it_came) -> None:
        self.windowing = windowing
        self.held = 0
        """Samples that are kept for later windows."""
        self.overlapping = 0
        """Blocks left out because they had come before, or others had covered their time."""
        self._resampling = resampling
        self._grids: dict[float, WindowGrid] = {}  # by sample rate
        self._lasting: dict[Stretch, None] = {}  # those whose last window waits for samples to resample it
        self._stretches = 0  # that no block has joined to another one, open and closed
        self._newest: Stretch | None = None  # which the last block went to
        self._open: OrderedDict[Stretch, None] = OrderedDict()  # the others, that which has waited longest first
        self._begins, self._ends = _Moments(), _Moments()  # of these
        self._by_stamp: dict[tuple[object, int], Stretch] = {}  # by kind and by the time stamp of the last block
        self._untimed: Stretch | None = None
        self._covered: dict[Kind, Covered] = {}
        self._covered_to = NEVER  # the end of these
        self._seen = Seen()
        self._has_jitter: bool | None = None  # nothing is known yet
        self._late = 0  # blocks that began too late, as by jitter, since the last one that began too early
        self._longest = 0.0  # µs that a block lasts
        self._deviations: deque[float] = deque(maxlen=TYPICAL)
        self._waiting = self._between = 0  # of the stretches that are closed

    def state(self) -> WindowCutterState:
        """All that it has learnt, so that another one with the same arguments can go on in its place."""
        kept = [*self._open, *([self._newest] if self._newest else [])]
        places = {stretch: place for place, stretch in enumerate(kept)}
        return WindowCutterState(
            held=self.held,
            overlapping=self.overlapping,
            stretches=self._stretches,
            open=[stretch.state() for stretch in self._open],
            newest=self._newest.state() if self._newest else None,
            untimed=self._untimed.state() if self._untimed else None,
            lasting=[places[stretch] for stretch in self._lasting],
            by_stamp=[places[stretch] for stretch in self._by_stamp.values()],
            covered=[(kind, covered.state()) for kind, covered in self._covered.items()],
            covered_to=self._covered_to,
            seen=self._seen.state(),
            has_jitter=self._has_jitter,
            late=self._late,
            longest=self._longest,
            deviations=list(self._deviations),
            waiting=self._waiting,
            between=self._between,
        )

    def restore(self, state: WindowCutterState) -> None:
        """Go on in the place of another one, with the same arguments; this one has cut nothing yet.

        Raises:
            ValueError: no cutter has such a state.
        """
        self.held, self.overlapping, self._stretches = state.held, state.overlapping, state.stretches
        for each in state.open:
            self._file(self._restored(each))
        opened = list(self._open)
        self._newest = self._restored(state.newest) if state.newest else None
        self._untimed = self._restored(state.untimed) if state.untimed else None
        kept = [*opened, *([self._newest] if self._newest else [])]
        if max(state.lasting, default=-1) >= len(kept) or max(state.by_stamp, default=-1) >= len(opened):
            raise ValueError("expected places of stretches, got one of none")
        self._lasting = {kept[place]: None for place in state.lasting}
        found = [opened[place] for place in state.by_stamp]
        self._by_stamp = {(stretch.kind, stretch.end.stamp): stretch for stretch in found}
        self._covered = {kind: Covered.restored(covered) for kind, covered in state.covered}
        self._covered_to, self._seen = state.covered_to, Seen.restored(state.seen)
        self._has_jitter, self._late, self._longest = state.has_jitter, state.late, state.longest
        self._deviations.extend(state.deviations)
        self._waiting, self._between = state.waiting, state.between

    def _restored(self, state: StretchState) -> Stretch:
        return Stretch.restored(state, self._grid(state.kind.sample_rate))

    @property
    def waiting(self) -> int:
        """Blocks of which no sample is in a window: the rest of the window has not come."""
        return self._waiting + sum(len(stretch.waiting) for stretch in self._kept())

    @property
    def between(self) -> int:
        """Blocks that lie between two windows, where hop exceeds length."""
        return self._between + sum(stretch.between for stretch in self._kept())

    @property
    def gaps(self) -> int:
        """Gaps between blocks that no block has filled."""
        return max(0, self._stretches - 1)

    @property
    def deviation(self) -> float | None:
        """How far blocks that follow a gap are from the time that was due, the median of the last ones, µs."""
        return median(self._deviations) if self._deviations else None

    def update(self, block: Block) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The windows that a block completes.

        Returns:
            The windows, (n, length), and the time of each one's first sample, µs since 1970, UTC, (n,).
        """
        cuts = self._in_time(block) if block.timed else self._in_order_of_arrival(self._stretch(block))
        if len(cuts) == 1:
            windows, starts = cuts[0]
        else:
            windows = np.concatenate([np.empty((0, self.windowing.length), np.float32), *(cut[0] for cut in cuts)])
            starts = np.concatenate([np.empty(0), *(cut[1] for cut in cuts)])
        return windows, np.rint(starts).astype(np.int64)

    def _stretch(self, block: Block) -> Stretch:
        """A stretch of one block."""
        return Stretch.of(block, self._grid(block.sample_rate))

    def _grid(self, sample_rate: float) -> WindowGrid:
        """How windows are cut from signals of a sample rate."""
        if sample_rate not in self._grids:
            if len(self._grids) == MOST_KINDS:  # of a device that measures its sample rate, each block has another
                del self._grids[next(iter(self._grids))]
            self._grids[sample_rate] = WindowGrid(self.windowing, self._resampling(sample_rate))
        return self._grids[sample_rate]

    def _in_time(self, block: Block) -> list[Cut]:
        """Take in a block with a time stamp."""
        begin, end = float(block.time), block.time + len(block.values) * 1e6 / block.sample_rate
        has_come: bool | None = False
        if end <= self._covered_to + SLACK and self._is_covered(Kind.of(block), begin, end):
            has_come = self._seen.has(block)
            if has_come:
                self.overlapping += 1
                return []
        newest = self._newest
        if newest is not None:
            due, held = newest.end.time, newest.held
            cut = newest.go_on(block)
            if cut is not None:
                self._seen.add(block)
                self.held += newest.held - held
                return self._settle(newest, min(begin, due), end, [cut])
        new = self._stretch(block)
        found = self._before(new)
        if not found and (has_come is None or self._others_cover(new.kind, begin, end)):
            self.overlapping += 1
            return []
        self._seen.add(block)
        self._stretches += 1
        if found:
            begin = min(begin, found.stretch.end.time)
            return self._settle(found.stretch, begin, end, [self._join(found.stretch, new, found.meeting)])
        self._note_deviation(begin)
        ended = self._end_those_before(begin)
        return [*ended, *self._settle(new, begin, end, [])]

    def _settle(self, stretch: Stretch, begin: float, end: float, cuts: list[Cut]) -> list[Cut]:
        """Join a stretch that has grown to its neighbours, and keep it as the newest one.

        Args:
            stretch: which a block went to.
            begin: from when to when that block has covered time.
            end: the same.
            cuts: the windows that it has completed.

        Returns:
            These, and those that the neighbours complete.
        """
        end = max(end, stretch.end.time)
        self._longest = max(self._longest, stretch.end.duration)
        if found := self._after(stretch):
            end = max(end, found.stretch.begin.time)
            cuts.append(self._join(stretch, found.stretch, found.meeting))
        if not cuts:
            cuts.append(stretch.cut())
        # The last block may have shown that the clock knows whole seconds only, or has jitter.
        while (stretch.has_bursts or self._has_jitter) and (found := self._before(stretch)):
            cuts.append(self._join(found.stretch, stretch, found.meeting))
            stretch = found.stretch
        self._add_covered(stretch.kind, begin, end)
        if not stretch.grid.resampling.is_identity:
            self._lasting[stretch] = None
        if stretch is not self._newest:
            cuts += self._keep(stretch)
        return cuts

    def _end_those_before(self, begin: float) -> list[Cut]:
        """The last windows of the stretches that have ended long before a new one begins."""
        cuts = []
        for stretch in [*self._lasting]:
            if begin - stretch.end.time > ENDED * self._longest:
                del self._lasting[stretch]
                held = stretch.held
                cuts.append(stretch.cut(has_ended=True))
                self.held += stretch.held - held
        return cuts

    def _is_covered(self, kind: Kind, begin: float, end: float) -> bool:
        """Whether blocks of a kind have covered a time, but for what a time stamp may be rounded by."""
        covered = self._covered.get(kind)
        return covered is not None and covered.holds(begin, end, min(SLACK, (end - begin) / 2))

    def _others_cover(self, kind: Kind, begin: float, end: float) -> bool:
        """Whether blocks of the same sample rate from another source have covered a time."""
        return any(
            other.sample_rate == kind.sample_rate and other != kind and self._is_covered(other, begin, end)
            for other in self._covered
        )

    def _in_order_of_arrival(self, new: Stretch) -> list[Cut]:
        """Take in a block without a time stamp."""
        old = self._untimed
        meeting = old.meets(new, True) if old else None
        if old and meeting:
            self.held -= old.held
            cuts = [old.absorb(new, meeting)]
        else:
            cuts = []
            if old:
                self.held -= old.held
                cuts.append(self._close(old))
                self._deviations.append(abs(new.begin.time - old.end.time))
            self._stretches += 1
            cuts.append(new.cut())
            self._untimed = old = new
        self.held += old.held
        return cuts

    def _before(self, stretch: Stretch) -> _Neighbour | None:
        """The stretch that one follows, the nearest."""
        others: list[Stretch] = []
        if (newest := self._newest) is not None and newest is not stretch:
            meeting = newest.meets(stretch, self._has_jitter)
            if meeting and (not self._open or abs(meeting.deviation) <= NEAR):
                return _Neighbour(newest, meeting)
            others = [newest]
        if self._open:
            same = self._by_stamp.get((stretch.kind, stretch.begin.stamp))
            others += [same] if same else self._ends.near(stretch.begin.time, self._reach(stretch))
        return _nearest(
            (other, other.meets(stretch, self._has_jitter)) for other in others if other is not stretch
        )

    def _after(self, stretch: Stretch) -> _Neighbour | None:
        """The stretch that follows one, the nearest."""
        others: list[Stretch] = []
        if self._newest is not None and self._newest is not stretch:
            others = [self._newest]
        if self._open:
            others += self._begins.near(stretch.end.time, self._reach(stretch))
        return _nearest((other, stretch.meets(other, self._has_jitter)) for other in others) if others else None

    def _reach(self, stretch: Stretch) -> float:
        """How far from each other two stretches that meet can be at most, µs."""
        reach = 2 * max(1.5e6 / stretch.kind.sample_rate, 1000.0, self._longest / 1000, JITTER)
        return reach + SECOND if stretch.begin.room or stretch.end.room else reach

    def _join(self, stretch: Stretch, later: Stretch, meeting: Meeting) -> Cut:
        """Make two stretches one, the earlier."""
        self._forget(stretch)
        self._forget(later)
        self._stretches -= 1
        if meeting.deviation < 0:
            self._late = 0
            self._has_jitter = meeting.is_jitter or self._has_jitter
        elif meeting.is_jitter:
            self._late += 1
            self._has_jitter = self._has_jitter if self._late < ALL_LATE else False
        return stretch.absorb(later, meeting)

    def _keep(self, stretch: Stretch) -> list[Cut]:
        """Keep a stretch as the newest, and close others where there are too many: their last windows."""
        if self._newest is not None:
            self._file(self._newest)
        self._newest = stretch
        self.held += stretch.held
        cuts = []
        window = stretch.grid.length // stretch.grid.tick  # samples before they are resampled
        usual = min(MOST_HELD, max(LEAST_HELD, HELD_WINDOWS * window))
        most_held = max(usual, LEAST_WINDOWS * window)
        while self._open and (self.held > most_held or len(self._open) >= MOST_OPEN):
            oldest = next(iter(self._open))
            self._forget(oldest)
            cuts.append(self._close(oldest))
        return cuts

    def _file(self, stretch: Stretch) -> None:
        """Put a stretch where it is found by its times."""
        self._open[stretch] = None
        self._begins.add(stretch.begin.time, stretch)
        self._ends.add(stretch.end.time, stretch)
        self._by_stamp[stretch.kind, stretch.end.stamp] = stretch

    def _forget(self, stretch: Stretch) -> None:
        """Take a stretch out of where it is kept, if it is."""
        self._lasting.pop(stretch, None)
        if stretch is self._newest:
            self._newest = None
        elif stretch in self._open:
            del self._open[stretch]
            self._begins.remove(stretch.begin.time, stretch)
            self._ends.remove(stretch.end.time, stretch)
            if self._by_stamp.get((stretch.kind, stretch.end.stamp)) is stretch:
                del self._by_stamp[stretch.kind, stretch.end.stamp]
        else:
            return
        self.held -= stretch.held

    def _close(self, stretch: Stretch) -> Cut:
        """The last windows of a stretch that no block goes on with any more."""
        cut = stretch.cut(has_ended=True)
        self._waiting += len(stretch.waiting)
        self._between += stretch.between
        return cut

    def _kept(self) -> Sequence[Stretch]:
        return [*self._open, *(stretch for stretch in (self._newest, self._untimed) if stretch)]

    def _add_covered(self, kind: Kind, begin: float, end: float) -> None:
        covered = self._covered.get(kind)
        if covered is None:
            if len(self._covered) == MOST_KINDS:
                del self._covered[next(iter(self._covered))]
            covered = self._covered[kind] = Covered()
        covered.add(begin, end)
        self._covered_to = max(self._covered_to, end)

    def _note_deviation(self, begin: float) -> None:
        """Note how far a block that continues no stretch is from where one would have gone on."""
        near = [*self._ends.around(begin), *([self._newest.end.time] if self._newest else [])]
        if near:
            self._deviations.append(min(abs(begin - time) for time in near))


class _Neighbour(NamedTuple):
    """A stretch that another one meets."""

    stretch: Stretch
    meeting: Meeting


class _Moments:
    """The begins, or the ends, of stretches, in order."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._stretches: list[Stretch] = []

    def add(self, time: float, stretch: Stretch) -> None:
        i = bisect_right(self._times, time)
        self._times.insert(i, time)
        self._stretches.insert(i, stretch)

    def remove(self, time: float, stretch: Stretch) -> None:
        i = self._stretches.index(stretch, bisect_left(self._times, time))
        del self._times[i], self._stretches[i]

    def near(self, time: float, reach: float) -> Sequence[Stretch]:
        """The stretches whose moment is at most `reach` from a time."""
        return self._stretches[bisect_left(self._times, time - reach) : bisect_right(self._times, time + reach)]

    def around(self, time: float) -> Sequence[float]:
        """The last moment up to a time, and the first one after it, as far as there are any."""
        i = bisect_right(self._times, time)
        return self._times[max(0, i - 1) : i + 1]


def _nearest(others: Iterable[tuple[Stretch, Meeting | None]]) -> _Neighbour | None:
    neighbours = [_Neighbour(other, meeting) for other, meeting in others if meeting]
    return min(neighbours, key=lambda neighbour: abs(neighbour.meeting.deviation), default=None)
