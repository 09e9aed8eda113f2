"""One machine's windows: early ones to learn from, late ones to be judged by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fml_lightning.datamodules.recordings import Recording
from fml_lightning.datamodules.split import split
from fml_lightning.datamodules.windows import Windows
from fml_lightning.errors import UserError
from fml_lightning.preprocessing.preprocessing import Preprocessing

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
    def split(cls, name: str, windows: Windows, share: float, length: int) -> MachineWindows:
        """Split labelled windows of a stream by time, each class by itself.

        Of each class the first `share` is early. The rest is late, but for those that begin less than a window's
        length after the last early one has ended.

        Args:
            name: name of the machine.
            windows: in order of time.
            share: in (0, 1).
            length: samples of a window.
        """
        early, late = [np.empty(0, np.intp)], [np.empty(0, np.intp)]
        for label in np.unique(windows.label):
            rows = np.flatnonzero(windows.label == label)
            middle = int(len(rows) * share)
            early.append(rows[:middle])
            late.append(rows[middle:])
            if middle:
                last = rows[middle - 1]
                border = windows.start[last] + (2 * length - 0.5) * windows.period[last]
                late[-1] = late[-1][windows.start[late[-1]] >= border]
        return cls(name, windows.where(np.concatenate(early)), windows.where(np.concatenate(late)))


def cut_machines(
    recordings: Sequence[Recording], preprocessing: Preprocessing, early_share: float
) -> list[MachineWindows]:
    """Split each machine's recordings by time, cut them, and compute the features; sorted by machine.

    All recordings of a machine with one class and one operating condition are split together: many short ones as
    one long one.

    Raises:
        UserError: a recording is not as `preprocessing` expects, or is too short, or not all of it is finite.
    """
    by_machine: dict[str, list[Recording]] = {}
    for recording in recordings:
        by_machine.setdefault(recording.machine, []).append(recording)
    return [_machine(name, own, preprocessing, early_share) for name, own in sorted(by_machine.items())]


def _machine(
    name: str, recordings: Sequence[Recording], preprocessing: Preprocessing, early_share: float
) -> MachineWindows:
    groups: dict[tuple[str, int], list[tuple[int, Recording]]] = {}
    for number, recording in enumerate(recordings):
        values, rate = preprocessing.admit(recording.values, recording.sample_rate, recording.unit, str(recording))
        admitted = replace(recording, values=values, sample_rate=rate)
        groups.setdefault((recording.condition, recording.label), []).append((number, admitted))
    groups_sides = [_sides(group, preprocessing, early_share) for group in groups.values()]
    sides = [_joined([part for both in groups_sides for part in both[side]], recordings) for side in (0, 1)]
    some = next((side for side in sides if side is not None), None)
    if some is None:
        raise UserError(f"{name}: no recording is long enough for one window; lower windowing.length")
    nothing = some.where(np.empty(0, np.intp))
    return MachineWindows(name, *(nothing if side is None else side for side in sides))


def _joined(parts: Sequence[Windows], recordings: Sequence[Recording]) -> Windows | None:
    """All windows of some recordings; None if there is none."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return None
    windows = Windows.join(parts)
    are_views = np.may_share_memory(windows.chunks[0], recordings[0].values)
    return windows if are_views else windows.compact()


def _sides(
    group: Sequence[tuple[int, Recording]], preprocessing: Preprocessing, early_share: float
) -> tuple[list[Windows], list[Windows]]:
    """The early and the late windows of recordings of one machine, class and operating condition."""
    if all(recording.start is not None for _, recording in group):
        group = sorted(group, key=lambda each: each[1].start or 0)
    undecided = [recording.values.shape[1] for _, recording in group if recording.part is None]
    window = preprocessing.windowing_at(group[0][1].sample_rate).length
    halves = iter(split(undecided, early_share, window) if undecided else ())
    sides: tuple[list[Windows], list[Windows]] = ([], [])
    begin = 0.0  # µs, of a recording that does not say when it began
    for number, recording in group:
        samples = recording.values.shape[1]
        whole, nothing = slice(0, samples), slice(samples, samples)
        halved = {"early": (whole, nothing), "late": (nothing, whole)}.get(recording.part or "") or next(halves)
        start = begin if recording.start is None else recording.start
        begin += samples * 1e6 / recording.sample_rate
        for side, part in zip(sides, halved, strict=True):
            side.append(_cut(number, recording, part, start, preprocessing))
    if undecided and not all(any(len(windows) for windows in side) for side in sides):
        total, (_, first) = sum(undecided), group[0]
        what = f"a recording of {total} samples is"
        if len(group) > 1:
            what = f"{len(group)} recordings, of {total} samples together, are"
        raise UserError(
            f"{first}: {what} too short for windows of {window} on both sides of the split; lower windowing.length"
        )
    return sides


def _cut(number: int, recording: Recording, part: slice, begin: float, preprocessing: Preprocessing) -> Windows:
    windowing = preprocessing.windowing_at(recording.sample_rate)
    windows = windowing.cut(recording.values[:, part])
    first = part.start + windowing.hop * np.arange(len(windows))
    start = np.rint(begin + first * (1e6 / recording.sample_rate)).astype(np.int64)
    return Windows.of(
        list(_features(recording, windows, preprocessing)),
        recording.label,
        recording.condition,
        start,
        recording.sample_rate,
        number,
        recording.targets(first + windowing.length - 1) if recording.is_number else None,
    )


def _features(
    recording: Recording, windows: NDArray[np.float32], preprocessing: Preprocessing
) -> Iterator[NDArray[np.float32]]:
    try:
        inputs = np.array([recording.inputs[name] for name in preprocessing.inputs], np.float32)
    except KeyError as error:
        raise UserError(
            f"{recording}: expected the operating condition {error} among its inputs, got none"
        ) from error
    for begin in range(0, len(windows), AT_ONCE):
        some = windows[begin : begin + AT_ONCE]
        if not np.isfinite(some).all():
            raise UserError(f"{recording}: the recording holds NaN or infinite samples; repair or drop it")
        values = preprocessing(some, recording.sample_rate, np.tile(inputs, (len(some), 1)))
        if not np.isfinite(values).all():
            raise UserError(
                f"{recording}: {type(preprocessing.features).__name__} of some windows are not"
                " finite; is the sensor stuck or off?"
            )
        yield values
