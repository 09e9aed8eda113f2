"""Columns: what messages say, as arrays; `History` compares them, and a frame of readings is made from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.connectors.codecs.codec import Sample
from fml_lightning.connectors.decoding.streams import StreamNames
from fml_lightning.connectors.messages import Messages
from fml_lightning.connectors.readings import READINGS, TIME, Quality

N = TypeVar("N", bound=np.generic)

PLAUSIBLE = 86_400_000_000
"""µs that a device's time may be away from the time it was received before it is flagged: a day."""


@dataclass
class Rows:
    """Scalars, or blocks, as they are read from messages, in order: lists that grow together."""

    messages: list[int] = field(default_factory=list)
    """The places of their messages among all."""
    streams: list[int] = field(default_factory=list)
    times: list[int | None] = field(default_factory=list)
    """The device's, µs since 1970, UTC."""
    values: list[Any] = field(default_factory=list)
    """Numbers; or samples, (m,) float32, m ≥ 1."""
    rates: list[float | None] = field(default_factory=list)
    """Hz, one for each block; none for scalars."""

    def add_block(self, message: int, stream: int, sample: Sample) -> None:
        """Append a block."""
        self.messages.append(message)
        self.streams.append(stream)
        self.times.append(sample.time)
        self.values.append(sample.values)
        self.rates.append(sample.sample_rate)


@dataclass(frozen=True)
class Columns:
    """Readings, n of them, in order of their messages; those of one message: scalars, then blocks."""

    sequence: NDArray[np.int64]
    """(n,)."""
    received: NDArray[np.int64]
    """µs since 1970, UTC, (n,)."""
    time: NDArray[np.int64]
    """The device's, else `received`, (n,)."""
    stream: NDArray[np.int64]
    """Their numbers, (n,)."""
    quality: NDArray[np.uint8]
    """Flags, (n,)."""
    scalars: NDArray[np.float32]
    """(k,)."""
    blocks: Sequence[NDArray[np.float32]]
    """n - k of them."""
    rates: Sequence[float | None]
    """Hz, of the blocks."""
    order: NDArray[np.int64] | None
    """Which of `[*scalars, *blocks]` each reading is, (n,); None: they are in order already."""

    @classmethod
    def of(cls, messages: Messages, scalars: Rows, blocks: Rows) -> Columns:
        """The columns of what was read from messages."""
        message = np.array(scalars.messages + blocks.messages, np.int64)
        received = messages.received[message]
        times = pl.Series(scalars.times + blocks.times, dtype=pl.Int64)
        timed = times.is_not_null().to_numpy()
        time = times.to_numpy() if timed.all() else np.where(timed, times.fill_null(0).to_numpy(), received)
        flat = np.array(scalars.values, np.float32)
        with np.errstate(invalid="ignore", over="ignore"):  # infinity less infinity
            doubts = np.fromiter(_doubts(blocks.values), np.uint8, len(blocks.values))
        quality = np.concatenate([~np.isfinite(flat) * np.uint8(Quality.NOT_FINITE), doubts])
        quality |= messages.retained[message] * np.uint8(Quality.RETAINED)
        quality |= (np.abs(time - received) > PLAUSIBLE) * np.uint8(Quality.IMPLAUSIBLE_TIME)
        quality |= ~timed * np.uint8(Quality.NO_DEVICE_TIME)
        order = np.argsort(message, kind="stable") if scalars.values and blocks.values else None
        return cls(
            sequence=_placed(messages.sequence[message], order),
            received=_placed(received, order),
            time=_placed(time, order),
            stream=_placed(np.array(scalars.streams + blocks.streams, np.int64), order),
            quality=_placed(quality, order),
            scalars=flat,
            blocks=blocks.values,
            rates=blocks.rates,
            order=order,
        )

    def __len__(self) -> int:
        return len(self.sequence)

    def edges(self) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """How many samples each reading has, its first and its last one: (n,) each."""
        k, m = len(self.scalars), len(self.blocks)
        length = np.ones(k + m, np.int64)
        length[k:] = [len(block) for block in self.blocks]
        first = np.concatenate([self.scalars, np.fromiter((b[0] for b in self.blocks), np.float32, m)])
        last = np.concatenate([self.scalars, np.fromiter((b[-1] for b in self.blocks), np.float32, m)])
        return _placed(length, self.order), _placed(first, self.order), _placed(last, self.order)

    def frame(self, names: StreamNames, kept: NDArray[np.bool_]) -> pl.DataFrame:
        """A frame of readings (`READINGS`) of those that are kept, (n,)."""
        if not len(self):
            return READINGS.to_frame()
        k, m = len(self.scalars), len(self.blocks)
        rates = pl.Series(self.rates, dtype=pl.Float64)
        values = _blocks(self.blocks) if not k else _lists(self.scalars, 1)
        if k and m:
            values.append(_blocks(self.blocks))
        if k:
            rates = pl.repeat(None, k, dtype=pl.Float64, eager=True).append(rates)
        columns = {
            "sequence": pl.Series(self.sequence),
            "time": pl.Series(self.time).cast(TIME),
            "received": pl.Series(self.received).cast(TIME),
            **names.columns(self.stream),
            "sample_rate": rates if self.order is None else rates.gather(self.order),
            "values": values if self.order is None else values.gather(self.order),
            "quality": pl.Series(self.quality),
        }
        frame = pl.DataFrame(columns)
        return frame if kept.all() else frame.filter(kept)


def _placed(column: NDArray[N], order: NDArray[np.int64] | None) -> NDArray[N]:
    """A column of scalars, then blocks, in order of messages."""
    return column if order is None else column[order]


def _doubts(blocks: Iterable[NDArray[np.float32]]) -> Iterable[int]:
    """What is doubtful about blocks, as `Quality` flags."""
    for block in blocks:
        # One pass where all is well: a sum that is finite has no sample that is not.
        if not math.isfinite(block.sum()) and not np.isfinite(block).all():
            yield int(Quality.NOT_FINITE)
        elif block[0] == block[-1] and len(block) > 1 and block.min() == block.max():
            yield int(Quality.STUCK)
        else:
            yield 0


def _blocks(blocks: Sequence[NDArray[np.float32]]) -> pl.Series:
    """Blocks as lists."""
    lengths = {len(block) for block in blocks}
    if len(lengths) == 1:
        return _lists(np.concatenate(blocks), lengths.pop())
    return pl.Series(blocks, dtype=READINGS["values"])


def _lists(flat: NDArray[np.float32], length: int) -> pl.Series:
    """Lists of equal length, one after another in `flat`."""
    return pl.Series(flat).reshape((-1, length)).arr.to_list()
