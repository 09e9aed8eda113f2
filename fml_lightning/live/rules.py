"""The rules by which machines are judged."""

from __future__ import annotations

import msgspec

from fml_lightning.live.alarm import AlarmRule
from fml_lightning.live.drift import DriftRule


class Rules(msgspec.Struct, frozen=True):
    """By what machines are judged."""

    alarm: AlarmRule = AlarmRule()
    drift: DriftRule = DriftRule()
    ask: bool = True
    """Whether a machine that drifts is to be said to need a new model."""
