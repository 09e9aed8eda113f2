"""Sites whose spools cannot be read now: why, and when each is tried again."""

from __future__ import annotations

import logging
import time
from typing import NamedTuple

from fml_lightning.names import shown

log = logging.getLogger(__name__)

AGAIN = 5.0
"""Seconds after which a spool that could not be read is tried again."""


class Unread:
    """The sites whose spools cannot be read; what befalls them is logged once."""

    def __init__(self) -> None:
        self._sites: dict[str, _Unread] = {}

    def is_waiting(self, site: str) -> bool:
        """Whether a site's spool cannot be read, and is not to be tried again yet."""
        unread = self._sites.get(site)
        return unread is not None and time.monotonic() < unread.again

    def add(self, site: str, why: str, again: float | None = None) -> None:
        """A site's spool cannot be read.

        Args:
            site: whose.
            why: a sentence.
            again: seconds after which it is tried again; None: `AGAIN`.
        """
        if self.why(site) != why:
            log.error("site %s is not scored: %s", shown(site), why)
        self._sites[site] = _Unread(why, time.monotonic() + (AGAIN if again is None else again))

    def remove(self, site: str) -> None:
        """A site's spool can be read."""
        if self._sites.pop(site, None) is not None:
            log.warning("site %s: its spool can be read now", shown(site))

    def why(self, site: str) -> str | None:
        """Why a site's spool cannot be read; None if it can."""
        unread = self._sites.get(site)
        return None if unread is None else unread.why

    def sentences(self) -> list[str]:
        """One for each of the sites."""
        return [f"site {shown(site)} is not scored: {unread.why}" for site, unread in self._sites.copy().items()]


class _Unread(NamedTuple):
    why: str
    again: float
    """When it is tried again, monotonic seconds."""
