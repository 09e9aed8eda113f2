"""Replay: a table of measurements, a Parquet or CSV file, as if it came live."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from fml_lightning.connectors.codecs.times import EARLIEST, LATEST
from fml_lightning.connectors.pace import Pace
from fml_lightning.connectors.quality import Quality
from fml_lightning.connectors.readings import LABELS, READINGS, TIME, Batch
from fml_lightning.errors import UserError

EPOCH_UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1}
SCALARS = (
    pl.when(pl.col("value").is_not_null()).then(pl.concat_list(pl.col("value").cast(pl.Float32))).alias("values")
)
"""Blocks of the one number in `value`."""


class Replay:
    """A table of measurements as a source of readings: `with Replay("log.csv", machine="pump") as readings: ...`.

    The table has a column of times, and either one column for each channel (*wide*), or the columns `channel` and
    `value` (*long*; in place of `value`, for blocks, `values`, a list, and `sample_rate`, Hz). Without a rate, a
    list of one value is a scalar, and a longer one an error. Columns `site` and `machine`, if there are any, name
    where a row was measured, and `label` the machine's state from then on. A missing value is no reading. Columns
    of text, such as remarks, are ignored; so are `sequence` and `received`, which are set anew.

    Args:
        file: Parquet (`.parquet`) or CSV (any other name).
        site: the site, where there is no such column.
        machine: the machine, where there is no such column.
        time: the column of times: datetimes with a time zone, text in ISO 8601 with an offset, or numbers.
        time_unit: what numbers count since 1970: `s`, `ms` or `us`.
        speed: how many times as fast as it was measured; null: without waiting.
    """

    def __init__(
        self,
        file: str | Path,
        site: str = "site",
        machine: str = "machine",
        time: str = "time",
        time_unit: str = "s",
        speed: float | None = None,
    ) -> None:
        if time_unit not in EPOCH_UNITS:
            raise UserError(f"Replay: expected time_unit to be one of {', '.join(EPOCH_UNITS)}, got {time_unit!r}")
        self.file = Path(file)
        self.site = site
        self.machine = machine
        self.time = time
        self.time_unit = time_unit
        self.speed = math.inf if speed is None else speed
        self._stop = threading.Event()
        Pace(self.speed, self._stop)  # which refuses a speed that is not above 0

    def __enter__(self) -> Replay:
        """Read and check the table.

        Raises:
            UserError: there is no such file, or its columns are not those of such a table.
        """
        self._stop.clear()
        self._frame = self._load()
        return self

    def __exit__(self, *error: object) -> None:
        """End an iteration, and forget the table."""
        self._stop.set()
        del self._frame

    def __iter__(self) -> Iterator[Batch]:
        """The table's rows in order of time, in batches; no row is yielded before it is due."""
        rows = self._frame
        times = rows["time"].to_physical().to_numpy() / 1e6  # s
        for due in Pace(self.speed, self._stop).parts(times):
            part = rows[due]
            readings = part.filter(pl.col("channel").is_not_null()).select(*READINGS)
            labels = part.filter(pl.col("label").is_not_null()).select(*LABELS)
            yield Batch(readings, labels.unique(["site", "machine", "time", "label"], maintain_order=True))

    def _load(self) -> pl.DataFrame:
        """`READINGS` in order of time, and a column `label`; a row without a channel has only a label."""
        table = _read(self.file)
        if self.time not in table.columns:
            raise UserError(f"{self.file}: no column {self.time!r}; set time to one of {', '.join(table.columns)}")
        moments = _as_time(table[self.time], self.time_unit, self.file)
        table = table.drop(self.time, strict=False).with_columns(
            moments.alias("time"),
            moments.alias("received"),
            (moments.rank("ordinal").cast(pl.Int64) - 1).alias("sequence"),
            self._names(table, "site", self.site),
            self._names(table, "machine", self.machine),
            table["label"].cast(pl.String) if "label" in table.columns else pl.lit(None, pl.String).alias("label"),
        )
        table = self._long(table) if "channel" in table.columns else self._unpivoted(table)
        table = table.sort("sequence", maintain_order=True)
        bad = pl.col("values").list.eval(~pl.element().is_finite()).list.any()
        quality = pl.when(bad).then(int(Quality.NOT_FINITE)).otherwise(0).alias("quality")
        return table.with_columns(quality).select(*READINGS, "label").cast(dict(READINGS.items()))

    def _names(self, table: pl.DataFrame, role: str, value: str) -> pl.Series:
        """The site or machine (`role`) of each row: as the table says, or else `value`."""
        if role not in table.columns:
            return pl.repeat(value, len(table), dtype=pl.String, eager=True).alias(role)
        names = table[role].cast(pl.String)
        if names.null_count():
            row = names.is_null().arg_max()
            raise UserError(f"{self.file}, column {role!r}, row {row}: expected a name, got none")
        return names

    def _long(self, table: pl.DataFrame) -> pl.DataFrame:
        """A table with one row per reading already."""
        if "values" in table.columns:
            kind = table["values"].dtype
            if not isinstance(kind, pl.List | pl.Array) or not kind.inner.is_numeric():
                raise UserError(f"{self.file}: expected lists of numbers in values, got {kind}")
            blocks = pl.col("values").cast(pl.List(pl.Float32)).list.eval(pl.element().fill_null(math.nan))
            table = table.with_columns(pl.when(pl.col("values").list.len() > 0).then(blocks).alias("values"))
        elif "value" in table.columns:
            values = self._numbers(table["value"])
            if values is None:
                raise UserError(f"{self.file}: expected numbers in value, got {table['value'].dtype}")
            table = table.with_columns(values).with_columns(SCALARS)
        else:
            raise UserError(f"{self.file}: expected a column value or values beside channel, got neither")
        rates = self._numbers(table["sample_rate"]) if "sample_rate" in table.columns else None
        table = table.with_columns(pl.lit(None).alias("sample_rate") if rates is None else rates)
        lacks_rate = table.select((pl.col("values").list.len() > 1) & pl.col("sample_rate").is_null()).to_series()
        if lacks_rate.any():
            row = lacks_rate.arg_max()
            raise UserError(f"{self.file}, row {row}: expected a sample_rate, Hz, beside several values, got none")
        channel = pl.when(pl.col("values").is_not_null()).then(pl.col("channel").cast(pl.String))
        unit = pl.col("unit").cast(pl.String) if "unit" in table.columns else pl.lit(None, pl.String)
        return table.with_columns(channel.alias("channel"), unit.alias("unit"))

    def _unpivoted(self, table: pl.DataFrame) -> pl.DataFrame:
        """One row per channel; a value that is missing is no reading, but its row may still have a label."""
        fixed = ["sequence", "time", "received", "site", "machine", "label"]
        numbers = {
            name: column
            for name in table.columns
            if name not in fixed and (column := self._numbers(table[name])) is not None
        }
        if not numbers:
            raise UserError(f"{self.file}: no column of numbers beside {self.time!r}; expected one per channel")
        long = table.with_columns(**numbers).unpivot(list(numbers), index=fixed, variable_name="channel")
        channel = pl.when(pl.col("value").is_not_null()).then("channel").alias("channel")
        nothing = pl.lit(None).alias("sample_rate"), pl.lit(None).alias("unit")
        return long.with_columns(SCALARS, channel, *nothing)

    def _numbers(self, column: pl.Series) -> pl.Series | None:
        """A column as numbers; None if it holds something else, such as remarks."""
        if not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.String, pl.Null)):
            return None
        numbers = column.cast(pl.Float64, strict=False)
        wrong = numbers.is_null() & column.is_not_null()
        if not wrong.any():
            return numbers
        if numbers.null_count() == len(numbers):
            return None
        row = int(wrong.arg_max() or 0)
        raise UserError(f"{self.file}, column {column.name!r}, row {row}: expected a number, got {column[row]!r}")


def _read(file: Path) -> pl.DataFrame:
    """A table, whatever its columns."""
    kind = "Parquet" if file.suffix == ".parquet" else "CSV"
    if not file.is_file():  # polars would read all files of a folder
        raise UserError(f"{file}: no such file")
    try:
        # All rows tell what a column holds: integers may be followed by fractions.
        return pl.read_parquet(file) if kind == "Parquet" else pl.read_csv(file, infer_schema_length=None)
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise UserError(f"{file}: expected {kind}, got something else ({error})") from error


def _as_time(column: pl.Series, unit: str, file: Path) -> pl.Series:
    """A column of times as `TIME`."""
    where = f"{file}, column {column.name!r}"
    if column.null_count():
        raise UserError(f"{where}, row {column.is_null().arg_max()}: expected a time, got none")
    if column.dtype.is_numeric():
        times = column.cast(pl.Float64) * EPOCH_UNITS[unit]
        good = times.is_between(EARLIEST, LATEST).fill_null(False)
        if not good.all():
            row = int(good.arg_min() or 0)
            raise UserError(
                f"{where}, row {row}: expected a time between 1900 and 2262, got {column[row]} ({unit}); is"
                " time_unit right?"
            )
        return times.round().cast(pl.Int64).cast(TIME)
    if isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone is not None:
        return column.dt.convert_time_zone("UTC").cast(TIME)
    if column.dtype != pl.String:
        raise UserError(f"{where}: expected times with a time zone, got {column.dtype}; say which it is")
    has_offset = column.str.contains(r"(Z|[+-]\d\d:?\d\d)$")
    if not has_offset.all():
        row = int(has_offset.arg_min() or 0)
        raise UserError(
            f"{where}, row {row}: expected a time in ISO 8601 with an offset from UTC, such as Z, got"
            f" {column[row]!r}"
        )
    try:
        return column.str.to_datetime(time_unit="us", time_zone="UTC", strict=True)
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{where}: expected times in ISO 8601, got {column[0]!r} ({error})") from error
