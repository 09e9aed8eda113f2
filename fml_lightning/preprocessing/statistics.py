"""Sums over rows, which add up over sites, and the statistics that follow from them: means and deviations.

No site tells another one its rows. Both have a plain form, arrays by name, in which they cross the wire and lie in
checkpoints; `Preprocessing.describe` has statistics in JSON. What is read back is checked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fml_lightning.errors import UserError

MOST_CELLS = 10_000
"""Cells of an operating condition that are counted at most."""
FARTHEST = 2**40
"""The greatest number of a cell, so that the borders between cells are told apart."""
LARGEST = float(np.finfo(np.float32).max)
"""Samples and features are float32."""
CONSTANT = 1e-13
"""A variance below this share of the mean square is that of a constant, and of rounding."""
ROUNDING = 1e-6
"""Share by which sums may lie beyond what rows of exact numbers could have."""

Arrays = Mapping[str, NDArray[np.generic]]


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

    @property
    def columns(self) -> int:
        """How many there are, F."""
        return len(self.mean[0])

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """As arrays by name, from which `from_arrays` makes the same statistics again, bit for bit."""
        return {name: np.array(getattr(self, name), np.float64) for name in ("mean", "deviation", "borders")}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Statistics:
        """What `arrays` told.

        Raises:
            UserError: it is something else.
        """
        _check("Statistics", arrays, {"mean": ("f", 2), "deviation": ("f", 2), "borders": ("f", 1)})
        return cls(**{name: array.tolist() for name, array in arrays.items()})

    def difference(self, other: Statistics) -> str:
        """Where these differ from others, in words; empty where they do not.

        >>> Statistics([[0.0, 1.0]], [[1.0, 1.0]]).difference(Statistics([[0.0, 3.0]], [[1.0, 2.0]]))
        'a mean by up to 1 and a deviation by up to 0.5 times the deviation'
        """
        if self == other:
            return ""
        if self.columns != other.columns:
            return f"{self.columns} columns, not {other.columns}"
        if self.borders != other.borders:
            return "other operating conditions"
        ours, theirs = self.arrays(), other.arrays()
        mean, deviation = (
            float((np.abs(ours[name] - theirs[name]) / theirs["deviation"]).max())
            for name in ("mean", "deviation")
        )
        return f"a mean by up to {mean:.2g} and a deviation by up to {deviation:.2g} times the deviation"


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
    width: float = 1.0
    """Of a cell, above 0; the same in all sums that are added."""

    def __add__(self, other: Sums) -> Sums:
        cells = dict(self.cells)
        for key, cell in other.cells.items():
            cells[key] = cells[key] + cell if key in cells else cell
        return Sums(cells, self.width if self.cells else other.width)

    @property
    def rows(self) -> float:
        """How many rows there are, each as often as it counts."""
        return sum(cell.count for cell in self.cells.values())

    @property
    def columns(self) -> int:
        """How many there are, F; 0 where there is no row."""
        return next((len(cell.total) for cell in self.cells.values()), 0)

    def weighted(self, weight: float) -> Sums:
        """The sums where each row counts `weight` times."""
        cells = {k: Cell(c.count * weight, c.total * weight, c.squares * weight) for k, c in self.cells.items()}
        return Sums(cells, self.width)

    @classmethod
    def of_sites(cls, sums: Mapping[str, Sums]) -> Sums:
        """The sums of several sites, added in the order of the sites' names: the same bits wherever it is done."""
        return sum((sums[site] for site in sorted(sums)), start=cls())

    def statistics(self) -> Statistics:
        """Means and deviations of the rows; cells that touch one another are of one operating condition.

        Raises:
            UserError: there are no rows, or too many cells.
        """
        if not self.cells:
            raise UserError(
                "Standardize: no training site has recorded an early window to take means from; give"
                " standardize.statistics, or recordings"
            )
        refuse_many(len(self.cells), self.width)
        groups: list[Cell] = []
        borders: list[float] = []
        before: int | None = None
        for key, cell in sorted(self.cells.items()):
            if before is not None and key - before <= 1:
                groups[-1] += cell
            else:
                borders += [] if before is None else [self.width * (before + key) / 2]
                groups.append(cell)
            before = key
        means = [group.total / group.count for group in groups]
        deviations = [_deviation(group, mean) for group, mean in zip(groups, means, strict=True)]
        return Statistics([m.tolist() for m in means], [d.tolist() for d in deviations], borders)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """As arrays by name, from which `from_arrays` makes the same sums again, bit for bit."""
        cells, shape = self.cells.values(), (len(self.cells), self.columns)
        return {
            "cells": np.array(list(self.cells), np.int64),
            "count": np.array([cell.count for cell in cells], np.float64),
            "total": np.array([cell.total for cell in cells], np.float64).reshape(shape),
            "squares": np.array([cell.squares for cell in cells], np.float64).reshape(shape),
            "width": np.array(self.width, np.float64),
        }

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Sums:
        """What `arrays` told; whether rows can have such sums says `fault`.

        Raises:
            UserError: it is something else.
        """
        kinds = {"cells": ("i", 1), "count": ("f", 1), "total": ("f", 2), "squares": ("f", 2), "width": ("f", 0)}
        _check("sums", arrays, kinds)
        cells, count, total, squares = (arrays[name] for name in ("cells", "count", "total", "squares"))
        if not cells.shape == count.shape == total.shape[:1] or total.shape != squares.shape:
            raise UserError("sums: expected a count, and sums of every column, for each cell, got other shapes")
        keys = cells.tolist()
        if len(set(keys)) < len(keys):
            raise UserError("sums: expected each cell once, got one twice")
        parts = zip(count.tolist(), total.astype(np.float64), squares.astype(np.float64), strict=True)
        return cls(
            {key: Cell(*part) for key, part in zip(keys, parts, strict=True)}, float(arrays["width"].item())
        )

    def fault(self, most_rows: float) -> str | None:
        """Why no rows of float32 have these sums; None: some may.

        Args:
            most_rows: how many rows a site may have.
        """
        told = {name: np.asarray(array, np.float64) for name, array in self.arrays().items()}
        count, total, squares = told["count"], told["total"], told["squares"]
        if not all(np.isfinite(array).all() for array in told.values()):
            return "expected finite sums, got NaN or infinity"
        if not self.cells:
            return None
        if not self.columns:
            return "expected sums of at least one column, got none"
        if (count < 1).any() or (count != np.rint(count)).any() or count.sum() > most_rows:
            return f"expected whole counts of 1 to {most_rows:.0f} rows, got others"
        farthest = max(map(abs, self.cells))
        if not self.width > 0 or len(self.cells) > MOST_CELLS or farthest > min(FARTHEST, LARGEST / self.width):
            return (
                f"expected at most {MOST_CELLS} cells of a width above 0, within the range of float32, got others"
            )
        if (squares < 0).any() or (squares > count[:, None] * LARGEST**2).any():
            return "expected sums of squares of at least 0, within the range of float32, got others"
        if (total**2 > count[:, None] * squares * (1 + ROUNDING)).any():
            return "expected sums whose square is at most the count times the sum of squares, got greater ones"
        return None


def refuse_many(cells: int, width: float, condition: str = "the condition") -> None:
    """See that an operating condition has not too many cells.

    Raises:
        UserError: it has.
    """
    if cells > MOST_CELLS:
        raise UserError(f"Standardize: {condition} has values in {cells} cells of width {width:g}; raise width")


def _deviation(cell: Cell, mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """The (biased) standard deviation of each column; 1 of a constant one."""
    square = cell.squares / cell.count
    variance = square - mean**2
    return np.sqrt(np.where(variance > CONSTANT * square, variance, 1.0))


def _check(what: str, arrays: Arrays, kinds: Mapping[str, tuple[str, int]]) -> None:
    """See that there are arrays of these names, each of its kind of 64-bit numbers and its number of axes.

    Raises:
        UserError: there are others.
    """
    if set(arrays) != set(kinds):
        raise UserError(f"{what}: expected the arrays {', '.join(kinds)}, got others")
    for name, (kind, axes) in kinds.items():
        dtype, shape = arrays[name].dtype, arrays[name].shape
        if (dtype.kind, dtype.itemsize, len(shape)) != (kind, 8, axes):
            raise UserError(f"{what}.{name}: expected {axes} axes of {kind}8, got {dtype.str} of shape {shape}")
