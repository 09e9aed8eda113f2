"""Drift: blocks of a machine's data against the median and deviation of its first blocks, which are frozen.

Windows overlap and machines wander, so that tests of single windows (ADWIN, Page-Hinkley, CUSUM) find drift where
there is none. Blocks of a minute, of which several in a row must be out, found none in stationary streams of an
autocorrelation of up to 0.95.

What drifts is a *sensor* if the signal is stronger, weaker or shifted as a whole (`levels.gain`, `levels.offset`),
and *the machine's signal* if its spectrum has another shape and its model finds no fault (`levels.shape`). A fault
that is nothing but a stronger signal of the same shape is taken for a sensor's drift.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from fml_lightning.errors import UserError
from fml_lightning.live import levels

BLOCK = 60.0
"""Seconds of data in a block."""
MOST_BLOCKS = 10_080
"""Blocks in a row that may be asked for: a week of data."""
SIGMA = 1.4826
"""Standard deviations in a median absolute deviation of normal numbers."""
LIMIT = 6.0
"""Deviations from the median beyond which a block is out."""
WINDOW = 5.0
"""Deviations of the windows of a block beyond which the gain or the shape of a window is another one."""
LEAST = {"gain": 1.0, "offset": 0.1, "shape": 3.0}
"""What a block must differ by at least, whatever the deviation is: dB, baseline deviations of the signal, dB."""
WORDS = {
    "gain": "the sensor of channel {channel} is {value:+.1f} dB off its baseline at all frequencies alike",
    "offset": "the mean of channel {channel} is {value:+.3g} off its baseline",
    "shape": "the spectrum of channel {channel} has changed by {value:.1f} dB, and the model finds no fault",
}
"""What each kind of drift means."""


class DriftRule(msgspec.Struct, frozen=True):
    """When a machine drifts."""

    baseline: float = 1200.0
    """Seconds of data, from the first window of a model on, that all later ones are compared with."""
    confirm: int = 3
    """Blocks in a row that must be out before it is drift, and in before it is over."""

    def __post_init__(self) -> None:
        if not 3 * BLOCK <= self.baseline < math.inf:
            raise UserError(f"drift.baseline: expected at least {3 * BLOCK:g} s, got {self.baseline:g}")
        if not 1 <= self.confirm <= MOST_BLOCKS:
            raise UserError(f"drift.confirm: expected 1 to {MOST_BLOCKS:,} blocks, got {self.confirm}")


class Frozen(msgspec.Struct, frozen=True):
    """What the blocks of a baseline were like."""

    level: list[float]
    """`levels.levels` of a usual block."""
    middle: dict[str, list[float]]
    """Of each kind and channel, the median."""
    limit: dict[str, list[float]]
    """Of each kind and channel, how far from it a block may be."""
    window: dict[str, list[float]]
    """Of the gain and the shape of each channel, how far from it a single window may be."""


class Drift(msgspec.Struct):
    """The drift of a machine's signal since its model began to watch."""

    channels: int = 0
    """Of the signal; 0 before the first window."""
    frozen: Frozen | None = None
    blocks: list[list[float]] = []
    """Mean levels of the blocks of the baseline, until it is frozen."""
    begin: float = 0.0
    """Seconds of data at which the block began that is not full yet."""
    count: int = 0
    """Windows in it."""
    total: list[float] = []
    """Sum of their levels, and of each channel's median level."""
    squares: list[float] = []
    """Sum of the squares of these."""
    noise: list[list[float]] = []
    """Of each block of the baseline, the deviations of the same among its windows."""
    time: int = 0
    """When the first window in it began, µs since 1970."""
    is_calm: bool = True
    """Whether the machine had no alarm, and none pending, during all of it."""
    out: int = 0
    """Blocks in a row that were out."""
    inside: int = 0
    """Blocks in a row that were not."""
    reason: str = ""
    """How the machine drifts; empty while it does not."""
    since: int | None = None
    """When the first block began that was out, of those by which it drifts, µs since 1970; None: none is out."""

    def add(
        self, rule: DriftRule, seconds: float, level: Sequence[float], channels: int, is_calm: bool, begin: int
    ) -> bool:
        """Take in a window.

        Args:
            rule: when a machine drifts.
            seconds: of data, as `DataClock.add` returned them for this window.
            level: of the window (`levels.levels`); empty if nothing is known of it.
            channels: how many the signal has.
            is_calm: whether there is no alarm, and none pending.
            begin: of the window, µs since 1970.

        Returns:
            Whether drift began or ended.
        """
        if not level:
            return False
        values = np.concatenate([np.asarray(level), levels.medians(level, channels)])
        if channels != self.channels or (self.total and len(values) != len(self.total)):
            self.reset(channels, seconds)
        changed = self._close(rule) if self.count and seconds - self.begin >= BLOCK else False
        if not self.count:
            self.begin, self.time, self.is_calm = seconds, begin, True
            self.total = self.squares = [0.0] * len(values)
        self.count += 1
        self.total = (np.asarray(self.total) + values).tolist()
        self.squares = (np.asarray(self.squares) + values**2).tolist()
        self.is_calm &= is_calm
        return changed

    def reset(self, channels: int, seconds: float) -> None:
        """Begin a new baseline, as for a new model."""
        self.channels, self.begin, self.frozen, self.blocks, self.noise = channels, seconds, None, [], []
        self.count, self.total, self.out, self.inside, self.reason, self.since = 0, [], 0, 0, "", None

    def gain(self, level: Sequence[float]) -> NDArray[np.float64] | None:
        """By how many dB each channel of a window is off its baseline at all frequencies alike, (C,).

        None if a channel's spectrum has another shape, if no channel is off by more than the baseline's blocks
        differ, or if there is no baseline yet.
        """
        if self.frozen is None or len(level) != len(self.frozen.level):
            return None
        shape = levels.shape(level, self.frozen.level, self.channels)
        if (shape > self.frozen.window["shape"]).any():
            return None
        gain = levels.gain(level, self.frozen.level, self.channels)
        is_out = np.abs(gain) > self.frozen.window["gain"]
        return np.where(is_out, gain, 0.0) if is_out.any() else None

    def _close(self, rule: DriftRule) -> bool:
        """Judge the block that is full, or take it into the baseline."""
        mean = np.asarray(self.total) / self.count
        noise = np.sqrt(np.maximum(0.0, np.asarray(self.squares) / self.count - mean**2))
        block = mean[: len(mean) - self.channels].tolist()
        self.count, self.total = 0, []
        if self.frozen is None:
            if self.is_calm:  # a fault is not what healthy data are compared with
                self.blocks, self.noise = [*self.blocks, block], [*self.noise, noise.tolist()]
            if len(self.blocks) >= max(3, round(rule.baseline / BLOCK)):
                self.frozen = freeze(self.blocks, self.noise, self.channels)
                self.blocks, self.noise = [], []
            return False
        found = deviation(block, self.frozen, self.channels)
        # The mean of a window is the sensor's; that of a row, which has no spectrum, is the machine's as well.
        is_machines = found is not None and (found[0] == "shape" or len(block) == self.channels)
        if is_machines and not self.is_calm:
            found = None  # the alarm says why
        self.out, self.inside = (0, self.inside + 1) if found is None else (self.out + 1, 0)
        if found is not None and self.since is None:
            self.since = self.time
        elif found is None and not self.reason:
            self.since = None
        if found is not None and self.out >= rule.confirm:
            began, kind = not self.reason, found[0]
            self.reason = WORDS[kind].format(channel=found[1] + 1, value=found[2])
            return began
        if self.reason and self.inside >= rule.confirm:
            self.reason, self.since = "", None
            return True
        return False


def freeze(blocks: Sequence[Sequence[float]], noise: Sequence[Sequence[float]], channels: int) -> Frozen:
    """What blocks of a baseline were like.

    Args:
        blocks: the mean levels of each (`levels.levels`).
        noise: the deviations of the levels, and of each channel's median level, among the windows of each.
        channels: of the signal.
    """
    level = np.median(np.asarray(blocks), axis=0)
    values = {kind: np.asarray([_of(kind, block, level, channels) for block in blocks]) for kind in LEAST}
    # The offset is judged in deviations of the signal itself: 10^(dB / 20) of the baseline.
    power = level[: len(level) - channels].reshape(channels, -1)
    usual = np.median(np.asarray(noise), axis=0)
    deviation = np.sqrt(np.sum(10 ** (power / 10), axis=1)) if power.size else usual[:channels]
    middle = {kind: np.median(each, axis=0) for kind, each in values.items()}
    spread = {kind: np.median(np.abs(each - middle[kind]), axis=0) for kind, each in values.items()}
    least = {kind: np.full(channels, least) for kind, least in LEAST.items()}
    least["offset"] = LEAST["offset"] * deviation
    limit = {kind: np.maximum(LIMIT * SIGMA * spread[kind], least[kind]) for kind in LEAST}
    of_bands = usual[: len(level) - channels].reshape(channels, -1)
    of_windows = {"gain": usual[len(level) :], "shape": of_bands.max(1) if of_bands.size else np.zeros(channels)}
    window = {
        kind: np.maximum(np.abs(middle[kind]) + limit[kind], WINDOW * each) for kind, each in of_windows.items()
    }
    return Frozen(
        level.tolist(),
        {kind: each.tolist() for kind, each in middle.items()},
        {kind: each.tolist() for kind, each in limit.items()},
        {kind: each.tolist() for kind, each in window.items()},
    )


def deviation(block: Sequence[float], frozen: Frozen, channels: int) -> tuple[str, int, float] | None:
    """How a block differs from a baseline: the kind of drift, the channel's number and by how much, or None."""
    for kind in LEAST:
        value = _of(kind, block, frozen.level, channels)
        far = np.abs(value - frozen.middle[kind]) - frozen.limit[kind]
        if (far > 0).any():
            worst = int(far.argmax())
            base = frozen.middle[kind][worst] if kind == "offset" else 0.0
            return kind, worst, float(value[worst] - base)
    return None


def _of(
    kind: str, block: Sequence[float], baseline: Sequence[float] | NDArray[np.float64], channels: int
) -> NDArray[np.float64]:
    """A kind's value of each channel of a block, (C,)."""
    base = list(baseline)
    if kind == "gain":
        return levels.gain(block, base, channels)
    return levels.shape(block, base, channels) if kind == "shape" else levels.offset(block, channels)
