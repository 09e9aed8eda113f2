"""Exceptions of code that is not ours: a user's module named in YAML, a logger's package, Lightning."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path
from types import FrameType

NOT_THEIRS = ("jsonargparse", "fml_lightning")
"""Modules whose exceptions are not the user's code's."""
OURS = Path(__file__).parents[2]


def is_from_lightning(error: Exception) -> bool:
    """Whether Lightning itself raised, which means that it refuses the configuration."""
    frame = _raising_frame(error)
    return frame is not None and _module(frame).startswith(("lightning.", "torch.optim"))


def raised_by_user(error: BaseException) -> str | None:
    """What a module or class of the user's own says as it fails: in which line, and why; None if none raised."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    own = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if not _is_library(frame)]
    frame = _raising_frame(error)
    if not own or frame is None or _module(frame).startswith(NOT_THEIRS):
        return None
    each, line = own[-1]
    return f"{each.f_code.co_filename}, line {line}, in {each.f_code.co_name}: {_why(error)}"


def raised_outside(error: BaseException) -> str | None:
    """What code that the user named, their own or a package's, says as it fails: who, and why.

    Args:
        error: raised while such code was imported or called.

    Returns:
        One sentence; None if our own code or the parser raised.
    """
    if said := raised_by_user(error):
        return said
    frame = _raising_frame(error)
    if frame is None or _module(frame).startswith(NOT_THEIRS):
        return None
    if _module(frame).startswith("lightning.pytorch.trainer."):  # it refuses an argument, and says which
        return f"trainer: {' '.join(str(error).split())}"
    return f"{_module(frame)}: {_why(error)}"


def _why(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'it gives no reason'}"


def _raising_frame(error: BaseException) -> FrameType | None:
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return frames[-1] if frames else None


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _is_library(frame: FrameType) -> bool:
    """Whether a frame's file belongs to Python, to an installed package or to this one."""
    file = Path(frame.f_code.co_filename)
    places = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
    return not file.is_absolute() or any(place in file.parents for place in (*places, OURS, OURS.resolve()))
