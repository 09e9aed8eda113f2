"""The inner loop: adapt an initialization to a task by gradient descent on its support set.

Finn et al., Model-Agnostic Meta-Learning, ICML 2017. https://arxiv.org/abs/1703.03400
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from fml_lightning.adaptation.gradients import gradients
from fml_lightning.errors import UserError
from fml_lightning.params import inner, scale, select, stack
from fml_lightning.types import Examples, Params, StackedForward


@dataclass(frozen=True)
class InnerLoop:
    """How one task adapts: θ' = θ − α∇L_S(θ), K times."""

    lr: float = 0.1
    """Step size α, greater than 0."""
    steps: int = 3
    """Gradient steps K; 0 leaves the parameters as they are."""
    first_order: bool = False
    """Drop second derivatives (FOMAML)."""
    parameters: tuple[str, ...] = ("*",)
    """Which parameters adapt: shell-style patterns of their names in the network, such as `head.*`."""
    proximal: float = 0.0
    """λ of a pull back to the initialization, λ/2‖θ' − θ‖², added to the support loss; at least 0."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """`adam` divides each gradient by the root of its running mean square: Adam with β₁ = 0, β₂ = 0.999."""
    clip: float | None = None
    """Largest norm of a task's own gradient (of all parameters that adapt, with the proximal pull) in a step,
    greater than 0; a larger gradient is scaled down to it."""

    def __post_init__(self) -> None:
        if not self.lr > 0 or self.steps < 0 or not self.proximal >= 0 or not self.parameters:
            raise UserError(
                f"InnerLoop: expected lr > 0, steps >= 0, proximal >= 0 and a pattern of parameters, got {self}"
            )
        if self.clip is not None and not self.clip > 0:
            raise UserError(f"InnerLoop: expected clip > 0, got {self.clip}")

    def adapted_names(self, params: Params, tied: Mapping[str, Sequence[str]] = MappingProxyType({})) -> list[str]:
        """Names of the parameters that adapt: those that match `parameters` and require a gradient.

        Args:
            params: the network's parameters.
            tied: all names of those that have more than one.

        Raises:
            UserError: there is none, or a pattern matches one name of a tied parameter but not another.
        """
        matching = select(params, self.parameters, "InnerLoop.parameters", tied)
        free = [name for name in matching if params[name].requires_grad]
        if not free:
            raise UserError(
                f"InnerLoop: none of the parameters {matching} requires a gradient, so nothing can adapt;"
                " unfreeze some"
            )
        return free


def trajectory(
    outputs: StackedForward,
    loss: Callable[[Tensor, Examples], Tensor],
    params: Params,
    support: Examples,
    inner_loop: InnerLoop,
    *,
    adapted_names: Sequence[str] | None = None,
    rates: Callable[[int], Params] | None = None,
    create_graph: bool = True,
) -> Iterator[Params]:
    """Adapt T tasks at once; yield the parameters after 0, 1, …, K steps.

    One plain `autograd.grad` differentiates the sum of the T losses, which is exact because no task's loss
    depends on another's parameters. (`grad` inside `vmap` inside `grad` is silently wrong for some norm layers.)
    Parameters that do not adapt stay as they are, one view for all tasks.

    Args:
        outputs: the network as a pure function, for T stacked tasks (see `stacking`).
        loss: outputs (T, S, …), examples → the mean loss of each task, (T,).
        params: the initial parameters.
        support: the support sets, (T, S, …).
        inner_loop: step size, number of steps, order, which parameters.
        adapted_names: the names of the parameters that adapt, if they were selected already; else
            `inner_loop.parameters` selects them.
        rates: the step size of each parameter in step k = 0, 1, …, which takes the place of `inner_loop.lr`:
            name → a tensor of the parameter's shape, or a scalar.
        create_graph: let gradients flow from the adapted parameters back to `params` (and `rates`); without it,
            memory does not grow with the number of steps.

    Yields:
        Adapted parameters, name → (T, …).

    Raises:
        UserError: nothing would adapt.
    """
    free = inner_loop.adapted_names(params) if adapted_names is None else adapted_names
    start = stack(params, support.tasks)
    if not create_graph:
        start = {name: p.detach() for name, p in start.items()}
    # Copied, so that they count as each task's own (`params.own_names`); a single task's are its own as they are.
    start |= {name: start[name].clone() if support.tasks > 1 else start[name] for name in free}
    adapted = start
    squares: Params = {}
    yield adapted
    for step in range(inner_loop.steps):
        if not create_graph:
            adapted = adapted | {name: adapted[name].detach().requires_grad_() for name in free}
        own = {name: adapted[name] for name in free}
        grads = gradients(
            loss(outputs(adapted, support.x), support).sum(),
            own,
            create_graph=create_graph and not inner_loop.first_order,
        )
        if inner_loop.proximal:
            pull = {name: inner_loop.proximal * (own[name] - start[name]) for name in free}
            if inner_loop.first_order:
                pull = {name: p.detach() for name, p in pull.items()}
            grads = {name: grads[name] + pull[name] for name in free}
        if inner_loop.clip is not None:
            grads = clipped(grads, inner_loop.clip)
        if inner_loop.optimizer == "adam":
            squares = {
                name: 0.001 * g**2 + 0.999 * squares[name] if step else 0.001 * g**2 for name, g in grads.items()
            }
            grads = {  # 1e-30 keeps the derivative of the root finite where a gradient is 0
                name: g / ((squares[name] / (1 - 0.999 ** (step + 1)) + 1e-30).sqrt() + 1e-8)
                for name, g in grads.items()
            }
        if rates is None:
            moved = {name: own[name].add(grads[name], alpha=-inner_loop.lr) for name in free}
        else:
            sizes = rates(step)
            moved = {name: own[name] - sizes[name] * grads[name] for name in free}
        adapted = adapted | (moved if create_graph else {name: p.detach() for name, p in moved.items()})
        yield adapted


def clipped(grads: Params, largest: float) -> Params:
    """Each task's gradient, scaled down to the largest norm allowed; as `torch.nn.utils.clip_grad_norm_` does it.

    >>> clipped({"w": torch.tensor([[3.0, 4.0], [0.3, 0.4]])}, 1.0)["w"]
    tensor([[0.6000, 0.8000],
            [0.3000, 0.4000]])

    Args:
        grads: name → (T, …).
        largest: the norm.
    """
    square = inner(grads, grads)
    length = torch.where(square > 0, square, 1).sqrt()  # the root has no derivative at 0
    factors = torch.where(square > largest**2, largest / (length + 1e-6), 1)
    return scale(grads, factors)


def last(path: Iterator[Params]) -> Params:
    """The end of a trajectory: parameters after K steps, name → (T, …)."""
    (adapted,) = deque(path, maxlen=1)
    return adapted


def adapt(
    outputs: StackedForward,
    loss: Callable[[Tensor, Examples], Tensor],
    params: Params,
    support: Examples,
    inner_loop: InnerLoop,
    *,
    rates: Callable[[int], Params] | None = None,
    create_graph: bool = True,
) -> Params:
    """The end of the `trajectory`: parameters after K steps, name → (T, …)."""
    return last(trajectory(outputs, loss, params, support, inner_loop, rates=rates, create_graph=create_graph))
