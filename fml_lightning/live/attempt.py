"""Attempts to make a new model of a machine that drifts: when one is due, and what is said of it.

A model that is made of what a sick machine sends takes the fault for normal. So one is made of confirmed windows
only, whose labels were said since the machine began to drift, and never while it has an alarm, or one pending.
"""

from __future__ import annotations

import shlex
from datetime import UTC, datetime

import msgspec

from fml_lightning.live.alarm_state import AlarmState, is_calm
from fml_lightning.live.records import Outcome
from fml_lightning.live.rules import Rules

AGAIN = 600.0
"""Seconds after an attempt before the next one."""
LONGEST = 86_400.0
"""The same at most: each model that was made and kept back doubles it, as many such models say nothing new."""
TIMES = 10.0
"""How many times as long as an attempt took passes before the next one begins, at least: one of a long spool takes
minutes of a core, and those of a machine that nobody labels come to nothing for ever."""


class Attempt(msgspec.Struct):
    """The newest attempt of a machine, and what the others before have come to."""

    time: int
    """When it began, µs since 1970."""
    newest: dict[str, str]
    """The newest version of the machine's model before, under each name that the site has in the registry."""
    is_open: bool = True
    """Whether it is not known yet what has become of it."""
    outcome: Outcome | None = None
    """Of the newest one that has ended; None: of none."""
    reason: str = ""
    """The sentence that says so."""
    kept_back: int = 0
    """Models that were made since the machine drifts and do not watch."""
    took: float = 0.0
    """Seconds until it was known what has become of the one that has ended last, at most `AGAIN`."""

    @classmethod
    def after(cls, before: Attempt | None, time: int, newest: dict[str, str]) -> Attempt:
        """The next attempt after another one, or the first."""
        if before is None:
            return cls(time, newest)
        return msgspec.structs.replace(before, time=time, newest=newest, is_open=True)

    def end(self, outcome: Outcome, reason: str, time: int) -> bool:
        """Take in what has become of it.

        Args:
            outcome: the word for it.
            reason: the sentence.
            time: when that was known, µs since 1970.

        Returns:
            Whether that is news: no model again, though for a reason in other words, is none.
        """
        is_news = outcome != "failed" or self.outcome != "failed"
        self.is_open, self.outcome, self.reason = False, outcome, reason
        self.kept_back += outcome == "kept back"
        self.took = min(abs(time - self.time) / 1e6, AGAIN)  # it may have ended while nobody watched
        return is_news

    def wait(self) -> float:
        """Seconds after its beginning before the next one."""
        return min(LONGEST, max(AGAIN * 2.0 ** min(self.kept_back, 10), TIMES * self.took))


def is_due(attempt: Attempt | None, drift: str, alarm: AlarmState, now: int) -> bool:
    """Whether a new model is to be tried.

    Args:
        attempt: the newest; None: there was none since the machine drifts.
        drift: how the machine drifts; empty: it does not.
        alarm: the state of its alarm.
        now: µs since 1970.
    """
    if not drift or not is_calm(alarm):
        return False
    if attempt is None:
        return True
    # A clock that was set back is no reason to wait for it.
    return not attempt.is_open and abs(now - attempt.time) >= attempt.wait() * 1e6


def told(attempt: Attempt | None, rules: Rules, site: str, machine: str, since: int | None) -> str:
    """What is to be done about a machine that drifts, or is being done.

    Args:
        attempt: the newest; None: there was none.
        rules: which say who does it.
        site: of the machine.
        machine: its name.
        since: when it began to drift, µs since 1970; None: nobody knows.
    """
    moment = "" if since is None else iso(since)
    if rules.repersonalize == "auto":
        if attempt is not None and attempt.reason:
            return attempt.reason
        return f"if this is its new normal, label it: a new model is made of labels that were said since {moment}"
    if not rules.command:
        return "if this is its new normal, label it, and make a new model with fml personalize"
    arguments = f" --data.since {moment}" if moment and rules.takes_since else ""
    name = shlex.quote(f"{site}/{machine}")
    return f"if this is its new normal, label it, and then: {rules.command} --machine {name}{arguments}"


def iso(time: int) -> str:
    """A time as `--data.since` takes it, to the second, not before it; empty for one of a clock that is far off.

    >>> iso(1_767_225_600_000_001), iso(1_767_225_600_000_000), iso(10**18)
    ('2026-01-01T00:00:01Z', '2026-01-01T00:00:00Z', '')
    """
    try:
        return f"{datetime.fromtimestamp(-(-time // 1_000_000), UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (OverflowError, ValueError, OSError):
        return ""
