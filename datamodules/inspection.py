"""Inspection: what a fleet's data are like, and what of them would make training wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from fml_lightning.datamodules.fleet import Fleet
from fml_lightning.datamodules.machine_windows import MachineWindows
from fml_lightning.datamodules.recordings import NextSample, Recording
from fml_lightning.datamodules.site import SiteData
from fml_lightning.datamodules.windows import Windows
from fml_lightning.errors import NotYetError, UserError

CLIPPED = 1e-3
"""The share of a channel's samples at its largest or smallest value, in runs of three, that is called clipping."""
RUN = 3
"""Samples in a row at the limit that count as clipped."""
RARE = 0.05
"""The share of a machine's windows below which a class is called rare."""


@dataclass
class MachineLook:
    """What one machine's data are like."""

    site: str
    machine: str
    unseen: bool
    """Held out: never trained on."""
    recordings: int = 0
    seconds: float = 0.0
    """Of all recordings together; 0 of rows of a table."""
    rates: set[float] = field(default_factory=set)
    """Hz; rows of a table have none."""
    units: set[str] = field(default_factory=set)
    conditions: set[str] = field(default_factory=set)
    early: Counter[str] = field(default_factory=Counter)
    """Early windows by class."""
    late: Counter[str] = field(default_factory=Counter)
    """Late ones."""
    target: tuple[float, float] | None = None
    """The smallest and the largest target, where targets are numbers."""
    gaps: int = 0
    """Times that one recording does not begin where the one before it ended."""
    missing: int = 0
    """Samples that are NaN or infinite."""
    flat: int = 0
    """Channels of recordings all of whose samples are equal."""
    clipped: int = 0
    """Channels of recordings that are cut off at their limits."""


@dataclass
class Inspection:
    """What a fleet's data are like."""

    machines: list[MachineLook] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What would make training wrong."""
    remarks: list[str] = field(default_factory=list)
    """What a user may want to know."""


def inspect(fleet: Fleet) -> Inspection:
    """Look at all data of a fleet, a site at a time.

    Raises:
        UserError: the fleet cannot be read at all.
    """
    found = Inspection()
    fleet.setup("fit")
    leaks: Counter[tuple[str, str]] = Counter()
    constants = _Constants()
    is_table = fleet.preprocessing.windowing is None
    repeats = False  # windows of a text are often equal, by their nature
    learnt: dict[int, str] = {}  # by digest, where a window is that sites train on
    for site, unseen in [*((s, False) for s in fleet.sites.values()), *((s, True) for s in fleet.unseen.values())]:
        looks = {name: MachineLook(site.name, name, unseen) for name in site.machine_names}
        for recording in site.recordings:
            repeats |= isinstance(recording.target, NextSample)
            try:
                _look(recording, looks[site.machine_of(recording)], is_table)
            except UserError as error:
                found.problems.append(f"{site.name}: {error}")
        for look in looks.values():
            look.gaps = _gaps([r for r in site.recordings if site.machine_of(r) == look.machine])
        found.machines += looks.values()
        for machine in _machines(site, found):
            look = looks.setdefault(machine.name, MachineLook(site.name, machine.name, unseen))
            _count(machine, look, machine.class_names(fleet.classes))
            constants.add(machine)
            if not unseen:
                learnt.update(dict.fromkeys(_digests(machine.early), f"{site.name}/{machine.name}"))
    for site, unseen in [*((s, False) for s in fleet.sites.values()), *((s, True) for s in fleet.unseen.values())]:
        for machine in () if repeats else _machines(site, Inspection()):
            here = f"{site.name}/{machine.name}"
            own, late = set(_digests(machine.early)), list(_digests(machine.late))
            for digest in late:
                source = here if digest in own else learnt.get(digest)
                if source is not None:
                    leaks[min(source, here), max(source, here)] += 1
            for digest in own if unseen else ():  # of which nothing may have been trained on
                if digest in learnt:
                    leaks[min(learnt[digest], here), max(learnt[digest], here)] += 1
    _judge(found, fleet, leaks, constants)
    found.problems = list(dict.fromkeys(found.problems))
    return found


class _Constants:
    """Features that are constant in every recording, and what they tell apart."""

    def __init__(self) -> None:
        self._constant: NDArray[np.bool_] | None = None
        self._mixed: set[int] = set()  # features with one value for two classes, or recordings, of a machine
        self._values: dict[int, set[float]] = {}
        self._compared = False

    def add(self, machine: MachineWindows) -> None:
        """Take in a machine's windows."""
        firsts, keys = [], []
        is_number = machine.early.target is not None
        for windows in (machine.early, machine.late):
            x = windows.rows
            for group in _groups(windows.recording, windows.label):
                part = x[group]
                if len(part) > 1:
                    constant = (part == part[:1]).all(0)
                    self._constant = constant if self._constant is None else self._constant & constant
                firsts.append(part[0])
                keys.append(int((windows.recording if is_number else windows.label)[group[0]]))
        self._compared |= len(set(keys)) > 1
        for column in self.columns:
            shown: dict[float, int] = {}
            for first, key in zip(firsts, keys, strict=True):
                if shown.setdefault(float(first[column]), key) != key:
                    self._mixed.add(column)
            self._values.setdefault(column, set()).update(shown)

    @property
    def width(self) -> int:
        """How many features there are."""
        return 0 if self._constant is None else len(self._constant)

    @property
    def columns(self) -> list[int]:
        """The features that are constant in every recording."""
        return [] if self._constant is None else np.flatnonzero(self._constant).tolist()

    def is_naming(self, column: int) -> bool:
        """Whether a feature tells the classes of each machine apart, or the recordings where it has none."""
        return self._compared and column not in self._mixed and not self.is_same(column)

    def is_same(self, column: int) -> bool:
        """Whether a feature is the same everywhere."""
        return len(self._values.get(column, ())) == 1


def _digests(windows: Windows) -> Iterator[int]:
    """A digest of what the network sees of each window."""
    for row in windows.rows:
        yield xxh3_64_intdigest(row.tobytes())


def _machines(site: SiteData, found: Inspection) -> Iterator[MachineWindows]:
    """The machines' windows; what keeps a site from having any is a problem."""
    try:
        machines = site.machines
        yield from machines or site.training_machines()  # which say what they wait for
    except NotYetError as error:
        found.remarks.append(str(error))
    except UserError as error:
        found.problems.append(f"{site.name}: {error}")


def _look(recording: Recording, look: MachineLook, is_table: bool) -> None:
    values = recording.load()
    look.recordings += 1
    if not is_table:
        look.seconds += values.shape[1] / recording.sample_rate
        look.rates.add(float(recording.sample_rate))
    look.conditions.add(recording.condition)
    if recording.unit is not None:
        look.units.add(recording.unit)
    if recording.is_number:
        ends = recording.targets(np.array([0, values.shape[1] - 1]), values.shape[1])
        known = (*ends.tolist(), *(look.target or ()))
        look.target = min(known), max(known)
    look.missing += int((~np.isfinite(values)).sum())
    for channel in () if is_table else values:
        finite = channel[np.isfinite(channel)]
        if len(finite) > 1 and finite.min() == finite.max():
            look.flat += 1
        elif len(finite) > RUN:
            look.clipped += is_clipped(finite)


def is_clipped(values: NDArray[np.float32]) -> bool:
    """Whether many samples, several in a row, are at the largest or the smallest value."""
    for limit in (values.max(), values.min()):
        is_at = values == limit
        runs = is_at[2:] & is_at[1:-1] & is_at[:-2]
        if is_at.mean() > CLIPPED and runs.any():
            return True
    return False


def _gaps(recordings: Sequence[Recording]) -> int:
    """How often a recording that says when it began does not begin where the one before it ended."""
    timed = sorted((r.start, r.shape[1] * 1e6 / r.sample_rate) for r in recordings if r.start is not None)
    ends = [start + duration for start, duration in timed]
    return sum(abs(start - end) > 1e6 for (start, _), end in zip(timed[1:], ends, strict=False))


def _count(machine: MachineWindows, look: MachineLook, classes: Sequence[str]) -> None:
    for windows, counts in ((machine.early, look.early), (machine.late, look.late)):
        for label, count in zip(*np.unique(windows.label, return_counts=True), strict=True):
            counts[classes[label] if 0 <= label < len(classes) else "no class"] += int(count)


def _groups(recording: NDArray[np.intp], label: NDArray[np.int64]) -> Iterator[NDArray[np.intp]]:
    """The rows of each recording and class."""
    for k in np.unique(recording):
        for each in np.unique(label[recording == k]):
            yield np.flatnonzero((recording == k) & (label == each))


def _judge(
    found: Inspection,
    fleet: Fleet,
    leaks: Counter[tuple[str, str]],
    constants: _Constants,
) -> None:
    for (one, other), count in leaks.most_common(5):
        whose = f"{one} has" if one == other else f"{one} and {other} have"
        found.problems.append(
            f"{whose} {count:,} windows that are equal on both sides: they would be judged by heart"
        )
    names = fleet.preprocessing.channels if fleet.preprocessing.windowing is None else ()
    for column in constants.columns:
        feature = f"feature {names[column]!r}" if len(names) == constants.width else f"feature {column}"
        if constants.is_naming(column):
            found.problems.append(
                f"{feature} is constant in every recording and differs between them: it names the recording, not"
                " the fault"
            )
        elif constants.is_same(column) and constants.width > 1:
            found.remarks.append(f"{feature} is the same everywhere")
    if not any(look.early for look in found.machines if not look.unseen):
        found.problems.append("no training site has any window that can be learnt from")
    is_number = any(look.target is not None for look in found.machines)
    for look in found.machines:
        where = f"{look.site}/{look.machine}"
        total = look.early + look.late
        if look.missing:
            found.problems.append(f"{where}: {look.missing:,} samples are missing (NaN) or infinite")
        if look.flat:
            found.problems.append(f"{where}: {look.flat} channels of recordings are flat: is the sensor off?")
        if look.clipped:
            found.remarks.append(f"{where}: {look.clipped} channels of recordings are clipped at their limits")
        if len(look.rates) > 1:
            rates = ", ".join(f"{rate:g}" for rate in sorted(look.rates))
            found.remarks.append(f"{where}: several sample rates, {rates} Hz")
        if (
            not is_number
            and fleet.episodes.of == "each class"
            and fleet.episodes.normal is None
            and len(total) == 1
        ):
            found.problems.append(f"{where}: one class only, {next(iter(total))}; tasks need two")
        for name, count in total.items():
            if len(total) > 1 and count < RARE * total.total():
                found.remarks.append(f"{where}: {name} is rare, {count:,} of {total.total():,} windows")
        if total and not look.late:
            found.problems.append(f"{where}: no late windows to judge by")
