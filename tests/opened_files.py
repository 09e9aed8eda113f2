"""A Python module that notes what it opens: `python -m opened_files NOTES FOLDER MODULE ARGUMENTS...`.

NOTES gets a line for every file or folder below FOLDER that is opened or listed, whether that succeeds or not.
"""

from __future__ import annotations

import os
import runpy
import sys


def note(event: str, details: tuple[object, ...]) -> None:
    """Note a path; see https://docs.python.org/3/library/audit_events.html."""
    if event in ("open", "os.listdir", "os.scandir") and isinstance(details[0], str | bytes | os.PathLike):
        path = os.path.abspath(os.fsdecode(details[0]))
        if path.startswith(below):
            os.write(kept, f"{path}\n".encode(errors="surrogateescape"))


if __name__ == "__main__":
    _, notes, folder, module, *arguments = sys.argv
    below = os.path.join(os.path.realpath(folder), "")
    kept = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    sys.argv = [module, *arguments]
    sys.addaudithook(note)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
