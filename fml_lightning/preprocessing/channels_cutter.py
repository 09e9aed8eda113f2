"""The channels cutter: cuts several channels of one machine, which arrive block by block, into common windows."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from fml_lightning.preprocessing.block import Block
from fml_lightning.preprocessing.packed import Packed
from fml_lightning.preprocessing.resampling import Resampling
from fml_lightning.preprocessing.stretch import JITTER, Count
from fml_lightning.preprocessing.window_cutter import WindowCutter, WindowCutterState, as_it_came
from fml_lightning.preprocessing.windowing import Windowing

MOST_SAMPLES = 2**22
"""Samples of windows of one channel that wait for those of the others at most, 16 MiB."""


class Waiting(NamedTuple):
    """A window of one channel that waits for the same time of the others."""

    start: int
    """Time of its first sample, µs since 1970, UTC."""
    sample_rate: float
    """Hz, after resampling."""
    values: NDArray[np.float32]
    """(W,)."""


class WaitingState(NamedTuple):
    """The same as plain types."""

    start: int
    sample_rate: float
    values: Packed


class ChannelsCutterState(msgspec.Struct, frozen=True):
    """All that a channels cutter has learnt, as plain types."""

    cutters: dict[str, WindowCutterState]
    """By channel."""
    waiting: dict[str, list[WaitingState]]
    """By channel, in order of time."""
    forgotten: Count


class ChannelsCutter:
    """Cuts each channel by itself (`WindowCutter`), and joins windows of all channels that begin at one time.

    Starts are one time if they differ by at most half a hop, and by no more than time stamps may have jitter
    (50 ms): channels that come in messages of their own have stamps of their own.

    >>> cutter = ChannelsCutter(Windowing(length=2, hop=2), ["x", "y"])
    >>> cutter.update("x", Block(0, 1000.0, np.float32([1, 2])))[0].shape
    (0, 2, 2)
    >>> windows, start = cutter.update("y", Block(0, 1000.0, np.float32([3, 4])))
    >>> windows.tolist(), start.tolist()
    ([[[1.0, 2.0], [3.0, 4.0]]], [0])

    Args:
        windowing: length and hop of the windows, in samples as they are after resampling.
        channels: their names, in the order in which they stand in a window.
        resampling: how a signal of a sample rate (Hz) is resampled.
    """

    def __init__(
        self,
        windowing: Windowing,
        channels: Sequence[str],
        resampling: Callable[[float], Resampling] = as_it_came,
    ) -> None:
        self.windowing = windowing
        self.resampling = resampling
        self.cutters = {channel: WindowCutter(windowing, resampling) for channel in channels}
        """Of each channel."""
        self._waiting: dict[str, list[Waiting]] = {channel: [] for channel in channels}
        self._forgotten = 0

    def state(self) -> ChannelsCutterState:
        """All that it has learnt, so that another one with the same arguments can go on in its place."""
        return ChannelsCutterState(
            {channel: cutter.state() for channel, cutter in self.cutters.items()},
            {
                channel: [WaitingState(start, rate, Packed.of(values)) for start, rate, values in windows]
                for channel, windows in self._waiting.items()
            },
            self._forgotten,
        )

    def restore(self, state: ChannelsCutterState) -> None:
        """Go on in the place of another one, with the same arguments; this one has cut nothing yet.

        Raises:
            ValueError: it is the state of one with other arguments, or of none.
        """
        if {*state.cutters} != {*self.cutters} or {*state.waiting} != {*self.cutters}:
            raise ValueError(f"expected channels {', '.join(self.cutters)}, got {', '.join(state.cutters)}")
        for channel, cutter in self.cutters.items():
            cutter.restore(state.cutters[channel])
            self._waiting[channel] = [
                Waiting(start, rate, self._one_window(values)) for start, rate, values in state.waiting[channel]
            ]
        self._forgotten = state.forgotten

    def _one_window(self, values: Packed) -> NDArray[np.float32]:
        if values.shape != [self.windowing.length]:
            raise ValueError(f"expected windows of {self.windowing.length} samples, got {values.shape}")
        return values.array(np.float32)

    @property
    def unmatched(self) -> int:
        """Windows of one channel of whose time there is none of another so far."""
        return self._forgotten + sum(map(len, self._waiting.values()))

    def update(self, channel: str, block: Block) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The windows that a block of a channel completes, (n, C, W), and when they begin, µs since 1970, (n,).

        Args:
            channel: one of the channels.
            block: the next one of that channel to arrive.
        """
        windows, start = self.cutters[channel].update(block)
        if len(self.cutters) == 1:
            return windows[:, None], start
        joined: list[NDArray[np.float32]] = []
        times: list[int] = []
        by = self.resampling(block.sample_rate)
        rate = block.sample_rate * by.up / by.down
        for values, time in zip(windows, start.tolist(), strict=True):
            found = self._join(channel, Waiting(time, rate, values))
            if found is not None:
                joined.append(found[0])
                times.append(found[1])
        shape = (0, len(self.cutters), self.windowing.length)
        return np.stack(joined) if joined else np.empty(shape, np.float32), np.array(times, np.int64)

    def _join(self, channel: str, new: Waiting) -> tuple[NDArray[np.float32], int] | None:
        """The window of all channels that a new one of one channel completes, and its time; None if one lacks."""
        places = {}
        for other, waiting in self._waiting.items():
            if other != channel:
                place = self._place(waiting, new)
                if place is None:
                    self._keep(channel, new)
                    return None
                places[other] = place
        parts = {channel: new, **{other: self._waiting[other].pop(place) for other, place in places.items()}}
        first = parts[next(iter(self.cutters))]
        return np.stack([parts[name].values for name in self.cutters]), first.start

    def _place(self, waiting: Sequence[Waiting], new: Waiting) -> int | None:
        """Where the window is that begins nearest to a new one, if that is near enough."""
        room = min(JITTER, self.windowing.hop / 2 * 1e6 / new.sample_rate)
        at = bisect_left(waiting, new.start, key=_start)
        near = [
            (abs(waiting[place].start - new.start), place)
            for place in (at - 1, at)
            if 0 <= place < len(waiting) and waiting[place].sample_rate == new.sample_rate
        ]
        distance, place = min(near, default=(np.inf, 0))
        return place if distance <= room else None

    def _keep(self, channel: str, new: Waiting) -> None:
        waiting = self._waiting[channel]
        insort(waiting, new._replace(values=new.values.copy()), key=_start)
        if len(waiting) * self.windowing.length > MOST_SAMPLES:
            del waiting[0]
            self._forgotten += 1


def _start(waiting: Waiting) -> int:
    return waiting.start
