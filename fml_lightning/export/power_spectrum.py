"""The power spectrum as products of small matrices, which every runtime has and computes fast.

ONNX has an operation for the discrete Fourier transform, but onnxruntime's is slow where the length is no power of
two. In four steps a transform of length n₁·n₂ is n₂ of length n₁, a multiplication, and n₁ of length n₂: Bailey,
FFTs in external or hierarchical memory, The Journal of Supercomputing 4, 1990. https://doi.org/10.1007/BF00162341
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fml_lightning.errors import UserError

LONGEST = 512
"""Length of the longer of the two transforms, at most; its matrix has 2 · 512 · 512 numbers, 2 MB."""


def factors(length: int) -> tuple[int, int]:
    """The two factors of a length that are nearest to each other, the smaller one first.

    >>> factors(2048), factors(2560), factors(13)
    ((32, 64), (40, 64), (1, 13))
    """
    smaller = next(n for n in range(math.isqrt(length), 0, -1) if length % n == 0)
    return smaller, length // smaller


class PowerSpectrum(nn.Module):
    """|X|² of the lines 1, 2, … of the discrete Fourier transform X: (N, W) → (N, lines).

    Sample n₂·a + b and line c + n₁·d meet as e^(−2πi·a·c/n₁) · e^(−2πi·b·c/W) · e^(−2πi·b·d/n₂). Samples are real,
    so the lines of c > n₁/2 are the conjugates of others.

    Args:
        length: samples of a window, W.
        lines: how many lines are wanted, at most W/2.

    Raises:
        UserError: the length is a prime, or has so large a prime factor that the matrices would be too large.
    """

    first: Tensor
    twiddle: Tensor
    second: Tensor
    order: Tensor

    def __init__(self, length: int, lines: int) -> None:
        super().__init__()
        self.sizes = n1, n2 = factors(length)
        if n2 > LONGEST:
            raise UserError(
                f"export: expected windows of a length that is a product of two numbers up to {LONGEST}, for their"
                f" spectrum, got {length} = {n1} · {n2} samples; choose a windowing.length such as"
                f" {2 ** round(math.log2(length))}"
            )
        c = torch.arange(n1 // 2 + 1)
        a, b, d = torch.arange(n1), torch.arange(n2), torch.arange(n2)
        to_first = _unit(torch.outer(c, a), n1)
        to_second = _unit(torch.outer(b, d), n2)
        self.register_buffer("first", torch.cat([to_first.real, to_first.imag]).float())  # (2 · c, a)
        self.register_buffer("twiddle", torch.view_as_real(_unit(torch.outer(c, b), length)).float())  # (c, b, 2)
        self.register_buffer("second", torch.cat([to_second.real, to_second.imag], 1).float())  # (b, 2 · d)
        k = torch.arange(1, lines + 1)
        k = torch.where(k % n1 <= n1 // 2, k, length - k)
        self.register_buffer("order", k % n1 * n2 + k // n1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, W) → (N, lines)."""
        n1, n2 = self.sizes
        half = n1 // 2 + 1
        within = torch.matmul(self.first, x.reshape(-1, n1, n2))  # (N, 2 · c, b)
        real, imaginary = within[:, :half], within[:, half:]
        cosine, sine = self.twiddle[..., 0], self.twiddle[..., 1]
        turned = torch.cat([real * cosine - imaginary * sine, real * sine + imaginary * cosine], 1)
        across = torch.matmul(turned, self.second)  # (N, 2 · c, 2 · d)
        real = across[:, :half, :n2] - across[:, half:, n2:]
        imaginary = across[:, :half, n2:] + across[:, half:, :n2]
        power: Tensor = real.square() + imaginary.square()  # (N, c, d)
        return power.flatten(1).index_select(1, self.order)


def _unit(steps: Tensor, circle: int) -> Tensor:
    """e^(−2πi · steps / circle), in double precision."""
    angle = -2 * math.pi * (steps % circle).double() / circle
    return torch.polar(torch.ones_like(angle), angle)
