"""Windows of machines, as the network sees them: early ones to learn from, late ones to be judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fml_lightning.datamodules.recordings import Recording
from fml_lightning.errors import UserError
from fml_lightning.preprocessing.features import Features
from fml_lightning.preprocessing.windowing import Windowing


@dataclass(frozen=True)
class Windows:
    """Labelled windows of one machine, as the network sees them."""

    x: NDArray[np.float32]
    """Features of each window, (n, F)."""
    label: NDArray[np.int64]
    """Class of each window, (n,)."""
    condition: NDArray[np.str_]
    """Operating condition of each window, (n,)."""

    def where(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> Windows:
        """The windows that a mask (n,) or row numbers (m,) select."""
        return Windows(self.x[rows], self.label[rows], self.condition[rows])


@dataclass(frozen=True)
class Machine:
    """One machine's windows, early and late in time."""

    name: str
    early: Windows
    """Training windows, and the support windows of every episode."""
    late: Windows
    """Query windows of validation, test and personalization."""


def cut_machines(recordings: Sequence[Recording], windowing: Windowing, features: Features) -> list[Machine]:
    """Cut each machine's recordings and compute its features; sorted by name.

    Raises:
        UserError: a recording is too short, or holds values that are not finite.
    """
    by_machine: dict[str, list[Recording]] = {}
    for recording in recordings:
        by_machine.setdefault(recording.machine, []).append(recording)
    return [
        Machine(
            name,
            *(
                Windows(
                    np.concatenate([_features(r, part[side], features) for r, part in parts]),
                    np.concatenate([np.full(len(part[side]), r.label, np.int64) for r, part in parts]),
                    np.concatenate([np.full(len(part[side]), r.condition) for r, part in parts]),
                )
                for side in (0, 1)
            ),
        )
        for name, own in sorted(by_machine.items())
        for parts in [[(r, _split(r, windowing)) for r in own]]
    ]


def _split(recording: Recording, windowing: Windowing) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    early, late = windowing.split(recording.values)
    if not len(early) or not len(late):
        raise UserError(
            f"{recording.machine}, {recording.condition}: a recording of {len(recording.values)} samples is too"
            f" short for windows of {windowing.length} on both sides of the split; lower windowing.length"
        )
    return early, late


def _features(recording: Recording, windows: NDArray[np.float32], features: Features) -> NDArray[np.float32]:
    if not np.isfinite(windows).all():
        raise UserError(
            f"{recording.machine}, {recording.condition}: the recording holds NaN or infinite samples;"
            " repair or drop it"
        )
    values = features(windows, recording.sample_rate)
    if not np.isfinite(values).all():
        raise UserError(
            f"{recording.machine}, {recording.condition}: {type(features).__name__} of some windows are not"
            " finite; is the sensor stuck or off?"
        )
    return values
