"""Streams: the channels of machines, numbered."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.connectors.codecs.codec import LONGEST_NAME, CodecError
from fml_lightning.connectors.codecs.numbers import shown

MOST_STREAMS = 100_000
"""Streams that are numbered: more than the channels of a large plant, few enough to remember."""
MOST_CHANNELS = 10_000
"""Of them those of one machine: a machine that makes up channels leaves room for the others."""


class Stream(NamedTuple):
    """One channel of one machine, in one unit."""

    site: str
    machine: str
    channel: str
    unit: str | None = None
    """As devices write it; None where nobody says."""


class StreamNames:
    """Numbers streams in the order in which they are first seen, up to `MOST_STREAMS`.

    >>> names = StreamNames()
    >>> names.number(Stream("north", "pump", "flow")), names.number(Stream("north", "fan", "rpm"))
    (0, 1)
    >>> names[1].machine
    'fan'
    """

    def __init__(self) -> None:
        self._numbers: dict[Stream, int] = {}
        self._streams: list[Stream] = []
        self._channels: Counter[tuple[str, str]] = Counter()  # of each site and machine

    def __getitem__(self, number: int) -> Stream:
        return self._streams[number]

    def number(self, stream: Stream) -> int:
        """The stream's number.

        Raises:
            CodecError: it is a stream too many, or one of its names is too long.
        """
        number = self._numbers.get(stream)
        if number is None:
            if len(self._streams) >= MOST_STREAMS:
                raise CodecError(
                    f"a stream too many, {shown('/'.join(stream[:3]))}: {MOST_STREAMS:,} are known already; stop"
                    " who makes up names, or divide the topics among several recordings"
                )
            machine = stream.site, stream.machine
            if self._channels[machine] >= MOST_CHANNELS:
                raise CodecError(
                    f"a channel too many, {shown(stream.channel)}: {MOST_CHANNELS:,} of {shown(stream.machine)}"
                    " are known already; stop who makes up names, or name the values that are channels"
                )
            longest = max((name for name in stream if name), key=len)
            if len(longest) > LONGEST_NAME:
                raise CodecError(
                    f"expected names of site, machine, channel and unit of at most {LONGEST_NAME} characters each,"
                    f" got {len(longest)} in {shown(longest)}"
                )
            number = self._numbers[stream] = len(self._streams)
            self._streams.append(stream)
            self._channels[machine] += 1
        return number

    def columns(self, numbers: NDArray[np.int64]) -> dict[str, pl.Series]:
        """Site, machine, channel and unit of each number, (n,)."""
        streams = self._streams
        if len(streams) > len(numbers):  # then only those that occur
            occurring, numbers = np.unique(numbers, return_inverse=True)
            streams = [self._streams[number] for number in occurring.tolist()]
        return {
            name: pl.Series([stream[i] for stream in streams], dtype=pl.String).gather(numbers)
            for i, name in enumerate(Stream._fields)
        }
