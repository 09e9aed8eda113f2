"""What a stream cutter has cut and not cut yet, as bytes: so that a watch goes on where it was ended.

A cutter that began anew in the middle of a stream would lay its windows elsewhere. Its state is written by pickle,
which can hold any code: so nothing but the classes below is taken from it when it is read.
"""

from __future__ import annotations

import io
import pickle
import zlib
from typing import Any

from fml_lightning.datamodules.spool.left_out import LeftOut, Reason
from fml_lightning.datamodules.spool.rows_cutter import RowsCutter
from fml_lightning.datamodules.spool.stream_cutter import Cut, StreamCutter
from fml_lightning.errors import UserError

OWN = "fml_lightning.preprocessing.", "fml_lightning.datamodules.spool."
"""Begins of modules whose classes may be in a state."""
OTHERS = {
    ("array", "_array_reconstructor"),
    ("array", "array"),
    ("collections", "OrderedDict"),
    ("collections", "deque"),
    ("fractions", "Fraction"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
}
"""Modules and names of other classes, and functions that make them, that may be in a state."""
RESAMPLING = "resampling"
"""Stands for the method by which the cutter's preprocessing resamples."""


def dumps(cutter: StreamCutter) -> bytes:
    """The state of a cutter."""
    said = {key: tuple(pair) for key, pair in cutter.inputs.said.items()}
    counts = {machine: {why.name: n for why, n in left.items()} for machine, left in cutter.left_out.items()}
    awaiting = {
        machine: [tuple(window) for window in windows] for machine, windows in cutter.awaiting.items() if windows
    }
    rows = cutter.open if isinstance(cutter, RowsCutter) else {}
    stream = io.BytesIO()
    _Writer(stream, pickle.HIGHEST_PROTOCOL).dump((cutter.cutters, awaiting, cutter.units, said, counts, rows))
    body = stream.getvalue()
    return zlib.crc32(body).to_bytes(4, "big") + body


def restore(cutter: StreamCutter, state: bytes) -> None:
    """Give a cutter, which has cut nothing, a state that `dumps` wrote of one with the same preprocessing.

    Raises:
        UserError: it is none, or it is damaged.
    """
    body = state[4:]
    if zlib.crc32(body).to_bytes(4, "big") != state[:4]:
        raise UserError("the watch's snapshot is damaged; move its folder away to begin anew")
    try:
        cutters, awaiting, units, said, counts, rows = _Reader(io.BytesIO(body), cutter).load()
    except Exception as error:  # whatever a state of another version, or a forged one, makes of the reader
        raise UserError(
            f"the watch's snapshot is not one of this version ({type(error).__name__}: {error}); watch with the"
            " version that wrote it, or move its folder away to begin anew"
        ) from error
    cutter.cutters, cutter.units, cutter.inputs.said = cutters, units, said
    if isinstance(cutter, RowsCutter):
        cutter.open = rows
    cutter.awaiting = {machine: [Cut(*window) for window in windows] for machine, windows in awaiting.items()}
    cutter.left_out = {
        machine: LeftOut({Reason[why]: count for why, count in left.items()}) for machine, left in counts.items()
    }


class _Writer(pickle.Pickler):
    def persistent_id(self, obj: Any) -> str | None:
        return RESAMPLING if getattr(obj, "__name__", "") == RESAMPLING and callable(obj) else None


class _Reader(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, cutter: StreamCutter) -> None:
        super().__init__(stream)
        self._cutter = cutter

    def persistent_load(self, pid: Any) -> Any:
        if pid != RESAMPLING:
            raise pickle.UnpicklingError(f"unknown reference {pid!r}")
        return self._cutter.preprocessing.resampling

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name) if module.startswith(OWN) or (module, name) in OTHERS else None
        is_own_class = isinstance(found, type) and found.__module__.startswith(OWN)
        if found is None or not (is_own_class or (module, name) in OTHERS):
            raise pickle.UnpicklingError(f"{module}.{name} is nothing that a cutter has")
        return found
