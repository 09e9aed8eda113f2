"""Where numba keeps compiled code: in a folder that can be written to, named before numba is imported."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def name_cache() -> None:
    """Name the folder, unless the user has named one; numba raises where its own choice is read-only."""
    if "NUMBA_CACHE_DIR" not in os.environ:
        os.environ["NUMBA_CACHE_DIR"] = _writable()


def _writable() -> str:
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = caches / "fml-lightning" / "numba"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return str(folder)
    except (OSError, RuntimeError):  # a service's user may have no home, and no account that would tell of one
        return tempfile.mkdtemp(prefix="fml-lightning-numba-")
