"""The working folder as a place to import from: `class_path: mynet.MyNet` finds ./mynet.py."""

from __future__ import annotations

import os
import sys


def working_folder_last() -> None:
    """Let imports find modules in the working folder, after every other place.

    The console script does not look there at all, and `python -m` looks there first, where a user's statistics.py
    or torch/ would take the place of the library's. Nothing is done where Python was told to keep the folder out
    (`python -P`, PYTHONSAFEPATH).
    """
    if sys.flags.safe_path:
        return
    try:
        folder = os.getcwd()
    except FileNotFoundError:  # it was removed
        return
    sys.path[:] = [place for place in sys.path if place not in ("", folder)] + [folder]
