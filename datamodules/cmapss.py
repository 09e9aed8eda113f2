"""NASA's C-MAPSS turbofan engines as a fleet: how many flights are left?

Saxena et al., Damage Propagation Modeling for Aircraft Engine Run-to-Failure Simulation, PHM 2008.
https://doi.org/10.1109/PHM.2008.4711414. Simulated; one row per flight cycle. FD001 and FD003 fly under one
operating condition, FD002 and FD004 under six; FD001 and FD002 fail in one way, FD003 and FD004 in two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.datamodules.episodes import Episodes
from fml_lightning.datamodules.fleet import Fleet, SiteRecordings
from fml_lightning.datamodules.recordings import Ramp, Recording
from fml_lightning.errors import UserError
from fml_lightning.preprocessing.features import Features
from fml_lightning.preprocessing.preprocessing import Preprocessing
from fml_lightning.preprocessing.standardize import Standardize
from fml_lightning.preprocessing.trend import Trend
from fml_lightning.preprocessing.windowing import Windowing

DATA_SETS = ("FD001", "FD002", "FD003", "FD004")
SENSORS = tuple(f"s{i}" for i in (2, 3, 4, 7, 8, 9, 11, 12, 13, 14, 15, 17, 20, 21))
"""The 14 that papers use; the other seven tell little beside the operating condition."""
ALTITUDE = "op1"
"""In thousands of feet: 0, 10, 20, 25, 35 and 42 are the six operating conditions."""
CYCLE = 1.0
"""Hz: each row counts as a second, because recordings know no other time."""


class CMAPSS(Fleet):
    """Engines that run to failure; their remaining life, in flight cycles, is to be estimated.

    A site is a data set (a fleet), or one of the airlines that its engines are dealt to. A site's engines are the
    recordings of one machine, named as the site. Engines of the training file, run to failure, are early: what is
    trained on, and what support is drawn from (`episodes.per: recording`). Engines of the test file, whose record
    ends before they fail, are late: they judge, each by its last window. Targets are not capped: the objective
    `RemainingUsefulLife` does that, and reports both.

    Every row is standardized by the mean and deviation of its operating condition, by altitude, in the training
    engines of the training sites.

    Args:
        root: folder with `train_FD001.parquet`, `test_FD001.parquet`, `RUL_FD001.csv`, and so on, or the folder
            above it.
        train: data sets whose sites train, less those that `unseen` names.
        unseen: data sets, or sites such as `FD002-airline3`, that are held out.
        airlines: how many airlines each data set's engines are dealt to, at random; 1: the data set is the site.
        seed: deals the engines.
        length: cycles of a window. A test engine with fewer is taken to have been before as in its first cycle.
        hop: cycles from one training window to the next.
        sensors: columns of sensors.
        history: let the network see, beside each sensor, the sensor's mean over all cycles from the engine's first
            on that were flown at the same altitude, to the nearest thousand feet. Engines begin in different
            states: what has changed since shows only beside it. Standardized and windowed as the sensors are.
        age: let the network see how many cycles an engine has flown.
        features: what the network sees of a window; the `Trend` of each sensor unless you say otherwise.
        standardize: how rows are standardized; by altitude unless you say otherwise.
        episodes: how episodes are drawn; 5 engines are support unless you say otherwise.
    """

    classes = ("remaining cycles",)
    target_unit = "cycles"

    def __init__(
        self,
        root: str,
        train: tuple[str, ...] = ("FD001", "FD002", "FD003"),
        unseen: tuple[str, ...] = ("FD004",),
        airlines: int = 1,
        seed: int = 0,
        length: int = 30,
        hop: int = 1,
        sensors: tuple[str, ...] = SENSORS,
        history: bool = False,
        age: bool = False,
        features: Features | None = None,
        standardize: Standardize = Standardize("channels", ALTITUDE),  # noqa: B008
        episodes: Episodes = Episodes(  # noqa: B008
            shots=5, per="recording", of="as they come", permute_labels=False, centre=False
        ),
    ) -> None:
        means = [f"{name}, mean so far" for name in sensors] if history else []
        channels = (ALTITUDE, *sensors, *means, *(["cycle"] if age else []))
        preprocessing = Preprocessing(
            Windowing(length, hop), features or Trend(), channels, CYCLE, standardize=standardize
        )
        super().__init__(preprocessing, episodes)
        named = {name.partition("-")[0] for name in unseen}
        if not train or not {*train, *named} <= set(DATA_SETS):
            raise UserError(
                f"CMAPSS: expected data sets of {', '.join(DATA_SETS)} in train and unseen, got train"
                f" {', '.join(train) or 'none'} and unseen {', '.join(unseen)}"
            )
        if airlines < 1:
            raise UserError(f"CMAPSS: expected airlines >= 1, got {airlines}")
        self.root = root
        self.data_sets = sorted({*train, *named})
        self.trained = set(train)
        self.held_out = set(unseen)
        self.airlines = airlines
        self.seed = seed
        self.sensors = sensors
        self.history = history
        self.age = age
        self.length = length

    def read(self) -> Iterator[SiteRecordings]:
        """One site per data set, or per airline."""
        folder = _folder(self.root)
        names = [
            (data_set, number, data_set if self.airlines == 1 else f"{data_set}-airline{number + 1}")
            for data_set in self.data_sets
            for number in range(self.airlines)
        ]
        if strangers := self.held_out - {name for data_set, _, site in names for name in (data_set, site)}:
            raise UserError(
                f"CMAPSS: no site {', '.join(sorted(strangers))} to hold out; there are"
                f" {', '.join(site for _, _, site in names)}"
            )
        for data_set, number, site in names:
            unseen = bool({data_set, site} & self.held_out)
            if unseen or data_set in self.trained:
                yield SiteRecordings(site, unseen, partial(self._engines, folder, data_set, number, site))

    def _engines(self, folder: Path, data_set: str, number: int, site: str) -> list[Recording]:
        """The engines of a site: those that ran to failure, then those that judge."""
        failed = self._dealt(self._rows(folder, f"train_{data_set}.parquet"), number)
        recordings = [self._recording(site, samples, 0, "early") for _, samples in failed]
        path = folder / f"RUL_{data_set}.csv"
        remaining = dict(_table(path, pl.read_csv, ("unit", "rul")).select("unit", "rul").iter_rows())
        for engine, samples in self._dealt(self._rows(folder, f"test_{data_set}.parquet"), number):
            if engine not in remaining:
                raise UserError(f"CMAPSS: {path}: expected the remaining life of test engine {engine}; restore it")
            missing = max(0, self.length - samples.shape[1])
            last = np.pad(samples, ((0, 0), (missing, 0)), mode="edge")[:, -self.length :]
            recordings.append(self._recording(site, last, remaining[engine], "late"))
        return recordings

    def _recording(
        self, site: str, samples: NDArray[np.float32], remaining: float, part: Literal["early", "late"]
    ) -> Recording:
        """One engine's cycles, after the last of which `remaining` ones are left."""
        target = Ramp(remaining + samples.shape[1] - 1, remaining)
        return Recording(site, "flights", target, CYCLE, samples, part=part)

    def _rows(self, folder: Path, file: str) -> list[tuple[int, NDArray[np.float32]]]:
        """Each engine's number and its samples (C, n), in order of time."""
        table = _table(folder / file, pl.read_parquet, ("unit", "cycle", ALTITUDE, *self.sensors))
        table = table.sort("unit", "cycle")
        cycles = table.group_by("unit", maintain_order=True).agg(
            pl.len(), pl.max("cycle"), each=pl.n_unique("cycle")
        )
        if len(broken := cycles.filter((pl.col("len") != pl.col("cycle")) | (pl.col("len") != pl.col("each")))):
            raise UserError(
                f"CMAPSS: {folder / file}: expected a row for every cycle of engine {broken['unit'][0]}, from 1 to"
                f" {broken['cycle'][0]}, got {broken['len'][0]} rows; restore it"
            )
        engines = table.partition_by("unit", maintain_order=True)
        return [(engine["unit"][0], self._samples(engine)) for engine in engines]

    def _samples(self, engine: pl.DataFrame) -> NDArray[np.float32]:
        """An engine's channels, (C, n), in the order of `preprocessing.channels`."""
        measured = engine.select(self.sensors).to_numpy().T
        rows = [engine.select(ALTITUDE).to_numpy().T, measured]
        if self.history:
            rows.append(means_so_far(measured, engine[ALTITUDE].round().to_numpy()))
        if self.age:
            rows.append(engine.select("cycle").to_numpy().T)
        return np.concatenate(rows).astype(np.float32)

    def _dealt(
        self, engines: Sequence[tuple[int, NDArray[np.float32]]], number: int
    ) -> list[tuple[int, NDArray[np.float32]]]:
        """The engines of one airline."""
        if self.airlines == 1:
            return list(engines)
        order = np.random.default_rng(self.seed).permutation(len(engines))
        return [engines[i] for i in sorted(order[number :: self.airlines])]


def means_so_far(values: NDArray[np.float64], condition: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each channel at each sample, its mean over the samples of the same condition until then, this one too.

    Args:
        values: (C, n), in order of time.
        condition: of each sample, (n,).

    Returns:
        (C, n).

    >>> means_so_far(np.array([[1.0, 10.0, 3.0, 30.0]]), np.array([0.0, 20.0, 0.0, 20.0]))
    array([[ 1., 10.,  2., 20.]])
    """
    means = np.empty(values.shape)
    for each in np.unique(condition):
        here = condition == each
        means[:, here] = np.cumsum(values[:, here], axis=1) / np.arange(1, here.sum() + 1)
    return means


def _folder(root: str) -> Path:
    """The folder of the files.

    Raises:
        UserError: there is none.
    """
    for folder in (Path(root), Path(root) / "cmapss"):
        if any(folder.glob("train_FD00?.parquet")):
            return folder
    raise UserError(
        f"CMAPSS: expected train_FD001.parquet and so on in {root!r}; found none; set --data.root to their folder"
    )


def _table(path: Path, read: Callable[[Path], pl.DataFrame], columns: Sequence[str]) -> pl.DataFrame:
    """A file's table, which has these columns, of finite numbers.

    Raises:
        UserError: it has not.
    """
    if not path.is_file():
        raise UserError(f"CMAPSS: no file {path}; restore it, or leave its data set out")
    try:
        table = read(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"CMAPSS: {path} cannot be read ({error}); restore it") from error
    if missing := [name for name in columns if name not in table.columns]:
        raise UserError(
            f"CMAPSS: {path}: expected the columns {', '.join(columns)}, without {', '.join(missing)}; it has"
            f" {', '.join(table.columns)}"
        )
    for name in columns:
        column = table[name]
        if not column.dtype.is_numeric() or column.null_count() or not column.is_finite().all():
            raise UserError(f"CMAPSS: {path}, column {name}: expected finite numbers without gaps; restore it")
    if not len(table):
        raise UserError(f"CMAPSS: {path} has no rows; restore it")
    return table
