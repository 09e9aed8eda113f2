"""Bare files, of which nothing is said: what is in them, and what of it would make training wrong."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from fml_lightning.datamodules.files.csv_file import CsvFormat
from fml_lightning.datamodules.files.pattern import natural
from fml_lightning.datamodules.files.reading import AT_ONCE, KINDS, UNITS, open_signal
from fml_lightning.datamodules.files.signal_file import SignalFile
from fml_lightning.datamodules.files.time_column import find_stretches
from fml_lightning.datamodules.inspection import is_clipped
from fml_lightning.errors import UserError
from fml_lightning.preprocessing.preprocessing import TOLERANCE

TIME_NAME = re.compile(r"t|time.*|date.*|zeit.*|datum|timestamp.*|seconds|.*_time", re.IGNORECASE)
"""What columns of times are called."""
UNIT = re.compile(r"[\[(]([^\])]+)[\])]\s*$")
"""A unit behind a column's name, as in `acc_x [g]`."""
TIME_UNIT = re.compile(r"[\[(_ ](s|ms|us|ns)[\])]?$", re.IGNORECASE)
"""That of a column of times."""


@dataclass
class ColumnLook:
    """What a column of a file is like."""

    name: str
    """Empty where the file names none."""
    place: int
    kind: Literal["numbers", "text", "times"] = "numbers"
    rows: int = 0
    smallest: float = np.nan
    largest: float = np.nan
    missing: int = 0
    """Numbers that are NaN or infinite."""
    is_clipped: bool = False
    words: tuple[str, ...] = ()
    """Some of the words in a column of text, each once."""

    @property
    def unit(self) -> str | None:
        """What stands in brackets behind the name."""
        found = UNIT.search(self.name)
        return found and found[1]

    @property
    def is_flat(self) -> bool:
        """Whether all numbers are equal."""
        return self.rows - self.missing > 1 and self.smallest == self.largest

    @property
    def called(self) -> str:
        """How messages call it."""
        return repr(self.name) if self.name else str(self.place)


@dataclass
class FileLook:
    """What a file is like."""

    path: Path
    columns: list[ColumnLook] = field(default_factory=list)
    rows: int = 0
    sample_rate: float | None = None
    """Hz, as its header or its column of times tells; None: nothing does."""
    time: ColumnLook | None = None
    time_unit: str | None = None
    """Of times that are numbers: `s`, `ms`, `us` or `ns` if the column's name says so; None: it does not."""
    gaps: int = 0
    problems: list[str] = field(default_factory=list)
    """What of it would make training wrong."""

    @property
    def channels(self) -> list[ColumnLook]:
        """Columns of numbers that are as long as the file, but for the times."""
        return [c for c in self.columns if c.kind == "numbers" and c.rows == self.rows and c is not self.time]

    @property
    def texts(self) -> list[ColumnLook]:
        """Columns of text."""
        return [c for c in self.columns if c.kind == "text"]


def find_bare_files(places: Sequence[str]) -> list[Path]:
    """The files that are meant by names of files and of folders, and by patterns as shells have them.

    Raises:
        UserError: there are none.
    """
    found: dict[Path, None] = {}
    for place in places:
        path = Path(place)
        if path.is_dir():
            own = [each for each in path.rglob("*") if each.suffix.lower() in KINDS]
            own = [each for each in own if not any(p.startswith(".") for p in each.relative_to(path).parts)]
        else:
            own = [path] if path.is_file() else [Path(each) for each in glob.glob(place, recursive=True)]
        own = sorted((each for each in own if each.is_file()), key=lambda each: natural(str(each)))
        if not own and not path.is_dir():
            raise UserError(f"{place}: expected a config, files, a folder of them or a spool, found nothing")
        if not own:
            raise UserError(f"{place}: expected files that end on {', '.join(KINDS)}, found none")
        found |= dict.fromkeys(own)
    return list(found)


def look_at(path: Path) -> FileLook:
    """Read a whole file, a column and a part at a time."""
    look = FileLook(path)
    try:
        signal = open_signal(path, CsvFormat())
        look.sample_rate = signal.sample_rate
        for place, name in enumerate(signal.names):
            look.columns.append(_column(signal, ColumnLook(name, place), look))
        look.rows = max((column.rows for column in look.columns), default=0)
        if not look.rows:
            look.problems.append(f"{path}: no rows of samples; leave the file out")
            return look
        _find_time(signal, look)
    except UserError as error:
        look.problems.append(str(error))
    for column in look.channels:
        where = f"{path}, column {column.called}"
        if column.missing:
            look.problems.append(f"{where}: {column.missing:,} of {column.rows:,} samples are missing or infinite")
        if column.is_flat:
            look.problems.append(
                f"{where}: {column.smallest:g} in all {column.rows:,} rows; is the sensor off? Leave it out"
            )
    return look


def compared(looks: Sequence[FileLook]) -> list[str]:
    """What of several files does not fit together."""
    problems = []
    first = looks[0]
    for look in looks[1:]:
        names, others = ([column.name for column in each.columns] for each in (first, look))
        if names != others and look.path.suffix != ".mat":
            problems.append(
                f"{look.path}: expected {len(names)} columns, {', '.join(names)}, as of {first.path}, got"
                f" {len(others)}, {', '.join(others)}; inspect them apart"
            )
            break
    rates = {look.sample_rate: look.path for look in looks if look.sample_rate}
    lowest, highest = min(rates, default=1.0), max(rates, default=1.0)
    if highest / lowest - 1 > TOLERANCE:
        problems.append(
            f"sample rates differ: {lowest:g} Hz of {rates[lowest]}, {highest:g} Hz of {rates[highest]}; set"
            " sample_rate, and resample: true to convert the others"
        )
    return problems


def _column(signal: SignalFile, look: ColumnLook, file: FileLook) -> ColumnLook:
    """Look at one column."""
    try:
        words = signal.words(look.place)
        if len(words):
            look.kind, look.rows = "text", signal.rows([])
            look.words = tuple(words.unique(maintain_order=True))
            return look
        look.rows = rows = signal.rows([look.place])
        for begin in range(0, rows, AT_ONCE):
            (part,) = signal.read([look.place], begin, min(AT_ONCE, rows - begin))
            finite = part[np.isfinite(part)].astype(np.float64)
            look.missing += len(part) - len(finite)
            if len(finite):
                look.smallest = float(np.nanmin([look.smallest, finite.min()]))
                look.largest = float(np.nanmax([look.largest, finite.max()]))
                look.is_clipped |= len(finite) > 3 and not look.is_flat and is_clipped(finite.astype(np.float32))
    except UserError as error:
        file.problems.append(str(error))
    return look


def _find_time(signal: SignalFile, look: FileLook) -> None:
    """The column of times, if one is called so or holds dates; what it tells of sample rate and gaps."""
    for column in look.columns:
        if column.kind == "text":
            try:
                times = signal.times(column.place)
            except UserError:
                continue
            if times.dtype != pl.Datetime:
                continue
            column.kind = "times"
        elif TIME_NAME.fullmatch(column.name.strip()) and not column.is_flat:
            times = signal.times(column.place)
        else:
            continue
        look.time = column
        if times.dtype == pl.Datetime:
            micros = times.dt.cast_time_unit("us").dt.epoch("us")
            seconds = (micros - micros.min()).cast(pl.Float64).fill_null(np.nan) * 1e-6
        else:
            found = TIME_UNIT.search(column.name)
            look.time_unit = found[1].lower() if found else None
            seconds = times.cast(pl.Float64).fill_null(np.nan) * UNITS[look.time_unit or "s"]
        if look.texts:  # a table, whose rows are of several machines
            return
        steady = find_stretches(seconds.to_numpy(), signal.where, f"{look.path}, {signal.called(column.place)}")
        if look.sample_rate is None:
            look.sample_rate = steady.sample_rate
        look.gaps = len(steady.stretches) - 1
        return
