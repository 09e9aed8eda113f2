"""Windows: recordings split by time first and cut second, so that no sample is on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fml_lightning.errors import UserError
from fml_lightning.preprocessing.features import Features


@dataclass(frozen=True)
class Recording:
    """A gap-free stretch of one channel at one machine, under one label and one operating condition."""

    machine: str
    condition: str
    label: int
    """Index into the fleet's classes."""
    sample_rate: float
    """Hz."""
    values: NDArray[np.float32]
    """Samples, (n,), in the sensor's unit."""


@dataclass(frozen=True)
class Windowing:
    """How a recording becomes windows."""

    length: int = 2048
    """Samples per window."""
    hop: int = 1024
    """Samples from one window's start to the next; below `length`, windows overlap."""
    early: float = 0.5
    """Share of each recording, from its start, that training and support sets come from. The rest, after a gap
    of one window, is for query sets of validation, test and personalization; in (0, 1)."""

    def __post_init__(self) -> None:
        if self.length < 1 or self.hop < 1 or not 0 < self.early < 1:
            raise UserError(f"Windowing: expected length >= 1, hop >= 1 and 0 < early < 1, got {self}")

    def cut(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """All whole windows of a stretch, as a view: (n,) → (windows, length).

        >>> Windowing(length=4, hop=2).cut(np.arange(7, dtype=np.float32))
        array([[0., 1., 2., 3.],
               [2., 3., 4., 5.]], dtype=float32)
        """
        if len(values) < self.length:
            return np.empty((0, self.length), np.float32)
        return np.lib.stride_tricks.sliding_window_view(values, self.length)[:: self.hop]

    def split(self, values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Early and late windows of a recording; no sample is in both, and one window lies between them."""
        middle = int(len(values) * self.early)
        return self.cut(values[:middle]), self.cut(values[middle + self.length :])


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
