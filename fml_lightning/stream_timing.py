"""How far apart in time what a stream brings may be, and yet belong together."""

from __future__ import annotations

import msgspec

from fml_lightning.errors import UserError

MAX_LATENESS = 604_800.0
"""Seconds after which a reading is too late to count, unless a user says otherwise: a week."""
MAX_AGE = 3600.0
"""Seconds for which a value holds, unless a user says otherwise."""
WITHIN = 1.0
"""Seconds that readings of one row may be apart, unless a user says otherwise."""
LONGEST = 1e11
"""Seconds for which a setting without end is kept, as JSON has no infinity: longer than any clock's time."""


class StreamTiming(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a fleet of spools trains with, a personal model's file keeps, and a watch cuts by.

    Raises:
        UserError: a time is negative, or no number.
    """

    max_lateness: float = MAX_LATENESS
    """After its own time that a reading may be received; later ones are left out."""
    max_age: float = MAX_AGE
    """For which a value of an input holds."""
    within: float = WITHIN
    """That single numbers of one row may be apart."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            seconds = getattr(self, name)
            if not seconds >= 0:
                raise UserError(f"{name}: expected seconds, 0 or more, got {seconds}")
            msgspec.structs.force_setattr(self, name, min(float(seconds), LONGEST))

    def overridden(
        self, max_lateness: float | None = None, max_age: float | None = None, within: float | None = None
    ) -> StreamTiming:
        """The same, but for what is given.

        >>> StreamTiming(within=5.0).overridden(max_age=60.0)
        StreamTiming(max_lateness=604800.0, max_age=60.0, within=5.0)
        """
        return StreamTiming(
            self.max_lateness if max_lateness is None else max_lateness,
            self.max_age if max_age is None else max_age,
            self.within if within is None else within,
        )
