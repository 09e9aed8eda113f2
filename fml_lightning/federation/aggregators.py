"""Aggregators: combine the updates of a cohort into one delta of the shared parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from fml_lightning.errors import UserError
from fml_lightning.executors.work import SiteUpdate
from fml_lightning.params import weighted_sum
from fml_lightning.types import Params

Weight = Literal["examples", "examples_seen"]


class Aggregator(Protocol):
    """Combines the updates of one round."""

    def __call__(self, updates: Sequence[SiteUpdate]) -> Params:
        """The delta to apply; `updates` is not empty and comes sorted by site."""
        ...


class WeightedMean(Aggregator):
    """The mean delta, each site weighted by its number of windows, times what each of them counts: FedAvg.

    McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017.
    https://arxiv.org/abs/1602.05629

    Args:
        weight_by: `examples`, the windows that a site has to train on, which is the nₖ of the paper; or
            `examples_seen`, those that it drew in its local steps. Sites that take the same number of local steps
            draw alike, so by `examples_seen` a site of 20 windows counts as much as one of 2,000.
    """

    def __init__(self, weight_by: Weight = "examples") -> None:
        if weight_by not in get_args(Weight):
            raise UserError(
                f"WeightedMean: expected weight_by of {' or '.join(get_args(Weight))}, got {weight_by!r}"
            )
        self.weight_by = weight_by

    def __call__(self, updates: Sequence[SiteUpdate]) -> Params:
        """Σ wₖnₖΔₖ / Σ wₖnₖ, where wₖ is the site's weight: 1, unless its fleet says otherwise."""
        weights = [self._weight(update) for update in updates]
        total = sum(weights)
        return weighted_sum([update.delta for update in updates], [weight / total for weight in weights])

    def _weight(self, update: SiteUpdate) -> float:
        if self.weight_by == "examples_seen" and update.examples_seen is not None:
            return update.weight * update.examples_seen
        return update.weight * update.examples


def aggregate(aggregator: Aggregator, updates: Sequence[SiteUpdate], shared: Params) -> Params:
    """What an aggregator makes of a round's updates, in the dtype and on the device of each shared parameter.

    Raises:
        UserError: the aggregator failed, or its result is no delta of the shared parameters.
    """
    who = getattr(aggregator, "__name__", type(aggregator).__name__)
    try:
        delta: object = aggregator(updates)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"aggregator {who}: it raised {type(error).__name__}: {error}") from error
    if not isinstance(delta, Mapping):
        raise UserError(
            f"aggregator {who}: expected a tensor for each shared parameter, got {type(delta).__name__}"
        )
    if wrong := set(delta) ^ set(shared):
        raise UserError(
            f"aggregator {who}: expected a tensor for each of the {len(shared)} shared parameters and no other;"
            f" it {'lacks' if wrong & set(shared) else 'adds'} {', '.join(sorted(map(str, wrong)))}"
        )
    checked = {}
    for name, p in shared.items():
        part = delta[name]
        if not isinstance(part, Tensor) or part.shape != p.shape or not part.is_floating_point():
            got = f"{part.dtype} of {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
            raise UserError(
                f"aggregator {who}: expected a floating-point tensor of shape {tuple(p.shape)} for {name},"
                f" got {got}"
            )
        checked[name] = part.detach().to(p)
        if not torch.isfinite(checked[name]).all():
            raise UserError(f"aggregator {who}: expected finite numbers for {name}, got NaN or infinity")
    return checked
