"""Recordings: what a machine's sensors measured under one operating condition, and what is to be learnt of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fml_lightning.errors import UserError


@dataclass(frozen=True)
class Ramp:
    """A target that is linear in time, such as the remaining useful life, in any unit."""

    first: float
    """At the recording's first sample."""
    last: float
    """At its last one."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.first) and math.isfinite(self.last)):
            raise UserError(f"Ramp: expected finite numbers, got {self.first} and {self.last}")


@dataclass(frozen=True)
class NextSample:
    """A target of each window: the sample that follows it is the class, such as the next character of a text."""


@dataclass(frozen=True)
class Stored:
    """Samples that are read when they are needed, and then forgotten."""

    shape: tuple[int, int]
    """Channels and samples of each, (C, n)."""
    read: Callable[[], NDArray[Any]]
    """Reads them, (C, n) or (n,)."""


@dataclass(frozen=True)
class Recording:
    """A gap-free stretch of one or several channels at one machine, under one operating condition.

    Raises:
        UserError: a field is not what it has to be.
    """

    machine: str
    """The machine's name, unique at its site."""
    condition: str
    """The operating condition's name."""
    target: int | float | Ramp | NDArray[np.float32] | NextSample | None
    """An `int`: an index into the fleet's classes, at least 0. A `float` or a `Ramp`: a number to be estimated; an
    array (n,): one of its own at every sample. A `NextSample`: the samples of the one channel are indices into the
    fleet's classes. None: nothing is known."""
    sample_rate: float
    """Hz, above 0."""
    values: NDArray[np.float32] | Stored
    """Samples in the sensors' unit, (C, n), n ≥ 1, or (n,) of one channel; other numbers become float32."""
    start: int | None = None
    """Time of the first sample, µs since 1970, UTC; None: recordings of a machine follow one another as given."""
    unit: str | None = None
    """The samples' unit; None: nobody says."""
    inputs: Mapping[str, float] = field(default_factory=dict)
    """What is known of it as numbers, such as `speed`: what features need, or the network sees beside them."""
    part: Literal["early", "late"] | None = None
    """On which side of the split in time all of it is; None: as time goes."""
    source: str | None = None
    """Where it was read, such as a path, for messages."""
    times: NDArray[np.int64] | None = None
    """Time of every sample where they are not evenly spaced, as rows of a table are not, µs, ascending, (n,);
    counted from anywhere, if `start` is None."""

    def __post_init__(self) -> None:
        for name, value in (("machine", self.machine), ("condition", self.condition)):
            if not isinstance(value, str) or not value:
                raise UserError(f"Recording: expected the name of a {name} as text, got {value!r}")
        rate = self.sample_rate
        if not isinstance(rate, Real) or not math.isfinite(rate) or rate <= 0:
            raise UserError(f"{self}: expected a sample rate in Hz, finite and above 0, got {rate!r}")
        object.__setattr__(self, "target", self._checked_target())
        if not isinstance(self.values, Stored):
            object.__setattr__(self, "values", self._samples(self.values))
        for name, each in (("targets", self.target), ("times", self.times)):
            if isinstance(each, np.ndarray) and each.shape != (self.shape[1],):
                raise UserError(f"{self}: expected as many {name} as samples, {self.shape[1]}, got {each.shape}")

    def __str__(self) -> str:
        named = f"{self.machine}, {self.condition}"
        return named if self.source is None else f"{self.source} ({named})"

    def _checked_target(self) -> int | float | Ramp | NDArray[np.float32] | NextSample | None:
        target = self.target
        if isinstance(target, np.ndarray) and target.dtype.kind in "fiu" and np.isfinite(target).all():
            return target.astype(np.float32, copy=False)
        if target is None or isinstance(target, Ramp | NextSample):
            return target
        if isinstance(target, Integral) and not isinstance(target, bool) and target >= 0:
            return int(target)
        if isinstance(target, Real) and not isinstance(target, Integral) and math.isfinite(target):
            return float(target)
        raise UserError(
            f"{self}: expected as target a class, an index of 0 or more into the fleet's classes; or a finite"
            f" float; or an array of them; or a Ramp; or a NextSample; or None; got {target!r}"
        )

    @property
    def label(self) -> int:
        """The class; of a target that is a number, or differs from window to window, 0; without target -1."""
        if self.target is None:
            return -1
        return self.target if isinstance(self.target, int) else 0

    @property
    def is_number(self) -> bool:
        """Whether the target is a number, not a class."""
        return isinstance(self.target, float | Ramp | np.ndarray)

    def labels(self, values: NDArray[np.float32], following: NDArray[np.int64]) -> int | NDArray[np.int64]:
        """The class of windows: one for all of them, or that of the sample that follows each.

        Args:
            values: the recording's samples, (C, n).
            following: the number of the first sample after each window, (m,).
        """
        if isinstance(self.target, NextSample):
            labels: NDArray[np.int64] = values[0, following].astype(np.int64)
            return labels
        return self.label

    def targets(self, samples: NDArray[np.int64], total: int) -> NDArray[np.float32]:
        """A target that is a number at some of `total` samples, (m,)."""
        if isinstance(self.target, np.ndarray):
            return self.target[samples * len(self.target) // total]
        if isinstance(self.target, Ramp):
            share = samples / max(1, total - 1)
            return np.asarray(self.target.first + (self.target.last - self.target.first) * share, np.float32)
        assert isinstance(self.target, float)
        return np.full(len(samples), self.target, np.float32)

    def told(self, names: Sequence[str]) -> list[float]:
        """The inputs of some names, in their order.

        Raises:
            UserError: one is not known.
        """
        try:
            return [self.inputs[name] for name in names]
        except KeyError as error:
            raise UserError(
                f"{self}: expected the operating condition {error} among its inputs, got none; tell it of the"
                " recording, or in nameplates where its fleet has them"
            ) from error

    @property
    def shape(self) -> tuple[int, int]:
        """Channels and samples of each, (C, n)."""
        channels, samples = self.values.shape
        return channels, samples

    def load(self) -> NDArray[np.float32]:
        """The samples, (C, n).

        Raises:
            UserError: what is stored is none.
        """
        if not isinstance(self.values, Stored):
            return self.values
        values = self._samples(self.values.read())
        if values.shape != self.values.shape:
            raise UserError(f"{self}: expected samples of shape {self.values.shape} as before, got {values.shape}")
        return values

    def _samples(self, given: object) -> NDArray[np.float32]:
        expected = f"{self}: expected the samples of its channels as numbers, of shape (C, n) or (n,) with n >= 1"
        try:
            values = np.asarray(given)
        except ValueError as error:
            raise UserError(f"{expected}, got {error}") from error
        if values.dtype.kind not in "fiu":
            raise UserError(f"{expected}, got {values.dtype}")
        if values.ndim not in (1, 2) or not values.size:
            raise UserError(f"{expected}, got shape {values.shape}")
        with np.errstate(over="ignore"):  # what becomes infinite is refused where windows are cut
            return np.atleast_2d(values.astype(np.float32, copy=False))
