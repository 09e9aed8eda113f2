"""The Skoltech Anomaly Benchmark as a fleet: a water circuit with a pump, and experiments that disturb it.

Katser, Kozitsin, Skoltech Anomaly Benchmark (SKAB), Kaggle 2020. https://github.com/waico/SKAB. Eight sensors, one
reading a second or so; each experiment begins normally, and is disturbed after about ten minutes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.datamodules.data_folder import file_below, read_columns
from fml_lightning.datamodules.episodes import Episodes
from fml_lightning.datamodules.fleet import Fleet, SiteRecordings
from fml_lightning.datamodules.recordings import Recording
from fml_lightning.errors import UserError
from fml_lightning.preprocessing.features import Features, RawWindows
from fml_lightning.preprocessing.preprocessing import Preprocessing
from fml_lightning.preprocessing.standardize import Standardize
from fml_lightning.preprocessing.windowing import Windowing

GROUPS = ("anomaly-free", "other", "valve1", "valve2")
SENSORS = (
    *("Accelerometer1RMS", "Accelerometer2RMS", "Current", "Pressure"),
    *("Temperature", "Thermocouple", "Voltage", "Volume Flow RateRMS"),
)
ROW_RATE = 1.0
"""Hz: readings come about once a second, with gaps."""
NORMAL_ROWS = 400
"""First rows of an experiment: what the benchmark trains on."""


class SKAB(Fleet):
    """Experiments as machines, groups of experiments as sites; the first 400 rows are early, all others judge.

    Early rows are normal, but for one experiment (`other-2`), which is disturbed after 104.

    Args:
        root: folder with `skab.parquet`, or the folder above its folder `skab`.
        unseen: groups held out, of anomaly-free (which has no anomaly to find), other, valve1 and valve2.
        windowing: how rows become windows; null: each row is one. A window never holds rows of both classes.
        features: what the network sees of a window; its rows unless you say otherwise.
        scale: what sensors are told in. `experiment`: in standard deviations of the experiment's own first normal
            rows, above their mean, as in the benchmark: within an experiment sensors move far less than
            experiments differ, so on one scale for all of them a network sees no anomaly. `fleet`: in standard
            deviations of the training sites' early rows. `unit`: as they are.
        episodes: how episodes are drawn; of 75 normal rows unless you say otherwise.
    """

    classes = ("normal", "anomaly")

    def __init__(
        self,
        root: str,
        unseen: Sequence[str] = ("valve1", "valve2"),
        windowing: Windowing | None = None,
        features: Features | None = None,
        scale: Literal["experiment", "fleet", "unit"] = "experiment",
        episodes: Episodes = Episodes(shots=75, queries=25, normal=0, repeats=5),  # noqa: B008
    ) -> None:
        standardize = Standardize("channels") if scale == "fleet" else None
        preprocessing = Preprocessing(windowing, features or RawWindows(), SENSORS, standardize=standardize)
        super().__init__(preprocessing, episodes)
        if isinstance(unseen, str) or not set(unseen) <= set(GROUPS):
            raise UserError(f"SKAB: expected in unseen groups of {', '.join(GROUPS)}, got {unseen!r}")
        if scale not in ("experiment", "fleet", "unit"):
            raise UserError(f"SKAB: expected scale experiment, fleet or unit, got {scale!r}")
        self.root = root
        self.scale = scale
        self.held_out = tuple(unseen)

    def read(self) -> Iterator[SiteRecordings]:
        """One site per group of experiments."""
        path = file_below("SKAB", self.root, "skab", "skab.parquet")
        for group in GROUPS:
            yield SiteRecordings(group, group in self.held_out, partial(self._experiments, path, group))

    def _experiments(self, path: Path, group: str) -> list[Recording]:
        columns = ["file", "datetime", "anomaly", *SENSORS]
        rows = read_columns("SKAB", pl.scan_parquet(path).filter(group=group).select(columns), path)
        parts = rows.partition_by("file", maintain_order=True)
        return [recording for part in parts for recording in self._recordings(f"{group}-{part['file'][0]}", part)]

    def _recordings(self, machine: str, rows: pl.DataFrame) -> Iterator[Recording]:
        """The first rows, then each stretch of one class."""
        labels = rows["anomaly"].to_numpy().astype(np.int64)
        times = rows["datetime"].dt.timestamp("us").to_numpy()
        values = np.ascontiguousarray(rows.select(SENSORS).to_numpy().T, np.float32)
        if self.scale == "experiment":
            values = _in_own_deviations(values, labels)
        changes = np.flatnonzero(np.diff(labels)) + 1
        borders = np.unique([0, min(NORMAL_ROWS, len(labels)), *changes, len(labels)]).tolist()
        for begin, end in pairwise(borders):
            yield Recording(
                machine,
                "normal running",
                int(labels[begin]),
                ROW_RATE,
                values[:, begin:end],
                int(times[begin]),
                times=times[begin:end],
                part="early" if end <= NORMAL_ROWS else "late",
            )


def _in_own_deviations(values: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Sensors (8, n) above the mean of the normal ones of an experiment's first rows, in their deviations."""
    first = values[:, :NORMAL_ROWS][:, labels[:NORMAL_ROWS] == 0].T
    of = Standardize("channels")
    return np.ascontiguousarray(of.fitted(of.sums(first, ()))(values.T, ()).T)
