"""What a personal model says of windows, in the terms of an alarm: how sure it is that they are not normal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fml_lightning.errors import UserError
from fml_lightning.objectives import Classification, Objective

THRESHOLD = 0.5
"""Of a score, above which a model takes a window for a fault. A watch compares means of scores with other
numbers (`live.alarm`)."""
NORMAL_NAMES = ("normal", "healthy", "ok")
"""What the class of normal operation is called, in any case of letters, where nobody says which it is."""


@dataclass(frozen=True)
class Reading:
    """What a personal model says of N windows."""

    score: Tensor
    """How sure it is that a window is not normal, in [0, 1], above `THRESHOLD` where it takes it for a fault; NaN
    where it cannot say, (N,)."""
    label: tuple[str, ...]
    """The likeliest class of each window; empty where there are no classes, or the outputs are NaN."""
    confidence: Tensor
    """The probability of that class, (N,); NaN where there is none."""
    outputs: Tensor
    """What a user reads, as `PersonalModel.predict` gives it, (N, …)."""


def labels_of(
    objective: Objective, outputs: Tensor, classes: Sequence[str], left_out: int | None = None
) -> tuple[tuple[str, ...], Tensor]:
    """The likeliest class of each window and its probability; empty and NaN where there is none.

    Args:
        objective: of the model.
        outputs: what its `predict` gives, (N, …).
        classes: their names; a number stands for one that nobody has named.
        left_out: a class that is not looked at, such as the normal one where a fault is asked for.
    """
    if not isinstance(objective, Classification) or outputs.ndim != 2:
        return ("",) * len(outputs), outputs.new_full((len(outputs),), torch.nan)
    names = (*classes, *map(str, range(len(classes), outputs.shape[-1])))
    kept = [k for k in range(outputs.shape[-1]) if k != left_out]
    confidence, best = outputs[:, kept].max(-1)
    known = (~confidence.isnan()).tolist()
    return tuple(
        names[kept[k]] if is_known else "" for k, is_known in zip(best.tolist(), known, strict=True)
    ), confidence


def normal_class(classes: Sequence[str], normal: str) -> int | None:
    """The index of the class of normal operation; None where nothing says which it is.

    >>> normal_class(("Inner race", "Healthy"), "")
    1

    Args:
        classes: their names.
        normal: the name of that class; empty where nobody says, and one of `NORMAL_NAMES` is taken.

    Raises:
        UserError: there is no class of that name.
    """
    if normal:
        if normal not in classes:
            raise UserError(f"normal: expected one of the classes {', '.join(classes)}, got {normal!r}")
        return list(classes).index(normal)
    found = [k for k, name in enumerate(classes) if name.lower() in NORMAL_NAMES]
    return found[0] if len(found) == 1 else None
