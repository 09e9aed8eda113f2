"""The contract of every objective: a loss and metrics, per task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from fml_lightning.description import kept_arguments
from fml_lightning.errors import UserError
from fml_lightning.objectives.metrics import TaskMetrics
from fml_lightning.types import Episode, Examples


class Objective(ABC):
    """A loss and metrics, both per task.

    Outputs are what the network says of T tasks' windows, (T, N, …). An objective refuses outputs and targets that
    are of another kind than it learns, in `loss` and in `metrics`: so in the first step of every training, and in
    every evaluation.
    """

    metric: str
    """The metric that decides (in tables and charts, and which checkpoint is best): one that `metrics` reports."""
    higher_is_better: bool
    """Whether more of `metric` is better."""
    own_metrics: ClassVar[Mapping[str, bool]] = {}
    """The metrics that every instance reports: name → whether more is better."""
    in_unit_of_target: ClassVar[frozenset[str]] = frozenset()
    """Which of them are in the target's unit, such as cycles; the others have none."""
    takes_limit: ClassVar[bool] = False
    """Whether `score` compares numbers with a limit."""
    quantity: ClassVar[str] = ""
    """What follows a number that it estimates, and the number's unit, such as `left`."""
    calibrates: bool = False
    """Whether `calibrate` returns something; then learners also run the network on the support sets for it."""

    @abstractmethod
    def loss(self, outputs: Tensor, examples: Examples) -> Tensor:
        """Mean loss of each task: (T, N, …) → (T,).

        Raises:
            UserError: outputs or targets are not what this objective learns.
        """

    @abstractmethod
    def metrics(self, outputs: Tensor, examples: Examples, calibration: Tensor | None = None) -> dict[str, Tensor]:
        """Metrics of each task: (T, N, …) → name → (T,).

        Raises:
            UserError: outputs or targets are not what this objective judges, or `metric` is undefined for a task.
        """

    def calibrate(self, outputs: Tensor, support: Examples) -> Tensor | None:
        """What `metrics` and `predict` need to know of each task's support set, such as a threshold, (T, …).

        Args:
            outputs: what each task's adapted network says of its support set, (T, S, …).
            support: the support sets.
        """
        return None

    def predict(self, outputs: Tensor, x: Tensor, calibration: Tensor | None = None) -> Tensor:
        """What a user reads in place of raw outputs on windows x, such as probabilities: (T, N, …) → (T, N, …)."""
        return outputs

    def score(
        self,
        outputs: Tensor,
        x: Tensor,
        calibration: Tensor | None = None,
        *,
        normal: int | None = None,
        limit: float | None = None,
    ) -> Tensor:
        """How sure it is that windows x are not normal, in [0, 1], 0.5 at the threshold: (T, N, …) → (T, N).

        NaN where that cannot be said: unless an objective says otherwise, of all windows.

        Args:
            outputs: raw, (T, N, …).
            x: the windows.
            calibration: what `calibrate` made of the support sets.
            normal: the class of normal operation, of objectives that do not know it by themselves.
            limit: of targets that are numbers, in their unit.
        """
        return outputs.new_full(outputs.shape[:2], float("nan"))

    @property
    def gives_score(self) -> bool:
        """Whether `score` says anything of any window."""
        return type(self).score is not Objective.score

    def arguments(self) -> dict[str, Any]:
        """What the constructor takes to make an objective that reads outputs as this one does.

        Metrics that were added only judge: they are left out, and with them a `metric` that is one of them.

        Raises:
            UserError: the class does not keep each argument under the argument's name.
        """
        arguments = kept_arguments(self, f"objective {type(self).__name__}", left_out=("metrics",))
        added = getattr(self, "added", None)
        if isinstance(added, TaskMetrics) and arguments.get("metric") in added.added:
            del arguments["metric"]
        return arguments

    def check(self, episode: Episode) -> None:  # noqa: B027  # most objectives refuse nothing
        """Refuse an episode whose query sets ask what its support sets cannot teach.

        Learners that read the meaning of labels from support sets (`Learner.learns_from_support`) call it before
        they train on an episode and before they are judged on one. Other learners never do.

        Raises:
            UserError: naming the task.
        """


def refuse_other_than_tensor(objective: Objective, outputs: object) -> None:
    """Refuse outputs that are no tensor, such as the tuple of a recurrent layer or the dict of a language model.

    Raises:
        UserError: naming the type.
    """
    if not isinstance(outputs, Tensor):
        raise UserError(
            f"{type(objective).__name__}: expected the network to give one tensor, got {type(outputs).__name__};"
            " wrap the network in a module whose forward picks the tensor that is to be learned"
        )


def refuse_not_finite(objective: Objective, outputs: Tensor, counted: Tensor | None) -> None:
    """Refuse to judge outputs that are NaN or infinite.

    Args:
        objective: whose name the error begins with.
        outputs: (T, N, …).
        counted: False for padding, (T, N).

    Raises:
        UserError: naming task and window.
    """
    finite = outputs.isfinite()
    bad = ~(finite.flatten(2).all(2) if finite.ndim > 2 else finite)  # (T, N)
    if counted is not None:
        bad &= counted
    if bad.any():
        task, window = bad.nonzero()[0].tolist()
        raise UserError(
            f"{type(objective).__name__}: the network's output for task {task}, window {window} is NaN or"
            " infinite; lower the step sizes (of optimizer and inner loop), or look for a division, root or"
            " logarithm in the network"
        )
