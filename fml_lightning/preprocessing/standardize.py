"""Standardization: what each channel or feature is above its mean, in standard deviations.

Mean and deviation follow from sums, which add up over sites: no site tells another one its rows. Where the
operating condition changes what is normal, as an aircraft's altitude does, each condition has its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fml_lightning.errors import UserError

MOST_CELLS = 10_000
"""Cells of an operating condition that are counted at most."""
CONSTANT = 1e-13
"""A variance below this share of the mean square is that of a constant, and of rounding."""


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of each column under each of B + 1 operating conditions."""

    mean: Sequence[Sequence[float]]
    """(B + 1, F)."""
    deviation: Sequence[Sequence[float]]
    """(B + 1, F), above 0."""
    borders: Sequence[float] = ()
    """Where one condition ends and the next begins, ascending, (B,); none: there is one condition."""

    def __post_init__(self) -> None:
        for name in ("mean", "deviation"):
            object.__setattr__(self, name, tuple(map(tuple, getattr(self, name))))
        object.__setattr__(self, "borders", tuple(self.borders))
        widths = {len(row) for row in (*self.mean, *self.deviation)}
        if not len(self.mean) == len(self.deviation) == len(self.borders) + 1 or len(widths) != 1:
            raise UserError(
                "Statistics: expected a mean and a deviation of every column for each of"
                f" {len(self.borders) + 1} conditions, got {[len(row) for row in self.mean]} and"
                f" {[len(row) for row in self.deviation]} columns"
            )
        numbers = [value for row in (*self.mean, *self.deviation, self.borders) for value in row]
        if not all(map(math.isfinite, numbers)) or not all(value > 0 for row in self.deviation for value in row):
            raise UserError("Statistics: expected finite means and borders, and deviations above 0")
        if list(self.borders) != sorted(set(self.borders)):
            raise UserError(f"Statistics: expected ascending borders, got {list(self.borders)}")


@dataclass(frozen=True)
class Cell:
    """The sums over the rows whose operating condition lies in one cell."""

    count: float
    """How many there are, each as often as it counts."""
    total: NDArray[np.float64]
    """Sum of each column, (F,)."""
    squares: NDArray[np.float64]
    """Sum of squares of each column, (F,)."""

    def __add__(self, other: Cell) -> Cell:
        return Cell(self.count + other.count, self.total + other.total, self.squares + other.squares)


@dataclass(frozen=True)
class Sums:
    """What a site tells of its rows: the sums of each cell of the operating condition; they add up over sites."""

    cells: Mapping[int, Cell] = field(default_factory=dict)
    """By the condition's value in widths of a cell, to the nearest one; all in cell 0 where none is asked for."""

    def __add__(self, other: Sums) -> Sums:
        cells = dict(self.cells)
        for key, cell in other.cells.items():
            cells[key] = cells[key] + cell if key in cells else cell
        return Sums(cells)

    def weighted(self, weight: float) -> Sums:
        """The sums where each row counts `weight` times."""
        return Sums(
            {k: Cell(c.count * weight, c.total * weight, c.squares * weight) for k, c in self.cells.items()}
        )


@dataclass(frozen=True)
class Standardize:
    """How channels or features are standardized: (value − mean) / standard deviation.

    A column that never changes is only centred.
    """

    of: Literal["channels", "features"] = "features"
    """What is standardized: the samples of each channel, or each feature (and input) of a window."""
    condition: str | None = None
    """Name of a channel (or an input, `of` features) by whose value operating conditions are told apart, each with
    mean and deviation of its own; the network does not see it. null: there is one condition."""
    width: float = 1.0
    """Values of `condition` in cells of this width: those in the same cell or in neighbouring ones are of one
    condition, and a border lies in the middle of the empty cells between two. Above 0."""
    statistics: Statistics | None = None
    """null: those of the early parts of the training sites."""

    def __post_init__(self) -> None:
        if not 0 < self.width < math.inf:
            raise UserError(f"Standardize: expected width > 0, got {self.width}")
        if self.statistics and self.statistics.borders and self.condition is None:
            raise UserError(
                "Standardize: the statistics have several conditions; expected the name of `condition`"
            )

    def check(self, names: Sequence[str], kind: str) -> None:
        """See that one of the columns' names is that of the condition, if one is asked for.

        Args:
            names: of the columns that have one.
            kind: what they are, `channels` or `inputs`, for errors.

        Raises:
            UserError: none is.
        """
        if self.condition is not None and self.condition not in names:
            named = ", ".join(names) or "none are named"
            raise UserError(
                f"Standardize: expected condition to be one of the {kind} ({named}), got {self.condition!r}; name"
                " it there"
            )

    def sums(self, rows: NDArray[Any], names: Sequence[str]) -> Sums:
        """The sums over rows.

        Args:
            rows: (n, F), with the condition's column.
            names: of the columns that have one.

        Raises:
            UserError: there is no column `condition`, or its cells are too many.
        """
        rows, by = self._columns(np.asarray(rows, np.float64), names)
        keys = np.zeros(len(rows), np.int64) if by is None else np.rint(by / self.width).astype(np.int64)
        occupied = np.unique(keys)
        self._refuse_many(len(occupied))
        parts = ((int(key), rows[keys == key]) for key in occupied)
        return Sums({key: Cell(len(own), own.sum(0), np.square(own).sum(0)) for key, own in parts})

    def fitted(self, sums: Sums) -> Standardize:
        """The same with the statistics of the rows that were summed.

        Raises:
            UserError: there were none, or they have too many cells.
        """
        if not sums.cells:
            raise UserError(
                "Standardize: no training site has recorded an early window to take means from; give"
                " standardize.statistics, or recordings"
            )
        self._refuse_many(len(sums.cells))
        groups: list[Cell] = []
        borders: list[float] = []
        before: int | None = None
        for key, cell in sorted(sums.cells.items()):
            if before is not None and key - before <= 1:
                groups[-1] += cell
            else:
                borders += [] if before is None else [self.width * (before + key) / 2]
                groups.append(cell)
            before = key
        means = [group.total / group.count for group in groups]
        deviations = [_deviation(group, mean) for group, mean in zip(groups, means, strict=True)]
        statistics = Statistics([m.tolist() for m in means], [d.tolist() for d in deviations], borders)
        return Standardize(self.of, self.condition, self.width, statistics)

    def __call__(self, rows: NDArray[np.float32], names: Sequence[str]) -> NDArray[np.float32]:
        """Rows, standardized: (n, F) → (n, F), or (n, F − 1) where a column tells the condition.

        Args:
            rows: (n, F).
            names: of the columns that have one.

        Raises:
            UserError: nobody has given statistics, or they are of other columns.
        """
        if self.statistics is None:
            raise UserError(
                "Standardize: the means of the training sites are not known here; set up the whole fleet, or give"
                " standardize.statistics"
            )
        rows, by = self._columns(rows, names)
        mean, deviation = (
            np.asarray(table, np.float32) for table in (self.statistics.mean, self.statistics.deviation)
        )
        if mean.shape[1] != rows.shape[1]:
            raise UserError(
                f"Standardize: expected {mean.shape[1]} {self.of}, as the statistics have, got {rows.shape[1]}"
            )
        which = np.zeros(1, np.intp) if by is None else np.searchsorted(self.statistics.borders, by)
        return np.asarray((rows - mean[which]) / deviation[which], np.float32)

    def _columns(self, rows: NDArray[Any], names: Sequence[str]) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """The columns to standardize, and that of the condition."""
        if self.condition is None:
            return rows, None
        place = rows.shape[1] - len(names) + list(names).index(self.condition)
        return np.delete(rows, place, axis=1), rows[:, place]

    def _refuse_many(self, cells: int) -> None:
        if cells > MOST_CELLS:
            raise UserError(
                f"Standardize: {self.condition} has values in {cells} cells of width {self.width:g}; raise width"
            )


def _deviation(cell: Cell, mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """The (biased) standard deviation of each column; 1 of a constant one."""
    square = cell.squares / cell.count
    variance = square - mean**2
    return np.sqrt(np.where(variance > CONSTANT * square, variance, 1.0))
