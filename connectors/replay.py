"""Replay: recorded data as if it came live, from Parquet and CSV files, or from a spool to a broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl

from fml_lightning.connectors.connection import Connection
from fml_lightning.connectors.publisher import Publisher
from fml_lightning.connectors.readings import LABELS, READINGS, TIME, Batch, Quality
from fml_lightning.connectors.spool_reader import SpoolReader
from fml_lightning.errors import UserError

EPOCH_UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1}
ROWS = 10_000
"""Rows in a batch."""


class Replay:
    """A table of measurements as a source of readings: `with Replay("log.csv", machine="pump") as readings: ...`.

    The table has a column of times and either one column per channel (*wide*), or the columns `channel` and
    `value` (*long*; `values`, a list, with `sample_rate` for blocks). Columns `site`, `machine` and `label`, where
    there are any, say whose a row is and from when on which label holds.

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
        if speed is not None and not speed > 0:
            raise UserError(f"Replay: expected speed above 0, or null, got {speed}")
        self.file = Path(file)
        self.site = site
        self.machine = machine
        self.time = time
        self.time_unit = time_unit
        self.speed = speed
        self._stop = threading.Event()

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
        """The table's rows in order of time, in batches."""
        rows = self._frame
        began, first = time.monotonic(), rows["time"][0].timestamp() if len(rows) else 0.0
        # Paced, a batch must not be longer than a moment.
        size = ROWS if self.speed is None else 256
        for part in rows.iter_slices(size):
            if self.speed is not None:
                due = (part["time"][0].timestamp() - first) / self.speed
                if self._stop.wait(max(0.0, due - (time.monotonic() - began))):
                    return
            readings = part.filter(pl.col("channel").is_not_null()).select(*READINGS)
            labels = part.filter(pl.col("label").is_not_null()).select(*LABELS)
            yield Batch(readings, labels.unique(["site", "machine", "time", "label"], maintain_order=True))

    def _load(self) -> pl.DataFrame:
        try:
            table = pl.read_parquet(self.file) if self.file.suffix == ".parquet" else pl.read_csv(self.file)
        except FileNotFoundError:
            raise UserError(f"{self.file}: no such file") from None
        except Exception as error:  # whatever a damaged file makes of the reader
            kind = "Parquet" if self.file.suffix == ".parquet" else "CSV"
            raise UserError(f"{self.file}: expected {kind}, got something else ({error})") from error
        if self.time not in table.columns:
            raise UserError(f"{self.file}: no column {self.time!r}; set time to one of {', '.join(table.columns)}")
        table = table.with_columns(_as_time(table[self.time], self.time_unit, self.file).alias("time"))
        for name, value in (("site", self.site), ("machine", self.machine)):
            if name not in table.columns:
                table = table.with_columns(pl.lit(value).alias(name))
        if "label" not in table.columns:
            table = table.with_columns(pl.lit(None, pl.String).alias("label"))
        table = table.sort("time", maintain_order=True).with_row_index("sequence")
        table = table.with_columns(pl.col("sequence").cast(pl.Int64), pl.col("time").alias("received"))
        if "channel" not in table.columns:
            table = self._unpivot(table)
        if "values" not in table.columns:
            if "value" not in table.columns:
                raise UserError(f"{self.file}: expected a column value or values beside channel, got neither")
            table = table.with_columns(pl.concat_list(pl.col("value").cast(pl.Float32)).alias("values"))
        if "sample_rate" not in table.columns:
            table = table.with_columns(pl.lit(None, pl.Float64).alias("sample_rate"))
        bad = pl.col("values").list.eval(~pl.element().is_finite()).list.any()
        quality = pl.when(bad).then(int(Quality.NOT_FINITE)).otherwise(0).cast(pl.UInt8)
        return table.with_columns(pl.col("values").cast(READINGS["values"]), quality.alias("quality"))

    def _unpivot(self, table: pl.DataFrame) -> pl.DataFrame:
        """One row per channel; a value that is missing is no reading, but its row may still have a label."""
        fixed = ["sequence", "time", "received", "site", "machine", "label"]
        numbers = {
            c: n
            for c in table.columns
            if c not in {*fixed, self.time} and (n := self._numbers(table[c])) is not None
        }
        if not numbers:
            raise UserError(f"{self.file}: no column of numbers beside {self.time!r}; expected one per channel")
        long = table.with_columns(**numbers).unpivot(list(numbers), index=fixed, variable_name="channel")
        long = long.with_columns(pl.when(pl.col("value").is_not_null()).then("channel").alias("channel"))
        return long.sort("sequence", maintain_order=True)

    def _numbers(self, column: pl.Series) -> pl.Series | None:
        """A column as numbers; None if it holds text, such as remarks."""
        numbers = column.cast(pl.Float64, strict=False)
        wrong = numbers.is_null() & column.is_not_null()
        if wrong.all():
            return None
        if wrong.any():
            row = int(wrong.arg_max() or 0)
            raise UserError(
                f"{self.file}, column {column.name!r}, row {row}: expected a number, got {column[row]!r}"
            )
        return numbers


def republish(
    folder: str | Path,
    connection: Connection,
    stop: threading.Event,
    speed: float = 1.0,
    on_progress: Callable[[int], None] = lambda published: None,
) -> int:
    """Publish a spool's messages again, at the pace at which they were received, QoS 1.

    Args:
        folder: the spool's.
        connection: the broker to publish at.
        stop: ends it.
        speed: how many times as fast; infinity for as fast as possible.
        on_progress: called after each message with how many were published.

    Returns:
        How many were published.

    Raises:
        UserError: there is no such spool, or no such broker, or it refuses the messages.
    """
    reader = SpoolReader(folder)
    published = 0
    with Publisher(connection, "replay") as publisher:
        for frame in reader.replay(speed):
            for topic, payload in frame.select("topic", "payload").iter_rows():
                if not publisher.publish(topic, payload, stop):
                    return published
                published += 1
                on_progress(published)
        publisher.flush(stop)
    return published


def _as_time(column: pl.Series, unit: str, file: Path) -> pl.Series:
    """A column of times as `TIME`."""
    where = f"{file}, column {column.name!r}"
    if column.dtype.is_temporal():
        if not isinstance(column.dtype, pl.Datetime) or column.dtype.time_zone is None:
            raise UserError(
                f"{where}: expected times with a time zone, got {column.dtype}; say which zone they are in"
            )
        return column.dt.convert_time_zone("UTC").cast(TIME)
    if column.dtype.is_numeric():
        return (column.cast(pl.Float64) * EPOCH_UNITS[unit]).round().cast(pl.Int64).cast(TIME)
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
