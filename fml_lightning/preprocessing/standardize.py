"""Standardization: what each channel or feature is above its mean, in standard deviations.

Mean and deviation follow from sums, which add up over sites: no site tells another one its rows. Where the
operating condition changes what is normal, as an aircraft's altitude does, each condition has its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fml_lightning.errors import UserError
from fml_lightning.preprocessing.statistics import Cell, Statistics, Sums, refuse_many


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
        refuse_many(len(occupied), self.width, self.condition or "")
        parts = ((int(key), rows[keys == key]) for key in occupied)
        return Sums({key: Cell(len(own), own.sum(0), np.square(own).sum(0)) for key, own in parts}, self.width)

    def fitted(self, sums: Sums) -> Standardize:
        """The same with the statistics of the rows that were summed.

        Raises:
            UserError: there were none, or they have too many cells.
        """
        return replace(self, statistics=sums.statistics())

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
