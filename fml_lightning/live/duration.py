"""Durations as people write them: 5s, 20min, 8h."""

from __future__ import annotations

import math
import re

from fml_lightning.errors import UserError

UNITS = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_WRITTEN = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*(ms|s|min|h|d)?\s*")


def duration(written: str | float) -> float:
    """Seconds of a duration; a number without a unit is seconds.

    >>> duration("20min"), duration("1.5h"), duration(3)
    (1200.0, 5400.0, 3.0)

    Raises:
        UserError: it is none.
    """
    found = _WRITTEN.fullmatch(str(written))
    seconds = float(found[1]) * UNITS[found[2] or "s"] if found else math.nan
    if not math.isfinite(seconds):
        raise UserError(f"expected a duration such as 500ms, 5s, 20min, 8h or 2d, got {written!s:.40}")
    return seconds


def told_duration(written: str | float, whose: str) -> float:
    """The same of a setting.

    Raises:
        UserError: it is none; whose it is, is said.
    """
    try:
        return duration(written)
    except UserError as error:
        raise UserError(f"{whose}: {error}") from error


def words(seconds: float) -> str:
    """A duration in its largest whole unit.

    >>> words(59), words(61), words(7300), words(200_000)
    ('59 s', '1 min', '2 h', '2 d')
    """
    for unit, length in reversed(UNITS.items()):
        if seconds >= length:
            return f"{int(seconds / length)} {unit}"
    return "0 s"
