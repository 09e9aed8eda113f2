"""The kept session: what a spool remembers of the session that a broker keeps for it, `session.json`.

The broker queues messages for whoever names the session's client id. So the id must be the same after a restart,
and others must not guess it: the file is readable by its owner only.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec

from fml_lightning import durable
from fml_lightning.connectors.spool.folder import SESSION
from fml_lightning.errors import UserError

LARGEST = 10_000
"""Bytes that are read of it, at most."""


class _Content(msgspec.Struct, frozen=True):
    client_id: str | None = None
    begun: datetime | None = None


class KeptSession:
    """The session of a spool's one writer, as its folder remembers it.

    Args:
        folder: the spool's.

    Raises:
        UserError: the file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / SESSION
        try:
            with durable.open_regular(self._file) as file:
                self._content = msgspec.json.decode(file.read(LARGEST), type=_Content)
        except FileNotFoundError:
            self._content = _Content()
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise UserError(
                f"spool {folder}: {SESSION} cannot be read ({error}); restore it, or delete it, after which the"
                " broker knows us no longer, and what waits there for us is lost"
            ) from error

    @property
    def client_id(self) -> str | None:
        """The session's name at the broker; None: it has none yet."""
        return self._content.client_id

    @property
    def begun(self) -> datetime | None:
        """Since when the broker keeps the session; None: nobody knows that it ever did."""
        return self._content.begun

    def name(self, client_id: str) -> None:
        """Remember the session's client id.

        Raises:
            OSError: the disk is full or failing.
        """
        if client_id != self.client_id:  # what is known already needs no room on a full disk
            self._save(_Content(client_id, self.begun))

    def begin(self, time: datetime) -> None:
        """Remember that the broker has begun a new session.

        Raises:
            OSError: the disk is full or failing.
        """
        self._save(_Content(self.client_id, time))

    def _save(self, content: _Content) -> None:
        durable.write(self._file, msgspec.json.encode(content), permissions=0o600)
        self._content = content
