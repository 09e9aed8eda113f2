"""The MFPT bearing faults: does a bearing's inner or its outer race fail, or neither?

Bechhoefer, Condition Based Maintenance Fault Database for Testing of Diagnostic and Prognostics Algorithms,
Society for Machinery Failure Prevention Technology 2013. https://www.mfpt.org/fault-data-sets/.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.bearing import Bearing
from fml_lightning.connectors.plant.simulated_machine import CLASSES
from fml_lightning.datamodules.data_folder import file_below, read_columns
from fml_lightning.datamodules.episodes import Episodes
from fml_lightning.datamodules.fleet import Fleet, SiteRecordings
from fml_lightning.datamodules.recordings import Recording, Stored
from fml_lightning.errors import UserError
from fml_lightning.preprocessing.features import Features
from fml_lightning.preprocessing.preprocessing import Preprocessing
from fml_lightning.preprocessing.spectral import LogBandPowers
from fml_lightning.preprocessing.standardize import Standardize
from fml_lightning.preprocessing.windowing import Windowing

FAULTS = ("inner", "outer")
BEARING = Bearing.named("NICE")
FILES = {
    "low": ("inner_0lbs.parquet", "outer_25lbs.parquet"),
    **{str(load): (f"inner_{load}lbs.parquet", f"outer_{load}lbs.parquet") for load in range(50, 301, 50)},
}
"""The files of each load, lbs: one per class. The lowest load is 0 for the inner race and 25 for the outer one."""
BASELINES = {False: ("baseline_1.parquet", "baseline_2.parquet"), True: ("baseline_3.parquet",)}
"""The files of the normal bearing, at 270 lbs: those of machines that train, and that of machines held out."""
SAMPLE_RATE = 48_828.0
BASELINE_RATE = 97_656.0
SPEED = 25.0
"""Of the shaft, Hz."""


class MFPT(Fleet):
    """Seven loads as machines, each at a site of its own, with a fault in the inner or in the outer race.

    With `classes: normal and faults`, a machine also has the normal bearing's recordings, `baseline_1.parquet` to
    `baseline_3.parquet`. Classes are then those of `SimulatedFleet`, normal, ball, inner and outer, so that models
    know them wherever they were trained; nothing here is a ball's fault. All machines share the normal bearing:
    those that train have its first two recordings, those held out have the third one, so that no normal window of
    theirs has been trained on. Each recording tells its `speed` (Hz) and its bearing's fault orders `bpfo`,
    `bpfi`, `bsf` and `ftf`, for features that need them.

    Args:
        root: folder with `inner_0lbs.parquet` and so on, or the folder above its folder `mfpt`. Each file has the
            acceleration, g, in a column `x`.
        unseen: loads held out, lbs, of low, 50, 100, 150, 200, 250 and 300; all of them where this fleet only
            tests what others train (`JoinedFleets`).
        classes: `faults` or `normal and faults`.
        sample_rate: Hz that recordings are brought to, such as 12000 for models that were trained at this rate;
            faults were recorded at 48,828 Hz, the normal bearing at 97,656 Hz.
        windowing: how recordings become windows.
        features: what the network sees of a window; 128 `LogBandPowers` unless you say otherwise.
        standardize: how features are standardized; null: not at all.
        episodes: how episodes are drawn.
    """

    def __init__(
        self,
        root: str,
        unseen: Sequence[str | int] = (250, 300),
        classes: Literal["faults", "normal and faults"] = "faults",
        sample_rate: float = SAMPLE_RATE,
        windowing: Windowing = Windowing(),  # noqa: B008
        features: Features | None = None,
        standardize: Standardize | None = None,
        episodes: Episodes = Episodes(),  # noqa: B008
    ) -> None:
        self.with_normal = classes == "normal and faults"
        preprocessing = Preprocessing(
            windowing,
            features or LogBandPowers(),
            sample_rate=sample_rate,
            unit="g",
            resample=self.with_normal or sample_rate != SAMPLE_RATE,
            standardize=standardize,
        )
        super().__init__(preprocessing, episodes)
        self.held_out = {str(load) for load in unseen}
        if isinstance(unseen, str) or not self.held_out <= set(FILES):
            raise UserError(f"MFPT: expected in unseen some loads of {', '.join(FILES)}, got {unseen!r}")
        self.root = root
        self.classes = CLASSES if self.with_normal else FAULTS

    def read(self) -> Iterator[SiteRecordings]:
        """One site per load."""
        for load in FILES:
            yield SiteRecordings(f"load-{load}", load in self.held_out, partial(self._recordings, load))

    def _recordings(self, load: str) -> list[Recording]:
        machine = f"load-{load}"
        recordings = [
            self._recording(machine, f"{load} lbs", fault, name, SAMPLE_RATE)
            for fault, name in zip(FAULTS, FILES[load], strict=True)
        ]
        if self.with_normal:
            recordings += [
                self._recording(machine, "270 lbs", "normal", name, BASELINE_RATE)
                for name in BASELINES[load in self.held_out]
            ]
        return recordings

    def _recording(self, machine: str, condition: str, fault: str, name: str, rate: float) -> Recording:
        path = file_below("MFPT", self.root, "mfpt", name)
        rows = read_columns("MFPT", pl.scan_parquet(path).select(pl.len()), path).item()
        values = Stored((1, rows), partial(_samples, path))
        label = self.classes.index(fault)
        inputs = {"speed": SPEED, **BEARING.inputs}
        return Recording(machine, condition, label, rate, values, unit="g", inputs=inputs)


def _samples(path: Path) -> NDArray[np.float32]:
    """The acceleration, g, (n,)."""
    return np.asarray(read_columns("MFPT", pl.scan_parquet(path).select("x"), path)["x"].to_numpy(), np.float32)
