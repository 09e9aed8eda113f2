"""The personal model: what `personalize` makes of the initialization for one machine."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from fml_lightning.errors import UserError
from fml_lightning.objectives import Classification, Objective


class PersonalModel(nn.Module):
    """One machine's own model: subtract its centre, then run its adapted network.

    Args:
        net: the adapted network.
        objective: how raw outputs are read.
        centre: what to subtract from every window's features, (F,).
        calibration: what `objective` must remember of the support set to read outputs, if anything.
        classes: name of each label.
    """

    centre: Tensor
    calibration: Tensor | None

    def __init__(
        self,
        net: nn.Module,
        objective: Objective,
        centre: Tensor,
        calibration: Tensor | None,
        classes: tuple[str, ...],
    ) -> None:
        super().__init__()
        self.net = net
        self.objective = objective
        self.register_buffer("centre", centre)
        self.register_buffer("calibration", calibration)
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        """Raw outputs: (N, F) → (N, C)."""
        output: Tensor = self.net(x - self.centre)
        return output

    def predict(self, x: Tensor) -> Tensor:
        """What a user reads, as the objective gives it: probabilities, remaining life, anomaly scores; (N, …)."""
        with torch.no_grad():
            calibration = None if self.calibration is None else self.calibration[None]
            return self.objective.predict(self(x)[None], (x - self.centre)[None], calibration)[0]

    def save(self, path: Path) -> None:
        """Write weights and class names; the file loads with `weights_only`."""
        torch.save({"state": self.state_dict(), "classes": list(self.classes)}, path)

    @classmethod
    def load(cls, path: Path, net: nn.Module, objective: Objective | None = None) -> PersonalModel:
        """Read what `save` wrote.

        Args:
            path: the file.
            net: a network of the architecture it was trained with; its weights are replaced. For `Prototypical`
                that is a `NearestPrototype` of the embedding and (ways, E) prototypes of any value.
            objective: the objective it was trained with; `Classification` unless you say otherwise.

        Raises:
            UserError: there is no such file, or its weights do not fit `net`.
        """
        if not path.is_file():
            raise UserError(f"PersonalModel: no file {path}; write it with `fml personalize`")
        saved = torch.load(path, map_location="cpu", weights_only=True)
        state = saved["state"]
        model = cls(
            net,
            objective or Classification(),
            torch.zeros_like(state["centre"]),
            state.get("calibration"),
            tuple(saved["classes"]),
        )
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise UserError(f"PersonalModel: {path} does not fit the given net: {error}") from error
        return model
