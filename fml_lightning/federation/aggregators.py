"""Aggregators: combine the updates of a cohort into one delta of the shared parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fml_lightning.executors.work import SiteUpdate
from fml_lightning.params import weighted_sum
from fml_lightning.types import Params


class Aggregator(Protocol):
    """Combines the updates of one round."""

    def __call__(self, updates: Sequence[SiteUpdate]) -> Params:
        """The delta to apply; `updates` is not empty and comes sorted by site."""
        ...


class WeightedMean:
    """The mean delta, each site weighted by the number of windows it trained on: FedAvg.

    McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017.
    https://arxiv.org/abs/1602.05629
    """

    def __call__(self, updates: Sequence[SiteUpdate]) -> Params:
        """Σ nᵢΔᵢ / Σ nᵢ."""
        total = sum(update.examples for update in updates)
        return weighted_sum([u.delta for u in updates], [u.examples / total for u in updates])
