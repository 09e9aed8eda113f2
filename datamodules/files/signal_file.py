"""A file of samples: rows in time, columns that may be channels; read a part at a time, whatever its kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import polars as pl
from numpy.typing import NDArray

from fml_lightning.errors import UserError

FIRST = 1000
"""Rows in which text is looked for."""


class SignalFile(ABC):
    """A file whose rows are samples and whose columns are channels. Opening it reads no sample.

    Args:
        path: of the file.
        names: of its columns; an empty text where a column has none.
        sample_rate: Hz, if the file tells it.
    """

    row_name = "row"
    """What messages call a row."""

    def __init__(self, path: Path, names: Sequence[str], sample_rate: float | None = None) -> None:
        self.path = path
        self.names = tuple(names)
        self.sample_rate = sample_rate

    @abstractmethod
    def rows(self, columns: Sequence[int]) -> int:
        """How many samples some columns have.

        Raises:
            UserError: a column cannot be a channel, or the columns have different lengths.
        """

    @abstractmethod
    def read(self, columns: Sequence[int], first: int, count: int) -> list[NDArray[Any]]:
        """Samples of some columns, one array of numbers (count,) for each; NaN where there is none.

        Raises:
            UserError: they cannot be read.
        """

    def times(self, column: int) -> pl.Series:
        """A column of times: numbers, or points in time.

        Raises:
            UserError: the column holds something else.
        """
        return pl.Series(self.read([column], 0, self.rows([column]))[0])

    def words(self, column: int) -> pl.Series:
        """What the first rows of a column hold, if it is a column of text and not of numbers; else nothing."""
        return pl.Series(dtype=pl.String)

    def where(self, row: int) -> str:
        """How messages call a row, such as `line 5`; rows are counted from 0 here, and from 1 in messages."""
        return f"{self.row_name} {row + 1}"

    def called(self, column: int) -> str:
        """How messages call a column."""
        return f"column {self.names[column]!r}" if self.names[column] else f"column {column}"

    def column(self, wanted: int | str) -> int:
        """Which column a number, from 0, or a name or a shell-style pattern of names means.

        Raises:
            UserError: none, or more than one.
        """
        held = ", ".join(self.names) if any(self.names) else f"no names, but columns 0 to {len(self.names) - 1}"
        if isinstance(wanted, int):
            if 0 <= wanted < len(self.names):
                return wanted
            raise UserError(
                f"{self.path}: expected column {wanted}, counted from 0, got {len(self.names)} columns: {held}"
            )
        found = [i for i, name in enumerate(self.names) if name == wanted] or [
            i for i, name in enumerate(self.names) if name and fnmatchcase(name, wanted)
        ]
        if len(found) == 1:
            return found[0]
        got = f"{len(found)} of them" if found else "none"
        raise UserError(
            f"{self.path}: expected one column called {wanted!r}, got {got}; it has {held}; name the column, or"
            " give its number from 0"
        )
