"""Discrete Fourier transforms as products of small matrices, which every runtime has and computes fast.

ONNX has an operation for them, but onnxruntime's is slow where the length is no power of two. In four steps a
transform of length n₁·n₂ is n₂ of length n₁, a multiplication, and n₁ of length n₂: Bailey, FFTs in external or
hierarchical memory, The Journal of Supercomputing 4, 1990. https://doi.org/10.1007/BF00162341
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

    Raises:
        UserError: the length is a prime, or has so large a prime factor that the matrices would be too large.
    """
    smaller = next(n for n in range(math.isqrt(length), 0, -1) if length % n == 0)
    if (larger := length // smaller) > LONGEST:
        raise UserError(
            f"export: expected windows of a length that is a product of two numbers up to {LONGEST}, for their"
            f" spectrum, got {length} = {smaller} · {larger} samples; choose a windowing.length such as"
            f" {2 ** round(math.log2(length))}"
        )
    return smaller, larger


class Spectrum(nn.Module):
    """Lines of the transform of real samples: (N, held) → their real and imaginary parts, (N, lines) each.

    Sample n₂·a + b and line c + n₁·d meet as e^(−2πi·a·c/n₁) · e^(−2πi·b·c/W) · e^(−2πi·b·d/n₂). Samples are real,
    so the lines of c > n₁/2 are the conjugates of others.

    Args:
        length: of the transform, W.
        lines: which ones; those beyond ±W/2 are the same as others.
        held: samples that are given, at most W; zeros follow them; None: W.
        dtype: in which it is computed.

    Raises:
        UserError: the length has too large a prime factor.
    """

    first: Tensor
    twiddle: Tensor
    second: Tensor
    order: Tensor
    sign: Tensor

    def __init__(
        self, length: int, lines: range, held: int | None = None, dtype: torch.dtype = torch.double
    ) -> None:
        super().__init__()
        self.sizes = n1, n2 = factors(length)
        held = length if held is None else held
        rows = -(-held // n2)
        self.behind = rows * n2 - held
        a, b, c, d = torch.arange(rows), torch.arange(n2), torch.arange(n1 // 2 + 1), torch.arange(n2)
        to_first, to_second = _unit(torch.outer(c, a), n1), _unit(torch.outer(b, d), n2)
        self.register_buffer("first", torch.cat([to_first.real, to_first.imag]).to(dtype))  # (2 · c, a)
        self.register_buffer(
            "twiddle", torch.view_as_real(_unit(torch.outer(c, b), length)).to(dtype)
        )  # (c, b, 2)
        self.register_buffer("second", torch.cat([to_second.real, to_second.imag], 1).to(dtype))  # (b, 2 · d)
        k = torch.tensor(lines) % length
        conjugated = k % n1 > n1 // 2
        k = torch.where(conjugated, length - k, k)
        self.register_buffer("order", k % n1 * n2 + k // n1)
        self.register_buffer("sign", torch.where(conjugated, -1, 1).to(dtype))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, held) → (N, lines) twice."""
        n2 = self.sizes[1]
        real, imaginary = _turned(torch.matmul(self.first, _rows(x, self.behind, n2)), self.twiddle)
        real, imaginary = _across(real, imaginary, self.second)  # (N, c, d)
        return (
            real.flatten(1).index_select(1, self.order),
            imaginary.flatten(1).index_select(1, self.order) * self.sign,
        )


class Signal(nn.Module):
    """The inverse transform of the first lines: (N, held), real and imaginary, → (N, M), real and imaginary.

    Args:
        length: of the transform, M.
        held: lines that are given, at most M; zeros follow them.
        dtype: in which it is computed.

    Raises:
        UserError: the length has too large a prime factor.
    """

    first: Tensor
    twiddle: Tensor
    second: Tensor

    def __init__(self, length: int, held: int, dtype: torch.dtype = torch.double) -> None:
        super().__init__()
        self.sizes = n1, n2 = factors(length)
        rows = -(-held // n2)
        self.behind = rows * n2 - held
        a, b, c, d = torch.arange(rows), torch.arange(n2), torch.arange(n1), torch.arange(n2)
        to_first, to_second = _unit(-torch.outer(c, a), n1), _unit(-torch.outer(b, d), n2) / length
        real, imaginary = to_first.real, to_first.imag
        of_both = torch.cat([torch.cat([real, -imaginary], 1), torch.cat([imaginary, real], 1)])
        self.register_buffer("first", of_both.to(dtype))  # (2 · c, 2 · a)
        self.register_buffer(
            "twiddle", torch.view_as_real(_unit(-torch.outer(c, b), length)).to(dtype)
        )  # (c, b, 2)
        self.register_buffer("second", torch.cat([to_second.real, to_second.imag], 1).to(dtype))  # (b, 2 · d)

    def forward(self, real: Tensor, imaginary: Tensor) -> tuple[Tensor, Tensor]:
        """(N, held) twice → (N, M) twice."""
        n2 = self.sizes[1]
        both = torch.cat([_rows(real, self.behind, n2), _rows(imaginary, self.behind, n2)], 1)  # (N, 2 · a, b)
        real, imaginary = _turned(torch.matmul(self.first, both), self.twiddle)
        real, imaginary = _across(real, imaginary, self.second)  # (N, c, d)
        return real.transpose(1, 2).flatten(1), imaginary.transpose(1, 2).flatten(1)


def _rows(x: Tensor, behind: int, across: int) -> Tensor:
    """(N, held) with zeros behind → (N, a, `across`)."""
    return (nn.functional.pad(x, (0, behind)) if behind else x).reshape(x.shape[0], -1, across)


def _turned(within: Tensor, twiddle: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 2 · c, b), real parts before the imaginary ones, times e^(∓2πi·b·c/W): real and imaginary parts."""
    half = twiddle.shape[0]
    real, imaginary, cosine, sine = within[:, :half], within[:, half:], twiddle[..., 0], twiddle[..., 1]
    return real * cosine - imaginary * sine, real * sine + imaginary * cosine


def _across(real: Tensor, imaginary: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The transforms of length n₂, (N, c, b) → (N, c, d), real and imaginary."""
    half, n2 = real.shape[1], second.shape[0]
    across = torch.matmul(torch.cat([real, imaginary], 1), second)  # (N, 2 · c, 2 · d)
    return across[:, :half, :n2] - across[:, half:, n2:], across[:, :half, n2:] + across[:, half:, :n2]


def _unit(steps: Tensor, circle: int) -> Tensor:
    """e^(−2πi · steps / circle), in double precision."""
    angle = -2 * math.pi * (steps % circle).double() / circle
    return torch.polar(torch.ones_like(angle), angle)
