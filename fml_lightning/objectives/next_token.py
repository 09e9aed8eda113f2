"""The next token: which character follows, as a keyboard predicts it."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fml_lightning.errors import UserError
from fml_lightning.objectives.classification import Classification
from fml_lightning.objectives.metrics import NamedMetrics
from fml_lightning.types import Episode, Examples

SHOWN = 3
"""How many suggestions a keyboard shows."""


class NextToken(Classification):
    """One of C tokens: cross-entropy per token; accuracy, accuracy of the three likeliest, and perplexity.

    Tokens mean the same in every task, so a query may ask for one that its support set lacks. Perplexity is
    e^loss, of each task by itself.

    Args:
        unknown: the token that stands for all that are not in the alphabet. It counts in the loss, but predicting
            it is never right, for nobody can type it; null: every token can be right.
        ignore_index: the label of windows or tokens that count for nothing.
        metrics: metrics to report beside these; see `Classification`.
        metric: the metric that decides: `accuracy`, `top_3_accuracy`, `perplexity`, `loss`, or one of `metrics`.
    """

    own_metrics: ClassVar = {"accuracy": True, f"top_{SHOWN}_accuracy": True, "perplexity": False, "loss": False}

    def __init__(
        self,
        unknown: int | None = 0,
        ignore_index: int | None = None,
        metrics: NamedMetrics = (),
        metric: str = "accuracy",
    ) -> None:
        super().__init__(ignore_index=ignore_index, metrics=metrics, metric=metric)
        if unknown is not None and unknown < 0:
            raise UserError(f"NextToken: expected unknown as the number of a token, at least 0, got {unknown}")
        self.unknown = unknown

    def metrics(self, outputs: Tensor, examples: Examples, calibration: Tensor | None = None) -> dict[str, Tensor]:
        """Accuracies in [0, 1], perplexity, added metrics, and loss of each task: name → (T,).

        >>> logits = torch.tensor([[[0.0, 4.0, 3.0, 2.0, 1.0], [0.0, 4.0, 3.0, 2.0, 1.0]]])
        >>> metrics = NextToken().metrics(logits, Examples(torch.zeros(1, 2), torch.tensor([[1, 3]])))
        >>> metrics["accuracy"], metrics["top_3_accuracy"]
        (tensor([0.5000]), tensor([1.]))
        """
        common = super().metrics(outputs, examples)
        added = {name: value for name, value in common.items() if name in self.added.added}
        right, counted = self._right(outputs, examples)
        share = right.sum(1) / counted.sum(1, keepdim=True)  # (T, k), of the k-th likeliest
        return {
            "accuracy": share[:, 0],
            f"top_{SHOWN}_accuracy": share.sum(1),
            "perplexity": common["loss"].exp(),
            **added,
            "loss": common["loss"],
        }

    def check(self, episode: Episode) -> None:
        """Refuse nothing: a token that support lacks means what it means elsewhere."""

    def _right(self, outputs: Tensor, examples: Examples) -> tuple[Tensor, Tensor]:
        """Whether each of the k likeliest tokens is the right one, (T, M, k); which of M tokens count, (T, M)."""
        labels = examples.y.long()
        counted = self._counted(labels, examples.mask)
        if counted is None:
            counted = torch.ones_like(labels, dtype=torch.bool)
        likeliest = outputs.topk(min(SHOWN, outputs.shape[-1]), -1).indices
        right = (likeliest == labels.unsqueeze(-1)) & counted.unsqueeze(-1)
        if self.unknown is not None:
            right &= (labels != self.unknown).unsqueeze(-1)
        return right.flatten(1, -2), counted.flatten(1)
