"""Groups of rows of a table: one machine's, under one operating condition, of one class."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import polars as pl

from fml_lightning.datamodules.episodes import Episodes
from fml_lightning.datamodules.split import split
from fml_lightning.datamodules.table.rows import CONDITION, MACHINE, SITE, TARGET, Rows
from fml_lightning.errors import UserError

log = logging.getLogger(__name__)

LABEL, EARLY, LATE = "\0label", "\0early", "\0late"
"""Columns that follow from others: the class, and rows on both sides of the split in time."""


def count_groups(rows: Rows) -> pl.DataFrame:
    """How many rows each machine has under each condition, of each value of the target, in column `rows`.

    Raises:
        UserError: there are no rows, or one does not say what group it is of.
    """
    files = rows.files
    keys = [SITE, MACHINE, CONDITION, *([] if rows.is_number else [TARGET])]
    groups = files.collect(rows.all.group_by(keys).agg(pl.len().alias("rows")))
    for key in keys:
        if groups[key].null_count():
            rows.refuse_missing(key)
    if not len(groups):
        raise UserError(f"{files.owner}: {files.files[0]} has no rows to use; give it some")
    if rows.is_number:
        groups = groups.with_columns(pl.lit("").alias(TARGET))
    return groups.sort(SITE, MACHINE, CONDITION, TARGET)


def with_enough(
    site: str, groups: pl.DataFrame, labels: Mapping[str, int] | None, episodes: Episodes, trains: bool
) -> pl.DataFrame:
    """Groups that have enough rows on both sides of the split in time; a warning tells the others.

    Args:
        site: whose groups they are, for messages.
        groups: of some machines.
        labels: the class of each value of the target; None: it is a number.
        episodes: what rows are needed for.
        trains: whether machines are trained on, too.
    """
    by_condition = episodes.tasks_of == "conditions" or episodes.query_condition == "other"
    task = [MACHINE, CONDITION] if by_condition else [MACHINE]
    sides = [split([rows], episodes.early_share, 1)[0] for rows in groups["rows"]]
    own = groups.with_columns(
        label(labels),
        pl.Series(EARLY, [early.stop for early, _ in sides]),
        pl.Series(LATE, [late.stop - late.start for _, late in sides]),
    )
    need = episodes.early_windows(trains)
    in_one = labels is None or episodes.of == "as they come"
    enough = pl.col(EARLY).sum().over(task if in_one else [*task, LABEL]) >= need
    normal = episodes.normal
    if normal is not None and not in_one:
        enough = (enough & (pl.col(LABEL) == normal)).any().over(task)
    kept = own.filter(pl.col(EARLY) > 0, pl.col(LATE) > 0).filter(enough)
    left = own.join(kept, on=[MACHINE, CONDITION, TARGET], how="anti")
    if len(left):
        named = [
            f"{machine}{f' {target}' if target else ''} ({rows})"
            for machine, target, rows in left.select(MACHINE, TARGET, "rows").head(10).iter_rows()
        ]
        log.warning(
            "%s: left out, because %d rows are needed before the split in time, and one behind it: %s%s",
            *(site, need, ", ".join(named)),
            f" and {len(left) - 10} more" if len(left) > 10 else "",
        )
    return kept


def label(labels: Mapping[str, int] | None) -> pl.Expr:
    """The class of each row, from its target; 0 where that is a number."""
    if labels is None:
        return pl.lit(0, pl.Int64).alias(LABEL)
    return pl.col(TARGET).replace_strict(list(labels), list(labels.values()), return_dtype=pl.Int64).alias(LABEL)
