"""The inner loop: adapt an initialization to a task by gradient descent on its support set.

Finn et al., Model-Agnostic Meta-Learning, ICML 2017. https://arxiv.org/abs/1703.03400
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import vmap

from fml_lightning.errors import UserError
from fml_lightning.types import Examples, Forward, Params


@dataclass(frozen=True)
class InnerLoop:
    """How one task adapts: θ' = θ − α∇L_S(θ), K times."""

    lr: float = 0.1
    """Step size α, greater than 0."""
    steps: int = 3
    """Gradient steps K; 0 leaves the parameters as they are."""
    first_order: bool = False
    """Drop second derivatives (FOMAML)."""

    def __post_init__(self) -> None:
        if not self.lr > 0 or self.steps < 0:
            raise UserError(f"InnerLoop: expected lr > 0 and steps >= 0, got {self}")


def refuse_running_statistics(net: nn.Module) -> None:
    """Raise where a forward pass would change `net`, and so leak from one task into the next.

    Raises:
        UserError: naming the layer and the remedy.
    """
    for name, module in net.named_modules():
        if getattr(module, "track_running_stats", False):
            raise UserError(
                f"{type(net).__name__}: layer {name!r} ({type(module).__name__}) keeps running statistics, which"
                " would leak between tasks; use LayerNorm or GroupNorm, or set track_running_stats=False"
            )


def stack(params: Params, tasks: int) -> Params:
    """Give every task its own view of the same parameters: name → (T, …)."""
    return {name: p.expand(tasks, *p.shape) for name, p in params.items()}


def forward_stacked(forward: Forward, adapted: Params, x: Tensor) -> Tensor:
    """Run each task through its own parameters: (T, N, …) → (T, N, …)."""
    output: Tensor = vmap(forward, randomness="different")(adapted, x)
    return output


def trajectory(
    forward: Forward,
    loss: Callable[[Tensor, Tensor], Tensor],
    params: Params,
    support: Examples,
    inner_loop: InnerLoop,
    *,
    create_graph: bool = True,
) -> Iterator[Params]:
    """Adapt T tasks at once; yield the parameters after 0, 1, …, K steps.

    Only the forward pass is vmapped; one plain `autograd.grad` differentiates the sum of the T losses, which
    is exact because no task's loss depends on another's parameters. (`grad` inside `vmap` inside `grad` is
    silently wrong for some norm layers.) Parameters that require no gradient stay as they are.

    Args:
        forward: the network as a pure function, for one task.
        loss: outputs (T, S, …), targets (T, S) → the mean loss of each task, (T,).
        params: the initial parameters.
        support: the support sets, (T, S, …).
        inner_loop: step size, number of steps, order.
        create_graph: let gradients flow from the adapted parameters back to `params`; without it, memory
            does not grow with the number of steps.

    Yields:
        Adapted parameters, name → (T, …).

    Raises:
        UserError: no parameter requires a gradient, so nothing would adapt.
    """
    free = [name for name, p in params.items() if p.requires_grad]
    if not free:
        raise UserError(
            "InnerLoop: none of the parameters requires a gradient, so nothing can adapt; unfreeze some"
        )
    adapted = stack(params, support.x.shape[0])
    if not create_graph:
        adapted = {name: p.detach() for name, p in adapted.items()}
    yield adapted
    for _ in range(inner_loop.steps):
        if not create_graph:
            adapted = adapted | {name: adapted[name].detach().requires_grad_() for name in free}
        support_loss = loss(forward_stacked(forward, adapted, support.x), support.y).sum()
        gradients = torch.autograd.grad(
            support_loss,
            [adapted[name] for name in free],
            create_graph=create_graph and not inner_loop.first_order,
        )
        adapted = adapted | {
            name: adapted[name] - inner_loop.lr * g for name, g in zip(free, gradients, strict=True)
        }
        if not create_graph:
            adapted = {name: p.detach() for name, p in adapted.items()}
        yield adapted


def last(path: Iterator[Params]) -> Params:
    """The end of a trajectory: parameters after K steps, name → (T, …)."""
    (adapted,) = deque(path, maxlen=1)
    return adapted


def adapt(
    forward: Forward,
    loss: Callable[[Tensor, Tensor], Tensor],
    params: Params,
    support: Examples,
    inner_loop: InnerLoop,
    *,
    create_graph: bool = True,
) -> Params:
    """The end of the `trajectory`: parameters after K steps, name → (T, …)."""
    return last(trajectory(forward, loss, params, support, inner_loop, create_graph=create_graph))
