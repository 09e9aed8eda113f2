"""Shoulder exercises by smartwatch as a fleet of patients: which exercise is it?

Burns et al., Shoulder Physiotherapy Exercise Recognition: Machine Learning the Inertial Signals from a Smartwatch,
2018. https://arxiv.org/abs/1802.01489. Ten persons, seven exercises, both wrists; accelerometer and gyroscope at
50 Hz.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

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

EXERCISES = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
"""Pendulum, abduction, forward elevation, internal and external rotation, trapezius extension, upright row."""
CHANNELS = ("ax", "ay", "az", "wx", "wy", "wz")
"""Acceleration, g, gravity included; angular velocity, rad/s."""
SCALE = 0.001
"""g, or rad/s, of one step of the whole numbers in the file."""
SAMPLE_RATE = 50.0
PERSONS = range(1, 11)


class ShoulderWatch(Fleet):
    """Persons as sites, their wrists as machines, seven exercises as classes.

    Args:
        root: folder with `shoulder_watch.parquet`, or the folder above it.
        train: persons whose sites train.
        unseen: persons held out.
        windowing: how recordings become windows.
        features: what the network sees of a window; mean, standard deviation and 8 log band powers of each
            channel unless you say otherwise.
        standardize: how features are standardized; by the training persons unless you say otherwise.
        episodes: how episodes are drawn.
    """

    classes = EXERCISES

    def __init__(
        self,
        root: str,
        train: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7),
        unseen: tuple[int, ...] = (8, 9, 10),
        windowing: Windowing = Windowing(128, 64),  # noqa: B008
        features: Features | None = None,
        standardize: Standardize | None = Standardize(),  # noqa: B008
        episodes: Episodes = Episodes(permute_labels=False, centre=False),  # noqa: B008
    ) -> None:
        features = features or Concat([Moments(), LogBandPowers(bands=8)])
        preprocessing = Preprocessing(windowing, features, CHANNELS, SAMPLE_RATE, standardize=standardize)
        super().__init__(preprocessing, episodes)
        if not {*train, *unseen} <= set(PERSONS) or set(train) & set(unseen) or not train:
            raise UserError(
                "ShoulderWatch: expected persons of 1 to 10 in train and unseen, at least one in train and none in"
                f" both, got {', '.join(map(str, train)) or 'none'} and {', '.join(map(str, unseen)) or 'none'}"
            )
        self.root = root
        self.train = train
        self.held_out = unseen

    def read(self) -> Iterator[SiteRecordings]:
        """One site per person."""
        path = _file(self.root)
        for person in sorted({*self.train, *self.held_out}):
            yield SiteRecordings(f"person{person}", person in self.held_out, partial(self._person, path, person))

    def _person(self, path: Path, person: int) -> list[Recording]:
        """One recording per wrist and exercise."""
        try:
            table = pl.scan_parquet(path).filter(pl.col("subject") == person).collect()
            recordings = table.sort("t").partition_by("side", "exercise", as_dict=True)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise UserError(f"ShoulderWatch: {path} cannot be read ({error}); restore it") from error
        if missing := [name for name in CHANNELS if name not in table.columns]:
            raise UserError(f"ShoulderWatch: {path}: expected the columns {', '.join(missing)} too; restore it")
        found = {exercise for _, exercise in recordings}
        if not found or not found <= set(EXERCISES):
            raise UserError(
                f"ShoulderWatch: {path}: expected person {person} at the exercises {', '.join(EXERCISES)}, got"
                f" {', '.join(map(str, found)) or 'none'}; restore it"
            )
        return [
            Recording(f"person{person}-{side}", "exercise", EXERCISES.index(exercise), SAMPLE_RATE, _samples(own))
            for (side, exercise), own in sorted(recordings.items())
        ]


def _samples(table: pl.DataFrame) -> NDArray[np.float32]:
    """(C, n), in g and rad/s."""
    return (table.select(CHANNELS).to_numpy().T * SCALE).astype(np.float32)


def _file(root: str) -> Path:
    """The file.

    Raises:
        UserError: there is none.
    """
    name = "shoulder_watch.parquet"
    for path in (Path(root) / name, Path(root) / "shoulder_watch" / name):
        if path.is_file():
            return path
    raise UserError(f"ShoulderWatch: no {name} in {root!r}; set --data.root to its folder")
