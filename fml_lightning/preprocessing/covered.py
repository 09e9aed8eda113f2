"""The times that blocks have covered, which tell a repeated block from a new one."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right

import msgspec
import numpy as np

from fml_lightning.preprocessing.packed import Packed

MOST = 10_000
"""Ranges that are remembered: a week of one burst a minute."""


class CoveredState(msgspec.Struct, frozen=True):
    """All of a set of moments, as plain types."""

    begins: Packed
    """Of the ranges, ascending."""
    ends: Packed

    def __post_init__(self) -> None:
        """Refuse ranges that have no end, and such as no set has."""
        begins, ends = self.begins.array(np.float64), self.ends.array(np.float64)
        if len(begins) != len(ends) or not (begins <= ends).all() or not (ends[:-1] < begins[1:]).all():
            raise ValueError("expected ranges of time of which no two touch")


class Covered:
    """A set of moments, as ranges of which no two touch; of more than `MOST` ranges the earliest is forgotten.

    >>> covered = Covered()
    >>> covered.add(0, 10)
    >>> covered.add(20, 30)
    >>> covered.holds(5, 25, slack=0)
    False
    >>> covered.add(10, 20)
    >>> covered.holds(5, 25, slack=0)
    True
    """

    def __init__(self) -> None:
        self._begins, self._ends = array("d"), array("d")

    @classmethod
    def restored(cls, state: CoveredState) -> Covered:
        """The set that a state is of."""
        covered = cls()
        covered._begins = array("d", state.begins.array(np.float64).tobytes())
        covered._ends = array("d", state.ends.array(np.float64).tobytes())
        return covered

    def state(self) -> CoveredState:
        """All of it."""
        return CoveredState(Packed.of(np.array(self._begins)), Packed.of(np.array(self._ends)))

    def add(self, begin: float, end: float) -> None:
        """Add the moments from `begin` to `end`."""
        if self._begins and self._begins[-1] <= begin <= self._ends[-1]:  # most often
            self._ends[-1] = max(self._ends[-1], end)
            return
        i, j = bisect_left(self._ends, begin), bisect_right(self._begins, end)  # i to j touch the new range
        if i < j:
            begin, end = min(begin, self._begins[i]), max(end, self._ends[j - 1])
        self._begins[i:j], self._ends[i:j] = array("d", [begin]), array("d", [end])
        if len(self._begins) > MOST:
            del self._begins[0], self._ends[0]

    def holds(self, begin: float, end: float, slack: float) -> bool:
        """Whether all moments from `begin` to `end` are there, but for `slack` at either end."""
        i = bisect_right(self._begins, begin + slack) - 1
        return i >= 0 and end - slack <= self._ends[i]
