"""A table as a fleet: a row is a window of ready features, such as those of a machine in an hour, or a patient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Literal

import polars as pl

from fml_lightning.datamodules.episodes import Episodes
from fml_lightning.datamodules.fleet import Fleet, SitePart, SiteRecordings
from fml_lightning.datamodules.held_out import checked_unseen, held_out
from fml_lightning.datamodules.recordings import Recording
from fml_lightning.datamodules.site import SiteData
from fml_lightning.datamodules.table.classes import Value, labels_of, name_of, tells_numbers
from fml_lightning.datamodules.table.columns import Columns, tell_constants
from fml_lightning.datamodules.table.groups import LABEL, count_groups, label, with_enough
from fml_lightning.datamodules.table.leaks import Hashes, tell_both_sides, tell_unseen
from fml_lightning.datamodules.table.rows import CONDITION, MACHINE, SITE, TARGET, TIME, Rows
from fml_lightning.datamodules.table.table_files import FILE, LINE, TableFiles
from fml_lightning.datamodules.table.uses import Uses
from fml_lightning.errors import UserError
from fml_lightning.preprocessing.features import RawWindows
from fml_lightning.preprocessing.preprocessing import Preprocessing
from fml_lightning.preprocessing.standardize import Standardize

ORDER = "\0order"
"""The column of a machine's rows in order of time."""
ROW_RATE = 1.0
"""Hz: rows have no sample rate; each counts as a second."""


class Table(Fleet):
    """A table whose rows are windows, ready for the network: of each machine at each site, in order of time.

    Columns that the network sees: features, then inputs, then one for each number that is missing anywhere (with
    `missing: zero`), then one for each category; `preprocessing.channels` has their names.

    Nothing of an unseen machine is looked at for means, categories, or which classes there are to learn.

    Args:
        path: a CSV or Parquet file, a pattern such as `plants/*.parquet`, or several of them.
        site: the column of sites.
        target: the column of what is to be learnt: classes by name, or numbers.
        machine: the column of machines, which need unique names at their site only; null: a site is one machine.
        classes: names of the classes in order of their labels; null: those there are, sorted. With `positive`, the
            names of the others and of those.
        positive: values of `target` that are class 1; all others are class 0. null: each value is a class.
        kind: whether `target` tells classes or numbers; null: text, and up to 20 whole numbers, are classes.
        time: the column of times, by which a machine's rows are ordered: dates, or numbers; null: as they stand.
        features: columns of numbers; null: every column of numbers that has no other use. In CSV, that is every
            column with more numbers than other text.
        categories: columns of text or codes; each category that training sites have becomes a column of zeros and
            ones. In the row of another category they are all 0.
        inputs: columns of operating conditions as numbers, such as speed, which stand behind the features.
        condition: the column of operating conditions by name, under which rows are split by time separately.
        missing: what happens to rows with missing values. `refuse` them; `drop` them; fill in the `mean` of the
            training sites, or `zero` with a column beside it that tells where.
        unseen: what is held out: shell-style patterns of SITE, MACHINE or SITE/MACHINE, or a share of the sites,
            such as 0.25. Of a site with machines of both kinds, those held out are at the site `SITE-unseen`.
        seed: draws a share of the sites.
        separator: between the cells of CSV; null: found in the first line.
        decimal_comma: whether CSV has 1,5 for 1.5; null: found in the first lines.
        header: whether the first line of CSV names the columns; else they are column_1, column_2 and so on.
        memory: GiB that the rows may take, about. Of a larger table a share is read, spread evenly, and a warning
            says so.
        standardize: how columns are brought to one scale: by the means and deviations of the early rows of the
            training sites unless you say otherwise; null: not at all. Its `condition` is one of the features or
            inputs, such as a speed: columns then have means and deviations of their own under each condition.
        episodes: how episodes are drawn.
    """

    def __init__(
        self,
        path: str | Sequence[str],
        site: str,
        target: str,
        machine: str | None = None,
        classes: Sequence[Value] | None = None,
        positive: Sequence[Value] | None = None,
        kind: Literal["classes", "numbers"] | None = None,
        time: str | None = None,
        features: Sequence[str] | None = None,
        categories: Sequence[str] = (),
        inputs: Sequence[str] = (),
        condition: str | None = None,
        missing: Literal["refuse", "drop", "mean", "zero"] = "refuse",
        unseen: Sequence[str] | float = (),
        seed: int = 0,
        separator: str | None = None,
        decimal_comma: bool | None = None,
        header: bool = True,
        memory: float = 1.0,
        standardize: Standardize | None = Standardize(),  # noqa: B008
        episodes: Episodes = Episodes(),  # noqa: B008
    ) -> None:
        super().__init__(Preprocessing(None, RawWindows()), episodes)
        if not memory > 0:
            raise UserError(f"{self._name}: expected memory above 0 GiB, got {memory}")
        if kind == "numbers" and (positive is not None or classes is not None):
            raise UserError(f"{self._name}: expected classes or positive with kind: classes only; leave them out")
        if positive is not None and classes is not None and len(classes) != 2:
            raise UserError(
                f"{self._name}: expected two names of classes with positive, of the other rows and of those, got"
                f" {len(classes)}"
            )
        self.path = path
        roles = {"site": site, "machine": machine or site, "target": target, "time": time, "condition": condition}
        self.uses = Uses(
            {role: column for role, column in roles.items() if column},
            None if features is None else tuple(features),
            tuple(categories),
            tuple(inputs),
        )
        self.class_names = None if classes is None else tuple(map(name_of, classes))
        self.positive = None if positive is None else tuple(map(name_of, positive))
        self.kind = kind
        self.missing = missing
        self.held_out = checked_unseen(self._name, unseen)
        self.seed = seed
        self.csv = (separator, decimal_comma, header)
        self.memory = memory
        self.standardize = standardize
        self._hashes: dict[str, Hashes] = {}

    def check_sites(self, sites: Mapping[str, SiteData], unseen: Mapping[str, SiteData]) -> None:
        """Tell of rows that are left out; warn of columns that are constant, and of rows that leak."""
        self._rows.tell_dropped()
        tell_constants(self._rows, self._is_training)
        tell_unseen(self._name, self._hashes, sites, unseen)
        self._hashes.clear()

    def read(self) -> Iterator[SiteRecordings]:
        """One site per name in the column of sites, less what is held out; and one per name that is."""
        if not self.preprocessing.channels:  # whose names are not known before
            names, standardize = self._columns.names, self.standardize
            self.preprocessing = replace(self.preprocessing, channels=names, standardize=standardize)
        held, trains = self._held, False
        sites: dict[tuple[str, bool], list[str]] = {}
        for site, machine in self._machines:
            sites.setdefault((site, (site, machine) in held), []).append(machine)
        for (site, unseen), machines in sorted(sites.items()):
            name = f"{site}-unseen" if unseen and (site, False) in sites else site
            own = self._groups.filter(pl.col(SITE) == site, pl.col(MACHINE).is_in(machines))
            kept = with_enough(f"{self._name}, {name}", own, self._labels, self.episodes, not unseen)
            if len(kept):
                trains |= not unseen
                yield SiteRecordings(name, unseen, partial(self._site, name, site, kept))
        if sites and not trains:
            raise UserError(
                f"{self._name}: no machine of a training site has {self.episodes.early_windows(True)} rows of a"
                " class before the split in time and one behind it; lower episodes.shots and episodes.queries, or"
                " hold out fewer"
            )

    def _parts(self) -> Iterator[SitePart]:
        self.classes = self._class_names()
        return super()._parts()

    # What the table holds: each is found out when first needed, by reading those columns alone that it needs.

    @cached_property
    def _files(self) -> TableFiles:
        files = TableFiles(self._name, self.path, *self.csv)
        self.uses.check(files)
        return files

    @cached_property
    def _rows(self) -> Rows:
        files, uses = self._files, self.uses
        told = self.kind is not None or self.positive is not None or self.class_names is not None
        is_number = self.kind == "numbers" if told else tells_numbers(files, uses.roles["target"])
        return Rows(files, uses, is_number, self.missing, self.memory)

    @cached_property
    def _groups(self) -> pl.DataFrame:
        return count_groups(self._rows)

    @cached_property
    def _machines(self) -> list[tuple[str, str]]:
        return self._groups.select(SITE, MACHINE).unique().sort(SITE, MACHINE).rows()

    @cached_property
    def _held(self) -> set[tuple[str, str]]:
        return held_out(self._name, self._machines, self.held_out, self.seed)

    @property
    def _is_training(self) -> pl.Expr:
        held = [f"{site}\0{machine}" for site, machine in sorted(self._held)]
        return ~pl.concat_str(SITE, MACHINE, separator="\0").is_in(held)

    @cached_property
    def _labels(self) -> dict[str, int] | None:
        """The class of each value of the target; None: it is a number."""
        if self._rows.is_number:
            return None
        values = self._groups[TARGET].unique().to_list()
        return labels_of(self._rows, values, self.class_names, self.positive)

    def _class_names(self) -> tuple[str, ...]:
        target, labels = self.uses.roles["target"], self._labels
        if labels is None:
            return (target,)
        values = self._groups.filter(self._is_training)[TARGET].unique().sort().to_list()
        if len({labels[value] for value in values}) < 2 and not self.episodes.is_anomaly:
            raise UserError(
                f"{self._name}: {self._files.files[0]}: expected at least two classes in the column"
                f" {target!r} of the training sites, got {', '.join(values) or 'none'} alone; hold out fewer as"
                " unseen, or set episodes.normal for anomalies"
            )
        if self.positive is not None:
            return self.class_names or ("no", "yes")
        return tuple(labels)

    @cached_property
    def _columns(self) -> Columns:
        return Columns.of(self._rows, self._is_training)

    def _site(self, name: str, site: str, kept: pl.DataFrame) -> list[Recording]:
        """Read the rows of a site."""
        rows = self._rows
        key = pl.concat_str([MACHINE, CONDITION, *([] if rows.is_number else [TARGET])], separator="\0")
        own = (pl.col(SITE) == site) & key.is_in(kept.select(key).to_series().unique().to_list())
        frame = rows.read(own).with_columns(label(self._labels)).sort(TIME, FILE, LINE)
        frame = frame.with_columns(pl.int_range(pl.len()).over(MACHINE).alias(ORDER))
        frame = frame.sort(MACHINE, CONDITION, LABEL, ORDER)
        x = self._columns.seen(f"{self._name}, {name}", frame)
        hashes = frame.select(pl.exclude(FILE, LINE, MACHINE, CONDITION, TIME, ORDER)).hash_rows(0).to_numpy()
        self._hashes[name] = hashes
        recordings = []
        begin = 0
        for machine, condition, own_label, count in (
            frame.group_by(MACHINE, CONDITION, LABEL, maintain_order=True).len().iter_rows()
        ):
            part = slice(begin, begin + count)
            begin += count
            own_rows = frame[part]
            tell_both_sides(
                f"{self._name}, {name}",
                machine,
                hashes[part],
                self.episodes.early_share,
                partial(self._where, own_rows),
            )
            times = own_rows[TIME if rows.is_date else ORDER].cast(pl.Int64).to_numpy()
            recordings.append(
                Recording(
                    machine,
                    condition,
                    own_rows[TARGET].cast(pl.Float32).to_numpy() if rows.is_number else own_label,
                    ROW_RATE,
                    x[part].T,
                    int(times[0]) if rows.is_date else None,
                    times=times if rows.is_date else times * 1_000_000,
                )
            )
        return recordings

    def _where(self, rows: pl.DataFrame, row: int) -> str:
        return self._files.where(rows.row(row, named=True))
