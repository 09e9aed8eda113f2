"""Name patterns: how a text that names several things is parted, `L1.Pump.Speed` by `{machine}.{channel}`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from fml_lightning.connectors.codecs.codec import CodecError
from fml_lightning.connectors.codecs.numbers import shown
from fml_lightning.errors import UserError

PLACES = ("site", "machine", "channel")
"""What a pattern may name."""
_PLACE = re.compile(r"\{(\w*)\}")


@dataclass(frozen=True)
class NamePattern:
    """Places for names with text between them; every place but the last takes as much as it can.

    >>> NamePattern("{machine}.{channel}").part("L1.Pump.Speed")
    {'machine': 'L1.Pump', 'channel': 'Speed'}
    """

    text: str

    def __post_init__(self) -> None:
        places, between = self._places, self._texts[1:-1]
        if not places or not set(places) <= set(PLACES) or len(set(places)) < len(places) or "" in between:
            raise UserError(
                f"pattern {self.text!r}: expected {{site}}, {{machine}}, {{channel}}, each at most once, with text"
                " between them"
            )

    def part(self, name: str) -> Mapping[str, str]:
        """What the text names, by place; no name is empty.

        Raises:
            CodecError: the text is not of this pattern.
        """
        first, *between = self._texts
        last = between.pop()
        start, end = len(first), len(name) - len(last)
        found: list[str] = []
        if name.startswith(first) and name.endswith(last):
            for text in reversed(between):  # from the end, as what comes first takes all it can
                here = name.rfind(text, start, end - 1)
                if here < 0:
                    break
                found.append(name[here + len(text) : end])
                end = here
            else:
                found.append(name[start:end])
        if len(found) < len(self._places) or "" in found:
            raise CodecError(f"name: expected one such as {self.text}, got {shown(name)}")
        return dict(zip(self._places, reversed(found), strict=True))

    @cached_property
    def _texts(self) -> list[str]:
        """The texts before, between and after the places."""
        return _PLACE.split(self.text)[::2]

    @cached_property
    def _places(self) -> list[str]:
        return _PLACE.split(self.text)[1::2]
