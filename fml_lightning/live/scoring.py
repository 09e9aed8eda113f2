"""Scoring: what a machine's current model says of its windows, as alarms count it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fml_lightning.datamodules.spool.fleet import UNSEEN
from fml_lightning.errors import UserError
from fml_lightning.live.drift import Drift
from fml_lightning.live.follower import LiveWindows
from fml_lightning.live.levels import levels
from fml_lightning.live.records import Scores
from fml_lightning.live.rules import Rules
from fml_lightning.live.state import Machine, take_scores
from fml_lightning.personal.personal_model import PersonalModel
from fml_lightning.personal.reading import Reading, normal_class
from fml_lightning.personal.registry import Registry


class Watching(NamedTuple):
    """A model that watches a machine."""

    version: str
    model: PersonalModel
    doubt: str
    """Why it is doubtful; empty if it is not."""


class Models(Protocol):
    """Which model watches a machine."""

    def version(self, site: str, machine: str) -> str:
        """Of the current one; empty if there is none. It is asked often, and so must be quick."""
        ...

    def current(self, site: str, machine: str) -> Watching | None:
        """The current one, read anew; None if there is none.

        Raises:
            UserError: it cannot be read.
        """
        ...

    def machines(self, site: str) -> list[str]:
        """The machines of a site that have a model."""
        ...


class RegistryModels:
    """The current models of a registry. A machine that was held out of its site has its models under another name.

    Args:
        registry: of the run.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    def version(self, site: str, machine: str) -> str:
        """Of the current one; empty if there is none."""
        for name in (site, site + UNSEEN):
            if (found := self.registry.current(name, machine)) is not None:
                return found.name
        return ""

    def current(self, site: str, machine: str) -> Watching | None:
        """The current one; None if there is none.

        Raises:
            UserError: it cannot be read.
        """
        for name in (site, site + UNSEEN):
            if (found := self.registry.current(name, machine)) is not None:
                card = found.card
                doubt = "" if card.verdict == "ship" else "; ".join(card.reasons) or card.verdict
                return Watching(found.name, found.load(), doubt)
        return None

    def machines(self, site: str) -> list[str]:
        """The machines of a site that have a model."""
        return [machine for own, machine in self.registry.machines() if own in (site, site + UNSEEN)]


class Scorer:
    """Scores windows of one machine with one model.

    A window whose signal is only stronger or weaker than the machine's baseline, at all frequencies alike, is
    scored a second time as the sensor would have measured it at the baseline; the lower score counts. So a sensor
    that drifts raises no alarm, and a fault does, as it changes the shape of the spectrum.

    Args:
        watching: the model.
        normal: the class of normal operation, where the model does not say; empty: nobody says.
        limit: where targets are numbers, beyond which of them a window is not normal.

    Raises:
        UserError: the model cannot read raw windows, or has no such class.
    """

    def __init__(self, watching: Watching, normal: str = "", limit: float | None = None) -> None:
        self.model = watching.model
        self.version = watching.version
        if self.model.preprocessing is None:
            raise UserError("it has no preprocessing; make it again with fml personalize")
        self.preprocessing = self.model.preprocessing
        self.limit = limit
        self.normal = self.model.normal or normal
        found = normal_class(self.model.classes, self.normal)
        self._faults = [k for k in range(len(self.model.classes)) if k != found]

    def scores(self, windows: LiveWindows, machine: Machine, rules: Rules) -> Iterator[Scores]:
        """What the model says of windows of a machine, in parts within which its baseline stays the same.

        Args:
            windows: of the machine.
            machine: before the windows; it is moved on by each part when you ask for the next.
            rules: by which it is moved on.
        """
        level = levels(windows.values, windows.sample_rate)
        begin = 0
        while begin < len(windows.end):
            end = self._end(windows, begin, machine)
            part = self._part(windows, level, slice(begin, end), machine.drift)
            yield part
            take_scores(machine, part, rules)
            begin = end

    @staticmethod
    def _end(windows: LiveWindows, begin: int, machine: Machine) -> int:
        """The window after the last that is scored with the baseline as it is, at least one."""
        if machine.drift.frozen is None:
            ahead = msgspec.structs.replace(machine.clock)
            for at in range(begin, len(windows.end)):
                # The window that closes a block may freeze the baseline: it is the last that is scored without.
                if machine.drift.ends_before(ahead.add(int(windows.end[at]), windows.duration)):
                    return at + 1
        return len(windows.end)

    def _part(self, windows: LiveWindows, level: NDArray[np.float64], rows: slice, drift: Drift) -> Scores:
        values, told = windows.values[rows], windows.told[rows]
        reading = self._read(values, windows.sample_rate, told)
        raw = reading.score.double().numpy().copy()
        score = raw.copy()
        gains = [drift.gain(each) for each in level[rows].tolist()]
        if again := [row for row, gain in enumerate(gains) if gain is not None and raw[row] > 0]:
            factor = np.array([10 ** (-gains[row] / 20) for row in again], np.float32)  # type: ignore[operator]
            means = values[again].mean(2, keepdims=True)
            restored = means + (values[again] - means) * factor[:, :, None]
            score[again] = np.fmin(
                raw[again], self._read(restored, windows.sample_rate, told[again]).score.numpy()
            )
        labels, confidence = self._likeliest(reading.outputs, len(raw))
        return Scores(
            machine=windows.machine,
            version=self.version,
            sequence=windows.sequence[rows].tolist(),
            end=windows.end[rows].tolist(),
            duration=windows.duration,
            channels=values.shape[1],
            score=_numbers(score),
            raw=_numbers(raw),
            label=labels,
            confidence=confidence,
            level=np.round(level[rows], 4).tolist(),
        )

    def _read(self, values: NDArray[np.float32], sample_rate: float, told: NDArray[np.float32]) -> Reading:
        return self.model.reading(
            values,
            sample_rate,
            told=told if told.shape[1] else None,
            normal=self.normal or None,
            limit=self.limit,
        )

    def _likeliest(self, outputs: Tensor, count: int) -> tuple[list[str], list[float]]:
        """The likeliest fault of each window and its probability; empty and 0 where there are no classes."""
        if outputs.ndim != 2 or outputs.shape[1] != len(self.model.classes) or not self._faults:
            return [""] * count, [0.0] * count
        found, place = outputs[:, self._faults].nan_to_num(0.0).max(1)
        labels = [self.model.classes[self._faults[k]] for k in place.tolist()]
        return labels, [round(each, 6) for each in found.double().tolist()]


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    """Numbers as JSON has them; None where one is none."""
    return [round(each, 6) if np.isfinite(each) else None for each in values.tolist()]
