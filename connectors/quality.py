"""Quality: what is doubtful about a reading, as flags."""

from __future__ import annotations

import enum

DAY = 86_400_000_000
"""µs."""
AHEAD, BEHIND = DAY, 30 * DAY
"""µs that a device's time may be ahead of the time it was received, or behind it, before it is flagged. A clock
may be in the wrong time zone; a device without a line may store what it measures for weeks."""


class Quality(enum.IntFlag):
    """What is doubtful about a reading; 0 is a good one."""

    RETAINED = 1
    """The broker had kept it: it may be old."""
    IMPLAUSIBLE_TIME = 2
    """The device's time is over a day ahead of the time it was received, or over 30 days behind: a wrong unit, a
    wrong clock, 1970, the future."""
    NOT_FINITE = 4
    """A sample is NaN or infinite."""
    LATE = 8
    """Older than readings of the same channel that came before it, or historical as the device says: stored there
    and sent later, or out of order."""
    NO_DEVICE_TIME = 16
    """The device sends no time; `time` is when it was received."""
    STUCK = 32
    """A block all of whose samples are equal."""
    BAD = 64
    """The device itself says that it is not good."""
    AMBIGUOUS_TIME = 128
    """The device sends local time without an offset, and that hour is there twice in this night, or not at all."""

    @property
    def word(self) -> str:
        """A flag's name as counts and metrics have it.

        >>> Quality.IMPLAUSIBLE_TIME.word
        'implausible_time'
        """
        return str(self.name).lower()

    @property
    def words(self) -> str:
        """The same in sentences and tables.

        >>> Quality.IMPLAUSIBLE_TIME.words
        'implausible time'
        """
        return self.word.replace("_", " ")


DOUBTFUL = tuple(flag for flag in Quality if flag is not Quality.NO_DEVICE_TIME)
"""The flags that are counted as doubtful, one by one: that a device sends no time is no doubt."""
