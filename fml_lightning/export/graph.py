"""The graph that is exported: raw windows in; what a personal model's `predict` gives, and its score, out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fml_lightning.export.seen_windows import SeenWindows
from fml_lightning.personal import PersonalModel

INPUTS = ("windows", "told")
OUTPUTS = ("outputs", "score")
"""Their names in the file."""


class Graph(nn.Module):
    """A personal model from raw windows on, for any number of them.

    What the nameplate tells of the machine is part of the graph; what it does not, the graph takes beside windows.

    Args:
        model: in evaluation mode; it is not copied.

    Raises:
        UserError: something of it cannot be exported.
    """

    centre: Tensor
    calibration: Tensor | None

    def __init__(self, model: PersonalModel) -> None:
        super().__init__()
        self.net, self.objective = model.net, model.objective
        self.register_buffer("centre", model.centre)
        self.register_buffer("calibration", model.calibration)
        self.normal, self.limit = model.normal_index(), model.limit
        self.seen: SeenWindows | None = None
        if model.preprocessing is not None:
            self.seen = SeenWindows(model.preprocessing, model.told)
        self.window = tuple(model.centre.shape) if self.seen is None else self.seen.window
        """Shape of one window."""
        self.told = () if self.seen is None else self.seen.told
        """Names of what is told of each window."""
        self.train(False)

    def forward(self, windows: Tensor, told: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What `PersonalModel.predict` gives, (N, …), and the score of `PersonalModel.reading`, (N,).

        Both are NaN where a number in a window, or of what the network sees of it, is NaN or infinite.

        Args:
            windows: (N, C, W); W = 1 where every sample is a window; features of a model without preprocessing.
            told: (N, K); None where nothing is to be told.
        """
        x = windows if self.seen is None else self.seen(windows, told)
        centred = x.to(self.centre.dtype) - self.centre
        raw, calibration = self.net(centred)[None], None if self.calibration is None else self.calibration[None]
        outputs = self.objective.predict(raw, centred[None], calibration)[0]
        score = self.objective.score(raw, centred[None], calibration, normal=self.normal, limit=self.limit)[0]
        # A runtime need not hand a NaN on through every layer: a ReLU that makes 0 of it ends in a sure class.
        known = _is_finite(windows) & _is_finite(x)
        return (
            torch.where(known.reshape(-1, *[1] * (outputs.ndim - 1)), outputs, torch.nan),
            torch.where(known, score, torch.nan),
        )


def _is_finite(x: Tensor) -> Tensor:
    """Whether all numbers of each window are finite: (N, …) → (N,)."""
    return ~(x.isnan() | x.isinf()).flatten(1).any(1)
