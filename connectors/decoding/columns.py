"""Columns: readings as numpy arrays, which `History` compares and of which a frame of readings is made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from fml_lightning.connectors.decoding.streams import StreamNames
from fml_lightning.connectors.messages import Messages
from fml_lightning.connectors.quality import AHEAD, BEHIND, Quality
from fml_lightning.connectors.readings import READINGS, TIME

MOST_IN_ONE_THREAD = 8_192
"""Samples of which numpy computes the dot product without starting threads."""

ODD = np.uint64(0x9E3779B97F4A7C15)
"""Multiplied by it, different numbers of 64 bits stay different, and their bits are spread."""


@dataclass(frozen=True)
class Columns:
    """Readings, n of them, in the order in which they came."""

    sequence: NDArray[np.int64]
    """For each reading, the place in the spool of the message that it came in, (n,)."""
    received: NDArray[np.int64]
    """When that message was received, µs since 1970, UTC, (n,)."""
    time: NDArray[np.int64]
    """The device's time, µs since 1970, UTC; where the device sends none, `received`; (n,)."""
    stream: NDArray[np.int64]
    """The number of the reading's stream, (n,)."""
    quality: NDArray[np.uint16]
    """`Quality` flags, (n,)."""
    scalars: NDArray[np.float32]
    """The values of the k readings that are scalars, in order, (k,)."""
    blocks: Sequence[NDArray[np.float32]]
    """The samples of the n - k readings that are blocks, in order."""
    rates: Sequence[float | None]
    """Hz, one for each block."""
    order: NDArray[np.int64] | None
    """The index of each reading in `[*scalars, *blocks]`, (n,); None where it would be 0 to n - 1."""

    @classmethod
    def of(
        cls,
        messages: Messages,
        places: Sequence[int],
        streams: Sequence[int],
        times: Sequence[int | None],
        values: Sequence[float | NDArray[np.float32]],
        rates: Sequence[float | None],
        flags: Mapping[int, int],
    ) -> Columns:
        """The columns of n samples that were read from messages.

        Args:
            messages: all messages.
            places: the index among them of each sample's message, in ascending order.
            streams: the number of each sample's stream.
            times: `Sample.time` of each.
            values: `Sample.values` of each.
            rates: `Sample.sample_rate` of each that is a block.
            flags: `Sample.quality` by the index of each sample that has some.
        """
        message = np.array(places, np.int64)
        received = messages.received[message]
        clock = pl.Series(times, dtype=pl.Int64)
        timed = clock.is_not_null().to_numpy()
        time = clock.to_numpy() if timed.all() else np.where(timed, clock.fill_null(0).to_numpy(), received)
        block_at = [i for i, value in enumerate(values) if type(value) is not float] if rates else []
        is_block = np.zeros(len(values), np.bool_)
        is_block[block_at] = True
        blocks: list[Any] = [values[i] for i in block_at]
        scalars = np.array([value for value in values if type(value) is float] if blocks else values, np.float32)
        doubts = np.zeros(len(values), np.uint16)
        doubts[~is_block] = ~np.isfinite(scalars) * np.uint16(Quality.NOT_FINITE)
        with np.errstate(invalid="ignore", over="ignore"):  # infinity less infinity
            doubts[block_at] = np.fromiter(_doubts(blocks), np.uint16, len(blocks))
        doubts[list(flags)] |= np.fromiter(flags.values(), np.uint16, len(flags))
        doubts |= messages.retained[message] * np.uint16(Quality.RETAINED)
        implausible = (time > received + AHEAD) | (time < received - BEHIND)
        doubts |= implausible * np.uint16(Quality.IMPLAUSIBLE_TIME)
        doubts |= ~timed * np.uint16(Quality.NO_DEVICE_TIME)
        k = len(scalars)
        return cls(
            sequence=messages.sequence[message],
            received=received,
            time=time,
            stream=np.array(streams, np.int64),
            quality=doubts,
            scalars=scalars,
            blocks=blocks,
            rates=rates,
            order=np.where(is_block, k - 1 + is_block.cumsum(), (~is_block).cumsum() - 1)
            if k and blocks
            else None,
        )

    def __len__(self) -> int:
        return len(self.sequence)

    def digests(self) -> NDArray[np.int64]:
        """A digest of the whole content of each reading, (n,), by which equal readings are known.

        A scalar's is its bits; a block's, 64 bits of XXH3 (https://xxhash.com) of its samples' bits, and its rate.
        """
        blocks = np.array([xxh3_64_intdigest(block.data) for block in self.blocks], np.uint64)
        blocks ^= np.array(self.rates, np.float64).view(np.uint64) * ODD  # None is NaN
        digests = np.concatenate([self.scalars.view(np.uint32).astype(np.uint64), blocks]).view(np.int64)
        return digests if self.order is None else digests[self.order]

    def frame(self, names: StreamNames, kept: NDArray[np.bool_]) -> pl.DataFrame:
        """The readings for which `kept`, (n,), is true, as a frame (`READINGS`)."""
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
            "sample_rate": rates if self.order is None else rates.gather(self.order),
            "values": values if self.order is None else values.gather(self.order),
            "quality": pl.Series(self.quality),
            **names.columns(self.stream),
        }
        frame = pl.DataFrame(columns).select(*READINGS)
        return frame if kept.all() else frame.filter(kept)


def _doubts(blocks: Iterable[NDArray[np.float32]]) -> Iterable[int]:
    """What is doubtful about blocks, as `Quality` flags."""
    for block in blocks:
        # One pass over a good block: if the sum (of squares, which is faster) is finite, so is every sample.
        total = block.dot(block) if len(block) <= MOST_IN_ONE_THREAD else block.sum()
        if not math.isfinite(total) and not np.isfinite(block).all():
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
    return pl.Series(flat).reshape((-1, length)).cast(READINGS["values"])
