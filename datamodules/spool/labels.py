"""Labels: what state each machine is in, and since when; from a stream or from a file."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.connectors.labels import NO_LABEL
from fml_lightning.connectors.readings import TIME
from fml_lightning.errors import UserError

log = logging.getLogger(__name__)

UNLABELLED, UNKNOWN, CHANGING, EARLIER, UNCONFIRMED = -1, -2, -3, -4, -5
"""In place of a class: a window that no label precedes, or `NO_LABEL`; one under a label that is no class; one in
which the label changes; one that begins before `since`; one under a label that was said before `since`."""

NOTHING = np.empty((3, 0), np.int64)


class Labels:
    """The labels of one site's machines. They may come in any order, long after what they describe.

    Args:
        site: the site's name, for messages.
        classes: the labels that count; what is under another one is left out. `NO_LABEL` ends a label.
        since: µs since 1970 from which on windows and labels count; a label that was said before, and merely still
            holds, says nothing of the windows after it. None: all count.
    """

    def __init__(self, site: str, classes: Sequence[str], since: int | None = None) -> None:
        self.site = site
        self.classes = tuple(classes)
        self.since = since
        self.unknown: Counter[str] = Counter()
        """How often a label came that is no class."""
        # Of each machine, all labels in order of time and of when they were said; of those of one time the last
        # holds. In rows: when each holds from, when it was said, and its class; (3, n).
        self._said: dict[str, NDArray[np.int64]] = {}

    @property
    def corrected(self) -> int:
        """How many labels later ones have corrected."""
        return sum(int((said[2] != said[2][_holding(said[0])]).sum()) for said in self._said.values())

    def add(self, labels: pl.DataFrame) -> None:
        """Take in labels: a frame of `time`, `received` (both UTC), `machine` and `label`.

        Of two labels for one machine and time, that which was said (`received`) later corrects the other; of two
        that were said at one moment, the later added.
        """
        for (machine,), own in labels.group_by("machine", maintain_order=True):
            times, said = (own[column].cast(TIME).to_physical().to_numpy() for column in ("time", "received"))
            codes = np.array([self._code(label) for label in own["label"]], np.int64)
            rows = np.hstack([self._said.get(str(machine), NOTHING), np.stack([times, said, codes])])
            rows = rows[:, np.lexsort((rows[1], rows[0]))]  # which is stable
            again = np.append((np.diff(rows) == 0).all(0), False)  # such as a label that the broker retains
            self._said[str(machine)] = rows[:, ~again]

    def at(self, machine: str, first: NDArray[np.int64], last: NDArray[np.int64]) -> NDArray[np.int64]:
        """The class that holds from one moment to another, as far as is known today.

        Args:
            machine: its name.
            first: µs since 1970, UTC, (n,).
            last: the same, included, (n,).

        Returns:
            Indices into `classes`, or one of `UNLABELLED`, `UNKNOWN`, `CHANGING`, `EARLIER`, `UNCONFIRMED`; (n,).
        """
        times, said, codes = self._said.get(machine, NOTHING)
        if self.since is not None:
            codes = np.where(said < self.since, UNCONFIRMED, codes)
        holding = np.unique(_holding(times))
        times, codes = times[holding], np.concatenate([[UNLABELLED], codes[holding]])
        runs = np.cumsum(np.diff(codes, prepend=UNLABELLED) != 0)  # the same label said again is no change
        begin, end = (np.searchsorted(times, moment, side="right") for moment in (first, last))
        held = np.where(runs[begin] == runs[end], codes[begin], CHANGING)
        return held if self.since is None else np.where(first < self.since, EARLIER, held)

    def _code(self, label: str) -> int:
        if label in self.classes:
            return self.classes.index(label)
        if label == NO_LABEL:
            return UNLABELLED
        if label not in self.unknown:
            log.warning(
                "%s: label %r is none of the classes %s; what is under it is left out",
                self.site,
                label,
                ", ".join(self.classes),
            )
        self.unknown[label] += 1
        return UNKNOWN


def _holding(times: NDArray[np.int64]) -> NDArray[np.intp]:
    """For each of n times in order, the index of the last one that equals it, (n,)."""
    return np.searchsorted(times, times, side="right") - 1


def read_labels(path: str | Path) -> pl.DataFrame:
    """Labels from a CSV or Parquet file with the columns `time`, `machine`, `label` and, if need be, `received`.

    Times are ISO 8601 with an offset (`2026-03-01T08:30:00+01:00`, `…Z`); in Parquet also a datetime column with a
    time zone. `received` is when a label was said; where the file does not tell, it is when the file was changed.

    Raises:
        UserError: the file cannot be read; it says which column or row is wrong.
    """
    csv = Path(path).suffix.lower() == ".csv"
    try:
        changed = datetime.fromtimestamp(Path(path).stat().st_mtime, UTC)
        frame = pl.read_csv(path, infer_schema=False) if csv else pl.read_parquet(path)
    except (OSError, ValueError, OverflowError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
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
    said = pl.Series("received", [changed] * len(frame), dtype=TIME)
    if "received" in frame.columns and frame["received"].dtype != pl.Null:
        texts = frame["received"].dtype == pl.String
        said = frame["received"].fill_null(changed.isoformat() if texts else changed)
    return frame.select(
        pl.Series("time", list(_times(frame["time"], path)), dtype=TIME),
        pl.Series("received", list(_times(said, path)), dtype=TIME),
        pl.col("machine").cast(pl.String),
        pl.col("label").cast(pl.String),
    )


def moment(text: str) -> datetime | None:
    """The time of day that an ISO 8601 text with an offset tells; None if it tells none.

    >>> moment("2026-03-01T08:30:00+01:00") == moment("2026-03-01T07:30:00Z"), moment("2026-03-01T08:30:00")
    (True, None)
    """
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return None if time.tzinfo is None else time


def _times(column: pl.Series, path: str | Path) -> Iterator[datetime]:
    zoned = isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone is not None
    if not zoned and column.dtype != pl.String:
        raise UserError(
            f"labels {path}, column {column.name}: expected ISO times with an offset, or datetimes with a time"
            f" zone, got {column.dtype}"
        )
    for row, value in enumerate(column, start=1):
        time = moment(value) if isinstance(value, str) else value
        if time is None:
            raise UserError(
                f"labels {path}, column {column.name}, row {row}: expected an ISO time with an offset such as"
                f" 2026-03-01T08:30:00+01:00, got {value!r}"
            )
        yield time
