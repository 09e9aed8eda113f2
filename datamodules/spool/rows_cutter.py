"""The rows cutter: rows of a stream's machines, as single numbers arrive, with what is told of each."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec
import numpy as np
import polars as pl

from fml_lightning.datamodules.machine_windows import AT_ONCE
from fml_lightning.datamodules.spool.blocks import of_one_unit, sort_out
from fml_lightning.datamodules.spool.inputs import Inputs
from fml_lightning.datamodules.spool.left_out import LeftOut, Reason
from fml_lightning.datamodules.spool.stream_cutter import Cut, StreamCutter, StreamCutterState
from fml_lightning.datamodules.spool.stream_rows import INSTANT, NO_SCALARS
from fml_lightning.preprocessing.preprocessing import Preprocessing
from fml_lightning.stream_timing import MAX_LATENESS, WITHIN

GIVEN, NUMBERS = 64, 2**12
"""Rows that were given, and numbers of rows that were not, which are kept of each machine: those that came last.
Numbers that come later than so many others are in rows of their own."""
TIDY = 512
"""Numbers of a machine after which the rest is forgotten."""


class Number(NamedTuple):
    """A single number of a row."""

    time: int
    """µs since 1970."""
    arrival: int
    """Its number among those of its machine."""
    column: int
    value: float
    given: bool
    """Whether a row with it was given."""


class OpenRows(msgspec.Struct):
    """The rows of one machine into which numbers may still come: those of `Rows.of` of all numbers so far.

    A row is given when it has a number of every column; each number is given once. What comes late is in the row
    in which it would have been, unless other rows have been given with its neighbours.
    """

    rows: list[list[Number]] = []
    """In order of time, and in each row too."""
    arrived: int = 0
    """Numbers so far."""

    def add(self, time: int, column: int, value: float, columns: int, within: int) -> list[list[Number]]:
        """Take in a number, and give the rows that are whole now, in order of time.

        Args:
            time: µs since 1970.
            column: in which it stands.
            value: the number.
            columns: how many there are.
            within: µs that the numbers of one row may be apart.
        """
        new = Number(time, self.arrived, column, value, False)
        self.arrived += 1
        first = bisect_right(self.rows, time, key=lambda row: row[0].time) - 1
        begin = end = max(0, first)
        numbers = deque([new])
        if first >= 0:
            numbers = deque(sorted([*self.rows[first], new]))
            end += 1
        laid: list[list[Number]] = [[]]
        while True:  # until a row begins where one began before
            for number in numbers:
                if not _fits(number, laid[-1], within):
                    laid.append([])
                laid[-1].append(number)
            if end == len(self.rows) or not _fits(self.rows[end][0], laid[-1], within):
                break
            numbers = deque(self.rows[end])
            end += 1
        whole = []
        for place, row in enumerate(laid):
            if len(row) == columns and not any(number.given for number in row):
                laid[place] = [number._replace(given=True) for number in row]
                whole.append(row)
        self.rows[begin:end] = laid
        return whole

    def check(self, columns: int) -> None:
        """See that these are rows as `add` leaves them.

        Args:
            columns: how many there are.

        Raises:
            ValueError: they are none.
        """
        numbers = [number for row in self.rows for number in row]
        in_order = all(a[:2] < b[:2] for a, b in pairwise(numbers))
        known = all(0 <= n.column < columns and 0 <= n.arrival < self.arrived for n in numbers)
        if not in_order or not known or not all(self.rows):
            raise ValueError(f"expected rows of {columns} columns in order of time")

    def tidy(self) -> int:
        """Forget the rows that may be forgotten by now, and return how many of them were not whole."""
        if self.arrived % TIDY:
            return 0
        left = {True: GIVEN, False: NUMBERS}
        forgotten = set()
        newest = sorted(range(len(self.rows)), key=lambda place: -max(n.arrival for n in self.rows[place]))
        for place in newest:
            was_given = any(number.given for number in self.rows[place])
            left[was_given] -= 1 if was_given else len(self.rows[place])
            if left[was_given] < 0:
                forgotten.add(place)
        partial = sum(not any(number.given for number in self.rows[place]) for place in forgotten)
        self.rows = [row for place, row in enumerate(self.rows) if place not in forgotten]
        return partial


class RowsCutterState(StreamCutterState, frozen=True, tag="rows"):
    """All that a rows cutter has learnt, as plain types."""

    open: dict[str, OpenRows]
    """By machine."""


class RowsCutter(StreamCutter):
    """Gives the rows of one site's machines, each once, when it has a number of every channel: a `Cut` of W = 1.

    They are the rows of `StreamRows`, as far as numbers come before the rows that they belong to are given. What
    it gives, and in which order, depends on the order of the readings alone, not on how many are added at once.

    Args:
        preprocessing: what the network sees of a row.
        channels: the channels, in the order in which they stand in a row.
        needs: see `StreamCutter`; of a row the value that holds at its first number.
        inputs: slow scalars of the machines.
        within: seconds that the numbers of one row may be apart.
        max_lateness: seconds after its own time that a reading may be received; later ones are left out.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        channels: Sequence[str],
        needs: Sequence[str],
        inputs: Inputs,
        within: float = WITHIN,
        max_lateness: float = MAX_LATENESS,
    ) -> None:
        super().__init__(preprocessing, channels, needs, inputs, max_lateness)
        self.within = round(within * 1e6)
        self.open: dict[str, OpenRows] = {}
        """Of every machine that has sent numbers, by its name."""

    def state(self) -> RowsCutterState:
        """All that it has learnt, so that another one with the same arguments can go on in its place."""
        rows = {machine: OpenRows(list(rows.rows), rows.arrived) for machine, rows in self.open.items()}
        return RowsCutterState(**msgspec.structs.asdict(super().state()), open=rows)

    def restore(self, state: StreamCutterState) -> None:
        """Go on in the place of another one, with the same arguments; this one has cut nothing yet.

        Raises:
            ValueError: it is the state of one with other arguments, or of none.
        """
        if not isinstance(state, RowsCutterState):
            raise ValueError("expected the state of a cutter of rows, got that of one of blocks")
        super().restore(state)
        for rows in state.open.values():
            rows.check(len(self.channels))
        self.open = dict(state.open)

    def forget(self, machine: str) -> None:
        """Know nothing of a machine any more: its next number is its first."""
        super().forget(machine)
        self.open.pop(machine, None)

    def left_out_of(self, machine: str) -> LeftOut:
        """What a machine has sent and is in no row, or not yet."""
        counts = super().left_out_of(machine)
        rows = self.open.get(machine, OpenRows()).rows
        counts[Reason.PARTIAL] += sum(not any(number.given for number in row) for row in rows)
        return +counts

    def _cuts(self, readings: pl.DataFrame) -> Iterator[tuple[str, Iterator[Cut]]]:
        sure, left_out = sort_out(readings, self.max_lateness, NO_SCALARS)
        sure, of_others = of_one_unit(sure, self.units)
        for machine, counts in (*left_out.items(), *of_others.items()):
            self.counts(machine).update(counts)
        for (machine,), own in sure.group_by("machine", maintain_order=True):
            yield str(machine), self._rows(str(machine), own)

    def _rows(self, machine: str, readings: pl.DataFrame) -> Iterator[Cut]:
        """The rows that a machine's numbers complete, about `AT_ONCE` at a time."""
        rows = self.open.setdefault(machine, OpenRows())
        columns = {channel: column for column, channel in enumerate(self.channels)}
        whole: list[tuple[int, list[Number]]] = []
        for place, time, channel, value in readings.select(
            "place", pl.col("time").to_physical(), "channel", pl.col("values").list.first()
        ).iter_rows():
            found = rows.add(time, columns[channel], value, len(columns), self.within)
            whole += [(place, row) for row in found]
            if partial := rows.tidy():
                self.counts(machine)[Reason.PARTIAL] += partial
            if len(whole) >= AT_ONCE:
                yield _cut(whole)
                whole = []
        if whole:
            yield _cut(whole)


def _fits(number: Number, row: Sequence[Number], within: int) -> bool:
    """Whether a number that is no earlier than those of a row belongs to it."""
    return not row or (number.time - row[0].time <= within and all(number.column != other.column for other in row))


def _cut(rows: Sequence[tuple[int, Sequence[Number]]]) -> Cut:
    """Whole rows, each with the place of the reading that completed it."""
    values = [[number.value for number in sorted(row, key=lambda each: each.column)] for _, row in rows]
    return Cut(
        np.array(values, np.float32)[:, :, None],
        np.array([row[0].time for _, row in rows], np.int64),
        np.array([place for place, _ in rows], np.int64),
        INSTANT,
    )
