"""The rules by which machines are judged."""

from __future__ import annotations

from typing import Literal

import msgspec

from fml_lightning.live.alarm import AlarmRule
from fml_lightning.live.drift import DriftRule


class Rules(msgspec.Struct, frozen=True):
    """By what machines are judged."""

    alarm: AlarmRule = AlarmRule()
    drift: DriftRule = DriftRule()
    repersonalize: Literal["never", "ask", "auto"] = "ask"
    """What is done about a machine that drifts: nothing; it is said how to make a new model; or one is made of
    labels that were said since it drifts, and watches if it is better."""
    command: str = "fml personalize"
    """By which a model is made; empty: nobody knows more than that fml personalize makes it."""
    takes_since: bool = True
    """Whether the command can be told, by `--data.since`, which labels are too old."""
