"""Discrete Fourier transforms as products of small matrices, which every runtime has and computes fast.

ONNX has an operation for them, but onnxruntime's is slow where the length is no power of two. In four steps a
transform of length n₁·n₂ is n₂ of length n₁, a multiplication, and n₁ of length n₂: Bailey, FFTs in external or
hierarchical memory, The Journal of Supercomputing 4, 1990. https://doi.org/10.1007/BF00162341
"""

from __future__ import annotations

import math
from collections.abc import Callable

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

    Args:
        length: of the transform, W.
        lines: from the first to just before the last; that before line 0 is line −1.
        held: samples that are given, at most W; zeros follow them; None: W.
        dtype: in which it is computed.

    Raises:
        UserError: the length has too large a prime factor.
    """

    def __init__(
        self, length: int, lines: range, held: int | None = None, dtype: torch.dtype = torch.double
    ) -> None:
        super().__init__()
        across = factors(length)[0]
        first = lines.start // across
        self.lines = slice(lines.start - first * across, lines.stop - first * across)
        self.steps = FourSteps(length, held or length, range(first, -(-lines.stop // across)), 1, 1.0, dtype)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, held) → (N, lines) twice."""
        real, imaginary = self.steps(x, None)
        return real[:, self.lines], imaginary[:, self.lines]


class Signal(nn.Module):
    """The inverse transform of the first lines: (N, held), real and imaginary, → (N, M), real and imaginary.

    Args:
        length: of the transform, M.
        held: lines that are given, at most M; zeros follow them.
        dtype: in which it is computed.

    Raises:
        UserError: the length has too large a prime factor.
    """

    def __init__(self, length: int, held: int, dtype: torch.dtype = torch.double) -> None:
        super().__init__()
        self.steps = FourSteps(length, held, range(factors(length)[1]), -1, 1 / length, dtype)

    def forward(self, real: Tensor, imaginary: Tensor) -> tuple[Tensor, Tensor]:
        """(N, held) twice → (N, M) twice."""
        found: tuple[Tensor, Tensor] = self.steps(real, imaginary)
        return found


class FourSteps(nn.Module):
    """A transform of complex numbers, each as its real and imaginary part.

    Sample n₂·a + b and line c + n₁·d meet as e^(−2πi·a·c/n₁) · e^(−2πi·b·c/W) · e^(−2πi·b·d/n₂).

    Args:
        length: of the transform, W.
        held: numbers that are given; zeros follow them.
        lines: which d are wanted, each of n₁ lines.
        direction: 1; −1 of the inverse.
        scale: what the transform is multiplied by.
        dtype: in which it is computed.
    """

    first_real: Tensor
    first_imaginary: Tensor
    turn_real: Tensor
    turn_imaginary: Tensor
    second_real: Tensor
    second_imaginary: Tensor

    def __init__(
        self, length: int, held: int, lines: range, direction: int, scale: float, dtype: torch.dtype
    ) -> None:
        super().__init__()
        n1, n2 = factors(length)
        self.rows, self.across = -(-held // n2), n2
        self.behind = self.rows * n2 - held
        a, b, c, d = torch.arange(self.rows), torch.arange(n2), torch.arange(n1), torch.tensor(lines)
        matrices = {
            "first": _unit(direction * torch.outer(c, a), n1),
            "turn": _unit(direction * torch.outer(c, b), length),
            "second": scale * _unit(direction * torch.outer(b, d), n2),
        }
        for name, matrix in matrices.items():
            self.register_buffer(f"{name}_real", matrix.real.to(dtype))
            self.register_buffer(f"{name}_imaginary", matrix.imag.to(dtype))

    def forward(self, real: Tensor, imaginary: Tensor | None) -> tuple[Tensor, Tensor]:
        """(N, held) twice → (N, n₁ · lines) twice, in their order; None of samples that are real."""
        first, real = (self.first_real, self.first_imaginary), self._in_rows(real)
        if imaginary is None:
            within = (torch.matmul(first[0], real), torch.matmul(first[1], real))  # (N, c, b)
        else:
            within = _product(first, (real, self._in_rows(imaginary)), torch.matmul)
        turned = _product(within, (self.turn_real, self.turn_imaginary), torch.mul)
        found = _product(turned, (self.second_real, self.second_imaginary), torch.matmul)  # (N, c, d)
        return found[0].transpose(1, 2).flatten(1), found[1].transpose(1, 2).flatten(1)

    def _in_rows(self, x: Tensor) -> Tensor:
        """(N, held) → (N, a, b)."""
        return (nn.functional.pad(x, (0, self.behind)) if self.behind else x).reshape(-1, self.rows, self.across)


def _product(
    x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor], product: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """The product of complex numbers or matrices, each as its real and imaginary part."""
    return product(x[0], y[0]) - product(x[1], y[1]), product(x[0], y[1]) + product(x[1], y[0])


def _unit(steps: Tensor, circle: int) -> Tensor:
    """e^(−2πi · steps / circle), in double precision."""
    angle = -2 * math.pi * (steps % circle).double() / circle
    return torch.polar(torch.ones_like(angle), angle)
