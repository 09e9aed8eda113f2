"""Streams: the channels of machines, numbered."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray


class Stream(NamedTuple):
    """One channel of one machine."""

    site: str
    machine: str
    channel: str


class StreamNames:
    """Numbers streams in the order in which they are first seen.

    >>> names = StreamNames()
    >>> names.number(Stream("north", "pump", "flow")), names.number(Stream("north", "fan", "rpm"))
    (0, 1)
    >>> names[1].machine
    'fan'
    """

    def __init__(self) -> None:
        self._numbers: dict[Stream, int] = {}
        self._streams: list[Stream] = []

    def __getitem__(self, number: int) -> Stream:
        return self._streams[number]

    def number(self, stream: Stream) -> int:
        """The stream's number."""
        number = self._numbers.get(stream)
        if number is None:
            number = self._numbers[stream] = len(self._streams)
            self._streams.append(stream)
        return number

    def columns(self, numbers: NDArray[np.int64]) -> dict[str, pl.Series]:
        """Site, machine and channel of each number, (n,)."""
        return {
            name: pl.Series([stream[i] for stream in self._streams], dtype=pl.String).gather(numbers)
            for i, name in enumerate(Stream._fields)
        }
