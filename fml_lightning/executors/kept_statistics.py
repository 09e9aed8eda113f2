"""The statistics that a run's features are standardized by, in its checkpoints: plain tensors, no pickle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fml_lightning.preprocessing.statistics import Statistics

KEY = "federation_statistics"
"""Where they are in a checkpoint."""


def keep_statistics(checkpoint: dict[str, Any], statistics: Statistics | None) -> None:
    """Put a run's statistics into its checkpoint."""
    arrays = {} if statistics is None else statistics.arrays()
    checkpoint[KEY] = {name: torch.from_numpy(array) for name, array in arrays.items()}


def kept_statistics(checkpoint: Mapping[str, Any]) -> Statistics | None:
    """The statistics in a checkpoint; None where features are not standardized by training sites.

    Raises:
        UserError: what is there are no statistics.
    """
    kept = checkpoint.get(KEY)
    return Statistics.from_arrays({name: tensor.numpy() for name, tensor in kept.items()}) if kept else None
