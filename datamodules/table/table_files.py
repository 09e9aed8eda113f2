"""A table in one or several files, CSV or Parquet: cells as text or as numbers, each with file and line."""

from __future__ import annotations

import csv
import glob
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import polars as pl

from fml_lightning.datamodules.csv_faults import first_fault
from fml_lightning.datamodules.held_out import near
from fml_lightning.errors import UserError

MISSING = ("", "-", "?", "na", "n/a", "nan", "none", "null")
"""What stands for a missing value in a text, in small or capital letters."""
FILE, LINE = "\0file", "\0line"
"""Columns that tell where a row is from: number of the file, and line (of Parquet: row, from 1)."""
SAMPLE = 1000
"""Lines in which decimal commas are looked for."""
_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?")


class TableFiles:
    """Files with the same columns, one below the other.

    Args:
        owner: whose they are, for messages.
        path: of one file, or a pattern, or several of them.
        separator: between the cells of CSV; None: what the first line has most of, out of `,`, `;`, tab and `|`.
        decimal_comma: whether 1,5 in CSV is a number, and 1.5 is none; None: if the first lines have such numbers.
        header: whether the first line of CSV names the columns; else they are called column_1, column_2 and so on.

    Raises:
        UserError: there is no such file, one cannot be read, or their columns differ.
    """

    def __init__(
        self,
        owner: str,
        path: str | Sequence[str],
        separator: str | None = None,
        decimal_comma: bool | None = None,
        header: bool = True,
    ) -> None:
        self.owner = owner
        self.header = header
        self.separator = separator
        self.files = self._found([path] if isinstance(path, str) else path)
        self._scans = [self._scan(number, file) for number, file in enumerate(self.files)]
        schemas = [self._schema(scan, file) for scan, file in zip(self._scans, self.files, strict=True)]
        self.schema = schemas[0]
        for file, schema in zip(self.files, schemas, strict=True):
            for one, other, lacks in ((schemas[0], schema, file), (schema, schemas[0], self.files[0])):
                if absent := [name for name in one if name not in other]:
                    raise UserError(
                        f"{owner}: {lacks} has no column {absent[0]!r}, which another file has; add it"
                    )
        self.columns = tuple(name for name in self.schema if name not in (FILE, LINE))
        csvs = [file for file in self.files if not _is_parquet(file)]
        self.decimal_comma = any(map(self._has_commas, csvs)) if decimal_comma is None else decimal_comma

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(file.stat().st_size for file in self.files)

    def scan(self) -> pl.LazyFrame:
        """All rows with `FILE` and `LINE`, lazily; empty lines are none."""
        frames = [scan.select(self.schema.names()) for scan in self._scans]
        return pl.concat(frames, how="vertical_relaxed").filter(
            ~pl.all_horizontal(pl.col(name).is_null() for name in self.columns)
        )

    def refuse_absent(self, names: Sequence[str], argument: str) -> None:
        """Raise a UserError if a column is not there."""
        for name in names:
            if name not in self.columns:
                raise UserError(
                    f"{self.owner}: {self.files[0]} has no column {name!r}, which {argument} names;"
                    f" {near(name, self.columns)}"
                )

    def text(self, name: str) -> pl.Expr:
        """A column as text, null where it is missing."""
        column, kind = pl.col(name), self.schema[name]
        if kind.is_float():
            column = column.fill_nan(None)
            whole = column.cast(pl.Int64, strict=False)
            return pl.when(whole == column).then(whole.cast(pl.String)).otherwise(column.cast(pl.String))
        if not isinstance(kind, pl.String | pl.Categorical | pl.Enum):
            return column.cast(pl.String)
        column = column.cast(pl.String).str.strip_chars()
        return pl.when(~column.str.to_lowercase().is_in(MISSING)).then(column)

    def number(self, name: str) -> pl.Expr:
        """A column as numbers, null where it is missing or text."""
        kind = self.schema[name]
        if kind.is_numeric() or kind == pl.Boolean:
            return pl.col(name).cast(pl.Float64).fill_nan(None)
        text = self.text(name)
        if self.decimal_comma:
            text = pl.when(~text.str.contains(".", literal=True)).then(text.str.replace(",", ".", literal=True))
        return text.cast(pl.Float64, strict=False)

    def value(self, name: str) -> pl.Expr:
        """A column as text in which a whole number is written in one way: 1.0 and 01 as 1."""
        number = self.number(name)
        whole = number.cast(pl.Int64, strict=False)
        return pl.when(whole == number).then(whole.cast(pl.String)).otherwise(self.text(name))

    def collect(self, lazy: pl.LazyFrame) -> pl.DataFrame:
        """The rows of a query, which is worked off in parts, so that files may be larger than memory.

        Raises:
            UserError: a file cannot be read.
        """
        try:
            return lazy.collect(engine="streaming")
        except (pl.exceptions.PolarsError, OSError) as error:
            raise self._unreadable(error) from error

    def where(self, row: dict[str, object]) -> str:
        """File and line of a row, as in `machines.csv, line 12`."""
        file = self.files[int(str(row[FILE]))]
        return f"{file}, {'row' if _is_parquet(file) else 'line'} {row[LINE]}"

    def _found(self, paths: Sequence[str]) -> list[Path]:
        found: list[Path] = []
        for path in paths:
            own = [Path(path)] if Path(path).is_file() else sorted(map(Path, glob.glob(path, recursive=True)))
            own = [each for each in own if each.is_file()]
            if not own:
                raise UserError(f"{self.owner}: expected a table, CSV or Parquet, at {path!r}, found no such file")
            found += [each for each in own if each not in found]
        if not found:
            raise UserError(f"{self.owner}: expected the path of a table, got none")
        return found

    def _scan(self, number: int, file: Path) -> pl.LazyFrame:
        if _is_parquet(file):
            scan = pl.scan_parquet(file, row_index_name=LINE, row_index_offset=1, glob=False)
        else:
            first = self._first_line(file)
            separator = self.separator or _separator(first)
            names = self._header(file, next(csv.reader([first], delimiter=separator), []))
            scan = pl.scan_csv(
                file,
                separator=separator,
                has_header=self.header,
                new_columns=names,
                infer_schema=False,
                row_index_name=LINE,
                row_index_offset=1 + self.header,
                glob=False,
            )
        return scan.with_columns(pl.lit(number, pl.UInt32).alias(FILE))

    def _schema(self, scan: pl.LazyFrame, file: Path) -> pl.Schema:
        try:
            return scan.collect_schema()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise UserError(f"{self.owner}: {file} cannot be read ({_reason(error)}); restore it") from error

    def _first_line(self, file: Path) -> str:
        try:
            with file.open(encoding="utf-8-sig", newline="") as lines:
                line = next(iter(lines), "")
        except (UnicodeDecodeError, OSError) as error:
            raise self._unreadable(error) from error
        if line.endswith("\r"):
            raise self._unreadable(UserError("lines end on carriage returns alone"))
        return line.rstrip("\r\n")

    def _header(self, file: Path, names: list[str]) -> list[str]:
        """The names of columns, from the cells of the first line."""
        names = [name.strip() for name in names]
        if not names:
            raise UserError(f"{self.owner}: {file}, line 1: expected the names of columns, got an empty line")
        if not self.header:
            return [f"column_{place}" for place in range(1, len(names) + 1)]
        if all(map(_NUMBER.fullmatch, names)):
            raise UserError(
                f"{self.owner}: {file}, line 1: expected the names of columns, got numbers; name the columns, or"
                " set header: false, and they are called column_1, column_2 and so on"
            )
        if twice := [name for i, name in enumerate(names) if name in names[:i]]:
            raise UserError(
                f"{self.owner}: {file}, line 1: two columns are called {twice[0]!r}; rename one of them"
            )
        return names

    def _has_commas(self, file: Path) -> bool:
        separator = self.separator or _separator(self._first_line(file))
        if separator == ",":
            return False
        with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
            rows = (row for _, row in zip(range(SAMPLE), csv.reader(lines, delimiter=separator), strict=False))
            return any(_COMMA.fullmatch(cell.strip()) for row in rows for cell in row)

    def _unreadable(self, error: Exception) -> UserError:
        """What is wrong with the first file that cannot be read."""
        for file in self.files:
            if _is_parquet(file):
                continue
            with suppress(OSError):
                with file.open(encoding="utf-8-sig", errors="replace") as lines:
                    separator = self.separator or _separator(lines.readline())
                if fault := first_fault(file, separator):
                    return UserError(f"{self.owner}: {file}, {fault}")
        names = ", ".join(map(str, self.files[:3]))
        return UserError(f"{self.owner}: {names} cannot be read ({_reason(error)}); restore it")


def _is_parquet(file: Path) -> bool:
    return file.suffix.lower() in (".parquet", ".pq")


def _separator(line: str) -> str:
    """What a line has most of, outside of quotes.

    >>> _separator('a;"b,c,d";e')
    ';'
    """
    bare = re.sub(r'"[^"]*"', "", line)
    return max(",;\t|", key=bare.count)


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
