"""The data that passes between the parts: parameters, episodes, and what a round asks and answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

Params = dict[str, Tensor]
"""Parameters by name. *Shared* parameters have the network's shapes; *adapted* ones a leading task axis T."""


@dataclass(frozen=True)
class Episode:
    """T stacked tasks, each with a support set to adapt on and a query set to judge by.

    A task is one machine under one operating condition. All tasks of an episode have equally many support
    windows S and query windows Q; T may be 1.
    """

    support_x: Tensor
    """Support windows or their features, (T, S, …), float."""
    support_y: Tensor
    """Support labels, (T, S), int64."""
    query_x: Tensor
    """Query windows or their features, (T, Q, …), float."""
    query_y: Tensor
    """Query labels, (T, Q), int64."""
    machines: tuple[str, ...]
    """The machine of each task, length T."""
    centre: Tensor
    """What was subtracted from every window of each task, (T, …); zeros where nothing was."""

    @property
    def tasks(self) -> int:
        """Number of tasks T."""
        return self.support_x.shape[0]

    @property
    def windows(self) -> int:
        """Number of windows, support and query, over all tasks."""
        return self.support_y.numel() + self.query_y.numel()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Episode:
        """The same episode on another device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return replace(
            self,
            support_x=move(self.support_x),
            support_y=move(self.support_y),
            query_x=move(self.query_x),
            query_y=move(self.query_y),
            centre=move(self.centre),
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
