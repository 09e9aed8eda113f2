"""The rows of a table that are used, with a column for each role; wrong cells are told with their place."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import Literal

import polars as pl

from fml_lightning.datamodules.table.table_files import FILE, LINE, TableFiles
from fml_lightning.datamodules.table.uses import Uses
from fml_lightning.errors import UserError

log = logging.getLogger(__name__)

SITE, MACHINE, CONDITION, TARGET, TIME = "\0site", "\0machine", "\0condition", "\0target", "\0time"
"""Columns by what they are for; the user's own names cannot collide with these."""
ROLES = {SITE: "site", MACHINE: "machine", CONDITION: "condition", TARGET: "target", TIME: "time"}
ROW_BYTES = 110
"""Memory that a row takes beside its features, about."""
SCATTER = 2654435761
"""Multiplied by a row's number, modulo 2³²: spreads rows evenly (Knuth, TAOCP 3, 6.4)."""
FINITE = "a finite number of 32 bits"
ONLY = "all"
"""The operating condition where there is no column of conditions."""


class Rows:
    """The rows to use: all, or those without a gap, or a share of more than memory holds.

    Args:
        files: where they are.
        uses: what each column is for.
        is_number: whether the target is a number.
        missing: what happens to rows with missing values; those to drop are none of these.
        memory: GiB that the rows may take, about.
    """

    def __init__(
        self,
        files: TableFiles,
        uses: Uses,
        is_number: bool,
        missing: Literal["refuse", "drop", "mean", "zero"],
        memory: float,
    ) -> None:
        self.files = files
        self.uses = uses
        self.roles = uses.roles
        self.categories = uses.categories
        self.is_number = is_number
        self.missing = missing
        self.memory = memory

    @cached_property
    def numbers(self) -> tuple[str, ...]:
        """The columns of numbers that the network sees: features, then inputs."""
        return self.uses.numbers(self.files)

    @property
    def all(self) -> pl.LazyFrame:
        """All of them, with the columns of roles."""
        files, roles = self.files, self.roles
        rows = files.scan()
        if self._share < 1:
            scattered = (pl.col(LINE).cast(pl.UInt64) * SCATTER) % 2**32
            rows = rows.filter(scattered < int(self._share * 2**32))
        target = files.number if self.is_number else files.value
        rows = rows.with_columns(
            files.text(roles["site"]).alias(SITE),
            files.text(roles["machine"]).alias(MACHINE),
            (files.text(roles["condition"]) if "condition" in roles else pl.lit(ONLY)).alias(CONDITION),
            target(roles["target"]).alias(TARGET),
            (self._time(roles["time"]) if "time" in roles else pl.lit(0)).alias(TIME),
        )
        return rows.filter(self._is_whole) if self.missing == "drop" else rows

    def tell_dropped(self) -> None:
        """Log how many rows are left out because a value is missing, if that is what to do with them."""
        if self.missing == "drop":
            count, whole = self.files.collect(
                self.files.scan().select(pl.len().alias("rows"), self._is_whole.sum().alias("whole"))
            ).row(0)
            if whole < count:
                log.info(
                    "%s: of %d rows %d lack a value, and are left out", self.files.owner, count, count - whole
                )

    @cached_property
    def is_date(self) -> bool:
        """Whether times are dates: the first one is."""
        files, time = self.files, self.roles.get("time")
        if time is None or files.schema[time].is_numeric():
            return False
        if files.schema[time].is_temporal():
            return True
        first = files.collect(
            files.scan().filter(files.text(time).is_not_null()).select(files.number(time)).head(1)
        )
        return bool(len(first)) and first.item() is None

    def read(self, own: pl.Expr) -> pl.DataFrame:
        """Numbers, categories and roles of some rows, checked; numbers may be missing.

        Raises:
            UserError: a cell is not what it has to be.
        """
        files, numbers = self.files, self.numbers
        frame = files.collect(
            self.all.filter(own).select(
                *(FILE, LINE, MACHINE, CONDITION, TARGET, TIME),
                *(files.number(number).cast(pl.Float32).alias(number) for number in numbers),
                *(files.value(category).alias(category) for category in self.categories),
            )
        )
        for role in (TIME, *([TARGET] if self.is_number else [])):
            if frame[role].null_count():
                self.refuse_missing(role, own)
        if self.is_number and not frame[TARGET].cast(pl.Float32).is_finite().all():
            infinite = pl.col(TARGET).cast(pl.Float32).is_infinite()
            raise self.cell_error(own & infinite, self.roles["target"], FINITE, "mend it")
        for number in numbers:
            if not frame[number].is_finite().all():
                infinite = files.number(number).cast(pl.Float32).is_infinite()
                raise self.cell_error(own & infinite, number, FINITE, "mend it")
            if frame[number].null_count():
                is_text = files.text(number).is_not_null() & files.number(number).is_null()
                if len(files.collect(self.all.filter(own & is_text).select(LINE).head(1))):
                    hint = "mend it, leave the column out of features, or set decimal_comma"
                    raise self.cell_error(own & is_text, number, "a number", hint)
        if self.missing == "refuse":
            for column in (*numbers, *self.categories):
                if frame[column].null_count():
                    self.refuse_missing(column, own)
        return frame

    def refuse_missing(self, column: str, own: pl.Expr | None = None) -> None:
        """Raise the UserError of the first cell of a column that is missing."""
        role = ROLES.get(column)
        name = column if role is None else self.roles[role]
        is_missing = pl.col(column).is_null() if role else self.files.text(column).is_null()
        fill_in = "fill it in, or set missing: drop" + (", mean or zero" if role is None else "")
        expected = "a number" if column == TARGET and self.is_number else "a value"
        if column == TIME:
            expected = "a time, as the others"
        raise self.cell_error(is_missing if own is None else own & is_missing, name, expected, "mend it", fill_in)

    def cell_error(
        self, which: pl.Expr, column: str, expected: str, mend: str, fill_in: str = "fill it in"
    ) -> UserError:
        """What is wrong with the first cell of a column among some rows.

        Args:
            which: these rows.
            column: the column.
            expected: what ought to be in its cells.
            mend: what to do if there is something else.
            fill_in: what to do if there is nothing.
        """
        files = self.files
        rows = self.all.filter(which).select(FILE, LINE, files.text(column).alias(column))
        row = files.collect(rows.bottom_k(1, by=[FILE, LINE])).row(0, named=True)
        got = f"none; {fill_in}" if row[column] is None else f"{row[column]!r}; {mend}"
        return UserError(f"{files.owner}: {files.where(row)}, column {column!r}: expected {expected}, got {got}")

    @property
    def _is_whole(self) -> pl.Expr:
        """Whether no value of a row is missing."""
        names = dict.fromkeys((*self.numbers, *self.categories, *self.roles.values()))
        return pl.all_horizontal(self.files.text(name).is_not_null() for name in names)

    @cached_property
    def _share(self) -> float:
        """Of the rows that are read."""
        files = self.files
        budget = self.memory * 2**30
        width = 8 * len(files.columns) + ROW_BYTES  # as read, and standardized
        if files.bytes * 128 < budget:  # a cell of CSV takes two bytes at least, one of Parquet next to none
            return 1.0
        rows = files.collect(files.scan().select(pl.len())).item()
        if rows * width <= budget:
            return 1.0
        log.warning(
            "%s: of %d rows %.2g %% are read, spread evenly, so that they fit into %g GiB; raise memory for more",
            *(files.owner, rows, 100 * budget / (rows * width), self.memory),
        )
        return float(budget / (rows * width))

    def _time(self, name: str) -> pl.Expr:
        """Times as integers in µs, or as numbers."""
        kind = self.files.schema[name]
        if kind.is_temporal():
            return pl.col(name).cast(pl.Datetime("us")).cast(pl.Int64)
        if not self.is_date:
            return self.files.number(name)
        date = self.files.text(name).str.to_datetime(strict=False, time_unit="us", time_zone="UTC")
        return date.cast(pl.Int64)
