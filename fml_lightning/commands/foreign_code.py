"""Exceptions of code that is not ours: a user's module named in YAML, a logger's package, Lightning."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path
from types import FrameType

OURS = str(Path(__file__).resolve().parent.parent)


def is_from_lightning(error: Exception) -> bool:
    """Whether Lightning itself raised, which means that it refuses the configuration."""
    frame = _raising_frame(error)
    return frame is not None and _module(frame).startswith(("lightning.", "torch.optim"))


def raised_outside(error: BaseException) -> str | None:
    """What a class or module that the user named says as it fails: who, in which line, and why.

    Args:
        error: raised while such code was imported or called.

    Returns:
        One sentence; None if our own code or the parser raised, so that there is nothing to say of the user's.
    """
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    frame = _raising_frame(error)
    if frame is None or _module(frame).startswith(("jsonargparse", "fml_lightning")):
        return None
    why = " ".join(str(error).split()) or "it gives no reason"
    called = [
        (each, line)
        for each, line in traceback.walk_tb(error.__traceback__)
        if not _module(each).startswith(("jsonargparse", "fml_lightning", "lightning.", "importlib", "<frozen"))
    ]
    own = [(each, line) for each, line in called if not _is_library(each)]
    if own:
        each, line = own[-1]
        return f"{each.f_code.co_filename}, line {line}, in {each.f_code.co_name}: {type(error).__name__}: {why}"
    return f"{_module(frame)}: {type(error).__name__}: {why}"


def _raising_frame(error: BaseException) -> FrameType | None:
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return frames[-1] if frames else None


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _is_library(frame: FrameType) -> bool:
    """Whether a frame's file belongs to Python or to an installed package."""
    file = frame.f_code.co_filename
    places = {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}
    return file.startswith("<") or any(file.startswith(f"{place}/") for place in places if place)
