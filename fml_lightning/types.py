"""The data that passes between the parts: parameters, examples and episodes, predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, NoReturn, Protocol

import torch
from torch import Tensor
from torch.utils.data._utils.collate import default_collate_fn_map

from fml_lightning.errors import UserError

Params = dict[str, Tensor]
"""Parameters by name. *Initial* parameters have the network's shapes; *adapted* ones a leading task axis T."""


@dataclass(frozen=True, repr=False)
class Examples:
    """Windows and their targets, for T stacked tasks of N windows each.

    Raises:
        UserError: there is no task or no window, or the shapes do not belong together.
    """

    x: Tensor
    """Windows or their features, (T, N, …), float."""
    y: Tensor
    """Labels, (T, N), or one per token, (T, N, L), int64; or targets, (T, N) or (T, N, D), float."""
    mask: Tensor | None = None
    """Where tasks differ in their number of windows: True for a window, False for padding; (T, N), bool."""

    def __post_init__(self) -> None:
        x, y, mask = self.x, self.y, self.mask
        for name, value in (("x", x), ("y", y), ("mask", mask)):
            if not isinstance(value, Tensor) and (name != "mask" or value is not None):
                remedy = "convert it with torch.as_tensor"
                if isinstance(value, dict | tuple):
                    remedy = "lay a window's inputs side by side in one tensor, which the network's forward splits"
                raise UserError(f"Examples: expected {name} as one tensor, got a {type(value).__name__}; {remedy}")
        if mask is not None and mask.dtype != torch.bool:
            raise UserError(f"Examples: expected a mask of bool, got {mask.dtype}; convert it with mask.bool()")
        if x.ndim < 2 or 0 in x.shape:
            raise UserError(
                f"Examples: expected x of shape (T, N, ...), at least one window of at least one task, got"
                f" {tuple(x.shape)}; a single task needs a leading axis: x[None]"
            )
        if y.shape[:2] != x.shape[:2] or (mask is not None and mask.shape != x.shape[:2]):
            got = f"y {tuple(y.shape)}" + ("" if mask is None else f" and mask {tuple(mask.shape)}")
            alone = y.shape == x.shape[:1]  # (N,) of windows (N, …)
            raise UserError(
                "Examples: expected one target and one place in the mask per window, x is"
                f" {tuple(x.shape)}, got {got}"
                + ("; a single task needs a leading axis: x[None] and y[None]" if alone else "")
            )

    def __repr__(self) -> str:
        """Shapes alone: errors carry it, also from a site that keeps its data."""
        return f"Examples(x {tuple(self.x.shape)}, y {tuple(self.y.shape)})"

    @property
    def tasks(self) -> int:
        """Number of tasks T."""
        return self.x.shape[0]

    def map(self, change: Callable[[Tensor], Tensor]) -> Examples:
        """The examples with every tensor changed alike."""
        return Examples(change(self.x), change(self.y), None if self.mask is None else change(self.mask))

    def part(self, tasks: slice) -> Examples:
        """Some of the tasks."""
        return self.map(lambda tensor: tensor[tasks])

    def mean(self, values: Tensor) -> Tensor:
        """The mean over each task's windows, padding left out: (T, N) → (T,)."""
        if self.mask is None:
            return values.mean(1)
        return torch.where(self.mask, values, 0).sum(1) / self.mask.sum(1)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Examples:
        """The same examples on another device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))


@dataclass(frozen=True, repr=False)
class Episode:
    """T stacked tasks, each with a support set to adapt on and a query set to judge by.

    A task is one machine under one operating condition. Tasks with fewer windows than others are padded and
    masked; T may be 1.

    Raises:
        UserError: support and query do not belong together.
    """

    support: Examples
    """Support sets, (T, S, …)."""
    query: Examples
    """Query sets, (T, Q, …)."""
    machines: tuple[str, ...] = ()
    """The machine of each task, length T; empty where tasks belong to no machine."""
    centre: Tensor | None = None
    """What was subtracted from every window of each task, (T, …); None where nothing was."""
    site: str = ""
    """The site that all machines are at; empty where nobody says."""
    common_labels: bool = False
    """Whether labels mean the same in every task, so that a query set may ask for classes that its support set
    does not show, as where support is of normal windows alone."""
    starts: Tensor | None = None
    """When each support window began, µs since 1970 or since the first of its machine's recordings, (T, S), int64;
    None where nobody says."""
    query_starts: Tensor | None = None
    """The same of each query window, (T, Q)."""

    def __post_init__(self) -> None:
        for name, value in (("support", self.support), ("query", self.query)):
            if not isinstance(value, Examples):
                raise UserError(
                    f"Episode: expected {name} as Examples, got a {type(value).__name__}; make them with"
                    " Examples(x, y)"
                )
        support, query = self.support.x, self.query.x
        if support.shape[0] != query.shape[0] or support.shape[2:] != query.shape[2:]:
            raise UserError(
                "Episode: expected support and query of the same tasks and the same shape of window, got"
                f" {tuple(support.shape)} and {tuple(query.shape)}"
            )
        if support.dtype != query.dtype:
            raise UserError(
                f"Episode: expected support and query of one dtype, got {support.dtype} and {query.dtype}; convert"
                " one of them"
            )
        if self.machines and len(self.machines) != self.tasks:
            raise UserError(f"Episode: expected a machine for each of {self.tasks} tasks, got {self.machines}")

    def __repr__(self) -> str:
        """Shapes alone, as of `Examples`."""
        return f"Episode(support={self.support}, query={self.query})"

    @property
    def tasks(self) -> int:
        """Number of tasks T."""
        return self.support.tasks

    @property
    def windows(self) -> int:
        """Number of windows, support and query, over all tasks; padding is none."""
        return sum(
            examples.x.shape[:2].numel() if examples.mask is None else int(examples.mask.sum())
            for examples in (self.support, self.query)
        )

    def chunks(self, size: int) -> Iterator[Episode]:
        """The same tasks, at most `size` at a time."""
        for begin in range(0, self.tasks, size):
            part = slice(begin, begin + size)
            yield replace(
                self,
                support=self.support.part(part),
                query=self.query.part(part),
                machines=self.machines[part],
                centre=None if self.centre is None else self.centre[part],
                starts=None if self.starts is None else self.starts[part],
                query_starts=None if self.query_starts is None else self.query_starts[part],
            )

    def pooled(self) -> Examples:
        """Support and query of each task as one set, (T, S + Q, …)."""
        support, query = self.support, self.query
        mask = None
        if support.mask is not None or query.mask is not None:
            mask = torch.cat([_mask(support), _mask(query)], 1)
        return Examples(torch.cat([support.x, query.x], 1), torch.cat([support.y, query.y], 1), mask)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Episode:
        """The same episode on another device."""
        return replace(
            self,
            support=self.support.to(device, non_blocking),
            query=self.query.to(device, non_blocking),
            centre=None if self.centre is None else self.centre.to(device, non_blocking=non_blocking),
        )


def _refuse_collating(batch: Sequence[object], *, collate_fn_map: object = None) -> NoReturn:
    """What torch's `default_collate` calls for episodes, which it cannot stack."""
    raise UserError(
        f"DataLoader: expected batch_size=None, got a batch of {len(batch)} {type(batch[0]).__name__} objects; an"
        " Episode is a batch of stacked tasks already, which every item of the dataset has to be"
    )


default_collate_fn_map.update({Examples: _refuse_collating, Episode: _refuse_collating})


def _mask(examples: Examples) -> Tensor:
    if examples.mask is not None:
        return examples.mask
    return torch.ones(examples.x.shape[:2], dtype=torch.bool, device=examples.x.device)


class Prediction(NamedTuple):
    """The predictions of adapted models for the query windows of an episode."""

    machines: tuple[str, ...]
    """The machine of each task, length T."""
    targets: Tensor
    """True labels or values, (T, Q)."""
    outputs: Tensor
    """Predictions as the objective gives them: class probabilities (T, Q, C), or a number per window (T, Q)."""
    mask: Tensor | None = None
    """True for a window, False for padding, (T, Q)."""
    site: str = ""
    """The site that all machines are at; empty where nobody says."""
    starts: Tensor | None = None
    """When each query window began, as in `Episode.query_starts`, (T, Q); None where nobody says."""


class Forward(Protocol):
    """A network as a pure function of its parameters, for one task: (params, (N, …)) → (N, …)."""

    def __call__(self, params: Params, x: Tensor, /) -> Tensor:
        """Outputs for one task."""
        ...


class StackedForward(Protocol):
    """A network for T stacked tasks, each with its own parameters: (name → (T, …), (T, N, …)) → (T, N, …)."""

    def __call__(self, adapted: Params, x: Tensor, /) -> Tensor:
        """Outputs of every task."""
        ...
