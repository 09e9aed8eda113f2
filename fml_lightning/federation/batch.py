"""The batch of a round: the sites, by name."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lightning.pytorch import LightningDataModule, Trainer
from torch.utils._pytree import tree_leaves

from fml_lightning.errors import UserError
from fml_lightning.learners.given_loaders import given_loaders

Sites = Mapping[str, LightningDataModule]
"""The data of sites, by the sites' names."""


def as_sites(batch: object) -> Sites:
    """The batch, if it is one.

    Raises:
        UserError: saying what it should be.
    """
    expected = (
        "Federation: expected batches that map each site's name to its LightningDataModule, as a Fleet yields"
    )
    if not isinstance(batch, Mapping):
        raise UserError(
            f"{expected}, got {type(batch).__name__}; episodes and (x, y) pairs are what a Learner alone trains on"
        )
    for name, data in batch.items():
        if not isinstance(name, str) or not isinstance(data, LightningDataModule):
            raise UserError(f"{expected}, got a mapping of {type(name).__name__} to {type(data).__name__}")
    if not batch:
        raise UserError(f"{expected}, got a mapping without a site")
    return batch


def refuse_bare_sites(trainer: Trainer) -> None:
    """Refuse sites in a list or dict at the place of a dataloader.

    Lightning takes a list or dict for a collection of several dataloaders, and would iterate over each site.

    Raises:
        UserError: saying how to pass them.
    """
    for given in given_loaders(trainer):
        if isinstance(given, list | tuple | dict) and any(
            isinstance(leaf, LightningDataModule) for leaf in tree_leaves(given)
        ):
            raise UserError(
                f"Federation: expected a dataloader of mappings of sites, got a bare {type(given).__name__}, which"
                " Lightning takes for several dataloaders; pass `Batches([sites])` of"
                " fml_lightning.datamodules.loaders, or a Fleet as datamodule"
            )


def weight_of(site: str, data: LightningDataModule) -> float:
    """How much each of a site's windows counts beside those of others: its attribute `weight`, if it has one.

    Raises:
        UserError: it is no finite number above 0.
    """
    weight = getattr(data, "weight", 1.0)
    if not isinstance(weight, float | int) or not 0 < weight < math.inf:
        raise UserError(f"{site}: expected as weight of the site a finite number above 0, got {weight!r}")
    return float(weight)
