"""One machine's windows: early ones to learn from, late ones to be judged by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fml_lightning.datamodules.recordings import NextSample, Recording
from fml_lightning.datamodules.split import split
from fml_lightning.datamodules.windows import Windows
from fml_lightning.errors import UserError
from fml_lightning.preprocessing.preprocessing import Preprocessing
from fml_lightning.preprocessing.statistics import Sums

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
    meanings: Mapping[int, int] = field(default_factory=dict)
    """The fleet's class of each label, where the machine numbers its classes in an order of its own."""
    unlabelled: Windows | None = None
    """Windows of a stream that have no class so far, with labels below 0: they are predicted only."""

    def class_names(self, classes: Sequence[str]) -> tuple[str, ...]:
        """The name of each of its labels, out of the fleet's classes."""
        return tuple(classes[self.meanings.get(label, label)] for label in range(len(classes)))

    @classmethod
    def split(cls, name: str, windows: Windows, share: float, length: int) -> MachineWindows:
        """Split windows of a stream by time, each class by itself.

        Those without a class, whose labels are below 0, are `unlabelled`. Of each class the first `share` is
        early. The rest is late, but for those that begin less than a window's length after the last early one has
        ended.

        Args:
            name: name of the machine.
            windows: in order of time.
            share: in (0, 1).
            length: samples of a window.
        """
        early, late = [np.empty(0, np.intp)], [np.empty(0, np.intp)]
        for label in np.unique(windows.label[windows.label >= 0]):
            rows = np.flatnonzero(windows.label == label)
            middle = int(len(rows) * share)
            early.append(rows[:middle])
            late.append(rows[middle:])
            if middle:
                last = rows[middle - 1]
                border = windows.start[last] + (2 * length - 0.5) * windows.period[last]
                late[-1] = late[-1][windows.start[late[-1]] >= border]
        return cls(
            name,
            windows.where(np.concatenate(early)),
            windows.where(np.concatenate(late)),
            unlabelled=windows.where(windows.label < 0),
        )


def cut_machines(
    recordings: Sequence[Recording], preprocessing: Preprocessing, early_share: float
) -> list[MachineWindows]:
    """Split each machine's recordings by time, cut them, and compute the features; sorted by machine.

    All recordings of a machine with one class and one operating condition are split together: many short ones as
    one long one.

    Raises:
        UserError: a recording is not as `preprocessing` expects, or is too short, or not all of it is finite.
    """
    by_machine = _by_machine(recordings)
    return [_machine(name, own, preprocessing, early_share) for name, own in sorted(by_machine.items())]


def early_sums(recordings: Sequence[Recording], preprocessing: Preprocessing, early_share: float) -> Sums:
    """The sums that `preprocessing` is standardized by, over the early parts of recordings.

    One machine's samples or features are at hand at a time.

    Raises:
        UserError: a recording is not as `preprocessing` expects, or is too short, or not all of it is finite.
    """
    standardize = preprocessing.standardize
    assert standardize is not None
    plain = replace(preprocessing, standardize=None)
    sums = Sums()
    for name, own in sorted(_by_machine(recordings).items()):
        if standardize.of == "features":
            early = _machine(name, own, plain, early_share).early
            if len(early.shape) > 2:
                raise UserError(
                    "Standardize: expected features in a row, got raw windows; set standardize.of: channels"
                )
            sums += standardize.sums(early.x, plain.told_columns)
            continue
        for group in _groups(own, plain):
            for part in _divided(group, plain, early_share):
                if part.early.start == part.early.stop:
                    continue
                values = plain.signal(part.recording.load(), part.recording.sample_rate)[:, part.early]
                _refuse_not_finite(part.recording, values)
                sums += standardize.sums(values.T, plain.channels)
    return sums


def _by_machine(recordings: Sequence[Recording]) -> dict[str, list[Recording]]:
    by_machine: dict[str, list[Recording]] = {}
    for recording in recordings:
        by_machine.setdefault(recording.machine, []).append(recording)
    return by_machine


def _groups(recordings: Sequence[Recording], preprocessing: Preprocessing) -> list[list[tuple[int, Recording]]]:
    """One machine's recordings with their numbers, those of each operating condition and class together."""
    groups: dict[tuple[str, int], list[tuple[int, Recording]]] = {}
    begin = 0.0  # µs, of recordings that do not say when they began: they follow one another as given
    for number, recording in enumerate(recordings):
        preprocessing.check(recording.shape[0], recording.sample_rate, recording.unit, str(recording))
        if (recording.start is None) != (recordings[0].start is None):
            raise UserError(
                f"{recording}: expected a start of all recordings of a machine, or of none, got one without beside"
                " one with"
            )
        if recording.start is None:
            duration = recording.shape[1] * 1e6 / recording.sample_rate
            recording, begin = replace(recording, start=round(begin)), begin + duration
        groups.setdefault((recording.condition, recording.label), []).append((number, recording))
    return list(groups.values())


def _machine(
    name: str, recordings: Sequence[Recording], preprocessing: Preprocessing, early_share: float
) -> MachineWindows:
    groups = _groups(recordings, preprocessing)
    both = [sides for group in groups for sides in _cut_group(group, preprocessing, early_share)]
    sides = [[side for side in each if len(side)] for each in zip(*both, strict=True)]
    some = next((side[0] for side in sides if side), None)
    if some is None:
        raise UserError(f"{name}: no recording is long enough for one window; lower windowing.length")
    nothing = some.where(np.empty(0, np.intp))
    early, late = (_joined(side, recordings) if side else nothing for side in sides)
    return MachineWindows(name, early, late)


def _joined(parts: Sequence[Windows], recordings: Sequence[Recording]) -> Windows:
    windows = Windows.join(parts)
    some = windows.chunks[0]
    owned = [recording.values for recording in recordings if isinstance(recording.values, np.ndarray)]
    # Raw windows: views of what a recording holds, or of its standardized samples, of which each is in several.
    are_views = some.strides[0] < some[0].nbytes or any(np.may_share_memory(some, values) for values in owned[:1])
    return windows if are_views else windows.compact()


class _Divided(NamedTuple):
    """A recording, and the two sides of the split in time that its samples are on."""

    number: int
    recording: Recording
    begin: float
    """Time of its first sample, µs."""
    early: slice
    late: slice


def _divided(
    group: Sequence[tuple[int, Recording]], preprocessing: Preprocessing, early_share: float
) -> list[_Divided]:
    """Split the recordings of one machine, class and operating condition by time, in order of time."""
    group = sorted(group, key=lambda each: each[1].start or 0)
    lengths = [preprocessing.samples(each.shape[1], each.sample_rate) for _, each in group]
    undecided = [length for length, (_, each) in zip(lengths, group, strict=True) if each.part is None]
    window = preprocessing.windowing_at(preprocessing.rate(group[0][1].sample_rate)).length
    halves = iter(split(undecided, early_share, window) if undecided else ())
    found = []
    for length, (number, recording) in zip(lengths, group, strict=True):
        whole, nothing = slice(0, length), slice(length, length)
        parts = {"early": (whole, nothing), "late": (nothing, whole)}.get(recording.part or "") or next(halves)
        found.append(_Divided(number, recording, float(recording.start or 0), *parts))
    return found


def _cut_group(
    group: Sequence[tuple[int, Recording]], preprocessing: Preprocessing, early_share: float
) -> list[tuple[Windows, Windows]]:
    """The early and late windows of each recording of one machine, class and operating condition."""
    found = [_cut(part, preprocessing) for part in _divided(group, preprocessing, early_share)]
    undecided = [each for _, each in group if each.part is None]
    if undecided and not all(any(map(len, side)) for side in zip(*found, strict=True)):
        lengths = [preprocessing.samples(each.shape[1], each.sample_rate) for each in undecided]
        window = preprocessing.windowing_at(preprocessing.rate(group[0][1].sample_rate)).length
        what = f"a recording of {sum(lengths)} samples is"
        if len(group) > 1:
            what = f"{len(group)} recordings, of {sum(lengths)} samples together, are"
        raise UserError(
            f"{group[0][1]}: {what} too short for windows of {window} on both sides of the split; lower"
            " windowing.length"
        )
    return found


def _cut(divided: _Divided, preprocessing: Preprocessing) -> tuple[Windows, Windows]:
    """The early and the late windows of a recording."""
    number, recording, begin, *parts = divided
    values = preprocessing.signal(recording.load(), recording.sample_rate)
    rate = preprocessing.rate(recording.sample_rate)
    windowing = preprocessing.windowing_at(rate)
    told = np.array(recording.told(preprocessing.needs), np.float32)

    ahead = int(isinstance(recording.target, NextSample))  # a window's class is on its own side of the split

    def windows_of(part: slice, side: str) -> Windows:
        windows = windowing.cut(values[:, part.start : max(part.start, part.stop - ahead)])
        first = part.start + windowing.hop * np.arange(len(windows))
        if recording.times is None:
            times = np.rint(begin + first * (1e6 / rate)).astype(np.int64)
        else:
            times = recording.times[first * len(recording.times) // values.shape[1]]
        if preprocessing.shaft_speed is not None:
            _refuse_not_finite(recording, values[:, part])
        ends = first - part.start + windowing.length
        where = f"{recording}, its {side} samples"
        of_each = preprocessing.told_of(values[:, part], rate, told, ends, where)
        return Windows.of(
            list(_features(recording, windows, of_each, rate, preprocessing)),
            recording.labels(values, first + windowing.length),
            recording.condition,
            times,
            rate,
            number,
            recording.targets(first + windowing.length - 1, values.shape[1]) if recording.is_number else None,
        )

    early, late = parts
    return windows_of(early, "early"), windows_of(late, "late")


def _features(
    recording: Recording,
    windows: NDArray[np.float32],
    told: NDArray[np.float32],
    sample_rate: float,
    preprocessing: Preprocessing,
) -> Iterator[NDArray[np.float32]]:
    """The features of windows, some at a time; `told` has a row for each."""
    for begin in range(0, len(windows), AT_ONCE):
        some = windows[begin : begin + AT_ONCE]
        _refuse_not_finite(recording, some)
        values = preprocessing(some, sample_rate, told[begin : begin + AT_ONCE])
        is_whole = np.isfinite(values).reshape(len(values), -1).all(1)
        if not is_whole.all():
            needs = preprocessing.features.needs
            numbers = zip(needs, told[begin + int(is_whole.argmin())], strict=False)
            doubt = f", or is one of {', '.join(f'{name} {value:g}' for name, value in numbers)} wrong"
            raise UserError(
                f"{recording}: {type(preprocessing.features).__name__} of some windows are not"
                f" finite; is the sensor stuck or off{doubt if needs else ''}?"
            )
        yield values


def _refuse_not_finite(recording: Recording, values: NDArray[np.float32]) -> None:
    if not np.isfinite(values).all():
        raise UserError(f"{recording}: the recording holds NaN or infinite samples; repair or drop it")
