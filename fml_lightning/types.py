"""The data that passes between the parts: parameters, episodes, and what a round asks and answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

Params = dict[str, Tensor]
"""Parameters by name. *Initial* parameters have the network's shapes; *adapted* ones a leading task axis T."""


@dataclass(frozen=True)
class Examples:
    """Windows and their targets, for T stacked tasks of N windows each."""

    x: Tensor
    """Windows or their features, (T, N, …), float."""
    y: Tensor
    """Labels, (T, N), int64."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Examples:
        """The same examples on another device."""
        return Examples(self.x.to(device, non_blocking=non_blocking), self.y.to(device, non_blocking=non_blocking))


@dataclass(frozen=True)
class Episode:
    """T stacked tasks, each with a support set to adapt on and a query set to judge by.

    A task is one machine under one operating condition. All tasks of an episode have equally many support
    windows S and equally many query windows Q; T may be 1.
    """

    support: Examples
    """Support sets, (T, S, …)."""
    query: Examples
    """Query sets, (T, Q, …)."""
    machines: tuple[str, ...]
    """The machine of each task, length T."""
    centre: Tensor
    """What was subtracted from every window of each task, (T, …); zeros where nothing was."""

    @property
    def tasks(self) -> int:
        """Number of tasks T."""
        return self.support.x.shape[0]

    @property
    def windows(self) -> int:
        """Number of windows, support and query, over all tasks."""
        return self.tasks * (self.support.x.shape[1] + self.query.x.shape[1])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Episode:
        """The same episode on another device."""
        return replace(
            self,
            support=self.support.to(device, non_blocking),
            query=self.query.to(device, non_blocking),
            centre=self.centre.to(device, non_blocking=non_blocking),
        )


class Prediction(NamedTuple):
    """What adapted models say about the query windows of an episode."""

    machines: tuple[str, ...]
    """The machine of each task, length T."""
    targets: Tensor
    """True labels, (T, Q)."""
    outputs: Tensor
    """Predictions as the objective gives them (class probabilities), (T, Q, C)."""


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
    hopeless: bool = False
    """Trying again would fail again: the configuration or the data must be mended."""


@dataclass(frozen=True)
class MachineResult:
    """How well one machine's model works, before and after adaptation."""

    site: str
    machine: str
    before: float
    """The objective's metric on query windows with the shared initialization."""
    after: float
    """The same after adapting to the support windows."""


class Forward(Protocol):
    """A network as a pure function of its parameters, for one task: (params, (N, …)) → (N, …)."""

    def __call__(self, params: Params, x: Tensor, /) -> Tensor:
        """Outputs for one task."""
        ...
