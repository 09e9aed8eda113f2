"""Nameplates: what is known of machines as numbers that do not change, such as the orders of their bearings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from fml_lightning.bearing import Bearing
from fml_lightning.datamodules.held_out import fits_machine
from fml_lightning.errors import UserError

BEARING = "bearing"
"""The entry that is a bearing's designation or dimensions, of which `bpfo`, `bpfi`, `bsf` and `ftf` follow."""


class Nameplates:
    """Numbers of machines by their names: what features need or a network sees, where nothing newer tells it.

    >>> plates = Nameplates("Files", {"*": {"speed": 30}, "north/fan": {"bearing": "6205-2RS", "speed": 29.5}})
    >>> plates.of("south", "fan")
    {'speed': 30.0}
    >>> plates.of("north", "fan")["bpfo"], plates.of("north", "fan")["speed"]
    (3.5848, 29.5)

    Args:
        owner: whose they are, for messages.
        plates: by shell-style patterns of SITE, MACHINE or SITE/MACHINE: numbers by name; under `bearing` a
            designation, or a mapping of dimensions such as `{balls: 9, ratio: 0.2034}` (`Bearing`).

    Raises:
        UserError: an entry is no number, or the bearing is not known.
    """

    def __init__(self, owner: str, plates: Mapping[str, Mapping[str, Any]] | None) -> None:
        self.owner = owner
        if not isinstance(plates or {}, Mapping):
            raise UserError(f"{owner}.nameplates: expected a mapping from patterns of machines, got {plates!r}")
        self._plates = {pattern: self._numbers(pattern, plate) for pattern, plate in (plates or {}).items()}

    @property
    def patterns(self) -> tuple[str, ...]:
        """Which machines they are of."""
        return tuple(self._plates)

    def of(self, site: str, machine: str) -> dict[str, float]:
        """A machine's numbers, by name; of several patterns that fit, the last one that tells a number counts."""
        found: dict[str, float] = {}
        for pattern, numbers in self._plates.items():
            if fits_machine([pattern], site, machine):
                found |= numbers
        return found

    def check(self, machines: Iterable[tuple[str, str]]) -> None:
        """See that each pattern fits one of the machines, (site, machine).

        Raises:
            UserError: one does not.
        """
        machines = sorted(machines)
        for pattern in self._plates:
            if not any(fits_machine([pattern], *names) for names in machines):
                sites = ", ".join(dict.fromkeys(site for site, _ in machines))
                raise UserError(
                    f"{self.owner}.nameplates: expected SITE, MACHINE or SITE/MACHINE, got {pattern!r}, which fits"
                    f" none; sites are {sites}"
                )

    def _numbers(self, pattern: str, plate: Mapping[str, Any]) -> dict[str, float]:
        where = f"{self.owner}.nameplates, {pattern}"
        if not isinstance(plate, Mapping):
            raise UserError(f"{where}: expected a mapping such as {{bearing: 6205, speed: 29.5}}, got {plate!r}")
        numbers = bearing_orders(plate[BEARING], where) if BEARING in plate else {}
        for name, value in plate.items():
            if name == BEARING:
                continue
            if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
                raise UserError(f"{where}: expected a finite number under {name!r}, got {value!r}")
            numbers[name] = float(value)
        return numbers


def bearing_orders(bearing: object, where: str) -> dict[str, float]:
    """A bearing's orders by name, from its designation or its dimensions.

    Args:
        bearing: a designation, which YAML may have read as a number; or a mapping of what `Bearing` is made of.
        where: who says so, for messages.

    Raises:
        UserError: it is neither.
    """
    try:
        if isinstance(bearing, Mapping):
            return Bearing(**bearing).inputs
        if isinstance(bearing, str | int) and not isinstance(bearing, bool):
            return Bearing.named(str(bearing)).inputs
    except (UserError, TypeError) as error:
        raise UserError(f"{where}: {error}") from error
    raise UserError(
        f"{where}: expected a bearing's designation, or its dimensions such as {{balls: 9, ratio: 0.2034}}, got"
        f" {bearing!r}"
    )
