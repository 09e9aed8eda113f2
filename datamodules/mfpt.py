"""The MFPT bearing faults: does a bearing's inner or its outer race fail?

Bechhoefer, Condition Based Maintenance Fault Database for Testing of Diagnostic and Prognostics Algorithms,
Society for Machinery Failure Prevention Technology 2013. https://www.mfpt.org/fault-data-sets/. The baselines
(normal bearings) are not among the files that this reads: there is no normal class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.datamodules.data_folder import file_below, read_columns
from fml_lightning.datamodules.episodes import Episodes
from fml_lightning.datamodules.fleet import Fleet, SiteRecordings
from fml_lightning.datamodules.recordings import Recording, Stored
from fml_lightning.errors import UserError
from fml_lightning.preprocessing.features import Features
from fml_lightning.preprocessing.preprocessing import Preprocessing
from fml_lightning.preprocessing.spectral import LogBandPowers
from fml_lightning.preprocessing.windowing import Windowing

FILES = {
    "low": ("inner_0lbs.parquet", "outer_25lbs.parquet"),
    **{str(load): (f"inner_{load}lbs.parquet", f"outer_{load}lbs.parquet") for load in range(50, 301, 50)},
}
"""The files of each load, lbs: one per class. The lowest load is 0 for the inner race and 25 for the outer one."""
SAMPLE_RATE = 48_828.0


class MFPT(Fleet):
    """Seven loads as machines, each at a site of its own, with a fault in the inner or in the outer race.

    Args:
        root: folder with `inner_0lbs.parquet` and so on, or the folder above its folder `mfpt`.
        unseen: loads held out, lbs, of low, 50, 100, 150, 200, 250 and 300.
        windowing: how recordings become windows.
        features: what the network sees of a window; 128 `LogBandPowers` unless you say otherwise.
        episodes: how episodes are drawn.
    """

    classes = ("inner", "outer")

    def __init__(
        self,
        root: str,
        unseen: Sequence[str | int] = (250, 300),
        windowing: Windowing = Windowing(),  # noqa: B008
        features: Features | None = None,
        episodes: Episodes = Episodes(),  # noqa: B008
    ) -> None:
        preprocessing = Preprocessing(windowing, features or LogBandPowers(), (), SAMPLE_RATE, "g")
        super().__init__(preprocessing, episodes)
        self.held_out = {str(load) for load in unseen}
        if isinstance(unseen, str) or not self.held_out < set(FILES):
            raise UserError(f"MFPT: expected in unseen some loads of {', '.join(FILES)}, got {unseen!r}")
        self.root = root

    def read(self) -> Iterator[SiteRecordings]:
        """One site per load."""
        for load, files in FILES.items():
            yield SiteRecordings(f"load-{load}", load in self.held_out, partial(self._recordings, load, files))

    def _recordings(self, load: str, files: Sequence[str]) -> list[Recording]:
        recordings = []
        for label, name in enumerate(files):
            path = file_below("MFPT", self.root, "mfpt", name)
            rows = read_columns("MFPT", pl.scan_parquet(path).select(pl.len()), path).item()
            values = Stored((1, rows), partial(_samples, path))
            recordings.append(Recording(f"load-{load}", f"{load} lbs", label, SAMPLE_RATE, values, unit="g"))
        return recordings


def _samples(path: Path) -> NDArray[np.float32]:
    """The acceleration, g, (n,)."""
    return np.asarray(read_columns("MFPT", pl.scan_parquet(path).select("x"), path)["x"].to_numpy(), np.float32)
