"""The contract of a connector that fills a spool."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol


class LiveSpool(Protocol):
    """A connector that records into a spool while it is open, such as `MQTT`."""

    @property
    def folder(self) -> Path:
        """Folder of the spool."""
        ...

    def __enter__(self) -> Any:
        """Begin to record."""
        ...

    def __exit__(self, *error: object) -> None:
        """End recording; nothing that was acknowledged is lost."""
        ...

    def check(self) -> None:
        """Raise a `UserError` if the recording cannot go on."""
        ...
