"""How files become signals: which columns, at which rate, from when on; and what of their samples is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.datamodules.files.csv_file import CsvFile, CsvFormat
from fml_lightning.datamodules.files.listed_file import ListedFile
from fml_lightning.datamodules.files.mat_signals import MatSignalFile
from fml_lightning.datamodules.files.npy_file import NpyFile
from fml_lightning.datamodules.files.parquet_file import ParquetFile
from fml_lightning.datamodules.files.signal_file import SignalFile
from fml_lightning.datamodules.files.time_column import find_stretches
from fml_lightning.datamodules.files.wav_file import WavFile
from fml_lightning.datamodules.recordings import Stored
from fml_lightning.errors import UserError
from fml_lightning.preprocessing.preprocessing import TOLERANCE
from fml_lightning.preprocessing.windowing import Windowing

AT_ONCE = 1 << 23
"""Samples, of all channels together, that are read together: a longer file is parted into recordings."""
EPOCH = 1e8
"""Seconds from which on a number of a column of times is since 1970, not since the file began."""
UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
KINDS: dict[str, Callable[[Path, CsvFormat], SignalFile]] = {
    **dict.fromkeys((".csv", ".txt", ".tsv"), CsvFile),
    ".parquet": lambda path, _: ParquetFile(path),
    ".npy": lambda path, _: NpyFile(path),
    ".mat": lambda path, _: MatSignalFile(path),
    ".wav": lambda path, _: WavFile(path),
}
"""What opens a file, by how its name ends."""


@dataclass(frozen=True)
class Stretch:
    """A part of a file without a gap."""

    file: ListedFile
    sample_rate: float
    """Hz."""
    start: int | None
    """Time of its first sample, µs since 1970; None: nothing tells."""
    offset: float
    """Seconds from the file's first sample to its own."""
    share: tuple[float, float]
    """Where it begins and ends in the file's duration, both in [0, 1]."""
    values: Stored


@dataclass(frozen=True)
class Reading:
    """How files become signals; `Files` says what its fields mean."""

    channels: tuple[int | str, ...]
    sample_rate: float | None
    time: int | str | None
    time_unit: Literal["s", "ms", "us", "ns"]
    scale: float
    missing: Literal["refuse", "interpolate"]
    constant: Literal["refuse", "keep"]
    csv: CsvFormat
    windowing: Windowing | None

    def stretches(self, file: ListedFile) -> list[Stretch]:
        """The parts of a file without a gap, in order of time; samples are read when they are needed.

        Raises:
            UserError: the file cannot be read, or does not tell its sample rate.
        """
        signal = open_signal(file.path, self.csv)
        time = None if self.time is None else signal.column(self.time)
        columns = self._columns(signal, time)
        if (rows := signal.rows(columns)) < 1:
            raise UserError(f"{file.path}: expected at least one sample, got none; leave the file out")
        start = file.time("start" if "start" in file.said else "time")
        if time is None:
            parts, seconds, measured = [slice(0, rows)], None, None
        else:
            seconds, begin = self._seconds(signal, time)
            start = begin if start is None else start
            parts, measured = find_stretches(seconds, signal.where, f"{file.path}, {signal.called(time)}")
        rate = self._rate(file, signal, measured)
        duration = rows / rate if seconds is None else float(seconds[-1] - seconds[0]) + 1 / rate
        most = max(1, AT_ONCE // len(columns))
        found = []
        for part in parts:
            for first in range(part.start, part.stop, most):
                count = min(most, part.stop - first)
                offset = first / rate
                if seconds is not None:
                    offset = float(seconds[part.start] - seconds[0]) + (first - part.start) / rate
                last = offset + (count - 1) / rate
                found.append(
                    Stretch(
                        file,
                        rate,
                        None if start is None else start + round(offset * 1e6),
                        offset,
                        tuple(min(1.0, at / max(duration - 1 / rate, 1 / rate)) for at in (offset, last)),  # type: ignore[arg-type]
                        Stored(
                            (len(columns), count), partial(self._read, signal, file, columns, first, count, rate)
                        ),
                    )
                )
        return found

    def _columns(self, signal: SignalFile, time: int | None) -> list[int]:
        """The columns that are channels."""
        if self.channels:
            return [signal.column(channel) for channel in self.channels]
        others = [column for column in range(len(signal.names)) if column != time]
        if len(others) != 1:
            names = ", ".join(signal.names[column] or str(column) for column in others)
            raise UserError(
                f"{signal.path}: expected one column of samples, got {names or 'none'}; name the channels"
            )
        return others

    def _seconds(self, signal: SignalFile, column: int) -> tuple[NDArray[np.float64], int | None]:
        """The times of rows, in seconds; and when the first one was, µs since 1970, if that is told."""
        times = signal.times(column)
        if times.dtype == pl.Datetime:
            micros = times.dt.cast_time_unit("us").dt.epoch("us")
            begin = micros.drop_nulls().first()
            if begin is None:
                raise UserError(f"{signal.path}, {signal.called(column)}: expected times, got none")
            return (micros - begin).cast(pl.Float64).fill_null(math.nan).to_numpy() * 1e-6, int(begin)  # type: ignore[arg-type]
        seconds = times.cast(pl.Float64).fill_null(math.nan).to_numpy() * UNITS[self.time_unit]
        is_epoch = np.isfinite(seconds[:1]).all() and seconds[0] >= EPOCH
        return seconds, round(float(seconds[0]) * 1e6) if is_epoch else None

    def _rate(self, file: ListedFile, signal: SignalFile, measured: float | None) -> float:
        """The sample rate of a file, Hz.

        Raises:
            UserError: nothing tells it, or it is told in two ways.
        """
        said = file.number("sample_rate")
        told = {
            "its header": signal.sample_rate,
            f"column {self.time!r}": measured,
            f"{file.where}, column 'sample_rate'": said,
        }
        rates = {who: rate for who, rate in told.items() if rate is not None}
        if said is not None and said <= 0:
            raise UserError(f"{file.where}, column 'sample_rate': expected Hz above 0, got {said:g}")
        if not rates:
            if self.sample_rate is None and self.windowing is not None:
                hint = "set sample_rate, or time to a column of times"
                raise UserError(f"{file.path}: expected the sample rate of its samples, got none; {hint}")
            return self.sample_rate or 1.0
        (who, rate), *others = rates.items()
        for other, another in others:
            if abs(another / rate - 1) > TOLERANCE:
                raise UserError(
                    f"{file.path}: expected one sample rate, got {rate:g} Hz by {who} and {another:g} Hz by"
                    f" {other}"
                )
        if self.sample_rate is not None and abs(rate / self.sample_rate - 1) <= TOLERANCE:
            return self.sample_rate
        return rate

    def _read(
        self, signal: SignalFile, file: ListedFile, columns: Sequence[int], first: int, count: int, rate: float
    ) -> NDArray[np.float32]:
        """Samples of a part of a file, (C, count).

        Raises:
            UserError: they cannot be read, are not finite, or do not change.
        """
        scale = self.scale * (1.0 if (own := file.number("scale")) is None else own)
        values = np.empty((len(columns), count), np.float32)
        window = None if self.windowing is None else self.windowing.at(rate).length
        for channel, column, read in zip(values, columns, signal.read(columns, first, count), strict=True):
            if read.shape != channel.shape:
                raise UserError(
                    f"{signal.path}: expected {count} samples from {signal.where(first)} on, got {len(read)};"
                    " did the file change?"
                )
            with np.errstate(over="ignore", invalid="ignore"):
                channel[:] = read if scale == 1 else read * scale
            place = f"{signal.path}, {{}}, {signal.called(column)}"
            if not (known := np.isfinite(channel)).all():
                row = int(np.argmin(known))
                if self.missing == "refuse" or np.isinf(channel).any() or not known.any():
                    got = "none" if np.isnan(channel[row]) else f"{read[row]}"
                    hint = "; mend it" if known.any() else "; leave the column out"
                    if known.any() and self.missing == "refuse" and np.isnan(channel[row]):
                        hint += ", or set missing: interpolate"
                    raise UserError(
                        f"{place.format(signal.where(first + row))}: expected a finite number, got {got}{hint}"
                    )
                at = np.arange(count)
                channel[~known] = np.interp(at[~known], at[known], channel[known])
            if self.constant == "refuse" and window and count >= max(window, 2) and channel.min() == channel.max():
                rows = f"{signal.where(first)} to {signal.where(first + count - 1)}"
                raise UserError(
                    f"{place.format(rows)}: expected samples that change, got {channel[0]:g} in all of them; is"
                    " the sensor off? Leave the channel or the file out, or set constant: keep"
                )
        return values


def open_signal(path: Path, layout: CsvFormat) -> SignalFile:
    """Open a file of samples, as its name ends.

    Raises:
        UserError: it cannot be opened, or its name ends otherwise.
    """
    if (kind := KINDS.get(path.suffix.lower())) is None:
        raise UserError(
            f"{path}: expected a file that ends on {', '.join(KINDS)}, got {path.suffix or 'no ending'}"
        )
    try:
        return kind(path, layout)
    except OSError as error:
        raise UserError(f"{path}: expected a file that can be read, got {error.strerror or error}") from error
