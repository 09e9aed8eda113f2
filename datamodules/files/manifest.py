"""A manifest: a table with one line for each file, and what is known of it."""

from __future__ import annotations

from pathlib import Path

from fml_lightning.datamodules.files.csv_file import read_table
from fml_lightning.datamodules.files.listed_file import ListedFile
from fml_lightning.datamodules.files.pattern import natural
from fml_lightning.errors import UserError


def read_manifest(path: Path) -> list[ListedFile]:
    """The files that a manifest lists, in natural order of their paths, whatever the order of its lines.

    Args:
        path: of a CSV with the columns file (relative to the manifest's folder), site and machine, and of others.

    Raises:
        UserError: it is no such table, a file does not exist, or is listed twice.
    """
    if not path.is_file():
        raise UserError(f"manifest: expected a CSV file, got none at {str(path)!r}")
    lines = read_table(path)
    if not lines:
        raise UserError(f"{path}: expected a line for each file, got none after the header")
    listed: dict[Path, ListedFile] = {}
    for number, said in lines:
        where = f"{path}, line {number}"
        for name in ("file", "site"):
            if not said.get(name):
                got = "an empty cell" if name in said else f"the columns {', '.join(said)}"
                raise UserError(f"{where}, column {name!r}: expected the {name}, got {got}")
        file = path.parent / said["file"]
        if not file.is_file():
            raise UserError(f"{where}, column 'file': expected a file, got none at {str(file)!r}")
        if file in listed:
            raise UserError(
                f"{where}, column 'file': expected each file once, got {said['file']!r} as on"
                f" {listed[file].where.rpartition(', ')[2]}"
            )
        listed[file] = ListedFile(file, said, where)
    return [listed[file] for file in sorted(listed, key=lambda each: natural(str(each)))]
