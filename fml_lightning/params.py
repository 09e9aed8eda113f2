"""Arithmetic on parameters by name."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fml_lightning.types import Params


def clone(params: Params) -> Params:
    """Copies, detached from any graph."""
    return {name: p.detach().clone() for name, p in params.items()}


def subtract(a: Params, b: Params) -> Params:
    """The difference a − b, name by name."""
    return {name: a[name] - b[name] for name in a}


def weighted_sum(parts: Sequence[Params], weights: Sequence[float]) -> Params:
    """Σ wᵢ·paramsᵢ, added in the given order, so that equal input gives equal bits.

    >>> weighted_sum([{"w": torch.tensor(2.0)}, {"w": torch.tensor(4.0)}], [0.5, 0.25])
    {'w': tensor(2.)}
    """
    total = {name: weights[0] * p for name, p in parts[0].items()}
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total = {name: t + weight * part[name] for name, t in total.items()}
    return total


def norm(params: Params) -> Tensor:
    """Euclidean norm of all parameters (at least one) taken as one vector.

    >>> norm({"a": torch.tensor([3.0]), "b": torch.tensor([4.0])})
    tensor(5.)
    """
    norms: list[Tensor] = [torch.linalg.vector_norm(p) for p in params.values()]
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total


def finite(params: Params) -> bool:
    """Whether no parameter holds a NaN or an infinity."""
    return all(bool(torch.isfinite(p).all()) for p in params.values())
