"""A table as a fleet: a row is a window of ready features, such as those of a machine in an hour, or a patient."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.datamodules.episodes import Episodes
from fml_lightning.datamodules.fleet import Fleet, SitePart, SiteRecordings
from fml_lightning.datamodules.held_out import held_out, near
from fml_lightning.datamodules.recordings import Recording
from fml_lightning.datamodules.split import split
from fml_lightning.datamodules.table_files import FILE, LINE, TableFiles
from fml_lightning.errors import UserError
from fml_lightning.preprocessing.features import RawWindows
from fml_lightning.preprocessing.preprocessing import Preprocessing
from fml_lightning.preprocessing.standardize import Standardize

log = logging.getLogger(__name__)

Value = str | int | float | bool
"""A cell, as YAML has it."""

SITE, MACHINE, CONDITION, TARGET, TIME = "\0site", "\0machine", "\0condition", "\0target", "\0time"
"""Columns by what they are for; the user's own names cannot collide with these."""
ROLES = {SITE: "site", MACHINE: "machine", CONDITION: "condition", TARGET: "target", TIME: "time"}
LABEL, EARLY, LATE, ORDER = "\0label", "\0early", "\0late", "\0order"
"""Columns that follow from them: the class, rows on both sides of the split in time, and the order of time."""
ROW_RATE = 1.0
"""Hz: rows have no sample rate; each counts as a second."""
ROW_BYTES = 110
"""Memory that a row takes beside its features, about."""
MOST_CODES = 20
"""Up to so many different whole numbers are taken for the codes of classes, if nobody says what they are."""
SCATTER = 2654435761
"""Multiplied by a row's number, modulo 2³²: spreads rows evenly (Knuth, TAOCP 3, 6.4)."""
ONLY = "all"
"""The operating condition where there is no column of conditions."""


@dataclass(frozen=True)
class Columns:
    """What the network sees of a row."""

    numbers: tuple[str, ...]
    """Features, then inputs: columns of numbers."""
    gaps: tuple[str, ...] = ()
    """Those of them beside which a column tells where they were missing."""
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The categories of each column of categories; each becomes a column of zeros and ones."""
    means: Mapping[str, float] | None = None
    """What missing numbers become; None: zero."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of all columns, in order."""
        hot = [f"{name}={each}" for name, values in self.categories.items() for each in values]
        return (*self.numbers, *(f"{name} missing" for name in self.gaps), *hot)


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
            training sites unless you say otherwise; null: not at all.
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
        super().__init__(Preprocessing(None, RawWindows(), standardize=standardize), episodes)
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
        self.roles = {role: column for role, column in roles.items() if column}
        self.features = None if features is None else tuple(features)
        self.categories = tuple(categories)
        self.inputs = tuple(inputs)
        self.class_names = None if classes is None else tuple(map(_name, classes))
        self.positive = None if positive is None else tuple(map(_name, positive))
        self.kind = kind
        self.missing = missing
        self.held_out = unseen if isinstance(unseen, float | int | str) else tuple(unseen)
        self.seed = seed
        self.csv = (separator, decimal_comma, header)
        self.memory = memory
        self._hashes: dict[str, NDArray[np.uint64]] = {}

    def setup(self, stage: str) -> None:
        """Read the table, once; warn of columns that are constant, and of rows that leak.

        Raises:
            UserError: the table is not as it is said to be.
        """
        if self.sites:
            return
        super().setup(stage)
        self._warn_of_constants()
        trained = {name: self._hashes[name] for name in self.sites}
        for name in self.unseen:
            for other, hashes in trained.items():
                if twice := int(np.isin(self._hashes[name], hashes).sum()):
                    log.warning(
                        "%s: %d rows of the unseen site %s are also at the training site %s, with the same target:"
                        " a test on them is none; leave them out on one side",
                        *(self._name, twice, name, other),
                    )
        self._hashes.clear()

    def read(self) -> Iterator[SiteRecordings]:
        """One site per name in the column of sites, less what is held out; and one per name that is."""
        self.preprocessing = replace(self.preprocessing, channels=self._columns.names)
        held, trains = self._held, False
        sites: dict[tuple[str, bool], list[str]] = {}
        for site, machine in self._machines:
            sites.setdefault((site, (site, machine) in held), []).append(machine)
        for (site, unseen), machines in sorted(sites.items()):
            name = f"{site}-unseen" if unseen and (site, False) in sites else site
            kept = self._with_enough(name, site, machines, unseen)
            if len(kept):
                trains |= not unseen
                yield SiteRecordings(name, unseen, partial(self._site, name, site, kept))
        if sites and not trains:
            raise UserError(
                f"{self._name}: no machine of a training site has {self._need(False)} rows of a class before the"
                " split in time and one behind it; lower episodes.shots and episodes.queries, or hold out fewer"
            )

    def _parts(self) -> Iterator[SitePart]:
        self.classes = self._classes
        return super()._parts()

    # What the table holds: each is found out when first needed, by reading those columns alone that it needs.

    @cached_property
    def _files(self) -> TableFiles:
        files = TableFiles(self._name, self.path, *self.csv)
        uses: dict[str, str] = {}
        several = {"features": self.features or (), "categories": self.categories, "inputs": self.inputs}
        for use, names in (*((use, [name]) for use, name in self.roles.items()), *several.items()):
            files.refuse_absent(names, use)
            for name in names:
                if name in uses and {use, uses[name]} != {"site", "machine"}:
                    raise UserError(
                        f"{self._name}: the column {name!r} is named by {uses[name]} and by {use}; take it out of"
                        " one of them"
                    )
                uses[name] = use
        return files

    @cached_property
    def _numbers(self) -> tuple[str, ...]:
        """Features and inputs."""
        features = self.features
        if features is None:
            used = {*self.roles.values(), *self.categories, *self.inputs, ""}
            free = [name for name in self._files.columns if name not in used]
            features = tuple(name for name in free if name in self._columns_of_numbers(free))
            if left := [name for name in free if name not in features]:
                log.info("%s: columns of text, which are no features: %s", self._name, ", ".join(left))
        if not features:
            raise UserError(
                f"{self._name}: {self._files.files[0]}: expected a column of numbers beside"
                f" {', '.join(dict.fromkeys(self.roles.values()))}, found none; name it in features"
            )
        return (*features, *self.inputs)

    def _columns_of_numbers(self, names: Sequence[str]) -> set[str]:
        files = self._files
        typed = {name for name in names if files.schema[name].is_numeric() or files.schema[name] == pl.Boolean}
        texts = [name for name in names if files.schema[name] == pl.String]
        if texts:
            counts = [(2 * files.number(name).count() > files.text(name).count()).alias(name) for name in texts]
            row = files.collect(files.scan().select(counts)).row(0, named=True)
            typed |= {name for name in texts if row[name]}
        return typed

    @cached_property
    def _share(self) -> float:
        """Of the rows that are read."""
        budget = self.memory * 2**30
        width = 8 * len(self._files.columns) + ROW_BYTES  # as read, and standardized
        if self._files.bytes * 128 < budget:  # a cell of CSV takes two bytes at least, one of Parquet next to none
            return 1.0
        rows = self._files.collect(self._files.scan().select(pl.len())).item()
        if rows * width <= budget:
            return 1.0
        log.warning(
            "%s: of %d rows %.2g %% are read, spread evenly, so that they fit into %g GiB; raise memory for more",
            *(self._name, rows, 100 * budget / (rows * width), self.memory),
        )
        return float(budget / (rows * width))

    @property
    def _rows(self) -> pl.LazyFrame:
        """All rows to use, with the columns of roles."""
        files, roles = self._files, self.roles
        rows = files.scan()
        if self._share < 1:
            scattered = (pl.col(LINE).cast(pl.UInt64) * SCATTER) % 2**32
            rows = rows.filter(scattered < int(self._share * 2**32))
        target = files.number if self._is_number else files.value
        rows = rows.with_columns(
            files.text(roles["site"]).alias(SITE),
            files.text(roles["machine"]).alias(MACHINE),
            (files.text(roles["condition"]) if "condition" in roles else pl.lit(ONLY)).alias(CONDITION),
            target(roles["target"]).alias(TARGET),
            (self._time(roles["time"]) if "time" in roles else pl.lit(0)).alias(TIME),
        )
        if self.missing == "drop":
            needed = [files.text(name).is_not_null() for name in (*self._numbers, *self.categories)]
            needed += [files.text(name).is_not_null() for name in roles.values()]
            rows = rows.filter(pl.all_horizontal(needed))
        return rows

    def _time(self, name: str) -> pl.Expr:
        """Times as integers in µs, or as numbers."""
        kind = self._files.schema[name]
        if kind.is_temporal():
            return pl.col(name).cast(pl.Datetime("us")).cast(pl.Int64)
        number = self._files.number(name)
        if not self._is_date:
            return number
        date = self._files.text(name).str.to_datetime(strict=False, time_unit="us", time_zone="UTC")
        return date.cast(pl.Int64)

    @cached_property
    def _is_date(self) -> bool:
        """Whether times are dates: the first one is."""
        time = self.roles.get("time")
        if time is None or self._files.schema[time].is_numeric():
            return False
        if self._files.schema[time].is_temporal():
            return True
        first = self._files.collect(
            self._files.scan()
            .filter(self._files.text(time).is_not_null())
            .select(self._files.number(time))
            .head(1)
        )
        return bool(len(first)) and first.item() is None

    @cached_property
    def _is_number(self) -> bool:
        """Whether the target is a number."""
        if self.kind is not None or self.positive is not None or self.class_names is not None:
            return self.kind == "numbers"
        files, target = self._files, self.roles["target"]
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
                "%s: %d whole numbers in %s are taken for classes; kind says otherwise", self._name, codes, target
            )
            return False
        return True

    @cached_property
    def _groups(self) -> pl.DataFrame:
        """How many rows each machine has under each condition, of each value of the target."""
        keys = [SITE, MACHINE, CONDITION, *([] if self._is_number else [TARGET])]
        groups = self._files.collect(self._rows.group_by(keys).agg(pl.len().alias("rows")))
        for key in keys:
            if groups[key].null_count():
                self._refuse_missing(key)
        if not len(groups):
            raise UserError(f"{self._name}: {self._files.files[0]} has no rows to use; give it some")
        if self._is_number:
            groups = groups.with_columns(pl.lit("").alias(TARGET))
        return groups.sort(SITE, MACHINE, CONDITION, TARGET)

    @cached_property
    def _machines(self) -> list[tuple[str, str]]:
        return self._groups.select(SITE, MACHINE).unique().sort(SITE, MACHINE).rows()

    @cached_property
    def _held(self) -> set[tuple[str, str]]:
        return held_out(self._name, self._machines, self.held_out, self.seed)

    @cached_property
    def _labels(self) -> dict[str, int]:
        """The class of each value of the target."""
        values = self._groups[TARGET].unique().to_list()
        order = sorted(values, key=_in_order)
        if self.positive is not None:
            if strange := [value for value in self.positive if value not in values]:
                raise UserError(
                    f"{self._name}: positive names {strange[0]!r}, which is nowhere in the column"
                    f" {self.roles['target']!r}; {near(strange[0], order)}"
                )
            return {value: int(value in self.positive) for value in order}
        names = self.class_names or tuple(order)
        if strange := [value for value in order if value not in names]:
            is_strange = pl.col(TARGET) == strange[0]
            raise self._cell_error(
                is_strange,
                self.roles["target"],
                f"one of the classes {', '.join(names)}",
                "add it to classes",
            )
        return {name: label for label, name in enumerate(names)}

    @property
    def _classes(self) -> tuple[str, ...]:
        if self._is_number:
            return (self.roles["target"],)
        labels = self._labels
        trained = self._groups.filter(self._is_training())
        found = {labels[value] for value in trained[TARGET].unique().to_list()}
        if len(found) < 2 and not self.episodes.is_anomaly:
            only = ", ".join(trained[TARGET].unique().sort().to_list()) or "none"
            raise UserError(
                f"{self._name}: {self._files.files[0]}: expected at least two classes in the column"
                f" {self.roles['target']!r} of the training sites, got {only} alone; hold out fewer as unseen, or"
                " set episodes.normal for anomalies"
            )
        if self.positive is not None:
            return self.class_names or ("no", "yes")
        return tuple(labels)

    def _is_training(self) -> pl.Expr:
        held = [f"{site}\0{machine}" for site, machine in sorted(self._held)]
        return ~pl.concat_str(SITE, MACHINE, separator="\0").is_in(held)

    @cached_property
    def _columns(self) -> Columns:
        files, numbers = self._files, self._numbers
        rows = self._rows
        gaps: tuple[str, ...] = ()
        means: Mapping[str, float] | None = None
        categories: dict[str, tuple[str, ...]] = {}
        if self.missing == "zero":
            counts = files.collect(rows.select(files.text(name).is_null().any().alias(name) for name in numbers))
            gaps = tuple(name for name in numbers if counts[name].item())
        if self.missing == "mean":
            means = files.collect(
                rows.filter(self._is_training()).select(files.number(name).mean().alias(name) for name in numbers)
            ).row(0, named=True)
            if empty := [name for name, mean in means.items() if mean is None]:
                raise UserError(
                    f"{self._name}: {files.files[0]}: the column {empty[0]!r} has no number at any training site"
                    " to take the mean of; leave it out of features"
                )
        for name in self.categories:
            own = files.collect(rows.filter(self._is_training()).select(files.value(name).alias("value").unique()))
            categories[name] = tuple(sorted(own["value"].drop_nulls().to_list(), key=_in_order))
        return Columns(numbers, gaps, categories, means)

    def _warn_of_constants(self) -> None:
        names = self._numbers
        rows = self._rows.filter(self._is_training())
        ends = [(self._files.number(n).min() == self._files.number(n).max()).alias(n) for n in names]
        row = self._files.collect(rows.select(ends)).row(0, named=True)
        if constant := [name for name in names if row[name]]:
            log.warning(
                "%s: constant at all training sites, so that nothing can be learnt from it: %s; leave it out of"
                " features",
                *(self._name, ", ".join(constant)),
            )

    # One site's rows.

    def _need(self, unseen: bool) -> int:
        """Early rows of a class, or of all, that a machine needs."""
        return self.episodes.shots + (0 if unseen else self.episodes.queries)

    def _with_enough(self, name: str, site: str, machines: Sequence[str], unseen: bool) -> pl.DataFrame:
        """Groups of rows of which enough are on both sides of the split in time; a warning tells the others."""
        episodes = self.episodes
        by_condition = episodes.tasks_of == "conditions" or episodes.query_condition == "other"
        task = [MACHINE, CONDITION] if by_condition else [MACHINE]
        own = self._groups.filter(pl.col(SITE) == site, pl.col(MACHINE).is_in(machines))
        sides = [split([rows], episodes.early_share, 1)[0] for rows in own["rows"]]
        own = own.with_columns(
            pl.lit(0).alias(LABEL) if self._is_number else _label(self._labels),
            pl.Series(EARLY, [early.stop for early, _ in sides]),
            pl.Series(LATE, [late.stop - late.start for _, late in sides]),
        )
        in_one = self._is_number or episodes.of == "as they come"
        enough = pl.col(EARLY).sum().over(task if in_one else [*task, LABEL]) >= self._need(unseen)
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
                "%s, %s: left out, because %d rows are needed before the split in time, and one behind it: %s%s",
                *(self._name, name, self._need(unseen), ", ".join(named)),
                f" and {len(left) - 10} more" if len(left) > 10 else "",
            )
        return kept

    def _site(self, name: str, site: str, kept: pl.DataFrame) -> list[Recording]:
        """Read the rows of a site."""
        key = pl.concat_str([MACHINE, CONDITION, *([] if self._is_number else [TARGET])], separator="\0")
        own = (pl.col(SITE) == site) & key.is_in(kept.select(key).to_series().unique().to_list())
        frame = self._read(name, own).sort(TIME, FILE, LINE)
        frame = frame.with_columns(pl.int_range(pl.len()).over(MACHINE).alias(ORDER))
        frame = frame.sort(MACHINE, CONDITION, LABEL, ORDER)
        x = self._seen(name, frame)
        hashes = frame.select(pl.exclude(FILE, LINE, MACHINE, CONDITION, TIME, ORDER)).hash_rows(0).to_numpy()
        self._hashes[name] = hashes
        recordings = []
        begin = 0
        for machine, condition, label, count in (
            frame.group_by(MACHINE, CONDITION, LABEL, maintain_order=True).len().iter_rows()
        ):
            part = slice(begin, begin + count)
            begin += count
            self._tell_leak(name, frame[part], hashes[part])
            times = frame[TIME if self._is_date else ORDER][part].cast(pl.Int64).to_numpy()
            recordings.append(
                Recording(
                    machine,
                    condition,
                    frame[TARGET][part].cast(pl.Float32).to_numpy() if self._is_number else label,
                    ROW_RATE,
                    x[part].T,
                    int(times[0]) if self._is_date else None,
                    times=times if self._is_date else times * 1_000_000,
                )
            )
        return recordings

    def _read(self, name: str, own: pl.Expr) -> pl.DataFrame:
        """Numbers, categories and roles of a site's rows, checked; numbers may be missing."""
        files, numbers = self._files, self._numbers
        frame = files.collect(
            self._rows.filter(own).select(
                *(FILE, LINE, MACHINE, CONDITION, TARGET, TIME),
                pl.lit(0).alias(LABEL) if self._is_number else _label(self._labels),
                *(files.number(number).cast(pl.Float32).alias(number) for number in numbers),
                *(files.value(category).alias(category) for category in self.categories),
            )
        )
        for role in (TIME, *([TARGET] if self._is_number else [])):
            if frame[role].null_count():
                self._refuse_missing(role, own)
        for number in numbers:
            if not frame[number].is_finite().all():
                infinite = files.number(number).cast(pl.Float32).is_infinite()
                raise self._cell_error(own & infinite, number, "a finite number of 32 bits", "mend it")
            if frame[number].null_count():
                is_text = files.text(number).is_not_null() & files.number(number).is_null()
                if len(files.collect(self._rows.filter(own & is_text).select(LINE).head(1))):
                    hint = "mend it, leave the column out of features, or set decimal_comma"
                    raise self._cell_error(own & is_text, number, "a number", hint)
        if self.missing == "refuse":
            for column in (*numbers, *self.categories):
                if frame[column].null_count():
                    self._refuse_missing(column, own)
        return frame

    def _seen(self, name: str, frame: pl.DataFrame) -> NDArray[np.float32]:
        """What the network sees of a site's rows, (n, F)."""
        columns = self._columns
        filled = [frame[c].fill_null((columns.means or {}).get(c, 0.0)) for c in columns.numbers]
        gaps = [frame[c].is_null() for c in columns.gaps]
        hot = []
        for category, values in columns.categories.items():
            hot += [(frame[category] == value).fill_null(False) for value in values]
            known = frame[category].drop_nulls()
            strange = known.filter(~known.is_in(values))
            if len(strange):
                log.warning(
                    "%s, %s: %d rows have a %s that no training site has, such as %s: it is seen as none of them",
                    *(self._name, name, len(strange), category, strange[0]),
                )
        x = np.empty((len(frame), len(columns.names)), np.float32)
        for place, column in enumerate((*filled, *gaps, *hot)):
            x[:, place] = column.cast(pl.Float32).to_numpy()
        return x

    def _tell_leak(self, name: str, rows: pl.DataFrame, hashes: NDArray[np.uint64]) -> None:
        """Warn of rows of one machine and class that are equal on both sides of the split in time."""
        early, late = split([len(rows)], self.episodes.early_share, 1)[0]
        twice = np.flatnonzero(np.isin(hashes[late], hashes[early])) + late.start
        if len(twice):
            last = int(twice[0])
            first = int(np.flatnonzero(hashes[early] == hashes[last])[0])
            log.warning(
                "%s, %s: %d rows of %s are equal on both sides of the split in time, such as %s and %s: a test on"
                " them is none; leave them out",
                *(self._name, name, len(twice), rows[MACHINE][0]),
                *(self._files.where(rows.row(row, named=True)) for row in (first, last)),
            )

    def _refuse_missing(self, column: str, own: pl.Expr | None = None) -> None:
        role = ROLES.get(column)
        name = column if role is None else self.roles[role]
        is_missing = pl.col(column).is_null() if role else self._files.text(column).is_null()
        hint = "fill it in, or set missing: drop"
        if role is None:
            hint += ", mean or zero"
        expected = "a number" if column == TARGET and self._is_number else "a value"
        if column == TIME:
            expected = "a time, as the others"
        raise self._cell_error(is_missing if own is None else own & is_missing, name, expected, hint)

    def _cell_error(self, which: pl.Expr, column: str, expected: str, hint: str) -> UserError:
        """What is wrong with the first cell of a column among some rows."""
        files = self._files
        rows = self._rows.filter(which).select(FILE, LINE, files.text(column).alias(column))
        row = files.collect(rows.bottom_k(1, by=[FILE, LINE])).row(0, named=True)
        got = "none" if row[column] is None else repr(row[column])
        return UserError(
            f"{self._name}: {files.where(row)}, column {column!r}: expected {expected}, got {got}; {hint}"
        )


def _label(labels: Mapping[str, int]) -> pl.Expr:
    return pl.col(TARGET).replace_strict(list(labels), list(labels.values()), return_dtype=pl.Int64).alias(LABEL)


def _name(value: Value) -> str:
    """A value as `TableFiles.value` writes it.

    >>> _name(1.0), _name("01"), _name(True), _name("worn")
    ('1', '1', 'true', 'worn')
    """
    if isinstance(value, bool):
        return str(value).lower()
    try:
        number = float(value)
    except ValueError:
        return str(value).strip()
    return str(int(number)) if number.is_integer() else str(value)


def _in_order(value: str) -> tuple[float, str]:
    """Numbers by size, then other text.

    >>> sorted(["b", "10", "9"], key=_in_order)
    ['9', '10', 'b']
    """
    try:
        return float(value), value
    except ValueError:
        return float("inf"), value
