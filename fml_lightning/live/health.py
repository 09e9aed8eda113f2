"""Health: one word for a machine, of NAMUR NE 107, and why.

https://www.namur.net/en/recommendations-and-worksheets/current-nena.html
"""

from __future__ import annotations

from datetime import UTC, datetime

from fml_lightning.live.alarm_state import AlarmState

NORMAL = "NORMAL"
CHECK_FUNCTION = "CHECK_FUNCTION"
OFF_SPEC = "OFF_SPEC"
MAINTENANCE_REQUIRED = "MAINTENANCE_REQUIRED"
FAILURE = "FAILURE"
WORST_FIRST = (FAILURE, MAINTENANCE_REQUIRED, OFF_SPEC, CHECK_FUNCTION, NORMAL)
"""The words, as machines are listed."""


def health(
    alarm: AlarmState,
    fault: str,
    drift: str,
    missing: str,
    version: str,
    doubt: str,
    shelved_until: int | None,
    shelved_reason: str,
) -> tuple[str, str]:
    """The word and its reason; the reason is empty if the word is NORMAL.

    - FAILURE: an alarm is firing.
    - MAINTENANCE_REQUIRED: an alarm is firing and the model that raised it is doubtful; or it is over, and not yet
      cleared.
    - OFF_SPEC: the signal drifts, and there is no alarm.
    - CHECK_FUNCTION: no data come, or nothing can be scored, or no model watches; or what would be one of the
      words above is shelved.

    Args:
        alarm: the state of the machine's alarm.
        fault: what the alarm is for.
        drift: how the signal drifts; empty if it does not.
        missing: why no scores come, such as that no data do; empty if they do, or there is no model.
        version: of the model; empty if there is none.
        doubt: why the model is doubtful; empty if it is not.
        shelved_until: µs since 1970; None if alarms are not shelved.
        shelved_reason: why they are.
    """
    word, reason = NORMAL, ""
    found = fault or "a fault"
    if alarm == "firing" and doubt:
        word, reason = MAINTENANCE_REQUIRED, f"{found}, says a doubtful model: {doubt}"
    elif alarm == "firing":
        word, reason = FAILURE, found
    elif alarm == "recovering":
        word, reason = MAINTENANCE_REQUIRED, f"{found} is over, and the alarm not yet cleared"
    elif drift:
        word, reason = OFF_SPEC, drift
    if word != NORMAL and shelved_until is not None:
        until = datetime.fromtimestamp(shelved_until / 1e6, UTC)
        word, reason = CHECK_FUNCTION, f"{reason}; shelved until {until:%Y-%m-%d %H:%M} UTC: {shelved_reason}"
    missing = missing or ("" if version else "no model watches it; make one with fml personalize")
    if not missing:
        return word, reason
    return (CHECK_FUNCTION, missing) if word == NORMAL else (word, f"{reason}; {missing}")
