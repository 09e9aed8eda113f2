"""The alarm of one machine: raised and cleared by its windows' scores, acknowledged and shelved by people.

Scores are averaged, then compared with two limits (a deadband), and the outcome must last (on and off delay), as
in ISA-18.2 and OPC UA part 9: https://reference.opcfoundation.org/Core/Part9/v105/docs/. Time is that of the data
(`DataClock`): no clock that is set, and no gap, raises or clears an alarm.
"""

from __future__ import annotations

import math

import msgspec

from fml_lightning.errors import UserError
from fml_lightning.live.alarm_state import AlarmState, is_calm, is_raised
from fml_lightning.live.event import Event, What

MOST_CHANGES = 200
"""Changes of a machine that are remembered, the newest."""
LONGEST_MEAN = 3600.0
"""Seconds that scores can be averaged over: each of them is kept, and looked at with every window."""
LONGEST_SHELF = 7 * 86_400.0
"""Seconds for which alarms can be shelved: a shelf that nobody remembers hides a machine."""


class AlarmRule(msgspec.Struct, frozen=True):
    """When an alarm is raised and cleared."""

    raise_at: float = 0.8
    """Mean score from which on a machine may be sick, in (0, 1]."""
    clear_at: float = 0.3
    """Mean score below which it may be healthy again, above 0, which no score is below, and below `raise_at`."""
    mean: float = 1.0
    """Seconds of data that scores are averaged over, at most `LONGEST_MEAN`; at least one window."""
    on_delay: float = 5.0
    """Seconds of data that it must last before the alarm is raised."""
    off_delay: float = 60.0
    """Seconds of data that it must be over before the alarm is cleared."""
    latch: bool = False
    """Keep an alarm that is over until somebody has acknowledged it."""

    def __post_init__(self) -> None:
        if not 0 < self.clear_at < self.raise_at <= 1:
            raise UserError(
                f"alarm: expected 0 < clear < raise <= 1, got raise {self.raise_at:g} and clear {self.clear_at:g}"
            )
        for name in ("mean", "on_delay", "off_delay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"alarm.{name}: expected a time of at least 0 s, got {getattr(self, name):g}")
        if self.mean > LONGEST_MEAN:
            raise UserError(
                f"alarm.mean: expected at most {LONGEST_MEAN:g} s, got {self.mean:g}; see on_delay for longer ones"
            )


class Alarm(msgspec.Struct):
    """The state of a machine's alarm, and its history.

    `normal` becomes `pending` when the mean score reaches `raise_at`, and `firing` when it has not fallen below
    `clear_at` for `on_delay`; `firing` becomes `recovering` when it falls below `clear_at`, and `normal` when it
    has not reached `raise_at` for `off_delay`.
    """

    state: AlarmState = "normal"
    since: float = 0.0
    """Seconds of data at which the state was pending or recovering first."""
    mean: float | None = None
    """Of the last scores; None before the first."""
    recent: list[tuple[float, float]] = []
    """Seconds of data and score of each window of this mean."""
    fault: str = ""
    """What the alarm was raised for, or the likeliest fault while it is pending."""
    raised: int | None = None
    """When the newest alarm was raised, µs since 1970."""
    acknowledged: bool = False
    shelved_until: int | None = None
    """µs since 1970."""
    shelved_reason: str = ""
    number: int = 0
    """Of the newest event."""
    changes: list[Event] = []
    """The newest events, oldest first."""

    @property
    def is_raised(self) -> bool:
        """Whether there is an alarm that is not cleared."""
        return is_raised(self.state)

    @property
    def is_calm(self) -> bool:
        """Whether there is no alarm, and none pending."""
        return is_calm(self.state)

    def add(self, rule: AlarmRule, seconds: float, end: int, score: float, fault: str) -> Event | None:
        """Take in a window's score.

        Args:
            rule: when alarms are raised and cleared.
            seconds: of data, as `DataClock.add` returned them for this window.
            end: of the window, µs since 1970: the time of a change.
            score: in [0, 1]; not a number: the window says nothing.
            fault: the likeliest fault of the window; empty if there is none.

        Returns:
            What has changed, if an alarm was raised or cleared.
        """
        if math.isnan(score):
            return None
        newest = [(at, each) for at, each in self.recent if seconds - at < rule.mean]
        self.recent = [*newest, (seconds, score)]
        self.mean = sum(each for _, each in self.recent) / len(self.recent)
        if self.mean >= rule.raise_at:
            self.fault = fault or self.fault
            if self.state == "normal":
                self.state, self.since = "pending", seconds
            elif self.state == "recovering":
                self.state = "firing"
        elif self.mean < rule.clear_at:
            if self.state == "pending":
                self.state, self.fault = "normal", ""
            elif self.state == "firing":
                self.state, self.since = "recovering", seconds
        if self.state == "pending" and seconds - self.since >= rule.on_delay:
            self.state, self.raised, self.acknowledged = "firing", end, False
            return self.note(end, "raised", self.fault or f"mean score {self.mean:.2f}")
        return self._end(rule, seconds, end)

    def _end(self, rule: AlarmRule, seconds: float, time: int) -> Event | None:
        """Clear the alarm, if it has been over for long enough and nobody is asked for."""
        is_over = self.state == "recovering" and seconds - self.since >= rule.off_delay
        if not is_over or (rule.latch and not self.acknowledged):
            return None
        self.state, self.fault = "normal", ""
        return self.note(time, "cleared", "")

    def acknowledge(self, rule: AlarmRule, seconds: float, time: int, who: str) -> list[Event]:
        """Note that somebody knows of the alarm; nothing, if there is none or it is known already.

        Args:
            rule: which says whether an alarm that is over waits for this.
            seconds: of data, by now.
            time: when it was said, µs since 1970.
            who: said it.
        """
        if not self.is_raised or self.acknowledged:
            return []
        self.acknowledged = True
        cleared = self._end_after(rule, seconds, time, self.note(time, "acknowledged", f"by {who}"))
        return cleared

    def _end_after(self, rule: AlarmRule, seconds: float, time: int, first: Event) -> list[Event]:
        ended = self._end(rule, seconds, time)
        return [first] if ended is None else [first, ended]

    def shelve(self, time: int, until: int | None, reason: str, who: str) -> list[Event]:
        """Shelve alarms of the machine, or, with None, end that.

        Args:
            time: when it was said, µs since 1970.
            until: µs since 1970.
            reason: why.
            who: said it.
        """
        if until is None:
            if self.shelved_until is None:
                return []
            self.shelved_until, self.shelved_reason = None, ""
            return [self.note(time, "unshelved", f"by {who}" if who else "its time is over")]
        self.shelved_until, self.shelved_reason = until, reason
        return [self.note(time, "shelved", f"{reason} (by {who})")]

    def note(self, time: int, what: What, reason: str) -> Event:
        """Give an event its number, and remember it."""
        self.number += 1
        event = Event(self.number, time, what, reason)
        self.changes = [*self.changes, event][-MOST_CHANGES:]
        return event
