"""Labels: what state each machine is in, and since when; from a stream or from a file."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.connectors.readings import TIME
from fml_lightning.errors import UserError

log = logging.getLogger(__name__)

UNLABELLED, UNKNOWN, CHANGING = -1, -2, -3
"""In place of a class: a window that no label precedes yet; one under a label that is no class; one in which the
label changes."""


class Labels:
    """The labels of one site's machines. They may come in any order, long after what they describe.

    Args:
        site: the site's name, for messages.
        classes: the labels that count; what is under another one is left out.
    """

    def __init__(self, site: str, classes: Sequence[str]) -> None:
        self.site = site
        self.classes = tuple(classes)
        self.unknown: Counter[str] = Counter()
        """How often a label came that is no class."""
        self._changes: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def add(self, labels: pl.DataFrame) -> None:
        """Take in a frame of `time` (UTC), `machine`, `label`; of two for one time the later added holds."""
        for (machine,), own in labels.group_by("machine", maintain_order=True):
            times, codes = self._changes.get(str(machine), (np.empty(0, np.int64), np.empty(0, np.int64)))
            times = np.concatenate([times, own["time"].cast(TIME).to_physical().to_numpy()])
            codes = np.concatenate([codes, [self._code(label) for label in own["label"]]])
            order = np.argsort(times, kind="stable")
            order = order[np.append(np.diff(times[order]) > 0, True)]  # of equal times the last
            self._changes[str(machine)] = times[order], codes[order]

    def at(self, machine: str, first: NDArray[np.int64], last: NDArray[np.int64]) -> NDArray[np.int64]:
        """The class that holds from one moment to another, as far as is known today.

        Args:
            machine: its name.
            first: µs since 1970, UTC, (n,).
            last: the same, included, (n,).

        Returns:
            Indices into `classes`, or one of `UNLABELLED`, `UNKNOWN`, `CHANGING`; (n,).
        """
        times, codes = self._changes.get(machine, (np.empty(0, np.int64), np.empty(0, np.int64)))
        codes = np.concatenate([[UNLABELLED], codes])
        runs = np.cumsum(np.diff(codes, prepend=UNLABELLED) != 0)  # the same label said again is no change
        begin, end = (np.searchsorted(times, moment, side="right") for moment in (first, last))
        return np.where(runs[begin] == runs[end], codes[begin], CHANGING)

    def _code(self, label: str) -> int:
        if label in self.classes:
            return self.classes.index(label)
        if label not in self.unknown:
            log.warning(
                "%s: label %r is none of the classes %s; what is under it is left out",
                self.site,
                label,
                ", ".join(self.classes),
            )
        self.unknown[label] += 1
        return UNKNOWN


def read_labels(path: str | Path) -> pl.DataFrame:
    """Labels from a CSV or Parquet file with the columns `time`, `machine` and `label`.

    Times are ISO 8601 with an offset (`2026-03-01T08:30:00+01:00`, `…Z`); in Parquet also a datetime column with a
    time zone.

    Raises:
        UserError: the file cannot be read; it says which column or row is wrong.
    """
    try:
        csv = Path(path).suffix.lower() == ".csv"
        frame = pl.read_csv(path, infer_schema=False) if csv else pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"labels {path}: expected a CSV or Parquet file, got {reason}") from error
    for column in ("time", "machine", "label"):
        if column not in frame.columns:
            raise UserError(
                f"labels {path}: expected the columns time, machine and label, got {', '.join(frame.columns)}"
            )
    for column in ("machine", "label"):
        if frame[column].dtype not in (pl.String, pl.Categorical, pl.Enum):
            raise UserError(f"labels {path}, column {column}: expected text, got {frame[column].dtype}")
        for row, value in enumerate(frame[column].cast(pl.String), start=1):
            if not value:
                raise UserError(f"labels {path}, column {column}, row {row}: expected a name, got nothing")
    return frame.select(
        pl.Series("time", list(_times(frame["time"], path)), dtype=TIME),
        pl.col("machine").cast(pl.String),
        pl.col("label").cast(pl.String),
    )


def _times(column: pl.Series, path: str | Path) -> Iterator[datetime]:
    zoned = isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone is not None
    if not zoned and column.dtype != pl.String:
        raise UserError(
            f"labels {path}, column time: expected ISO times with an offset, or datetimes with a time zone, got"
            f" {column.dtype}"
        )
    for row, value in enumerate(column, start=1):
        try:
            time = datetime.fromisoformat(value.strip()) if isinstance(value, str) else value
        except ValueError:
            time = None
        if time is None or time.tzinfo is None:
            raise UserError(
                f"labels {path}, column time, row {row}: expected an ISO time with an offset such as"
                f" 2026-03-01T08:30:00+01:00, got {value!r}"
            )
        yield time
