"""Recordings: what a machine's sensor measured under one label and one operating condition."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
from numpy.typing import NDArray

from fml_lightning.errors import UserError


@dataclass(frozen=True)
class Recording:
    """A gap-free stretch of one channel at one machine, under one label and one operating condition.

    Raises:
        UserError: a field is not what it has to be.
    """

    machine: str
    """The machine's name, unique at its site."""
    condition: str
    """The operating condition's name."""
    label: int
    """Index into the fleet's classes, at least 0."""
    sample_rate: float
    """Hz, above 0."""
    values: NDArray[np.float32]
    """Samples in the sensor's unit, (n,), n ≥ 1; numbers of another kind become float32."""

    def __post_init__(self) -> None:
        for field, name in (("machine", self.machine), ("condition", self.condition)):
            if not isinstance(name, str) or not name:
                raise UserError(f"Recording: expected the name of a {field} as text, got {name!r}")
        if not isinstance(self.label, Integral) or isinstance(self.label, bool) or self.label < 0:
            raise UserError(
                f"{self}: expected a label of 0 or more, an index into the fleet's classes, got {self.label!r}"
            )
        rate = self.sample_rate
        if not isinstance(rate, Real) or not math.isfinite(rate) or rate <= 0:
            raise UserError(f"{self}: expected a sample rate in Hz, finite and above 0, got {rate!r}")
        object.__setattr__(self, "values", self._samples())

    def __str__(self) -> str:
        return f"{self.machine}, {self.condition}"

    def _samples(self) -> NDArray[np.float32]:
        expected = f"{self}: expected the samples of one channel as numbers, of shape (n,) with n >= 1"
        try:
            values = np.asarray(self.values)
        except ValueError as error:
            raise UserError(f"{expected}, got {error}") from error
        if values.dtype.kind not in "fiu":
            raise UserError(f"{expected}, got {values.dtype}")
        if values.ndim != 1 or not values.size:
            advice = ""
            if values.ndim == 2 and values.size:
                several = "several channels are not supported yet; give one Recording per channel"
                advice = "; give values.ravel()" if 1 in values.shape else f"; {several}"
            raise UserError(f"{expected}, got shape {values.shape}{advice}")
        with np.errstate(over="ignore"):  # what becomes infinite is refused where windows are cut
            return values.astype(np.float32, copy=False)
