"""Samples in Parquet: a row is a sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
from numpy.typing import NDArray

from fml_lightning.datamodules.files.signal_file import FIRST, SignalFile
from fml_lightning.errors import UserError

Read = TypeVar("Read")


class ParquetFile(SignalFile):
    """A Parquet file whose rows are samples.

    Args:
        path: of the file.

    Raises:
        UserError: it is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.schema = self._tried(lambda: self._scan().collect_schema())
        super().__init__(path, self.schema.names())

    def rows(self, columns: Sequence[int]) -> int:
        """How many rows there are."""
        for column in columns:
            kind = self.schema.dtypes()[column]
            if not (kind.is_numeric() or kind == pl.Boolean or kind == pl.Null):
                raise UserError(
                    f"{self.path}, row 1, {self.called(column)}: expected numbers, got a column of {kind}; name"
                    " other channels"
                )
        return int(self._tried(lambda: self._scan().select(pl.len()).collect().item()))

    def read(self, columns: Sequence[int], first: int, count: int) -> list[NDArray[Any]]:
        """Samples of some columns."""
        names = [self.names[column] for column in columns]
        frame = self._tried(
            lambda: self._scan().select(pl.col(names)).slice(first, count).collect(engine="streaming")
        )
        return [_numbers(frame[name]) for name in names]

    def times(self, column: int) -> pl.Series:
        """A column of seconds, or of points in time."""
        name = self.names[column]
        kind = self.schema[name]
        if not (kind.is_numeric() or kind == pl.Datetime):
            raise UserError(
                f"{self.path}, row 1, {self.called(column)}: expected times, as numbers or Datetime, got {kind}"
            )
        series = self._tried(lambda: self._scan().select(pl.col([name])).collect(engine="streaming")).to_series()
        return series.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if _has_zone(kind) else series

    def words(self, column: int) -> pl.Series:
        """What the first rows hold in a column of text, of dates or of times."""
        kind = self.schema.dtypes()[column]
        if kind.is_numeric() or kind in (pl.Boolean, pl.Null) or kind.is_nested():
            return super().words(column)
        rows = self._scan().select(pl.col([self.names[column]]).cast(pl.String)).head(FIRST)
        return self._tried(rows.collect).to_series().drop_nulls()

    def _scan(self) -> pl.LazyFrame:
        return pl.scan_parquet(self.path, glob=False, hive_partitioning=False, cache=False)

    def _tried(self, read: Callable[[], Read]) -> Read:
        try:
            return read()
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"{self.path}: expected a Parquet file, got one that cannot be read ({reason})"
            ) from error


def _has_zone(kind: pl.DataType) -> bool:
    return isinstance(kind, pl.Datetime) and kind.time_zone is not None


def _numbers(series: pl.Series) -> NDArray[Any]:
    return (series if series.dtype.is_float() or series.dtype.is_integer() else series.cast(pl.Float64)).to_numpy()
