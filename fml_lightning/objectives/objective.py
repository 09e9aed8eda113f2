"""The contract of every objective: a loss and metrics, per task."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from fml_lightning.types import Episode, Examples


class Objective(ABC):
    """A loss and metrics, both per task.

    Outputs are what the network says of T tasks' windows, (T, N, …).
    """

    metric: str
    """The metric that decides: the name under which `metrics` reports it."""
    higher_is_better: bool
    """Whether more of `metric` is better."""
    calibrates: bool = False
    """Whether `calibrate` makes something of the support set."""

    @abstractmethod
    def loss(self, outputs: Tensor, examples: Examples) -> Tensor:
        """Mean loss of each task: (T, N, …) → (T,)."""

    @abstractmethod
    def metrics(self, outputs: Tensor, examples: Examples, calibration: Tensor | None = None) -> dict[str, Tensor]:
        """Metrics of each task: (T, N, …) → name → (T,)."""

    def calibrate(self, outputs: Tensor, support: Examples) -> Tensor | None:
        """What must be remembered of each task's support set to read later outputs, (T, …); None for nothing."""
        return None

    def predict(self, outputs: Tensor, x: Tensor, calibration: Tensor | None = None) -> Tensor:
        """What the user reads of raw outputs on windows x: (T, N, …) → (T, N, …)."""
        return outputs

    def check(self, episode: Episode) -> None:  # noqa: B027  # most objectives refuse nothing
        """Refuse an episode whose queries cannot be learnt from its support.

        Raises:
            UserError: naming the task.
        """
