"""The power spectrum of windows, as operations of torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fml_lightning.export.fourier import Spectrum


class PowerSpectrum(nn.Module):
    """|X|² of the lines 1, 2, … of the discrete Fourier transform X, in single precision: (N, W) → (N, lines).

    Args:
        length: samples of a window, W.
        lines: how many lines are wanted, at most W/2.

    Raises:
        UserError: the length has too large a prime factor.
    """

    def __init__(self, length: int, lines: int) -> None:
        super().__init__()
        self.spectrum = Spectrum(length, range(1, lines + 1), dtype=torch.float)

    def forward(self, x: Tensor) -> Tensor:
        """(N, W) → (N, lines)."""
        real, imaginary = self.spectrum(x)
        power: Tensor = real * real + imaginary * imaginary
        return power
