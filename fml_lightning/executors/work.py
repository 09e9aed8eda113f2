"""The messages of a round: what the server asks of a site, and what the site answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from fml_lightning.types import Params


@dataclass(frozen=True)
class Work:
    """What the server asks of each site of a cohort."""

    verb: Literal["fit", "validate", "test"]
    """`fit` trains `local_steps` steps and answers with a delta; the others only measure."""
    round: int
    """The round, counted from 0."""
    params: Params
    """The shared parameters the site starts from."""
    seed: int
    """The run's seed; a site derives its own from it, the round and its name."""
    local_steps: int = 0
    """Optimizer steps to take at the site; only for `fit`."""


@dataclass(frozen=True)
class SiteUpdate:
    """What a site sends back."""

    site: str
    round: int
    delta: Params
    """Shared parameters after the local work minus before; empty where the site only measured."""
    examples: int
    """Windows the site trained on, support and query, counted as often as they were used."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What the site's Trainer logged; a name ending in `/MACHINE` belongs to that machine alone."""
    seconds: float = 0.0
    """Wall time of the site's work."""


@dataclass(frozen=True)
class SiteFailure:
    """A site that could not do its work: an outcome of the round, not the end of the run."""

    site: str
    round: int
    reason: str
    """One sentence."""
    seconds: float = 0.0
    permanent: bool = False
    """Trying again would fail again: the configuration or the data must be mended."""
