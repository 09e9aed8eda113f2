"""Name patterns: how one text, such as a tag `L1.Pump.Speed`, names a machine and a channel."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from fml_lightning.connectors.codecs.codec import CodecError
from fml_lightning.connectors.codecs.numbers import shown
from fml_lightning.errors import UserError

NAMES: Final = ("site", "machine", "channel")
"""What a pattern has places for."""


@dataclass(frozen=True)
class NamePattern:
    """A text with places for names: `{machine}.{channel}`.

    Every place but the last takes as much as it can.

    >>> NamePattern("{machine}.{channel}").part("L1.Pump.Speed", "id")
    {'channel': 'Speed', 'machine': 'L1.Pump'}
    """

    text: str

    def __post_init__(self) -> None:
        *texts, _ = self._texts
        if not self.places or not {*self.places} <= {*NAMES} or len({*self.places}) < len(self.places):
            raise UserError(f"pattern {self.text!r}: expected {{site}}, {{machine}}, {{channel}} in it, each once")
        if "" in texts[1:]:
            raise UserError(f"pattern {self.text!r}: expected something between its places, such as a dot")

    @cached_property
    def _texts(self) -> list[str]:
        """What stands before, between and after the places."""
        return re.split(r"\{\w*\}", self.text)

    @cached_property
    def places(self) -> list[str]:
        """The names that it has places for, in order."""
        return re.findall(r"\{(\w*)\}", self.text)

    def part(self, text: str, where: str) -> Mapping[str, str]:
        """The names in a text.

        Args:
            text: what the payload holds.
            where: where it stands, for the error.

        Raises:
            CodecError: the text is not so.
        """
        first, *between, last = self._texts
        names: dict[str, str] = {}
        if text.startswith(first) and text.endswith(last) and len(text) > len(first) + len(last):
            rest = text[len(first) : len(text) - len(last)]
            for place, mark in zip(reversed(self.places), reversed(["", *between]), strict=True):
                rest, _, names[place] = rest.rpartition(mark) if mark else ("", "", rest)
        if not names or not all(names.values()):
            raise CodecError(f"{where}: expected a name such as {self.text}, got {shown(text)}")
        return names
