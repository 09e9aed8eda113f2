"""Where a data set's file is: in the folder that the user names, or in the data set's own folder below it."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from fml_lightning.errors import UserError


def file_below(owner: str, root: str, folder: str, name: str) -> Path:
    """The path of a file of a data set.

    Args:
        owner: the data set, for messages.
        root: the folder that the user names.
        folder: the data set's own folder, which may be below it.
        name: of the file.

    Raises:
        UserError: it is in neither.
    """
    for candidate in (Path(root) / name, Path(root) / folder / name):
        if candidate.is_file():
            return candidate
    raise UserError(
        f"{owner}: expected {name} in {root!r}, or in the folder {folder} below it, found none; set --data.root to"
        " the folder of the data"
    )


def read_columns(owner: str, scan: pl.LazyFrame, path: Path) -> pl.DataFrame:
    """The rows of a query of one of the data set's files.

    Raises:
        UserError: the file cannot be read, or lacks a column.
    """
    try:
        return scan.collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{owner}: {path} cannot be read ({reason}); restore it") from error
