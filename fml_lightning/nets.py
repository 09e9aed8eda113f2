"""Small networks that adapt well: every norm layer works on one window, none keeps running statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from fml_lightning.errors import UserError


class MLP(nn.Sequential):
    """A perceptron on features: [norm the input] → (Linear → LayerNorm → ReLU) per hidden layer → Linear.

    Args:
        in_features: features per window, F.
        out_features: classes or targets, C.
        hidden: width of each hidden layer.
        norm_input: put a LayerNorm before the first layer, so that a window's overall level and spread, which
            differ between machines for no reason that matters, drop out.
        dropout: share of the features that each training window goes without, in [0, 1), so that no single sensor
            is relied on.

    Shape: (N, F) → (N, C).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden: Sequence[int] = (128,),
        norm_input: bool = True,
        dropout: float = 0.0,
    ) -> None:
        if not 0 <= dropout < 1:
            raise UserError(f"MLP: expected dropout in [0, 1), got {dropout}")
        layers: list[nn.Module] = [nn.LayerNorm(in_features)] if norm_input else []
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = in_features
        for h in hidden:
            layers += [nn.Linear(width, h), nn.LayerNorm(h), nn.ReLU()]
            width = h
        super().__init__(*layers, nn.Linear(width, out_features))
        self.in_features = in_features
        self.out_features = out_features
        self.hidden = tuple(hidden)
        self.norm_input = norm_input
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """(N, F) → (N, C)."""
        if x.shape[-1] != self.in_features:
            raise UserError(
                f"MLP: expected {self.in_features} features per window, the data has {x.shape[-1]};"
                f" set the net's in_features to {x.shape[-1]}"
            )
        output: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return output


class Conv4(nn.Sequential):
    """The few-shot literature's net on small images: (Conv 3×3 → norm → ReLU → MaxPool 2) four times → Linear.

    Vinyals et al., Matching Networks for One Shot Learning, NeurIPS 2016. https://arxiv.org/abs/1606.04080

    Args:
        in_channels: channels of an image, C.
        out_features: classes or targets.
        channels: filters of each layer; a multiple of 4 for `group`.
        size: height and width of an image, at least 16.
        norm: `batch` normalizes with the statistics of the images at hand, as the literature does; `group` looks
            at one image at a time.

    Shape: (N, C, size, size) → (N, out_features).
    """

    def __init__(
        self,
        in_channels: int,
        out_features: int,
        channels: int = 64,
        size: int = 28,
        norm: Literal["batch", "group"] = "group",
    ) -> None:
        layers: list[nn.Module] = []
        for width in (in_channels, channels, channels, channels):
            layers += [
                nn.Conv2d(width, channels, 3, padding=1),
                nn.BatchNorm2d(channels, track_running_stats=False)
                if norm == "batch"
                else nn.GroupNorm(4, channels),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        super().__init__(*layers, nn.Flatten(), nn.Linear(channels * (size // 16) ** 2, out_features))
        self.in_channels = in_channels
        self.out_features = out_features
        self.channels = channels
        self.size = size
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, size, size) → (N, out_features)."""
        if x.shape[1:] != (expected := (self.in_channels, self.size, self.size)):
            raise UserError(f"Conv4: expected images of shape {expected}, got {tuple(x.shape[1:])}")
        output: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return output


class Conv1d(nn.Sequential):
    """A convolutional net on raw windows: (Conv → GroupNorm → ReLU → MaxPool 4) per layer, mean, Linear.

    Args:
        in_channels: channels per window, C.
        out_features: classes or targets.
        channels: filters of each layer; a multiple of 4.
        kernel: taps of each filter, odd.

    Shape: (N, C, W), or (N, W) for one channel, → (N, out_features); W at least 4 to the number of layers.
    """

    def __init__(
        self,
        in_channels: int,
        out_features: int,
        channels: Sequence[int] = (32, 32, 32, 32),
        kernel: int = 9,
    ) -> None:
        layers: list[nn.Module] = []
        width = in_channels
        for c in channels:
            layers += [
                nn.Conv1d(width, c, kernel, padding=kernel // 2),
                nn.GroupNorm(4, c),
                nn.ReLU(),
                nn.MaxPool1d(4),
            ]
            width = c
        super().__init__(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, out_features))
        self.in_channels = in_channels
        self.out_features = out_features
        self.channels = tuple(channels)
        self.kernel = kernel
        self.shortest = 4 ** len(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, W) or (N, W) → (N, out_features)."""
        if x.ndim == 2:
            x = x[:, None]
        if x.shape[1] != self.in_channels or x.shape[2] < self.shortest:
            raise UserError(
                f"Conv1d: expected windows of {self.in_channels} channels and at least {self.shortest} samples,"
                f" (N, C, W), got {tuple(x.shape)}; use the features RawWindows, or fewer layers"
            )
        output: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return output


class NextTokenGRU(nn.Module):
    """A recurrent net that reads token numbers and says which token comes next: Embedding → GRU → Linear.

    Its parts are `embedding`, `recurrent` and `head`, for settings that name parameters, such as ANIL's.

    Args:
        tokens: how many tokens there are; more than the data has do no harm.
        embedding: numbers that stand for a token.
        hidden: width of the GRU.

    Shape: token numbers (N, L), of any dtype, → (N, tokens).
    """

    def __init__(self, tokens: int = 96, embedding: int = 16, hidden: int = 160) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, embedding)
        self.recurrent = nn.GRU(embedding, hidden, batch_first=True)
        self.head = nn.Linear(hidden, tokens)

    def forward(self, x: Tensor) -> Tensor:
        """(N, L) → (N, tokens)."""
        if x.ndim != 2:
            raise UserError(
                f"NextTokenGRU: expected windows of token numbers, (N, L), got {tuple(x.shape)}; take a fleet of"
                " texts, such as Text"
            )
        try:
            embedded = self.embedding(x.long())
        except IndexError as error:
            raise UserError(
                f"NextTokenGRU: expected token numbers from 0 to {self.head.out_features - 1}, got some up to"
                f" {int(x.max())}; set the net's tokens to those of the data"
            ) from error
        states, _ = self.recurrent(embedded)  # (N, L, hidden)
        output: Tensor = self.head(states[:, -1])
        return output
