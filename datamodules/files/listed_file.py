"""One file of a data set, and what is said of it: by its path, or by a line of a manifest."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fml_lightning.errors import UserError

DATE = re.compile(
    r"(\d{4})\D?(\d\d)\D?(\d\d)(?:\D?(\d\d)\D?(\d\d)(?:\D?(\d\d)(?:[.,_](\d{1,6}))?)?)?(Z|[+-]\d\d:?\d\d)?"
)
"""A date, or a date and a time, in order of size, with or without separators."""

ROLES = (
    *("file", "site", "machine", "bearing", "condition", "label", "target", "target_first", "target_last"),
    *("time", "start", "part", "sample_rate", "unit", "scale"),
)
"""Names that say something else of a file than what features or the network may take in."""


@dataclass(frozen=True)
class ListedFile:
    """A file and what is said of it, by name: its site, machine, label and so on, as text."""

    path: Path
    said: Mapping[str, str]
    where: str
    """Where it is said, for messages."""

    def text(self, name: str, default: str | None = None) -> str:
        """What is said under a name.

        Raises:
            UserError: nothing, and there is no default.
        """
        value = self.said.get(name, "") or default
        if not value:
            raise UserError(f"{self.where}, column {name!r}: expected the {name} of {self.path.name}, got nothing")
        return value

    def number(self, name: str) -> float | None:
        """The number that is said under a name; None if nothing is.

        Raises:
            UserError: it is no finite number.
        """
        value = self.said.get(name, "")
        if not value:
            return None
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise UserError(f"{self.where}, column {name!r}: expected a finite number, got {value!r}")
        return number

    @property
    def numbers(self) -> dict[str, float]:
        """What is said of it under other names than `ROLES` and is a finite number, by name."""
        found = {}
        for name in self.said.keys() - set(ROLES):
            with suppress(UserError):
                if (number := self.number(name)) is not None:
                    found[name] = number
        return found

    def time(self, name: str) -> int | None:
        """The time that is said under a name, µs since 1970, UTC: seconds, or a date and time.

        Raises:
            UserError: it is neither.
        """
        value = self.said.get(name, "")
        if not value:
            return None
        try:
            return parse_time(value)
        except ValueError as error:
            raise UserError(
                f"{self.where}, {name!r}: expected seconds, or a date and time such as 2024-01-31T12-30-00, got"
                f" {value!r}"
            ) from error


def parse_time(text: str) -> int:
    """A time as names of files and tables have it, µs: seconds, or a date and time, UTC unless it says otherwise.

    Raises:
        ValueError: it is none.

    >>> parse_time("12.5"), parse_time("2004.02.12.10.32.39") == parse_time("20040212103239")
    (12500000, True)
    """
    if (match := DATE.fullmatch(text)) and not _is_epoch(text):
        *parts, fraction, zone = match.groups()
        numbers = [int(part) for part in parts if part is not None]
        moment = datetime(*(numbers + [0] * (6 - len(numbers))), tzinfo=UTC)  # type: ignore[misc,arg-type]
        shift = 0
        if zone and zone != "Z":
            shift = int(zone[0] + "1") * (int(zone[1:3]) * 3600 + int(zone[-2:]) * 60)
        return (int(moment.timestamp()) - shift) * 1_000_000 + int((fraction or "").ljust(6, "0"))
    seconds = float(text)
    if not math.isfinite(seconds):
        raise ValueError(text)
    return round(seconds * 1e6)


def _is_epoch(text: str) -> bool:
    """Whether digits alone are seconds, not a date: those of dates are 8, 12 or 14, and begin with a year."""
    return text.isdecimal() and (len(text) not in (8, 12, 14) or text[:2] not in ("19", "20"))
