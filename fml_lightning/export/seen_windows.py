"""What the network sees of raw windows, as operations of torch: the counterpart of `personal.seen_windows`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fml_lightning.errors import UserError
from fml_lightning.export.features import module_of
from fml_lightning.export.standardization import Standardization
from fml_lightning.personal.seen_windows import ROW_RATE
from fml_lightning.preprocessing import Preprocessing, RawWindows


def rate_of(preprocessing: Preprocessing) -> float:
    """The sample rate of the model's windows, Hz.

    Raises:
        UserError: the model does not know it.
    """
    if preprocessing.sample_rate is not None:
        return preprocessing.sample_rate
    if preprocessing.windowing is None:
        return ROW_RATE
    raise UserError(
        "export: expected a model that knows its sample rate, got none; set preprocessing.sample_rate, or make the"
        " model again with fml personalize"
    )


class SeenWindows(nn.Module):
    """A preprocessing: (N, C, W) → what the network sees, (N, F) or (N, …).

    Args:
        preprocessing: with its statistics.
        nameplate: what is told of the machine; what it lacks of `Preprocessing.needs` is `told` of each window.

    Raises:
        UserError: something of it cannot be exported.
    """

    nameplate: Tensor
    needed: Tensor
    places: Tensor

    def __init__(self, preprocessing: Preprocessing, nameplate: Mapping[str, float]) -> None:
        super().__init__()
        if preprocessing.shaft_speed is not None:
            raise UserError(
                "export: shaft_speed, which looks for the speed in the signal, cannot be exported; load the"
                " personal model itself where it is needed"
            )
        rate = rate_of(preprocessing)
        channels, length = len(preprocessing.channels) or 1, preprocessing.windowing_at(rate).length
        self.window = (channels, length)
        standardize = preprocessing.standardize
        self.of_channels: nn.Module | None = None
        if standardize is not None and standardize.of == "channels":
            self.of_channels = Standardization(standardize, preprocessing.channels, channels)
            channels -= standardize.condition is not None
        self.seen_channels = channels
        self.feature = module_of(preprocessing.features, length, rate)
        self.is_raw = isinstance(preprocessing.features, RawWindows)
        known = [name for name in preprocessing.needs if name in nameplate]
        self.told = tuple(name for name in preprocessing.needs if name not in nameplate)
        order, needs, inputs = [*known, *self.told], preprocessing.features.needs, preprocessing.inputs
        self.has_needs, self.has_inputs = bool(needs), bool(inputs)
        self.register_buffer("nameplate", torch.tensor([nameplate[name] for name in known], dtype=torch.float32))
        self.register_buffer("needed", torch.tensor([order.index(name) for name in needs]).long())
        self.register_buffer("places", torch.tensor([order.index(name) for name in inputs]).long())
        self.of_features: nn.Module | None = None
        if standardize is not None and standardize.of == "features":
            columns = channels * self._features_of_a_channel(preprocessing, length, rate) + len(inputs)
            self.of_features = Standardization(standardize, preprocessing.told_columns, columns)

    @staticmethod
    def _features_of_a_channel(preprocessing: Preprocessing, length: int, rate: float) -> int:
        return len(preprocessing.features.columns(length, rate))

    def forward(self, windows: Tensor, told: Tensor | None = None) -> Tensor:
        """What the network sees.

        Args:
            windows: (N, C, W).
            told: what the nameplate lacks, (N, K); None where it lacks nothing.
        """
        x = windows
        channels, length = self.window
        if self.of_channels is not None:
            rows = self.of_channels(x.transpose(1, 2).reshape(-1, channels))
            x = rows.reshape(-1, length, self.seen_channels).transpose(1, 2)
        known = self.nameplate.expand(x.shape[0], -1)
        if told is not None:
            known = torch.cat([known, told], 1)
        x = self._features(x, known)
        if self.has_inputs:
            x = torch.cat([x, known.index_select(1, self.places)], 1)
        return x if self.of_features is None else self.of_features(x)

    def _features(self, x: Tensor, known: Tensor) -> Tensor:
        """(N, C, W) and what is known of them → (N, C · F); raw windows as `RawWindows.of_channels` gives them."""
        length = self.window[1]
        if self.is_raw and self.seen_channels > 1:
            return x[:, :, 0] if length == 1 else x
        rows = x.reshape(-1, length)
        if self.has_needs:
            needed = known.index_select(1, self.needed).repeat_interleave(self.seen_channels, 0)
            of_each: Tensor = self.feature(rows, needed)  # (N · C, F)
        else:
            of_each = self.feature(rows)
        return of_each.reshape(-1, self.seen_channels * of_each.shape[1])
