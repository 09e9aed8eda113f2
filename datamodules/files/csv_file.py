"""Samples in text: a line is a sample; its layout is seen from the first lines, or told."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from numpy.typing import NDArray

from fml_lightning.datamodules.files.signal_file import FIRST, SignalFile
from fml_lightning.errors import UserError

HEAD = 1 << 16
"""Bytes from which the layout is seen."""
MOST_SHOWN = 40
"""Characters of a cell that messages show at most."""
DECIMAL_COMMA = re.compile(r"\s*[+-]?\d*,\d+([eE][+-]?\d+)?\s*")


@dataclass(frozen=True)
class CsvFormat:
    """How text files are laid out; null: as the first lines show."""

    separator: str | None = None
    """What parts columns: one character, such as `;`."""
    decimal_comma: bool | None = None
    """Whether numbers are written as `1,5`."""
    header: bool | None = None
    """Whether the first line holds the names of the columns; seen as one if nothing in it is a number."""
    skip: int = 0
    """Lines before the header, or before the first sample."""
    skip_after_header: int = 0
    """Lines between the header and the first sample, such as one of units."""

    def __post_init__(self) -> None:
        if self.separator is not None and len(self.separator) != 1:
            raise UserError(f"csv.separator: expected one character, got {self.separator!r}")
        if min(self.skip, self.skip_after_header) < 0:
            raise UserError(f"csv: expected numbers of lines to skip of 0 or more, got {self}")


class CsvFile(SignalFile):
    """A text file whose lines are samples.

    Args:
        path: of the file.
        layout: what is told of it.

    Raises:
        UserError: the file is empty, or no text.
    """

    row_name = "line"

    def __init__(self, path: Path, layout: CsvFormat) -> None:
        with path.open("rb") as file:
            head = file.read(HEAD)
            file.seek(max(0, file.seek(0, 2) - HEAD))
            tail = file.read()
        if not head.strip():
            raise UserError(f"{path}: expected lines of samples, got an empty file; leave it out")
        if b"\r" in head and b"\n" not in head:
            raise UserError(
                f"{path}, line 1: expected lines that end on a line feed, got carriage returns alone; save it with"
                " the line ends of Unix or Windows"
            )
        if b"\0" in head:
            raise UserError(f"{path}: expected text in UTF-8, got other bytes; is it a file of another kind?")
        lines = _decoded(head).splitlines()
        if len(head) == HEAD and len(lines) > 1:
            lines.pop()  # only its beginning
        blank = next((i for i, line in enumerate(lines[layout.skip :]) if line.strip()), None)
        if blank is None:
            raise UserError(f"{path}: expected more than the {layout.skip} lines of csv.skip, got {len(lines)}")
        self.begin = layout.skip + blank
        first, rest = lines[self.begin], lines[self.begin + 1 :]
        self.separator = layout.separator or _separator(first, rest)
        cells = self._cells(first)
        data = [cell for line in [first, *rest[:100]] for cell in self._cells(line)]
        comma = self.separator != "," and any(map(DECIMAL_COMMA.fullmatch, data))
        self.decimal_comma = comma if layout.decimal_comma is None else layout.decimal_comma
        self.has_header = not any(map(self._is_number, cells)) if layout.header is None else layout.header
        if self.has_header:
            self.begin += 1 + layout.skip_after_header
        self.blank_at_end = max(0, tail[len(tail.rstrip(b"\r\n")) :].count(b"\n") - 1)
        super().__init__(path, [cell.strip() if self.has_header else "" for cell in cells])

    def rows(self, columns: Sequence[int]) -> int:
        """How many lines there are after the header.

        Raises:
            UserError: a line has more columns than the first one.
        """
        lines = separators = 0
        piece = b"\n"
        with self.path.open("rb") as file:
            for _ in range(self.begin):
                file.readline()
            while more := file.read(HEAD):
                piece = more
                lines += piece.count(b"\n")
                separators += piece.count(self.separator.encode())
        lines += not piece.endswith(b"\n")
        if separators > lines * (len(self.names) - 1):
            self._refuse_long_lines()
        return max(0, lines - self.blank_at_end)

    def read(self, columns: Sequence[int], first: int, count: int) -> list[NDArray[Any]]:
        """Samples of some columns, float64."""
        try:
            frame = self._scan(columns).select(map(str, columns)).slice(first, count).collect()
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            raise self._fault(columns, str(error)) from error
        return [frame[str(column)].to_numpy() for column in columns]

    def times(self, column: int) -> pl.Series:
        """A column of seconds, or of dates and times as ISO 8601 writes them."""
        try:
            text = (
                self._scan(()).select(str(column)).slice(0, self.rows(())).collect().to_series().str.strip_chars()
            )
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            raise self._fault((), str(error)) from error
        if self.decimal_comma:
            numbers = text.str.replace(",", ".", literal=True).cast(pl.Float64, strict=False)
        else:
            numbers = text.cast(pl.Float64, strict=False)
        if numbers.null_count() == text.null_count():
            return numbers
        clock = text.str.replace(r"^(\S+) ", "${1}T").str.replace(r",(\d+)$", ".$1").str.replace(r"Z$", "+00:00")
        zoned = clock.str.contains(r"[+-]\d\d:?\d\d$").any()
        form = "%Y-%m-%dT%H:%M:%S%.f%z" if zoned else "%Y-%m-%dT%H:%M:%S%.f"
        times = clock.str.to_datetime(form, time_unit="us", strict=False)
        if times.null_count() > text.null_count():
            best = times if times.null_count() < numbers.null_count() else numbers
            row = int((best.is_null() & text.is_not_null()).arg_max() or 0)
            raise UserError(
                f"{self.path}, {self.where(row)}, {self.called(column)}: expected a time, as seconds or like"
                f" 2024-01-31 12:30:00.5, got {text[row]!r}"
            )
        return times.dt.replace_time_zone(None)

    def words(self, column: int) -> pl.Series:
        """What the first lines hold in a column, if less than half of it are numbers."""
        cells = [
            row[column].strip() for _, (_, row) in zip(range(FIRST), self._lines(), strict=False) if row[column:]
        ]
        told = [cell for cell in cells if cell]
        is_text = 2 * sum(map(self._is_number, told)) < len(told)
        return pl.Series(told if is_text else [], dtype=pl.String)

    def where(self, row: int) -> str:
        """The line of a row, counted from 1."""
        return f"line {self.begin + row + 1}"

    def _scan(self, columns: Sequence[int]) -> pl.LazyFrame:
        """The lines; some columns as numbers, the others as text."""
        return pl.scan_csv(
            self.path,
            glob=False,
            has_header=False,
            skip_lines=self.begin,
            schema={str(i): pl.Float64 if i in columns else pl.String for i in range(len(self.names))},
            separator=self.separator,
            decimal_comma=self.decimal_comma,
            encoding="utf8-lossy",
            infer_schema=False,
        )

    def _fault(self, columns: Sequence[int], error: str) -> UserError:
        """What the first line is that cannot be read."""
        self._refuse_long_lines()
        for number, cells in self._lines():
            for column in columns:
                if column < len(cells) and cells[column].strip() and not self._is_number(cells[column]):
                    hint = "set csv.decimal_comma: true" if DECIMAL_COMMA.fullmatch(cells[column]) else "mend it"
                    if number == self.begin + 1:
                        hint += ", or skip the line by csv.skip or csv.skip_after_header"
                    return UserError(
                        f"{self.path}, line {number}, {self.called(column)}: expected a number, got"
                        f" {_shortened(cells[column].strip())!r}; {hint}"
                    )
        return UserError(f"{self.path}: expected lines of samples, got {error.strip().splitlines()[0]}")

    def _refuse_long_lines(self) -> None:
        """See that no line has more columns than the first one, but for empty ones at its end."""
        for number, cells in self._lines():
            if any(cells[len(self.names) :]):
                raise UserError(
                    f"{self.path}, line {number}: expected {len(self.names)} columns parted by"
                    f" {self.separator!r} as in the first line, got {len(cells)}; mend it, or set csv.separator"
                )

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        with self.path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            for _ in range(self.begin):
                next(file, None)
            reader = csv.reader(file, delimiter=self.separator)
            first = 1
            for cells in reader:
                yield self.begin + first, cells
                first = reader.line_num + 1  # a cell in quotes may span several lines

    def _cells(self, line: str) -> list[str]:
        return next(csv.reader([line], delimiter=self.separator), [])

    def _is_number(self, cell: str) -> bool:
        try:
            float(cell.replace(",", ".") if self.decimal_comma else cell)
        except ValueError:
            return False
        return "_" not in cell


def _decoded(head: bytes) -> str:
    try:
        return head[: head.rfind(b"\n") + 1 or len(head)].decode("utf-8-sig")
    except UnicodeDecodeError:
        return head.decode("latin-1")


def _shortened(cell: str) -> str:
    """A cell as messages show it: a cell whose quotes do not close goes on to the end of the file."""
    return cell if len(cell) <= MOST_SHOWN else f"{cell[:MOST_SHOWN]}…"


def _separator(first: str, rest: Sequence[str]) -> str:
    """What parts the columns: the first of `;`, tab and `,` that the first line has.

    >>> _separator("1,5;2,5", []), _separator("acc", ["1,5"]), _separator("a,b", ["1,5"])
    (';', ';', ',')
    """
    for candidate in (";", "\t", ","):
        if candidate in first:
            return candidate
    return ";" if rest and "," in rest[0] else ","


def read_table(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The lines of a table of text with a header, such as a manifest: number of the line, cells by column.

    Raises:
        UserError: the file is empty, or a line has other columns than the header.
    """
    table = CsvFile(path, CsvFormat(header=True))
    if len(set(table.names)) < len(table.names):
        raise UserError(
            f"{path}, line {table.begin}: expected each name of a column once, got {', '.join(table.names)}"
        )
    lines = []
    for number, cells in table._lines():
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(table.names):
            raise UserError(
                f"{path}, line {number}: expected {len(table.names)} columns as in the header, got {len(cells)}"
            )
        values = [cell.strip() for cell in cells]
        if table.decimal_comma:
            values = [v.replace(",", ".") if DECIMAL_COMMA.fullmatch(v) else v for v in values]
        lines.append((number, dict(zip(table.names, values, strict=True))))
    return lines
