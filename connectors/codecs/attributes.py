"""Attributes: what a message says of its values: when, whose, in what unit, at what rate, and how good."""

from __future__ import annotations

import math
from collections.abc import Callable
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


ROLES = ("time", "channel", "machine", "site", "sample_rate", "unit", "quality", "name")
"""What a member of a message may say of values, in the order in which `AttributeReader.read` takes it."""


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
    """Hz; NaN where what is said is none, which is a fault of blocks only."""
    quality: int = 0
    """`Quality` flags."""
    rate_fault: str = ""
    """What is wrong with the sample rate."""

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

    def read(
        self,
        where: Callable[[str], str],
        time: Any = None,
        channel: Any = None,
        machine: Any = None,
        site: Any = None,
        sample_rate: Any = None,
        unit: Any = None,
        quality: Any = None,
        name: Any = None,
    ) -> Attributes:
        """The attributes that roles say.

        Args:
            where: how one writes where a role stands, for the errors.
            time: what stands at the path of the role, raw; None where nothing does, or null.
            channel: likewise, and so on: a text, or a number, which is its digits.
            machine: as `channel`.
            site: as `channel`.
            sample_rate: a number, or a number as text.
            unit: as `channel`, or an empty text, which says nothing.
            quality: anything; what is not in `good` is bad.
            name: a text of `pattern`.

        Raises:
            CodecError: one of them does not say what it should.
        """
        # Most of what is said is plain text, or nothing: each call for it would cost time.
        micros, times, flags, rate = None, None, 0, self.sample_rate
        if time is not None and (times := as_list(time)) is None:
            try:
                micros, flags = self.clock.read(time)
            except CodecError as error:
                raise CodecError(f"{where('time')}: {error}") from error
        if channel is not None and (type(channel) is not str or not channel):
            channel = _name(channel, "channel", where)
        if machine is not None and (type(machine) is not str or not machine):
            machine = _name(machine, "machine", where)
        if site is not None and (type(site) is not str or not site):
            site = _name(site, "site", where)
        rate_fault = ""
        if sample_rate is not None and (rate := _rate(sample_rate)) is None:
            expected = f"expected a sample rate in Hz, above 0, got {shown(sample_rate)}"
            rate, rate_fault = math.nan, f"{where('sample_rate')}: {expected}"
        if unit is not None and type(unit) is not str:
            unit = _name(unit, "unit", where)
        if quality is not None and not self._is_good(quality):
            flags |= int(Quality.BAD)
        if name is not None:
            names = self.pattern.part(_name(name, "name", where), where("name"))
            machine, site = names.get("machine", machine), names.get("site", site)
            channel = names.get("channel", channel)
        times_at = where("time") if times is not None else ""
        return Attributes(micros, times, times_at, machine, site, channel, unit or None, rate, flags, rate_fault)

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


def _rate(said: object) -> float | None:
    """Hz; None if it is none."""
    hertz = number_of(said) if isinstance(said, str) else said
    is_rate = (type(hertz) is int or type(hertz) is float) and 0 < hertz <= FLOAT32_MAX
    return float(hertz) if is_rate else None  # type: ignore[arg-type]
