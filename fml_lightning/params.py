"""Arithmetic on parameters by name."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType

import torch
from torch import Tensor

from fml_lightning.errors import UserError
from fml_lightning.types import Params


def clone(params: Params) -> Params:
    """Copies, detached from any graph."""
    return {name: p.detach().clone() for name, p in params.items()}


def stack(params: Params, tasks: int) -> Params:
    """Give every task its own view of the same parameters: name → (T, …), without a copy."""
    if tasks == 1:
        return {name: p.unsqueeze(0) for name, p in params.items()}  # as `expand`, with a cheaper derivative
    return {name: p.expand(tasks, *p.shape) for name, p in params.items()}


def own_names(stacked: Params) -> list[str]:
    """The names of those parameters of which every task has its own; of the others there is one view for all.

    >>> both = stack({"w": torch.ones(2)}, 3) | {"b": torch.ones(3, 2)}
    >>> own_names(both)
    ['b']
    """
    return [name for name, p in stacked.items() if p.stride(0) != 0]


def select(
    names: Iterable[str],
    patterns: Sequence[str],
    setting: str,
    tied: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> list[str]:
    """The names that match any of the shell-style patterns, in the given order.

    A tensor with several names is selected by patterns that match them all.

    >>> select(["0.weight", "0.bias", "head.weight"], ["head.*"], "parameters")
    ['head.weight']
    >>> select(["embed", "bias"], ["embed", "decoder"], "parameters", {"embed": ["embed", "decoder"]})
    ['embed']

    Args:
        names: what to choose from; one name for each tensor.
        patterns: each must match a name.
        setting: where the patterns come from, for the error.
        tied: all names of those tensors that have more than one (see `adaptation.tied_weights`).

    Raises:
        UserError: a pattern matches nothing, or the patterns match one name of a tensor but not another.
    """
    every = {name: tied.get(name, (name,)) for name in names}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for same in every.values() for name in same):
            raise UserError(f"{setting}: {pattern!r} matches none of the network's parameters {', '.join(every)}")
    chosen = []
    for name, same in every.items():
        matched = [each for each in same if any(fnmatchcase(each, pattern) for pattern in patterns)]
        if matched and len(matched) < len(same):
            other = next(each for each in same if each not in matched)
            raise UserError(
                f"{setting}: {matched[0]!r} matches the patterns {', '.join(patterns)}, {other!r} does not, but"
                " they are tied: two names of one tensor; add a pattern for the other name, or untie the two"
            )
        if matched:
            chosen.append(name)
    return chosen


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


def inner(a: Params, b: Params) -> Tensor:
    """The inner product of each task's parameters taken as vectors: name → (T, …) twice → (T,)."""
    products: list[Tensor] = [(a[name] * b[name]).reshape(len(a[name]), -1).sum(1) for name in a]
    return torch.stack(products).sum(0)


def scale(params: Params, factors: Tensor) -> Params:
    """Each task's parameters times its own factor: name → (T, …), (T,) → name → (T, …)."""
    return {name: p * factors.view(-1, *[1] * (p.ndim - 1)) for name, p in params.items()}


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
