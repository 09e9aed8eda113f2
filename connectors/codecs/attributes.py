"""Attributes: what a message says of its values: when, whose, in what unit, at what rate, and how good."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from fml_lightning.connectors.codecs.codec import CodecError
from fml_lightning.connectors.codecs.name_pattern import NamePattern
from fml_lightning.connectors.codecs.numbers import FLOAT32_MAX, shown
from fml_lightning.connectors.codecs.path import as_list, key_text
from fml_lightning.connectors.codecs.scalars import number_of
from fml_lightning.connectors.codecs.times import Clock
from fml_lightning.connectors.quality import Quality

Good = bool | float | str
"""What a device says of a value that is good; text in any case."""


class Attributes(msgspec.Struct, frozen=True, gc=False):
    """What a message says of a value; None where it says nothing."""

    time: int | None = None
    """µs since 1970, UTC."""
    times: list[Any] | None = None
    """The times as the message has them, where it has one for each of several values."""
    times_at: str = ""
    """Where these stand, for the errors."""
    machine: str | None = None
    site: str | None = None
    channel: str | None = None
    unit: str | None = None
    sample_rate: float | None = None
    """Hz."""
    quality: int = 0
    """`Quality` flags."""

    @property
    def is_plain(self) -> bool:
        """Whether numbers of which it is said are scalars with one time."""
        return self.sample_rate is None and self.times is None


@dataclass(frozen=True)
class AttributeReader:
    """Reads what stands at the paths of roles."""

    clock: Clock
    pattern: NamePattern
    """The names in the text of the role `name`."""
    good: tuple[Good, ...]
    """What the role `quality` says of a good value."""
    sample_rate: float | None
    """Hz, where no role says it."""

    def read(self, roles: Mapping[str, Any], where: Callable[[str], str]) -> Attributes:
        """The attributes that roles say.

        Args:
            roles: what stands at the path of each role, raw, without those that are absent or null.
            where: how one writes where a role stands, for the errors.

        Raises:
            CodecError: one of them does not say what it should.
        """
        time, times, flags, rate = None, None, 0, self.sample_rate
        machine = site = channel = unit = None
        for role, said in roles.items():  # a message says few of them, and each call costs time
            if role == "time":
                if (times := as_list(said)) is None:
                    time, doubt = self.time(said, where(role))
                    flags |= doubt
            elif role == "machine":
                machine = _name(said, role, where)
            elif role == "site":
                site = _name(said, role, where)
            elif role == "channel":
                channel = _name(said, role, where)
            elif role == "sample_rate":
                rate = _rate(said, where(role))
            elif role == "unit":
                unit = _name(said, role, where) if said != "" else None
            elif role == "quality":
                flags |= 0 if self._is_good(said) else int(Quality.BAD)
            elif role == "name":
                names = self.pattern.part(_name(said, role, where), where(role))
                machine, site = names.get("machine", machine), names.get("site", site)
                channel = names.get("channel", channel)
        times_at = where("time") if times is not None else ""
        return Attributes(time, times, times_at, machine, site, channel, unit, rate, flags)

    def time(self, said: object, where: str) -> tuple[int, int]:
        """A time in µs since 1970, UTC, and `Quality` flags.

        Raises:
            CodecError: it is none.
        """
        try:
            return self.clock.read(said)
        except CodecError as error:
            raise CodecError(f"{where}: {error}") from error

    def _is_good(self, said: object) -> bool:
        """Whether a device says that a value is good, in text or not; true is not 1."""
        if isinstance(said, str):
            text, number = said.strip().casefold(), number_of(said)
            return any(
                good == number if type(good) in (int, float) else str(good).casefold() == text
                for good in self.good
            )
        return any(isinstance(good, bool) == isinstance(said, bool) and good == said for good in self.good)


def _name(said: object, role: str, where: Callable[[str], str]) -> str:
    """A name; a number is its digits."""
    name = said if type(said) is str else key_text(said)
    if not name:
        raise CodecError(f"{where(role)}: expected a name ({role}), got {shown(said)}")
    return name


def _rate(said: object, where: str) -> float:
    """Hz."""
    hertz = number_of(said) if isinstance(said, str) else said
    if (type(hertz) is int or type(hertz) is float) and 0 < hertz <= FLOAT32_MAX:
        return float(hertz)
    raise CodecError(f"{where}: expected a sample rate in Hz, above 0, got {shown(said)}")
