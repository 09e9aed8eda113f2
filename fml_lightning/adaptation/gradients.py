"""Gradients by name, and errors that name the parameter or layer which has none."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from fml_lightning.errors import UserError
from fml_lightning.types import Params


def gradients(value: Tensor, params: Params, *, create_graph: bool = False) -> Params:
    """∂value/∂params, name by name.

    Raises:
        UserError: a parameter has no influence on the value; silently it would never change.
    """
    grads = torch.autograd.grad(value, list(params.values()), create_graph=create_graph, allow_unused=True)
    idle = [name for name, grad in zip(params, grads, strict=True) if grad is None]
    if idle:
        raise UserError(
            f"the parameters {', '.join(idle)} have no influence on the loss; freeze them with"
            " requires_grad_(False), or leave them out of the patterns"
        )
    return dict(zip(params, grads, strict=True))


def with_gradients(value: Tensor, params: Params, grads: Params) -> Tensor:
    """The value as a loss whose `backward` gives each parameter the grad at hand.

    So gradients that were computed chunk by chunk, or by another rule than differentiation, go through the
    optimizer, gradient clipping, accumulation and precision plugin of a `lightning.Trainer` like any other.

    >>> w = torch.tensor(2.0, requires_grad=True)
    >>> (3 * with_gradients(torch.tensor(7.0), {"w": w}, {"w": torch.tensor(5.0)})).backward()
    >>> w.grad
    tensor(15.)
    """
    with_slopes: Callable[..., Tensor] = _WithGradients.apply
    return with_slopes(value, list(grads.values()), *[params[name] for name in grads])


class _WithGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, grads: list[Tensor], *_: Tensor) -> Tensor:
        ctx.grads = grads
        return value.detach().clone()

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> Any:
        return None, None, *[factor * grad for grad in ctx.grads]


@contextmanager
def explain_second_derivative(net: nn.Module, x: Tensor) -> Iterator[None]:
    """Explain the failure to differentiate a gradient.

    Args:
        net: the network that is differentiated inside.
        x: windows for it, (N, …).

    Raises:
        UserError: naming the layer that has no second derivative, and the remedy.
    """
    try:
        yield
    except RuntimeError as error:
        said = str(error)
        match = re.search(r"derivative for aten::(\w+) is not implemented", said)
        if match is None and "once_differentiable" not in said:
            raise
        operation = match[1].removesuffix("_backward") if match else "once_differentiable"
        layer = _layer_of(net, x, operation.replace("_", "")) or "a layer"
        remedy = (
            "compute attention by its plain formula, inside torch.nn.attention.sdpa_kernel(SDPBackend.MATH)"
            if "attention" in operation
            else "exchange the layer"
        )
        raise UserError(
            f"{type(net).__name__}: {layer} ({operation}) cannot be differentiated twice, which a second-order"
            f" meta-gradient needs; {remedy}, or set inner_loop.first_order: true"
        ) from error


def _layer_of(net: nn.Module, x: Tensor, operation: str) -> str | None:
    """The innermost layer whose output was computed by `operation`, in torch's spelling without underscores."""
    found: list[str] = []

    def look(name: str, module: nn.Module, output: Any) -> None:
        if not found and isinstance(output, Tensor) and _computed_by(output.grad_fn, operation):
            found.append(f"layer {name!r} ({type(module).__name__})")

    hooks = [
        module.register_forward_hook(lambda module, _, output, name=name: look(name, module, output))
        for name, module in net.named_modules()
        if name
    ]
    try:
        with torch.enable_grad():
            net(x)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def _computed_by(node: Node | None, operation: str) -> bool:
    seen, waiting = set(), [node]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if operation.lower() in node.name().lower():
            return True
        waiting += [following for following, _ in node.next_functions]
    return False
