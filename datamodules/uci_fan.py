"""A cooling fan's vibration at 17 speeds: do its blades carry weights, and how?

Sampaio, Vallim Filho, da Silva, da Silva, Prediction of Motor Failure Time Using an Artificial Neural Network,
Sensors 2019; UCI "Accelerometer". https://doi.org/10.24432/C52C8S
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from fml_lightning.datamodules.data_folder import file_below, read_columns
from fml_lightning.datamodules.episodes import Episodes
from fml_lightning.datamodules.fleet import Fleet, SiteRecordings
from fml_lightning.datamodules.recordings import Recording
from fml_lightning.errors import UserError
from fml_lightning.preprocessing.features import Concat, Features
from fml_lightning.preprocessing.moments import Moments
from fml_lightning.preprocessing.preprocessing import Preprocessing
from fml_lightning.preprocessing.spectral import LogBandPowers
from fml_lightning.preprocessing.standardize import Standardize
from fml_lightning.preprocessing.windowing import Windowing

SPEEDS = tuple(range(20, 101, 5))
"""Percent of the fan's full speed."""
SAMPLE_RATE = 50.0


class UCIFan(Fleet):
    """A fan with balanced blades, and with weights on neighbouring or on opposite ones; a minute of each, in g.

    Args:
        root: folder with `accelerometer.parquet`, or the folder above its folder `uci_fan`.
        unseen: speeds held out, percent, of 20, 25, … 100.
        speeds_are: `machines`: each speed is a machine, at a site of its own. `conditions`: the fan is one
            machine, which runs at all the speeds that train, and at the site `fan-unseen` at those held out.
        windowing: how recordings become windows; of 2.56 s unless you say otherwise.
        features: what the network sees of each axis; `Moments` and 16 `LogBandPowers` unless you say otherwise.
        standardize: how features are brought to one scale; by the training sites' early parts unless you say
            otherwise.
        episodes: how episodes are drawn; 5 windows of each class are support unless you say otherwise.
    """

    classes = ("balanced", "neighbouring", "opposite")

    def __init__(
        self,
        root: str,
        unseen: Sequence[int] = (75, 80, 85, 90, 95, 100),
        speeds_are: Literal["machines", "conditions"] = "machines",
        windowing: Windowing = Windowing(length=128, hop=64),  # noqa: B008
        features: Features | None = None,
        standardize: Standardize | None = Standardize(),  # noqa: B008
        episodes: Episodes = Episodes(shots=5, permute_labels=False),  # noqa: B008
    ) -> None:
        features = features or Concat([Moments(), LogBandPowers(bands=16)])
        preprocessing = Preprocessing(
            windowing, features, ("x", "y", "z"), SAMPLE_RATE, "g", standardize=standardize
        )
        super().__init__(preprocessing, episodes)
        if not set(unseen) < set(SPEEDS):
            raise UserError(f"UCIFan: expected in unseen some speeds of 20, 25, … 100, got {list(unseen)}")
        self.root = root
        self.held_out = tuple(unseen)
        self.speeds_are = speeds_are

    def read(self) -> Iterator[SiteRecordings]:
        """One site per speed, or one for all that train and one for all that are held out."""
        path = file_below("UCIFan", self.root, "uci_fan", "accelerometer.parquet")
        seen = [speed for speed in SPEEDS if speed not in self.held_out]
        unseen = [speed for speed in SPEEDS if speed in self.held_out]
        if self.speeds_are == "machines":
            for speed in (*seen, *unseen):
                name = f"speed{speed}"
                yield SiteRecordings(name, speed in unseen, partial(self._recordings, path, name, [speed]))
        else:
            yield SiteRecordings("fan", False, partial(self._recordings, path, "fan", seen))
            if unseen:
                yield SiteRecordings("fan-unseen", True, partial(self._recordings, path, "fan", unseen))

    def _recordings(self, path: Path, machine: str, speeds: Sequence[int]) -> list[Recording]:
        scan = pl.scan_parquet(path).filter(pl.col("speed_pct").is_in(speeds))
        rows = read_columns("UCIFan", scan.select("config", "speed_pct", "x", "y", "z"), path)
        return [
            Recording(
                machine,
                f"{speed} %",
                label,
                SAMPLE_RATE,
                np.ascontiguousarray(
                    rows.filter(speed_pct=speed, config=label + 1).select("x", "y", "z").to_numpy().T
                ),
                unit="g",
                inputs={"speed": float(speed)},
            )
            for speed in speeds
            for label in range(len(self.classes))
        ]
