"""Rows: the scalars of one machine as a table, a row for each time and a column for each channel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.errors import UserError

KEYS = ("time", "quality")
"""The columns that are no channels; a channel of such a name has another one."""
LONGEST = 10**18
"""µs that a row can span at most: more than there are between any two times."""


@dataclass(frozen=True)
class Rows:
    """Scalars of one machine that belong together."""

    frame: pl.DataFrame
    """`time`, of the first reading in a row; `quality`, the flags (`Quality`) of all its readings together; and
    for each channel a column of float32, null where the row has no reading of it. In order of time."""
    units: Mapping[str, str | None]
    """The unit of each column that is a channel; None where nobody says. A channel that came in several units has
    a column for each, such as `flow [l/min]`."""

    @classmethod
    def of(cls, readings: pl.DataFrame, within: float = 0.0) -> Rows:
        """The scalars among readings as rows; each of them is in exactly one row.

        Readings are taken in order of time, and at the same time in the order in which they came. A row begins
        with the first that is in none, and goes on until a reading is more than `within` later than that first
        one, or is of a column that the row has already.

        Args:
            readings: of one machine (`READINGS`), none of them repeated; blocks are left out.
            within: seconds, at least 0.

        Raises:
            UserError: `within` is below 0.
        """
        if not within >= 0:
            raise UserError(f"rows: expected within of at least 0 seconds, got {within}")
        scalars = readings.filter(pl.col("sample_rate").is_null()).sort("time", "sequence", maintain_order=True)
        streams = scalars.select("channel", "unit").unique().sort("channel", "unit").with_row_index("column")
        names = _names(streams.select("channel", "unit").rows())
        column = scalars.join(streams, on=["channel", "unit"], nulls_equal=True, maintain_order="left")["column"]
        time = scalars["time"].to_physical().to_numpy()
        row = pl.Series("row", _row_numbers(time, column.to_numpy(), min(round(within * 1e6), LONGEST)))
        cells = scalars.select(row, "time", "quality", column.cast(pl.String), value=pl.col("values").list.first())
        keys = cells.group_by("row", maintain_order=True).agg(
            pl.col("time").first(), pl.col("quality").bitwise_or()
        )
        if not names:
            return cls(keys.select(*KEYS), {})
        table = keys.join(cells.pivot("column", index="row", values="value"), on="row", maintain_order="left")
        of = {str(i): name for i, name in enumerate(names)}
        return cls(
            table.select(*KEYS, *(pl.col(i).alias(name) for i, name in of.items())),
            dict(zip(names, streams["unit"], strict=True)),
        )


def _row_numbers(time: NDArray[np.int64], column: NDArray[np.uint32], within: int) -> NDArray[np.int64]:
    """The number of the row that each of n readings is in, (n,).

    Args:
        time: of each, ascending, µs, (n,).
        column: in which each stands, (n,).
        within: µs.
    """
    n = len(time)
    next_in_column = np.full(n, n)
    by_column = np.argsort(column, kind="stable")
    is_followed = column[by_column[:-1]] == column[by_column[1:]]
    next_in_column[by_column[:-1][is_followed]] = by_column[1:][is_followed]
    # Where a row ends that begins with each reading: before the first that is too late, or whose column it has.
    repeated = np.minimum.accumulate(next_in_column[::-1])[::-1]
    ends = np.minimum(np.searchsorted(time, time + within, side="right"), repeated).tolist()
    begins = np.zeros(n, np.int64)
    at = 0
    while at < n:
        begins[at] = 1
        at = ends[at]
    return begins.cumsum() - 1


def _names(streams: Sequence[tuple[str, str | None]]) -> list[str]:
    """A name for the column of each channel and unit, all different, and none of `KEYS`.

    >>> _names([("flow", "l/min"), ("flow", "m3/h"), ("rpm", None), ("time", "s")])
    ['flow [l/min]', 'flow [m3/h]', 'rpm', 'time (2)']
    """
    units = Counter(channel for channel, _ in streams)
    taken, names = set(KEYS), list[str]()
    for channel, unit in streams:
        plain = f"{channel} [{unit}]" if units[channel] > 1 and unit else channel
        name, number = plain, 2
        while name in taken:
            name, number = f"{plain} ({number})", number + 1
        taken.add(name)
        names.append(name)
    return names
