"""Scalars: what in a message stands for a number: numbers, booleans, numbers as text, and states by name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fml_lightning.connectors.codecs.codec import CodecError
from fml_lightning.connectors.codecs.numbers import FLOAT32_MAX, block, scalar, scaled, shown
from fml_lightning.errors import UserError

LONGEST_NUMBER = 64
"""Characters of a number as text."""

_NUMBERS = frozenset((int, float))
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_NOT_A_NUMBER = re.compile(r"[+-]?(?:nan(?:\(\w*\))?|inf(?:inity)?)", re.ASCII | re.IGNORECASE)


def number_of(text: str) -> int | float | None:
    """The number that a text is, without a unit and with a point as decimal; None if it is none.

    >>> number_of(" 12.40 "), number_of("-3"), number_of("12,4"), number_of("6400 Hz"), number_of("1_000")
    (12.4, -3, None, None, None)
    """
    text = text.strip() if len(text) <= LONGEST_NUMBER else ""
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else None


def is_not_a_number(text: str) -> bool:
    """Whether a text says NaN or infinity, as programs print them.

    >>> is_not_a_number("nan"), is_not_a_number("-Infinity"), is_not_a_number("n/a")
    (True, True, False)
    """
    return len(text) <= LONGEST_NUMBER and bool(_NOT_A_NUMBER.fullmatch(text.strip()))


def states_by_text(states: Mapping[str, float]) -> dict[str, float]:
    """States as a configuration means them: YAML reads `on`, `yes`, `true` as one thing, and digits as a number.

    >>> states_by_text({True: 1.0, 7: 2.0, "idle": 0.0})
    {'on': 1.0, 'yes': 1.0, 'true': 1.0, '7': 2.0, 'idle': 0.0}
    """
    words: dict[object, Sequence[str]] = {True: ("on", "yes", "true"), False: ("off", "no", "false")}
    return {
        word: number
        for state, number in states.items()
        for word in (words[state] if isinstance(state, bool) else (str(state),))
    }


@dataclass(frozen=True)
class Scalars:
    """Reads values as numbers.

    >>> scalars = Scalars({"running": 1.0, "stopped": 0.0})
    >>> [scalars.number(value, "v") for value in (2, "3.5", True, "running")]
    [2.0, 3.5, 1.0, 1.0]
    """

    states: Mapping[str, float]
    """The number that stands for each text; in any case, where not two differ in nothing else."""

    @cached_property
    def _folded(self) -> Mapping[str, float]:
        return {state.casefold(): number for state, number in self.states.items()}

    def state(self, text: str) -> float | None:
        """The number of a text that is a state; None of another."""
        if text in self.states or not self.states:
            return self.states.get(text)
        return self._folded.get(text.strip().casefold())

    def check(self, owner: str) -> None:
        """Refuse states that stand for no number of float32.

        Raises:
            UserError: there is one; `owner` is the class that is configured.
        """
        if not all(math.isfinite(number) and abs(number) <= FLOAT32_MAX for number in self.states.values()):
            raise UserError(
                f"{owner}.states: expected a number in the range of float32 for each, got {self.states}"
            )

    def is_nan(self, value: object) -> bool:
        """Whether a value is a text that says NaN or infinity, and no state."""
        return type(value) is str and is_not_a_number(value) and self.state(value) is None

    def number(self, value: object, where: str) -> float:
        """One number; a text that says NaN or infinity is NaN.

        Args:
            value: what the payload holds.
            where: where it stands, for the error.

        Raises:
            CodecError: nothing that stands for a number, or one beyond float32.
        """
        kind = type(value)
        if kind is float or kind is int:
            return scalar(value, where)
        if kind is bool:
            return float(value)  # type: ignore[arg-type]
        if isinstance(value, str):
            if (state := self.state(value)) is not None:
                return float(state)
            if (number := number_of(value)) is not None:
                if math.isinf(number):  # 1e999
                    raise CodecError(f"{where}: expected a number in the range of float32, got {shown(value)}")
                return scalar(number, where)
            if is_not_a_number(value):
                return math.nan
            if self.states:
                known = ", ".join(sorted(self.states))
                raise CodecError(
                    f"{where}: expected a number or one of the states {known:.100}, got {shown(value)}"
                )
        return scalar(value, where)

    def block(self, values: Sequence[Any] | NDArray[np.generic], where: str) -> NDArray[np.float32]:
        """A block of samples, (n,), in which null is NaN, as a sample that is left out would shift all others.

        Raises:
            CodecError: empty, or something in it is none of `number`.
        """
        if isinstance(values, np.ndarray):
            if not values.size:
                raise CodecError(f"{where}: expected numbers only, and at least one")
            return scaled(values, 1.0, 0.0)
        kinds = set(map(type, values))
        if kinds <= _NUMBERS:
            return block(values, where)
        if not kinds <= {int, float, bool, str, type(None)}:
            other = next(value for value in values if type(value) not in (int, float, bool, str, type(None)))
            raise CodecError(f"{where}: expected numbers only, and at least one, got {shown(other)} among them")
        return block([math.nan if value is None else self.number(value, where) for value in values], where)
