"""The personal model: what `personalize` makes of the initialization for one machine."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from fml_lightning.adaptation.batch_norm import add_statistics, drop_statistics, tracking
from fml_lightning.adaptation.network import ELEMENTS_PER_PASS, in_mode, refuse_other_outputs
from fml_lightning.errors import UserError
from fml_lightning.objectives import Classification, Objective


class PersonalModel(nn.Module):
    """One machine's own model: subtract its centre, then run its adapted network.

    The network always runs in evaluation mode, whatever `train` says, and BatchNorm layers with constant
    statistics (`adaptation.batch_norm`): the output for a window is the same in every call and among any other
    windows, and predictions are as good as the model's card says.

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
        self.eval()

    def train(self, mode: bool = True) -> PersonalModel:
        """Change nothing: a personal model stays in evaluation mode."""
        super().train(False)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Raw outputs: (N, F) → (N, C)."""
        return self.outputs(x - self.centre)

    def outputs(self, x: Tensor) -> Tensor:
        """Raw outputs on windows without their centre, from passes of at most `ELEMENTS_PER_PASS` numbers."""
        size = max(1, ELEMENTS_PER_PASS // max(1, x.shape[1:].numel()))
        with in_mode(self.net, training=False):
            return torch.cat([refuse_other_outputs(self.net, self.net(part)) for part in torch.split(x, size)])

    def predict(self, x: Tensor) -> Tensor:
        """What a user reads, as the objective gives it: probabilities, remaining life, anomaly scores; (N, …)."""
        with torch.no_grad():
            calibration = None if self.calibration is None else self.calibration[None]
            return self.objective.predict(self(x)[None], (x - self.centre)[None], calibration)[0]

    def save(self, path: str | Path) -> None:
        """Write weights and class names; the file loads with `weights_only`."""
        torch.save({"state": self.state_dict(), "classes": list(self.classes)}, path)

    @classmethod
    def load(cls, path: str | Path, net: nn.Module, objective: Objective | None = None) -> PersonalModel:
        """Read what `save` wrote.

        Args:
            path: the file.
            net: a network of the architecture it was trained with, of any weights; it stays as it is. For
                `Prototypical` that is a `NearestPrototype` of the embedding and (ways, E) prototypes of any value.
            objective: the objective it was trained with; `Classification` unless you say otherwise.

        Raises:
            UserError: there is no such file, or its content does not fit `net` or `objective`.
        """
        path = Path(path)
        objective = objective or Classification()
        if not path.is_file():
            raise UserError(f"PersonalModel: no file {path}; write it with `fml personalize`")
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            state: dict[str, Tensor] = saved["state"]
            classes = tuple(saved["classes"])
            centre = state["centre"]
        except Exception as error:  # whatever a file that is no personal model makes of the reader
            raise UserError(
                f"PersonalModel: {path} is not a personal model ({type(error).__name__} on reading it); write one"
                " with `fml personalize`"
            ) from error
        calibration = state.get("calibration")
        if objective.calibrates != (calibration is not None):
            raise UserError(
                f"PersonalModel: {path} was not made with the objective {type(objective).__name__}; give `load`"
                " the one it was trained with"
            )
        model = cls(copy.deepcopy(net), objective, torch.zeros_like(centre), calibration, classes)
        _agree(model, state)
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise UserError(f"PersonalModel: {path} does not fit the given net: {error}") from error
        return model


def _agree(model: PersonalModel, state: dict[str, Tensor]) -> None:
    """Give a model the running statistics that a saved state has, and no others, and the state's precision."""
    for name, layer in tracking(model).items():
        if f"{name}.running_mean" not in state:  # an InstanceNorm: batch_norm: batch has taken its statistics away
            drop_statistics(layer)
    added = {}
    for name, layer in model.named_modules():
        mean, variance = (state.get(f"{name}.{kind}") for kind in ("running_mean", "running_var"))
        lacks = isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is None
        if lacks and mean is not None and variance is not None:
            added[name] = mean, variance
    add_statistics(model, added)
    own = model.state_dict(keep_vars=True)
    for name, saved in state.items():
        if name in own and own[name].dtype != saved.dtype:
            own[name].data = own[name].data.to(saved.dtype)
