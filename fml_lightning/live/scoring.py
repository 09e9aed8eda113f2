"""Scoring: what a machine's current model says of its windows, as alarms count it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from fml_lightning.errors import UserError
from fml_lightning.live.drift import Drift
from fml_lightning.live.follower import LiveWindows
from fml_lightning.live.levels import levels
from fml_lightning.live.records import Scores
from fml_lightning.live.rules import Rules
from fml_lightning.live.state import Machine, take_scores
from fml_lightning.names import registry_names
from fml_lightning.objectives import Classification
from fml_lightning.personal.personal_model import PersonalModel
from fml_lightning.personal.reading import Reading, labels_of
from fml_lightning.personal.registry import Registry


class Watching(NamedTuple):
    """A model that watches a machine."""

    version: str
    model: PersonalModel
    doubt: str
    """Why it is doubtful; empty if it is not."""
    unit: str = ""
    """Of the numbers that it estimates, if it does; empty where nobody says."""


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

    def machines(self, sites: Iterable[str]) -> dict[str, list[str]]:
        """The machines of each site that have a model."""
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
        for name in registry_names(site):
            if (found := self.registry.current(name, machine)) is not None:
                return found.name
        return ""

    def current(self, site: str, machine: str) -> Watching | None:
        """The current one; None if there is none.

        Raises:
            UserError: it cannot be read.
        """
        for name in registry_names(site):
            if (found := self.registry.current(name, machine)) is not None:
                card = found.card
                doubt = "" if card.verdict == "ship" else "; ".join(card.reasons) or card.verdict
                return Watching(found.name, found.load(), doubt, card.unit or "")
        return None

    def machines(self, sites: Iterable[str]) -> dict[str, list[str]]:
        """The machines of each site that have a model."""
        known = self.registry.machines()
        return {site: [machine for own, machine in known if own in registry_names(site)] for site in sites}


class Scorer:
    """Scores windows of one machine with one model.

    A window whose signal is only stronger or weaker than the machine's baseline, at all frequencies alike, is
    scored a second time as the sensor would have measured it at the baseline; the lower score counts. So a sensor
    that drifts raises no alarm, and a fault does, as it changes the shape of the spectrum.

    Args:
        watching: the model.
        normal: the class of normal operation, of models of classes that do not say; empty: nobody says.
        limit: where targets are numbers, beyond which of them a window is not normal, of models that do not say.

    Raises:
        UserError: the model cannot read raw windows, or has no such class.
    """

    def __init__(self, watching: Watching, normal: str = "", limit: float | None = None) -> None:
        self.model = watching.model
        self.version = watching.version
        if self.model.preprocessing is None:
            raise UserError("it has no preprocessing; make it again with fml personalize")
        self.preprocessing = self.model.preprocessing
        self.limit = limit if self.model.limit is None else self.model.limit
        says_class = self.model.normal or not isinstance(self.model.objective, Classification)
        self.normal = self.model.normal if says_class else normal
        self._normal_index = self.model.normal_index(self.normal)
        objective = self.model.objective
        self.quantity = f"{watching.unit} {objective.quantity}".strip() if objective.takes_limit else ""
        """What the model estimates, in words that follow a number; empty if it estimates none."""

    @property
    def blind(self) -> str:
        """Why no score comes of the model, whatever it sees; empty if one does."""
        objective = self.model.objective
        if objective.takes_limit and self.limit is None:
            return (
                "its model estimates a number, and nobody says beyond which the machine is sick; tell it with"
                " fml watch --limit, or fml personalize --limit"
            )
        if isinstance(objective, Classification) and self._normal_index is None:
            classes = ", ".join(self.model.classes)
            return (
                f"its model knows the classes {classes}, and nobody says which of them is normal; tell it with"
                " fml watch --normal"
            )
        if not objective.gives_score:
            return f"its model gives no score, as its objective {type(objective).__name__} has none"
        return ""

    def scores(self, windows: LiveWindows, machine: Machine, rules: Rules) -> Scores:
        """What the model says of windows of a machine, each by itself.

        So a score is the same to the last bit, however many windows have come at once.

        Args:
            windows: of the machine.
            machine: before the windows; it is moved on, as far as scores depend on it.
            rules: by which it is moved on.
        """
        parts = [self._none(windows)]
        for row in range(len(windows.end)):
            one = self._of_one(windows, slice(row, row + 1), machine.drift)
            if machine.drift.frozen is None:
                take_scores(machine, one, rules)  # it may freeze the baseline for the next window
            parts.append(one)
        joined = {
            name: [value for one in parts for value in getattr(one, name)]
            for name, first in msgspec.structs.asdict(parts[0]).items()
            if isinstance(first, list)
        }
        if not any(joined["failed"]):
            joined["failed"] = []
        return msgspec.structs.replace(parts[0], **joined)

    def _none(self, windows: LiveWindows) -> Scores:
        """What the model says of none of the windows."""
        return Scores(
            machine=windows.machine,
            version=self.version,
            sequence=[],
            end=[],
            duration=windows.duration,
            channels=windows.values.shape[1],
            score=[],
            raw=[],
            label=[],
            confidence=[],
            level=[],
        )

    def _of_one(self, windows: LiveWindows, row: slice, drift: Drift) -> Scores:
        """What the model says of one window; nothing, and why, if it fails on it."""
        values, told = windows.values[row], windows.told[row]
        level = np.round(levels(values, windows.sample_rate), 4)
        nothing = msgspec.structs.replace(
            self._none(windows),
            sequence=windows.sequence[row].tolist(),
            end=windows.end[row].tolist(),
            score=[None],
            raw=[None],
            label=[""],
            confidence=[0.0],
            level=level.tolist() if np.isfinite(level).all() else [[]],
            estimate=[None] if self.model.objective.takes_limit else [],
            failed=[""],
        )
        try:
            return self._said(nothing, values, windows.sample_rate, told, drift)
        except UserError as error:
            return msgspec.structs.replace(nothing, failed=[f"its model scores nothing: {error}"])

    def _said(
        self,
        nothing: Scores,
        values: NDArray[np.float32],
        sample_rate: float,
        told: NDArray[np.float32],
        drift: Drift,
    ) -> Scores:
        """The scores of one window, filled in.

        Raises:
            UserError: the model fails on it.
        """
        reading = self._read(values, sample_rate, told)
        raw = score = float(reading.score[0])
        if not math.isfinite(raw) and not self.blind:
            raise UserError(f"what it makes of samples of up to {np.abs(values).max():.3g} is no number")
        gain = drift.gain(nothing.level[0]) if raw > 0 else None
        if gain is not None:
            mean = values.mean(2, keepdims=True)
            factor = (10 ** (-gain / 20)).astype(np.float32)
            restored = mean + (values - mean) * factor[None, :, None]
            again = float(self._read(restored, sample_rate, told).score[0])
            score = min(raw, again) if math.isfinite(again) else raw
        (label,), confidence = labels_of(
            self.model.objective, reading.outputs, self.model.classes, self._normal_index
        )
        return msgspec.structs.replace(
            nothing,
            score=[_number(score)],
            raw=[_number(raw)],
            label=[label],
            confidence=[_number(float(confidence[0])) or 0.0],
            estimate=self._estimate(reading),
        )

    def _estimate(self, reading: Reading) -> list[float | None]:
        """The number that the model says of a window, None if it says several; empty if its objective has none."""
        if not self.model.objective.takes_limit:
            return []
        return [_number(float(reading.outputs)) if reading.outputs.numel() == 1 else None]

    def _read(self, values: NDArray[np.float32], sample_rate: float, told: NDArray[np.float32]) -> Reading:
        try:
            return self.model.reading(
                values,
                sample_rate,
                told=told if told.shape[1] else None,
                normal=self.normal,
                limit=self.limit,
            )
        except UserError:
            raise
        except Exception as error:  # whatever a network of a user's own makes of a window
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(f"its network {type(self.model.net).__name__} fails: {lines[0]:.200}") from error


def _number(value: float) -> float | None:
    """A number as JSON has it; None if it is none."""
    return round(value, 6) if math.isfinite(value) else None
