"""The normal windows of support and query sets, from which some learners take statistics."""

from __future__ import annotations

from torch import Tensor

from fml_lightning.errors import UserError
from fml_lightning.types import Examples


def normal_windows(examples: Examples, normal: int, learner: str) -> Tensor:
    """Which windows of each task are of the normal class, (T, N).

    Args:
        examples: with labels (T, N).
        normal: the label of the normal class.
        learner: whose name the error begins with.

    Raises:
        UserError: a task has none.
    """
    own = examples.y == normal
    if examples.mask is not None:
        own = own & examples.mask
    if not own.any(1).all():
        task = int((~own.any(1)).nonzero()[0])
        raise UserError(
            f"{learner}: expected windows of the normal class {normal}, task {task} has none; let every"
            " support set show some"
        )
    return own
