"""The compiled meta-gradient: all of it, both loops and their derivatives, as one graph.

`torch.compile` alone cannot differentiate twice. Here the whole computation, `autograd.grad` included, is first
traced to a graph of plain tensor operations, which is then compiled without any autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from fml_lightning.errors import UserError
from fml_lightning.types import Episode, Examples, Params


class Differentiable(Protocol):
    """What can be compiled: a module that gives a loss and its gradient."""

    training: bool

    @property
    def graph_key(self) -> tuple[object, ...]:
        """Settings that are built into the graph."""
        ...

    def chunk_gradient(self, episode: Episode) -> tuple[Tensor, Params]:
        """The loss, and its gradient by name."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """As of `nn.Module`."""
        ...

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """As of `nn.Module`."""
        ...


class CompiledGradient:
    """Compiled versions of a learner's `chunk_gradient`, one for each shape of episode and state of the learner.

    Copies of a learner share it: parameters are inputs of the graph, not part of it.
    """

    def __init__(self) -> None:
        self._graphs: dict[Any, tuple[Callable[..., Any], list[str]]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledGradient:
        return self

    def __reduce__(self) -> tuple[type[CompiledGradient], tuple[()]]:
        return CompiledGradient, ()  # what was compiled here cannot run elsewhere

    def of(self, learner: Differentiable) -> Callable[[Episode], tuple[Tensor, Params]]:
        """The compiled `learner.chunk_gradient`.

        Raises:
            UserError: on calling it: the episode is padded, or there is no C++ compiler.
        """

        def gradient(episode: Episode) -> tuple[Tensor, Params]:
            support, query = episode.support, episode.query
            if support.mask is not None or query.mask is not None:
                raise UserError("compile: expected tasks of equal size, got padded ones; set compile: false")
            tensors = (support.x, support.y, query.x, query.y)
            state = {**dict(learner.named_parameters()), **dict(learner.named_buffers())}
            key = (
                *[(name, tensor.requires_grad) for name, tensor in state.items()],
                *[(t.shape, t.dtype, t.device) for t in tensors],
                torch.is_autocast_enabled(support.x.device.type),
                learner.training,
                learner.graph_key,
            )
            if key not in self._graphs:
                self._graphs[key] = _compile(_Wrapped(learner), state, tensors)
            graph, names = self._graphs[key]
            try:
                with torch.no_grad():
                    loss, *grads = graph(list(state.values()), *tensors)
            except RuntimeError as error:
                if "compiler" not in str(error):
                    raise
                raise UserError(
                    "compile: torch.compile found no working C++ compiler; install g++, or set compile: false"
                ) from error
            return loss, dict(zip(names, grads, strict=True))

        return gradient


class _Wrapped(nn.Module):
    """`functional_call` replaces the parameters of a module while its `forward` runs: here, the gradient."""

    def __init__(self, learner: Differentiable) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, episode: Episode) -> tuple[Tensor, Params]:
        return self.learner.chunk_gradient(episode)


def _compile(
    wrapped: _Wrapped, state: Params, tensors: tuple[Tensor, ...]
) -> tuple[Callable[..., Any], list[str]]:
    """The graph, (state, tensors) → (loss, *grads), and the names of the grads."""
    needs = {name: tensor.requires_grad for name, tensor in state.items()}
    trained: list[str] = []

    def function(values: list[Tensor], sx: Tensor, sy: Tensor, qx: Tensor, qy: Tensor) -> list[Tensor]:
        own = {
            f"learner.{name}": value.detach().requires_grad_(needs[name])
            for name, value in zip(state, values, strict=True)
        }
        loss, grads = functional_call(wrapped, own, (Episode(Examples(sx, sy), Examples(qx, qy)),))
        trained[:] = grads
        return [loss, *grads.values()]

    graph = make_fx(function)(list(state.values()), *tensors)
    compiled: Callable[..., Any] = torch.compile(graph, dynamic=False)
    return compiled, trained
