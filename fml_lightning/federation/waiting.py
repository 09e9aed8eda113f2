"""Waiting for sites that cannot answer yet, within a round: too few windows have come, or no line is up."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Self

from tqdm import tqdm

from fml_lightning.executors.work import SiteFailure
from fml_lightning.names import shown

POLL = 0.2
"""Seconds of the shortest pause before sites are asked again."""
LONGEST_POLL = 10.0
"""Seconds of the longest."""
SHARE = 0.1
"""A pause's share of the time waited so far. So a site is found a tenth too late at most, and a wait of a night
costs it a few messages a minute."""
TOLD = 5
"""Most sites whose reasons are told."""


class Waiting:
    """Pauses until time is over; meanwhile one line on the screen says what is missing.

    Args:
        max_wait: seconds from the first pause on.
    """

    def __init__(self, max_wait: float) -> None:
        self.max_wait = max_wait
        self._ends: float | None = None
        self._line: tqdm[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._line is not None:
            self._line.close()

    def pause(self, missing: str) -> bool:
        """Pause, longer the longer it takes; False, at once, if the time is over."""
        now = time.monotonic()
        if self._ends is None:
            self._ends = now + self.max_wait
        left = self._ends - now
        if left <= 0:
            return False
        if self._line is None:
            self._line = tqdm(bar_format="waiting for sites, {elapsed}: {desc}", leave=False)
        self._line.set_description_str(missing)
        time.sleep(min(max(POLL, min(SHARE * (self.max_wait - left), LONGEST_POLL)), left))
        return True


def reasons(failures: Sequence[SiteFailure]) -> str:
    """What the sites said, each after its name.

    >>> reasons([SiteFailure("north", 0, "north: 3 of 4 windows"), SiteFailure("south", 0, "it is not connected")])
    'north: 3 of 4 windows; south: it is not connected'
    """
    if not failures:
        return "there is no site"
    told = [_reason(failure) for failure in failures[:TOLD]]
    return "; ".join([*told, *([f"and {len(failures) - TOLD} more"] if len(failures) > TOLD else [])])


def _reason(failure: SiteFailure) -> str:
    name = f"{shown(failure.site)}: "
    return failure.reason if failure.reason.startswith(name) else name + failure.reason
