"""What a head learns: the loss of the inner and outer loop, and the metrics a user reads."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_accuracy

from fml_lightning.errors import UserError


class Objective(Protocol):
    """A loss and metrics, both per task."""

    metric: str
    """The metric that decides: the name under which `metrics` reports it."""
    higher_is_better: bool
    """Whether more of `metric` is better."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of each task: (T, N, …), (T, N) → (T,)."""
        ...

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Metrics of each task: (T, N, …), (T, N) → name → (T,)."""
        ...

    def predict(self, outputs: Tensor) -> Tensor:
        """What the user reads of raw outputs: (…, N, C) → (…, N, C)."""
        ...


class Classification:
    """One of C classes: cross-entropy on logits, accuracy."""

    metric = "accuracy"
    higher_is_better = True

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of each task: logits (T, N, C), labels (T, N) in [0, C) → (T,).

        Raises:
            UserError: the network has fewer outputs than the labels need.
        """
        try:
            losses = F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none")
        except IndexError as error:
            raise UserError(
                f"Classification: the labels need {int(targets.max()) + 1} classes, the network has"
                f" {outputs.shape[-1]} outputs; set the net's out_features to the number of classes"
            ) from error
        return losses.view(targets.shape).mean(1)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Accuracy in [0, 1] and loss of each task: (T, N, C), (T, N) → name → (T,).

        >>> logits = torch.tensor([[[2.0, 0.0], [2.0, 0.0]]])
        >>> Classification().metrics(logits, torch.tensor([[0, 1]]))["accuracy"]
        tensor([0.5000])
        """
        accuracy = multiclass_accuracy(
            outputs.movedim(-1, 1),
            targets,
            num_classes=outputs.shape[-1],
            average="micro",
            multidim_average="samplewise",
        )
        return {"accuracy": accuracy, "loss": self.loss(outputs, targets)}

    def predict(self, outputs: Tensor) -> Tensor:
        """Class probabilities: (…, N, C), summing to 1 over C."""
        return torch.softmax(outputs, -1)
