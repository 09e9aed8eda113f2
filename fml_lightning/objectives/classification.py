"""Classification: which of C classes a window belongs to."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_accuracy

from fml_lightning.errors import UserError
from fml_lightning.objectives.objective import Objective
from fml_lightning.types import Episode, Examples

NO_LABEL = torch.iinfo(torch.int64).min
"""What cross-entropy leaves out: nothing that is a label; padding has a mask."""
IGNORED = -100
"""What the accuracy leaves out: padding."""


class Classification(Objective):
    """One of C classes: cross-entropy on logits (T, N, C), accuracy."""

    metric = "accuracy"
    higher_is_better = True

    def loss(self, outputs: Tensor, examples: Examples) -> Tensor:
        """Mean cross-entropy of each task: logits (T, N, C), labels (T, N) in [0, C) → (T,).

        Raises:
            UserError: the network has fewer outputs than the labels need, or the labels are no integers.
        """
        labels = examples.y
        if labels.ndim != 2 or labels.is_floating_point() or outputs.ndim != 3:
            raise UserError(
                "Classification: expected logits (T, N, C) and integer labels (T, N), got"
                f" {tuple(outputs.shape)} and {labels.dtype} {tuple(labels.shape)}"
            )
        try:
            losses = F.cross_entropy(
                outputs.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=NO_LABEL
            )
        except IndexError as error:
            if labels.min() < 0:
                raise UserError(
                    f"Classification: expected labels from 0, got {int(labels.min())}; leave windows without a"
                    " label out, or mask them"
                ) from error
            raise UserError(
                f"Classification: the labels need {int(labels.max()) + 1} classes, the network has"
                f" {outputs.shape[-1]} outputs; set the net's out_features to the number of classes"
            ) from error
        return examples.mean(losses.view(labels.shape))

    def metrics(self, outputs: Tensor, examples: Examples, calibration: Tensor | None = None) -> dict[str, Tensor]:
        """Accuracy in [0, 1] and loss of each task: (T, N, C), (T, N) → name → (T,).

        >>> logits = torch.tensor([[[2.0, 0.0], [2.0, 0.0]]])
        >>> examples = Examples(torch.zeros(1, 2), torch.tensor([[0, 1]]))
        >>> Classification().metrics(logits, examples)["accuracy"]
        tensor([0.5000])
        """
        labels = examples.y if examples.mask is None else examples.y.masked_fill(~examples.mask, IGNORED)
        accuracy = multiclass_accuracy(
            outputs.movedim(-1, 1),
            labels,
            num_classes=outputs.shape[-1],
            average="micro",
            multidim_average="samplewise",
            ignore_index=None if examples.mask is None else IGNORED,
        )
        return {"accuracy": accuracy, "loss": self.loss(outputs, examples)}

    def predict(self, outputs: Tensor, x: Tensor, calibration: Tensor | None = None) -> Tensor:
        """Class probabilities: (…, N, C), summing to 1 over C."""
        return torch.softmax(outputs, -1)

    def check(self, episode: Episode) -> None:
        """Refuse a task whose query set has a class that its support set lacks."""
        support, query = episode.support, episode.query
        known = support.y if support.mask is None else support.y.masked_fill(~support.mask, IGNORED)
        strange = (query.y[:, :, None] != known[:, None, :]).all(-1)  # (T, Q)
        if query.mask is not None:
            strange &= query.mask
        if strange.any():
            task, window = strange.nonzero()[0].tolist()
            where = episode.machines[task] if episode.machines else f"task {task}"
            raise UserError(
                f"{where}: class {int(query.y[task, window])} is in the query set but absent from the support set,"
                " so nothing can be learnt of it; give every class at least one support window"
            )
