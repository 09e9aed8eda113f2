"""Rows of a table that are met twice: learnt by heart on one side, and asked for on the other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from fml_lightning.datamodules.split import split

log = logging.getLogger(__name__)

Hashes = NDArray[np.uint64]
"""One of each row's numbers, categories and target."""


def tell_both_sides(
    site: str, machine: str, hashes: Hashes, early_share: float, where: Callable[[int], str]
) -> None:
    """Warn of rows of one machine and class that are equal on both sides of the split in time.

    Args:
        site: whose they are, for messages.
        machine: likewise.
        hashes: of the rows, in order of time.
        early_share: where the split is.
        where: the place of a row in a file, for messages.
    """
    early, late = split([len(hashes)], early_share, 1)[0]
    twice = np.flatnonzero(np.isin(hashes[late], hashes[early])) + late.start
    if len(twice):
        last = int(twice[0])
        first = int(np.flatnonzero(hashes[early] == hashes[last])[0])
        log.warning(
            "%s: %d rows of %s are equal on both sides of the split in time, such as %s and %s: a test on"
            " them is none; leave them out",
            *(site, len(twice), machine, where(first), where(last)),
        )


def tell_unseen(owner: str, hashes: Mapping[str, Hashes], training: Iterable[str], unseen: Iterable[str]) -> None:
    """Warn of rows of unseen sites that are at training sites, too.

    Args:
        owner: whose they are, for messages.
        hashes: of the rows of each site.
        training: names of the training sites.
        unseen: names of the unseen ones.
    """
    training = list(training)
    for name in unseen:
        for other in training:
            if twice := int(np.isin(hashes[name], hashes[other]).sum()):
                log.warning(
                    "%s: %d rows of the unseen site %s are also at the training site %s, with the same target:"
                    " a test on them is none; leave them out on one side",
                    *(owner, twice, name, other),
                )
