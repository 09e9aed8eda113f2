"""Where numba keeps compiled code: in a folder that can be written to, named before numba is imported."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def name_cache() -> None:
    """Name the folder, unless the user has named one; numba raises where its own choice is read-only."""
    os.environ.setdefault("NUMBA_CACHE_DIR", _writable())


def _writable() -> str:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "fml-lightning" / "numba"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            return str(home)
    except OSError:
        return tempfile.mkdtemp(prefix="fml-lightning-numba-")
