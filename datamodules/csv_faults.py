"""What is wrong with text files that cannot be read as rows of cells, told with the line."""

from __future__ import annotations

import csv
from pathlib import Path


def first_fault(file: Path, separator: str) -> str | None:
    """The first line that is no row with as many cells as the first one, and why; None if all are rows.

    Args:
        file: in UTF-8, it is hoped.
        separator: between cells.

    Raises:
        OSError: the file cannot be opened.
    """
    width, line = 0, 0
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            if (first := next(iter(lines), "")).endswith("\r"):
                return (
                    "line 1: expected lines that end on a line feed, got carriage returns alone; save it with the"
                    " line ends of Unix or Windows"
                )
            if "\0" in first:
                return "line 1: expected text in UTF-8, got other bytes; save it as UTF-8"
            lines.seek(0)
            reader = csv.reader(lines, delimiter=separator, strict=True)
            for row in reader:
                width = width or len(row)
                if len(row) > width:
                    return f"line {line + 1}: expected {width} cells, got {len(row)}; mend the line"
                line = reader.line_num
    except UnicodeDecodeError:
        return f"below line {line}: the text is not UTF-8; save it as UTF-8"
    except csv.Error:
        return f"line {line + 1}: expected quotes around whole cells, opened and closed, got others; mend the line"
    return None
