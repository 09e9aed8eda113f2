"""What a follower has read and not cut yet, as plain types, by which another one goes on."""

from __future__ import annotations

import msgspec

from fml_lightning.datamodules.spool.rows_cutter import RowsCutterState
from fml_lightning.datamodules.spool.stream_cutter import StreamCutterState


class GroupState(msgspec.Struct, frozen=True):
    """The state of a cutter."""

    key: str
    """How it cuts, as JSON."""
    cutter: StreamCutterState | RowsCutterState


class FollowerState(msgspec.Struct, frozen=True):
    """The state of a follower after a message."""

    position: int
    """Sequence number of that message."""
    groups: list[GroupState]
    cut_as: dict[str, str]
    """The key of each machine's cutter."""
    told: dict[str, dict[str, float]]
    """What is known of each machine beside what it sends."""
