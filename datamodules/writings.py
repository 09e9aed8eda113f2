"""Writings: what each user wrote, in the order of writing, from a table or a folder of text files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import polars as pl

from fml_lightning.datamodules.csv_faults import first_fault
from fml_lightning.errors import UserError

BETWEEN = "\n"
"""What stands between two texts of a user."""


class Writings(Protocol):
    """The texts of users; nothing is kept of them between two calls."""

    def lengths(self) -> dict[str, int]:
        """How many characters each user wrote, `BETWEEN` included, in order of the users' names."""
        ...

    def read(self, users: Sequence[str]) -> dict[str, str]:
        """What some users wrote, their texts joined by `BETWEEN`."""
        ...


@dataclass(frozen=True)
class WritingsTable:
    """Texts in a table, one a row; polars reads of it only what it needs.

    Where one column of text names the users, and a Parquet file is sorted by it, a user is found fast: polars
    skips the row groups of others.
    """

    path: Path
    """A Parquet file, or a CSV file in UTF-8 with a header."""
    user: tuple[str, ...]
    """The columns whose values together name a user."""
    text: str
    """The column of texts."""
    order: str | None
    """The column whose order is that of writing (numbers, times, or else text); None: the order of the rows."""

    def lengths(self) -> dict[str, int]:
        """How many characters each user wrote, `BETWEEN` included, in order of the users' names.

        Raises:
            UserError: the file cannot be read, lacks a column, or a cell is empty.
        """
        self._refuse_empty_cells()
        counted = pl.col("text").str.len_chars().sum() + (pl.len() - 1) * len(BETWEEN)
        frame = self._collected(self._rows().group_by("user").agg(counted.alias("characters")).sort("user"))
        return dict(zip(frame["user"].to_list(), frame["characters"].to_list(), strict=True))

    def read(self, users: Sequence[str]) -> dict[str, str]:
        """What some users wrote, in order, their texts joined by `BETWEEN`."""
        rows = self._collected(self._rows().filter(pl.col("user").is_in(users)))
        if self.order is not None:
            rows = rows.with_columns(_sortable(rows["order"])).sort("order", maintain_order=True)
        joined = rows.group_by("user", maintain_order=True).agg(pl.col("text").str.join(BETWEEN))
        return dict(zip(joined["user"].to_list(), joined["text"].to_list(), strict=True))

    def _rows(self) -> pl.LazyFrame:
        """The columns `user`, `text` and, where there is one, `order`."""
        if self.path.suffix.lower() == ".parquet":
            table = pl.scan_parquet(self.path)
        else:  # all of it as text: a message may look like a number
            table = pl.scan_csv(self.path, infer_schema=False)
        try:
            columns = table.collect_schema()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise self._unreadable(error) from error
        is_odd = any(set(name) & set("\r\0\ufffd") for name in columns)
        if is_odd and self.path.suffix.lower() != ".parquet" and (fault := self._fault()):
            raise UserError(f"{self.path}, {fault}")
        for name in (*self.user, self.text, *([] if self.order is None else [self.order])):
            if name not in columns:
                raise UserError(
                    f"{self.path}: expected a column {name!r}, got {', '.join(map(repr, columns))}; name the"
                    " columns with user, text and order"
                )
        if columns[self.text] not in (pl.String, pl.Categorical):
            raise UserError(
                f"{self.path}: expected text in the column {self.text!r}, got {columns[self.text]}; name another"
            )
        names = [
            pl.col(name) if columns[name] == pl.String else pl.col(name).cast(pl.String) for name in self.user
        ]
        user = names[0] if len(names) == 1 else pl.concat_str(names, separator=", ")
        order = [] if self.order is None else [pl.col(self.order).alias("order")]
        return table.select(user.alias("user"), pl.col(self.text).cast(pl.String).alias("text"), *order)

    def _refuse_empty_cells(self) -> None:
        """See that of every text it is known who wrote it, and when."""
        names = {"user": " and ".join(self.user), "text": self.text, "order": self.order}
        rows = self._rows()
        absent = {name: pl.col(name).is_null() for name in rows.collect_schema().names()}
        absent["user"] |= pl.col("user") == ""
        if "order" in absent and rows.collect_schema()["order"] == pl.String:
            absent["order"] |= pl.col("order") == ""
        found = self._collected(rows.with_row_index("row").filter(pl.any_horizontal(absent.values())).head(1))
        if len(found):
            name = next(name for name, is_absent in absent.items() if found.select(is_absent).item())
            raise UserError(
                f"{self.path}, {self._line(found['row'].item())}, column {names[name]}: expected a value, got"
                " none; fill it in, or leave the row out"
            )

    def _line(self, row: int) -> str:
        """Where a row (from 0) is in the file, as an editor counts: texts may span several lines of a CSV file."""
        if self.path.suffix.lower() == ".parquet":
            return f"row {row + 1}"
        above = pl.read_csv(self.path, infer_schema=False, n_rows=row) if row else pl.DataFrame()
        breaks = sum(int(column.str.count_matches("\n").sum()) for column in above.get_columns())
        return f"line {row + 2 + breaks}"

    def _fault(self) -> str | None:
        try:
            return first_fault(self.path, ",")
        except OSError:
            return None

    def _collected(self, query: pl.LazyFrame) -> pl.DataFrame:
        try:
            return query.collect(engine="streaming")
        except (pl.exceptions.PolarsError, OSError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> UserError:
        if self.path.suffix.lower() != ".parquet" and (fault := self._fault()):
            return UserError(f"{self.path}, {fault}")
        return UserError(
            f"{self.path} cannot be read: {str(error).splitlines()[0]}; give a Parquet file, or a CSV file in"
            " UTF-8 with a header and commas"
        )


def _sortable(order: pl.Series) -> pl.Series:
    """A column as numbers, where all of it are numbers as text."""
    if order.dtype == pl.String:
        for kind in (pl.Int64, pl.Float64):
            numbers = order.cast(kind, strict=False)
            if not numbers.null_count():
                return numbers
    return order


@dataclass(frozen=True)
class WritingsFolder:
    """Text files in UTF-8: `USER.txt`, or `USER/ANYTHING.txt` in order of the names, in which 10 follows 9."""

    path: Path
    """The folder."""

    def lengths(self) -> dict[str, int]:
        """How many characters each user wrote, `BETWEEN` included, in order of the users' names.

        Raises:
            UserError: there is no such file, or one cannot be read.
        """
        return {user: len(self._text(files)) for user, files in sorted(self._files().items())}

    def read(self, users: Sequence[str]) -> dict[str, str]:
        """What some users wrote, in order, their texts joined by `BETWEEN`."""
        files = self._files()
        return {user: self._text(files[user]) for user in users}

    def _files(self) -> dict[str, list[Path]]:
        files: dict[str, list[Path]] = {}
        for path in self.path.glob("*.txt"):
            files[path.stem] = [path]
        for path in sorted(self.path.glob("*/*.txt"), key=lambda path: _in_order(path.name)):
            files.setdefault(path.parent.name, []).append(path)
        if not files:
            raise UserError(f"{self.path}: expected USER.txt or USER/ANYTHING.txt in it, found neither")
        return files

    @staticmethod
    def _text(files: Sequence[Path]) -> str:
        texts = []
        for path in files:
            try:
                texts.append(path.read_text("utf-8-sig"))
            except (UnicodeDecodeError, OSError) as error:
                raise UserError(f"{path}: expected text in UTF-8, got {error}; convert the file") from error
        return BETWEEN.join(texts)


def _in_order(name: str) -> list[tuple[int, str]]:
    """A key that sorts names as people do: `part 9` before `part 10`."""
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"(\d+)", name)]


def open_writings(path: str, user: str | Sequence[str], text: str, order: str | None) -> Writings:
    """The writings at a path: a folder of text files, or a table with these columns.

    Raises:
        UserError: there is nothing at the path.
    """
    place = Path(path)
    if place.is_dir():
        return WritingsFolder(place)
    if not place.is_file():
        raise UserError(
            f"path: expected a Parquet or CSV file, or a folder of text files, got {path}; is it there?"
        )
    return WritingsTable(place, (user,) if isinstance(user, str) else tuple(user), text, order)
