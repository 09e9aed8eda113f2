"""The normal windows of support and query sets, from which learners and objectives take statistics."""

from __future__ import annotations

from torch import Tensor

from fml_lightning.errors import UserError


def normal_windows(labels: Tensor, counted: Tensor | None, normal: int, whose: str) -> Tensor:
    """Which labels of each task are the normal class, and count, (T, N).

    Args:
        labels: of windows or tokens, (T, N).
        counted: False for padding and for labels that count for nothing, (T, N); None where all count.
        normal: the label that a learner or objective takes for the normal class.
        whose: the name of that learner or objective, with which the error begins.

    Raises:
        UserError: a task has none. If all that a task has are of another class, the data say that this is normal.
    """
    own = labels == normal
    if counted is not None:
        own = own & counted
    if own.any(1).all():
        return own
    task = int((~own.any(1)).nonzero()[0])
    shown = labels[task] if counted is None else labels[task][counted[task]]
    others = sorted(set(shown.tolist()))
    if len(others) == 1:
        raise UserError(
            f"{whose}: expected windows of the normal class {normal}, task {task} shows class {others[0]} alone;"
            f" let {whose} take the class for normal that the data take (episodes.normal), here {others[0]}"
        )
    raise UserError(
        f"{whose}: expected windows of the normal class {normal}, task {task} has none; let every support set"
        " show some"
    )
