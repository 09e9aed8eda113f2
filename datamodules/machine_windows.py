"""One machine's windows: early ones to learn from, late ones to be judged by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fml_lightning.datamodules.recordings import Recording
from fml_lightning.datamodules.windows import Windows
from fml_lightning.errors import UserError
from fml_lightning.preprocessing.features import Features
from fml_lightning.preprocessing.windowing import Windowing

AT_ONCE = 1024
"""Windows whose features are computed together; more would take more memory and no less time."""


@dataclass(frozen=True)
class MachineWindows:
    """One machine's windows, early and late in time."""

    name: str
    """Name of the machine."""
    early: Windows
    """Training windows, and the support windows of every episode."""
    late: Windows
    """Query windows of validation, test and personalization."""

    @classmethod
    def split(cls, name: str, windows: Windows, windowing: Windowing) -> MachineWindows:
        """Split labelled windows by time, each class by itself.

        Of each class the first `windowing.early_share` is early. The rest is late, but for those that begin less
        than a window's length after the last early one has ended.

        Args:
            name: name of the machine.
            windows: in order of time.
            windowing: how they were cut.
        """
        early, late = [np.empty(0, np.intp)], [np.empty(0, np.intp)]
        for label in np.unique(windows.label):
            rows = np.flatnonzero(windows.label == label)
            middle = int(len(rows) * windowing.early_share)
            early.append(rows[:middle])
            late.append(rows[middle:])
            if middle:
                last = rows[middle - 1]
                border = windows.start[last] + (2 * windowing.length - 0.5) * windows.period[last]
                late[-1] = late[-1][windows.start[late[-1]] >= border]
        return cls(name, windows.where(np.concatenate(early)), windows.where(np.concatenate(late)))


def cut_machines(
    recordings: Sequence[Recording], windowing: Windowing, features: Features
) -> list[MachineWindows]:
    """Split each machine's recordings by time, cut them, and compute the features; sorted by machine.

    Raises:
        UserError: a recording is too short, or holds values that are not finite.
    """
    by_machine: dict[str, list[Recording]] = {}
    for recording in recordings:
        by_machine.setdefault(recording.machine, []).append(recording)
    return [
        MachineWindows(name, *(_side(side, own, windowing, features) for side in (0, 1)))
        for name, own in sorted(by_machine.items())
    ]


def _side(side: int, recordings: Sequence[Recording], windowing: Windowing, features: Features) -> Windows:
    """The early (0) or late (1) windows of a machine's recordings."""
    windows = Windows.join([_cut(side, recording, windowing, features) for recording in recordings])
    are_views = np.may_share_memory(windows.chunks[0], recordings[0].values)
    return windows if are_views else windows.compact()


def _cut(side: int, recording: Recording, windowing: Windowing, features: Features) -> Windows:
    part = windowing.sides(len(recording.values))[side]
    windows = windowing.cut(recording.values[part])
    if not len(windows):
        raise UserError(
            f"{recording}: a recording of {len(recording.values)} samples is too"
            f" short for windows of {windowing.length} on both sides of the split; lower windowing.length"
        )
    start = (part.start + windowing.hop * np.arange(len(windows))) * (1e6 / recording.sample_rate)
    return Windows.of(
        list(_features(recording, windows, features)),
        recording.label,
        recording.condition,
        np.rint(start).astype(np.int64),
        recording.sample_rate,
    )


def _features(
    recording: Recording, windows: NDArray[np.float32], features: Features
) -> Iterator[NDArray[np.float32]]:
    for begin in range(0, len(windows), AT_ONCE):
        some = windows[begin : begin + AT_ONCE]
        if not np.isfinite(some).all():
            raise UserError(f"{recording}: the recording holds NaN or infinite samples; repair or drop it")
        values = features(some, recording.sample_rate)
        if not np.isfinite(values).all():
            raise UserError(
                f"{recording}: {type(features).__name__} of some windows are not"
                " finite; is the sensor stuck or off?"
            )
        yield values
