"""CWRU's files: a Parquet layout with a manifest, or the original `.mat` files under their public numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.datamodules.mat_file import MatError, read_vector
from fml_lightning.errors import UserError

CLOCKS = (6, 3, 12)
"""Positions of an outer race fault, the preferred first: 6 o'clock is in the load zone."""

NOMINAL = {0: 1797.0, 1: 1772.0, 2: 1750.0, 3: 1730.0}
"""The motor's nominal speed, revolutions per minute, by its load, hp."""

COLUMNS = ("set", "load_hp", "fault", "diameter_mil", "clock", "file", "scale_DE", "scale_FE")
"""What the manifest of the Parquet files tells of each."""


class Signal(NamedTuple):
    """One recorded condition."""

    end: str
    """`drive`, `fan`, or `normal`: the drive end without a fault. (`fan` with a normal fault is the other end.)"""
    fault: str
    """`ball`, `inner`, `outer`, or `normal`."""
    load: int
    """Motor load, hp."""
    diameter: int
    """Fault diameter, mil; 0 for normal."""


class Signals(Protocol):
    """Reads what was recorded of a condition, at its own end of the motor."""

    def read(self, signal: Signal) -> NDArray[np.float32]:
        """Acceleration in g at 12 kHz, (n,)."""
        ...

    def speed(self, signal: Signal) -> float:
        """The shaft's speed, Hz: as measured, or else the nominal one."""
        ...


def open_signals(root: str) -> Signals:
    """Find out which files a folder holds.

    Raises:
        UserError: the folder does not exist, or holds no CWRU data.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise UserError(f"CWRU: no folder {root!r}; set --data.root to the folder of the data")
    for candidate in (folder, folder / "cwru"):
        if (candidate / "manifest.csv").is_file():
            return ParquetSignals(candidate)
    files = {path.stem: path for path in sorted(folder.rglob("*.mat")) if path.is_file()}
    if any(stem.isdecimal() for stem in files):
        return MatSignals(folder, files)
    raise UserError(
        f"CWRU: expected manifest.csv with its Parquet files, or .mat files (97.mat, …), below {root!r}; found"
        " neither; set --data.root to the folder of the data"
    )


class ParquetSignals:
    """`manifest.csv` and Parquet files of converter codes: g = code · scale.

    Args:
        root: the folder of `manifest.csv`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.manifest = _read(pl.read_csv, root / "manifest.csv")
        if missing := [column for column in COLUMNS if column not in self.manifest.columns]:
            raise UserError(
                f"CWRU: {root / 'manifest.csv'}: expected the columns {', '.join(COLUMNS)}, without"
                f" {', '.join(missing)}; restore it"
            )

    def read(self, signal: Signal) -> NDArray[np.float32]:
        """Acceleration in g at 12 kHz, (n,)."""
        row = self._row(signal)
        channel = _channel(signal)
        path = self.root / str(row["file"])
        if not path.is_file():
            raise UserError(f"CWRU: {path} is in the manifest but not on disk; restore it")
        column = _read(partial(pl.read_parquet, columns=[channel]), path)[channel]
        scale = row[f"scale_{channel}"]
        if not column.dtype.is_numeric() or not isinstance(scale, float | int | None):
            raise UserError(
                f"CWRU: {path}: expected numbers, got {column.dtype} and the scale {scale!r}; restore it"
            )
        codes = column.to_numpy()
        values = codes if scale is None else codes * scale
        if row["set"] == "normal48":
            values = _to_12_khz(values)
        return values.astype(np.float32)

    def speed(self, signal: Signal) -> float:
        """The shaft's speed, Hz: as measured, or else the nominal one."""
        row = self._row(signal)
        told = (row.get("rpm_measured"), row.get("rpm_nominal"), NOMINAL[signal.load])
        return next(float(rpm) for rpm in told if isinstance(rpm, float | int) and 0 < rpm < math.inf) / 60

    def _row(self, signal: Signal) -> dict[str, Any]:
        """What the manifest says of a recording; of outer race faults, of the preferred one."""
        folder = {"drive": "de12", "fan": "fe12", "normal": "normal12"}[signal.end]
        if (signal.end, signal.fault) == ("fan", "normal"):
            folder = "normal48"  # of which alone the fan end was kept
        fault = {"ball": "B", "inner": "IR", "outer": "OR", "normal": "normal"}[signal.fault]
        try:
            rows = self.manifest.filter(
                set=folder, load_hp=signal.load, fault=fault, diameter_mil=signal.diameter
            ).to_dicts()
            row = min(rows, key=lambda r: CLOCKS.index(int(r["clock"])) if r["clock"] else 0, default=None)
        except (pl.exceptions.PolarsError, ValueError) as error:
            raise UserError(f"CWRU: {self.root / 'manifest.csv'} cannot be read ({error}); restore it") from error
        if row is None:
            raise UserError(f"CWRU: {self.root / 'manifest.csv'} lists no {folder} recording of {signal}")
        return row


class MatSignals:
    """The original MATLAB files, found by their numbers.

    Args:
        root: where they were looked for, for error messages.
        files: path of each file by its number.
    """

    def __init__(self, root: Path, files: dict[str, Path]) -> None:
        self.root = root
        self.files = files

    def read(self, signal: Signal) -> NDArray[np.float32]:
        """Acceleration in g at 12 kHz, (n,)."""
        number, path = self._file(signal)
        # 99.mat holds the recording of 98.mat too: the number in the variable's name decides.
        name = f"X{number:03d}_{_channel(signal)}_time"
        values = self._vector(path, name)
        if values is None:
            raise UserError(f"CWRU: {path} has no variable {name}; download it again")
        if not len(values):
            raise UserError(f"CWRU: {path}, variable {name}: no sample in it; download it again")
        if signal.fault == "normal":  # recorded at 48 kHz, whatever the file list says
            values = _to_12_khz(values)
        acceleration: NDArray[np.float32] = values.astype(np.float32)
        return acceleration

    def speed(self, signal: Signal) -> float:
        """The shaft's speed, Hz: as measured, or else the nominal one."""
        number, path = self._file(signal)
        measured = self._vector(path, f"X{number:03d}RPM")
        if measured is not None and len(measured) and 0 < measured[0] < math.inf:
            return float(measured[0]) / 60
        return NOMINAL[signal.load] / 60

    def _file(self, signal: Signal) -> tuple[int, Path]:
        number = next((n for n in self._numbers(signal) if str(n) in self.files), None)
        if number is None:
            wanted = " or ".join(f"{n}.mat" for n in self._numbers(signal))
            raise UserError(f"CWRU: expected {wanted} below {self.root} for {signal}; download it there")
        return number, self.files[str(number)]

    @staticmethod
    def _vector(path: Path, name: str) -> NDArray[Any] | None:
        try:
            return read_vector(path, name)
        except (MatError, OSError) as error:
            raise UserError(f"CWRU: {path} is not a readable .mat file ({error}); download it again") from error

    @staticmethod
    def _numbers(signal: Signal) -> list[int]:
        """Numbers of the files that hold a recording, the preferred clock position first."""
        clocks: tuple[int | None, ...] = CLOCKS if signal.fault == "outer" else (None,)
        end = "normal" if signal.fault == "normal" else signal.end  # such a file holds both ends
        keys = [(end, signal.fault, signal.diameter, clock) for clock in clocks]
        return [FILES[key][signal.load] for key in keys if signal.load in FILES.get(key, {})]


def _channel(signal: Signal) -> str:
    return "FE" if signal.end == "fan" else "DE"


def _to_12_khz(values: NDArray[Any]) -> NDArray[Any]:
    from scipy.signal import decimate

    decimated: NDArray[Any] = decimate(values, 4, ftype="fir")
    return decimated


def _read(reader: Callable[[Path], pl.DataFrame], path: Path) -> pl.DataFrame:
    try:
        return reader(path)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"CWRU: {path} cannot be read ({reason}); restore it") from error


def _loads(*numbers: int) -> dict[int, int]:
    return dict(enumerate(numbers))


FILES: dict[tuple[str, str, int, int | None], dict[int, int]] = {
    ("normal", "normal", 0, None): _loads(97, 98, 99, 100),
    ("drive", "inner", 7, None): _loads(105, 106, 107, 108),
    ("drive", "inner", 14, None): _loads(169, 170, 171, 172),
    ("drive", "inner", 21, None): _loads(209, 210, 211, 212),
    ("drive", "ball", 7, None): _loads(118, 119, 120, 121),
    ("drive", "ball", 14, None): _loads(185, 186, 187, 188),
    ("drive", "ball", 21, None): _loads(222, 223, 224, 225),
    ("drive", "outer", 7, 6): _loads(130, 131, 132, 133),
    ("drive", "outer", 7, 3): _loads(144, 145, 146, 147),
    ("drive", "outer", 7, 12): _loads(156, 158, 159, 160),
    ("drive", "outer", 14, 6): _loads(197, 198, 199, 200),
    ("drive", "outer", 21, 6): _loads(234, 235, 236, 237),
    ("drive", "outer", 21, 3): _loads(246, 247, 248, 249),
    ("drive", "outer", 21, 12): _loads(258, 259, 260, 261),
    ("fan", "inner", 7, None): _loads(278, 279, 280, 281),
    ("fan", "inner", 14, None): _loads(274, 275, 276, 277),
    ("fan", "inner", 21, None): _loads(270, 271, 272, 273),
    ("fan", "ball", 7, None): _loads(282, 283, 284, 285),
    ("fan", "ball", 14, None): _loads(286, 287, 288, 289),
    ("fan", "ball", 21, None): _loads(290, 291, 292, 293),
    ("fan", "outer", 7, 6): _loads(294, 295, 296, 297),
    ("fan", "outer", 7, 3): _loads(298, 299, 300, 301),
    ("fan", "outer", 7, 12): _loads(302, 305, 306, 307),
    ("fan", "outer", 14, 3): _loads(310, 309, 311, 312),
    ("fan", "outer", 14, 6): {0: 313},
    ("fan", "outer", 21, 6): {0: 315},
    ("fan", "outer", 21, 3): {1: 316, 2: 317, 3: 318},
}
"""Public file number of each recording: (end, fault, diameter in mil, clock position) → load in hp → number."""
