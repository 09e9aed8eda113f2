"""What each column of a table is for."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from fml_lightning.datamodules.table.table_files import TableFiles
from fml_lightning.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Uses:
    """The columns that a user names, by what they are for."""

    roles: Mapping[str, str]
    """The columns of `site`, `machine` and `target`, and of `time` and `condition` where there are any."""
    features: tuple[str, ...] | None
    """Columns of numbers; None: every one that has no other use."""
    categories: tuple[str, ...]
    inputs: tuple[str, ...]

    def check(self, files: TableFiles) -> None:
        """See that every column is there, and has one use.

        Raises:
            UserError: one is not, or has two.
        """
        uses: dict[str, str] = {}
        several = {"features": self.features or (), "categories": self.categories, "inputs": self.inputs}
        for use, names in (*((use, [name]) for use, name in self.roles.items()), *several.items()):
            files.refuse_absent(names, use)
            for name in names:
                if name in uses and {use, uses[name]} != {"site", "machine"}:
                    raise UserError(
                        f"{files.owner}: the column {name!r} is named by {uses[name]} and by {use}; take it out of"
                        " one of them"
                    )
                uses[name] = use

    def numbers(self, files: TableFiles) -> tuple[str, ...]:
        """Features and inputs.

        Raises:
            UserError: there is no feature.
        """
        features = self.features
        if features is None:
            used = {*self.roles.values(), *self.categories, *self.inputs, ""}
            free = [name for name in files.columns if name not in used]
            of_numbers = _columns_of_numbers(files, free)
            features = tuple(name for name in free if name in of_numbers)
            if left := [name for name in free if name not in features]:
                log.info("%s: columns of text, which are no features: %s", files.owner, ", ".join(left))
        if not features:
            raise UserError(
                f"{files.owner}: {files.files[0]}: expected a column of numbers beside"
                f" {', '.join(dict.fromkeys(self.roles.values()))}, found none; name it in features"
            )
        return (*features, *self.inputs)


def _columns_of_numbers(files: TableFiles, names: Sequence[str]) -> set[str]:
    """The columns that have more numbers than other text."""
    typed = {name for name in names if files.schema[name].is_numeric() or files.schema[name] == pl.Boolean}
    texts = [name for name in names if files.schema[name] == pl.String]
    if texts:
        counts = [(2 * files.number(name).count() > files.text(name).count()).alias(name) for name in texts]
        row = files.collect(files.scan().select(counts)).row(0, named=True)
        typed |= {name for name in texts if row[name]}
    return typed
