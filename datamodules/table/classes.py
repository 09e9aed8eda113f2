"""What a column of targets tells: classes by name, or numbers."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import polars as pl

from fml_lightning.datamodules.held_out import near
from fml_lightning.datamodules.table.rows import TARGET, Rows
from fml_lightning.datamodules.table.table_files import TableFiles
from fml_lightning.errors import UserError

log = logging.getLogger(__name__)

Value = str | int | float | bool
"""A cell, as YAML has it."""
MOST_CODES = 20
"""Up to so many different whole numbers are taken for the codes of classes, if nobody says what they are."""


def tells_numbers(files: TableFiles, target: str) -> bool:
    """Whether a column of targets, of which nobody says what they are, tells numbers."""
    number = files.number(target)
    texts, fractions, codes = files.collect(
        files.scan().select(
            (files.text(target).is_not_null() & number.is_null()).any().alias("texts"),
            (number != number.floor()).any().alias("fractions"),
            number.approx_n_unique().alias("codes"),
        )
    ).row(0)
    if texts or files.schema[target] == pl.Boolean:
        return False
    if not fractions and codes <= MOST_CODES:
        log.info(
            "%s: %d whole numbers in %s are taken for classes; kind says otherwise", files.owner, codes, target
        )
        return False
    return True


def labels_of(
    rows: Rows, values: Sequence[str], names: Sequence[str] | None, positive: Sequence[str] | None
) -> dict[str, int]:
    """The class of each value of the target, an index.

    Args:
        rows: that have these values, for messages.
        values: all there are.
        names: of the classes, in order of their labels; None: the values, sorted.
        positive: values that are class 1, where all others are class 0.

    Raises:
        UserError: `positive` names no value, or a value is none of `names`.
    """
    target = rows.roles["target"]
    order = sorted(values, key=in_order)
    if positive is not None:
        if strange := [value for value in positive if value not in values]:
            raise UserError(
                f"{rows.files.owner}: positive names {strange[0]!r}, which is nowhere in the column"
                f" {target!r}; {near(strange[0], order)}"
            )
        return {value: int(value in positive) for value in order}
    names = names or tuple(order)
    if strange := [value for value in order if value not in names]:
        expected = f"one of the classes {', '.join(names)}"
        raise rows.cell_error(pl.col(TARGET) == strange[0], target, expected, "add it to classes")
    return {name: label for label, name in enumerate(names)}


def name_of(value: Value) -> str:
    """A value as `TableFiles.value` writes it.

    >>> name_of(1.0), name_of("01"), name_of(True), name_of("worn")
    ('1', '1', 'true', 'worn')
    """
    if isinstance(value, bool):
        return str(value).lower()
    try:
        number = float(value)
    except ValueError:
        return str(value).strip()
    return str(int(number)) if number.is_integer() else str(value)


def in_order(value: str) -> tuple[float, str]:
    """Numbers by size, then other text.

    >>> sorted(["b", "10", "9"], key=in_order)
    ['9', '10', 'b']
    """
    try:
        return float(value), value
    except ValueError:
        return float("inf"), value
