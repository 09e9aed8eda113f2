"""The personal model: what `personalize` makes of the initialization for one machine, in one file."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import fml_lightning
from fml_lightning.adaptation.batch_norm import BatchNorm
from fml_lightning.adaptation.network import ELEMENTS_PER_PASS, in_mode, refuse_other_outputs
from fml_lightning.errors import UserError
from fml_lightning.objectives import Classification, Objective
from fml_lightning.personal import model_file
from fml_lightning.personal.descriptions import NETWORKS, OBJECTIVES
from fml_lightning.personal.reading import Reading, labels_of, normal_class
from fml_lightning.personal.restored import differences, filled, restored
from fml_lightning.personal.seen_windows import Told, features_of
from fml_lightning.preprocessing.preprocessing import Preprocessing
from fml_lightning.stream_timing import StreamTiming

REASON = "reason"
"""The key of the file's `net` or `objective` under which it says why there is no description."""


class PersonalModel(nn.Module):
    """One machine's own model: preprocess its windows, subtract its centre, then run its adapted network.

    The network always runs in evaluation mode, whatever `train` says, and BatchNorm layers with constant
    statistics (`adaptation.batch_norm`): the output for a window is the same in every call and among any other
    windows, and predictions are as good as the model's card says.

    Args:
        net: the adapted network.
        objective: how raw outputs are read.
        centre: what to subtract from every window's features, (F,).
        calibration: what `objective` must remember of the support set to read outputs, if anything.
        classes: name of each label.
        preprocessing: what turns raw windows into features, as it was fitted; None: windows are features already.
        site: the machine's site; empty where nobody says.
        machine: the machine's name; empty where nobody says.
        told: numbers of the machine by name, such as its bearing's orders, of those that `preprocessing.needs`
            asks for; a number that is given with the windows counts before these.
        card: what is known of the model, as JSON can hold it.
        batch_norm: the learner's policy, which the network's layers follow already.
        normal: the name of the class of normal operation; empty where nobody says.
        limit: where targets are numbers, beyond which of them a window is not normal, in their unit: a remaining
            life below it, any other number above it; None where nobody says.
        timing: by which windows of a stream are cut.
    """

    centre: Tensor
    calibration: Tensor | None

    def __init__(
        self,
        net: nn.Module,
        objective: Objective,
        centre: Tensor,
        calibration: Tensor | None,
        classes: Sequence[str],
        *,
        preprocessing: Preprocessing | None = None,
        site: str = "",
        machine: str = "",
        told: Mapping[str, float] | None = None,
        card: Mapping[str, Any] | None = None,
        batch_norm: BatchNorm | None = None,
        normal: str = "",
        limit: float | None = None,
        timing: StreamTiming = StreamTiming(),  # noqa: B008
    ) -> None:
        super().__init__()
        self.net = net
        self.objective = objective
        self.register_buffer("centre", centre)
        self.register_buffer("calibration", calibration)
        self.classes = tuple(classes)
        self.preprocessing = preprocessing
        self.site = site
        self.machine = machine
        self.told = dict(told or {})
        self.card = dict(card or {})
        self.batch_norm = batch_norm
        self.normal = normal
        self.limit = limit
        self.timing = timing
        self.eval()

    def train(self, mode: bool = True) -> PersonalModel:
        """Change nothing: a personal model stays in evaluation mode."""
        super().train(False)
        return self

    # What it says ------------------------------------------------------------------------------------------

    def predict(
        self,
        windows: Tensor | NDArray[Any],
        sample_rate: float | None = None,
        *,
        unit: str | None = None,
        channels: Sequence[str] | None = None,
        told: Told | None = None,
    ) -> Tensor:
        """What a user reads, as the objective gives it: probabilities, remaining life, anomaly scores; (N, …).

        Args: see `features`.

        Raises:
            UserError: the windows are not as the model expects them.
        """
        return self.read(self.features(windows, sample_rate, unit=unit, channels=channels, told=told))

    def reading(
        self,
        windows: Tensor | NDArray[Any],
        sample_rate: float | None = None,
        *,
        unit: str | None = None,
        channels: Sequence[str] | None = None,
        told: Told | None = None,
        normal: str | None = None,
        limit: float | None = None,
    ) -> Reading:
        """The same in the terms of an alarm.

        Args: see `features`, and `reading_of_features`.

        Raises:
            UserError: the windows are not as the model expects them, or there is no class `normal`.
        """
        x = self.features(windows, sample_rate, unit=unit, channels=channels, told=told)
        return self.reading_of_features(x, normal=normal, limit=limit)

    def features(
        self,
        windows: Tensor | NDArray[Any],
        sample_rate: float | None = None,
        *,
        unit: str | None = None,
        channels: Sequence[str] | None = None,
        told: Told | None = None,
    ) -> Tensor:
        """What the network sees of windows, before the centre is subtracted, (N, F) or (N, …).

        Args:
            windows: raw samples (N, C, W), or (N, W) of one channel, as they were recorded: neither standardized
                nor resampled, but at the model's rate. Where every sample is a window, rows (N, C). Of a model
                without preprocessing, features.
            sample_rate: Hz; None: the model's own.
            unit: of the samples; None: the model's own.
            channels: the windows' channels by name, in their order; None: the model's own.
            told: numbers by name of all windows or of each (N,), or (N, K) in the order of `preprocessing.needs`,
                which count before the machine's own.

        Raises:
            UserError: the windows are at another rate, in another unit, of other channels or of another length, or
                a number is not told.
        """
        if self.preprocessing is not None:
            seen = features_of(self.preprocessing, self.told, windows, sample_rate, unit, channels, told)
            x = torch.from_numpy(seen).to(self.centre)
        else:
            if not (sample_rate is None and unit is None and channels is None and told is None):
                raise UserError(
                    "PersonalModel: expected features alone, as the model has no preprocessing; leave rate, unit,"
                    " channels and told out"
                )
            given = windows if isinstance(windows, Tensor) else np.require(windows, requirements="W")
            x = torch.as_tensor(given).to(self.centre)
        if x.shape[1:] != self.centre.shape:
            raise UserError(
                f"PersonalModel: expected features of shape {('N', *self.centre.shape)}, got {tuple(x.shape)}"
            )
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Raw outputs on features: (N, F) → (N, C)."""
        return self.outputs(x - self.centre)

    def outputs(self, x: Tensor) -> Tensor:
        """Raw outputs on features without their centre, from passes of at most `ELEMENTS_PER_PASS` numbers."""
        size = max(1, ELEMENTS_PER_PASS // max(1, x.shape[1:].numel()))
        with in_mode(self.net, training=False):
            return torch.cat([refuse_other_outputs(self.net, self.net(part)) for part in torch.split(x, size)])

    def read(self, x: Tensor) -> Tensor:
        """What a user reads of features: (N, F) → (N, …); NaN of a window with a feature that is not finite."""
        with torch.no_grad():
            outputs = self.objective.predict(self(x)[None], (x - self.centre)[None], self._calibration)[0]
        return _of_finite(x, outputs)

    def reading_of_features(self, x: Tensor, *, normal: str | None = None, limit: float | None = None) -> Reading:
        """What the model says of features (N, F), in the terms of an alarm; NaN where one is not finite.

        Args:
            x: the features.
            normal: the name of the class of normal operation; None: the model's own, or a class of such a name.
            limit: where targets are numbers, beyond which of them a window is not normal; None: the model's own.

        Raises:
            UserError: there is no class `normal`.
        """
        with torch.no_grad():
            raw, centred = self(x)[None], (x - self.centre)[None]
            outputs = _of_finite(x, self.objective.predict(raw, centred, self._calibration)[0])
            score = self.objective.score(
                raw,
                centred,
                self._calibration,
                normal=self.normal_index(normal),
                limit=self.limit if limit is None else limit,
            )[0]
        return Reading(_of_finite(x, score), *labels_of(self.objective, outputs, self.classes), outputs)

    def normal_index(self, normal: str | None = None) -> int | None:
        """The class of normal operation, as the objective knows it or by its name; None where nobody says.

        Args:
            normal: its name, of models whose objective does not know it; None: the model's own, or a class that is
                called as normal operation is.

        Raises:
            UserError: there is no class `normal`.
        """
        if isinstance(self.objective, Classification) and self.objective.normal is not None:
            return self.objective.normal
        return normal_class(self.classes, self.normal if normal is None else normal)

    @property
    def _calibration(self) -> Tensor | None:
        return None if self.calibration is None else self.calibration[None]

    # Its file ----------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write one file that needs nothing else, see `load`: tensors and JSON, nothing that runs as it is read.

        A network or an objective that cannot be described is left out, and the file says why (`undescribed`).

        Raises:
            UserError: the file cannot be written, or the network keeps something other than tensors.
        """
        state = self.state_dict()
        if strange := [name for name, value in state.items() if not isinstance(value, Tensor)]:
            raise UserError(
                f"PersonalModel: expected a network that keeps tensors alone, got {', '.join(strange)}"
            )
        content = model_file.Content(
            version=fml_lightning.__version__,
            net=self._net_description(),
            objective=self._objective_description(),
            classes=self.classes,
            preprocessing=None if self.preprocessing is None else self.preprocessing.describe(),
            batch_norm=self.batch_norm,
            normal=self.normal,
            limit=self.limit,
            timing=self.timing,
            site=self.site,
            machine=self.machine,
            told=self.told,
            card=self.card,
        )
        model_file.write(Path(path), state, content)

    @property
    def undescribed(self) -> str:
        """Why a file of the model must be loaded with its network, or its objective, given; empty: it need not."""
        reasons = [each.get(REASON) for each in (self._net_description(), self._objective_description())]
        return "; ".join(filter(None, reasons))

    def _net_description(self) -> dict[str, Any]:
        try:
            description = NETWORKS.describe(self.net)
            if different := differences(self.net, restored(description, self.net.state_dict())):
                raise UserError(f"network {type(self.net).__name__}: made again it differs: {different}")
        except UserError as error:
            return {REASON: str(error)}
        return description

    def _objective_description(self) -> dict[str, Any]:
        try:
            description = OBJECTIVES.describe(self.objective)
            OBJECTIVES.made(description)
        except UserError as error:
            return {REASON: str(error)}
        return description

    @classmethod
    def load(
        cls, path: str | Path, net: nn.Module | None = None, objective: Objective | None = None
    ) -> PersonalModel:
        """Read what `save` wrote; the file alone suffices, unless it says that it does not.

        Classes outside this package are imported by their paths, and must be importable here.

        Args:
            path: the file.
            net: a network of the architecture it was trained with, of any weights; it stays as it is.
            objective: the objective it was trained with.

        Raises:
            UserError: there is no such file, it is not what `save` wrote, or its content does not fit together.
        """
        path = Path(path)
        content, state = model_file.read(path)
        try:
            return _assembled(content, state, net, objective)
        except UserError as error:
            raise UserError(f"PersonalModel: {path}: {error}") from error


def _of_finite(x: Tensor, said: Tensor) -> Tensor:
    """What is said of windows with features x, (N, …), NaN of those with a feature that is not finite.

    A network need not hand a NaN or an infinity on: a layer that bounds numbers makes a sure class of it.
    """
    known = x.isfinite().flatten(1).all(1)
    return said if known.all() else said.where(known.view(-1, *[1] * (said.ndim - 1)), torch.nan)


def _assembled(
    content: model_file.Content, state: Mapping[str, Tensor], net: nn.Module | None, objective: Objective | None
) -> PersonalModel:
    """The model that a file holds.

    Raises:
        UserError: what the file holds does not fit together, or to what is given.
    """
    if "centre" not in state:
        raise UserError("expected a tensor centre, the file has none")
    for name in ("centre", "calibration"):
        if name in state and not state[name].is_floating_point():
            raise UserError(f"expected {name} as numbers, the file has {state[name].dtype}")
    if objective is None:
        _refuse_undescribed(content.objective, "objective")
        objective = OBJECTIVES.made(content.objective)
    calibration = state.get("calibration")
    if objective.calibrates != (calibration is not None):
        raise UserError(
            f"it was not made with the objective {type(objective).__name__}; give `load` the one it was trained"
            " with"
        )
    of_net = {name.removeprefix("net."): tensor for name, tensor in state.items() if name.startswith("net.")}
    if strange := state.keys() - {"centre", "calibration", *(f"net.{name}" for name in of_net)}:
        raise UserError(f"expected the tensors of a personal model, the file has besides {sorted(strange)[0]:.40}")
    if net is None:
        _refuse_undescribed(content.net, "net")
        net = restored(content.net, of_net)
    else:
        net = filled(copy.deepcopy(net), of_net)
    if content.batch_norm not in (None, *get_args(BatchNorm)):
        raise UserError(f"expected batch_norm as {' or '.join(get_args(BatchNorm))}, got {content.batch_norm:.40}")
    described = content.preprocessing
    return PersonalModel(
        net,
        objective,
        state["centre"].clone(),
        None if calibration is None else calibration.clone(),
        content.classes,
        preprocessing=None if described is None else Preprocessing.from_description(described),
        site=content.site,
        machine=content.machine,
        told=content.told,
        card=content.card,
        batch_norm=cast(BatchNorm | None, content.batch_norm),
        normal=content.normal,
        limit=content.limit,
        timing=content.timing,
    )


def _refuse_undescribed(description: Mapping[str, Any], what: str) -> None:
    if REASON in description:
        raise UserError(
            f"it was saved without its {what}, which has no description: {description[REASON]}; give"
            f" `load` the {what} that it was trained with"
        )
