"""Stamps: by which a site tells a request that is new from a copy of an old one, or one that comes too late."""

from __future__ import annotations

from pathlib import Path

import msgspec

from fml_lightning.durable import write
from fml_lightning.errors import UserError

MOST_RUNS = 1_000
"""Runs whose stamps are kept, the newest ones; of a run that is forgotten, only stamps above these count."""


class _Run(msgspec.Struct):
    newest: int
    trained: int = 0


class _Kept(msgspec.Struct):
    runs: dict[str, _Run] = {}
    forgotten: int = -1
    """The newest stamp of the runs that are no longer kept."""


class Stamps:
    """The newest stamp that came in each run, and how often the site has trained in it; both outlive a power cut.

    Args:
        path: of the file.

    Raises:
        UserError: the file is there, and cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept = _Kept()
        if path.exists():
            try:
                self._kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
            except (OSError, ValueError) as error:
                raise UserError(
                    f"{path}: expected the stamps that this site has seen, got something else ({error}); restore"
                    " it from a backup, or remove it: then old requests count as new ones once"
                ) from error

    def newest(self, run: str) -> int:
        """The newest stamp of a run; what comes next must be greater. -1 where nothing has come."""
        kept = self._kept.runs.get(run)
        return self._kept.forgotten if kept is None else kept.newest

    def trained(self, run: str) -> int:
        """How often the site has trained in a run."""
        kept = self._kept.runs.get(run)
        return 0 if kept is None else kept.trained

    def accept(self, run: str, stamp: int) -> bool:
        """Take a stamp that is newer than all of its run; whether it is."""
        if stamp <= self.newest(run):
            return False
        kept = self._kept
        kept.runs[run] = _Run(stamp, self.trained(run))
        while len(kept.runs) > MOST_RUNS:
            oldest = min(kept.runs.keys() - {run}, key=lambda each: kept.runs[each].newest)
            kept.forgotten = max(kept.forgotten, kept.runs.pop(oldest).newest)
        self._write()
        return True

    def count(self, run: str) -> None:
        """The site has trained once more in a run that a stamp was accepted of."""
        self._kept.runs[run].trained += 1
        self._write()

    def _write(self) -> None:
        write(self.path, msgspec.json.encode(self._kept))
