"""What the network sees of a row of a table."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.datamodules.table.classes import in_order
from fml_lightning.datamodules.table.rows import Rows
from fml_lightning.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Columns:
    """Features, then inputs, then where these were missing, then categories."""

    numbers: tuple[str, ...]
    """Features, then inputs: columns of numbers."""
    gaps: tuple[str, ...] = ()
    """Those of them beside which a column tells where they were missing."""
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The categories of each column of categories; each becomes a column of zeros and ones."""
    means: Mapping[str, float] | None = None
    """What missing numbers become; None: zero."""

    @classmethod
    def of(cls, rows: Rows, is_training: pl.Expr) -> Columns:
        """The columns that follow from rows: means and categories of those that train.

        Raises:
            UserError: no row that trains has a number to take a mean of.
        """
        files, numbers = rows.files, rows.numbers
        gaps: tuple[str, ...] = ()
        means: Mapping[str, float] | None = None
        categories: dict[str, tuple[str, ...]] = {}
        training = rows.all.filter(is_training)
        if rows.missing == "zero":
            counts = files.collect(
                rows.all.select(files.text(name).is_null().any().alias(name) for name in numbers)
            )
            gaps = tuple(name for name in numbers if counts[name].item())
        if rows.missing == "mean":
            means = files.collect(training.select(files.number(n).mean().alias(n) for n in numbers)).row(
                0, named=True
            )
            if empty := [name for name, mean in means.items() if mean is None]:
                raise UserError(
                    f"{files.owner}: {files.files[0]}: the column {empty[0]!r} has no number at any training site"
                    " to take the mean of; leave it out of features"
                )
        for name in rows.categories:
            own = files.collect(training.select(files.value(name).alias("value").unique()))
            categories[name] = tuple(sorted(own["value"].drop_nulls().to_list(), key=in_order))
        return cls(numbers, gaps, categories, means)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all columns, in order."""
        hot = [f"{name}={each}" for name, values in self.categories.items() for each in values]
        return (*self.numbers, *(f"{name} missing" for name in self.gaps), *hot)

    def seen(self, site: str, frame: pl.DataFrame) -> NDArray[np.float32]:
        """What the network sees of a site's rows, (n, F); a warning tells categories that nothing is known of.

        Args:
            site: whose rows they are, for messages.
            frame: the rows.
        """
        filled = [frame[c].fill_null((self.means or {}).get(c, 0.0)) for c in self.numbers]
        gaps = [frame[c].is_null() for c in self.gaps]
        hot = []
        for category, values in self.categories.items():
            hot += [(frame[category] == value).fill_null(False) for value in values]
            known = frame[category].drop_nulls()
            strange = known.filter(~known.is_in(values))
            if len(strange):
                log.warning(
                    "%s: %d rows have a %s that no training site has, such as %s: it is seen as none of them",
                    *(site, len(strange), category, strange[0]),
                )
        x = np.empty((len(frame), len(self.names)), np.float32)
        for place, column in enumerate((*filled, *gaps, *hot)):
            x[:, place] = column.cast(pl.Float32).to_numpy()
        return x


def tell_constants(rows: Rows, is_training: pl.Expr) -> None:
    """Warn of columns of numbers that are the same in all rows that train."""
    files, names = rows.files, rows.numbers
    ends = [(files.number(n).min() == files.number(n).max()).alias(n) for n in names]
    row = files.collect(rows.all.filter(is_training).select(ends)).row(0, named=True)
    if constant := [name for name in names if row[name]]:
        log.warning(
            "%s: constant at all training sites, so that nothing can be learnt from it: %s; leave it out of"
            " features",
            *(files.owner, ", ".join(constant)),
        )
