"""The head: the last layer of a network, which turns what the body sees into an answer."""

from __future__ import annotations

from torch import nn

from fml_lightning.errors import UserError


def head_of(net: nn.Module) -> tuple[str, ...]:
    """Patterns of the parameters of the last layer that has any, in the order of registration.

    >>> head_of(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)))
    ('2.*',)

    Raises:
        UserError: no layer has parameters, or the network is a single layer.
    """
    layers = [name for name, module in net.named_modules() if any(True for _ in module.parameters(recurse=False))]
    if not layers or not layers[-1]:
        raise UserError(
            f"{type(net).__name__}: expected a network whose last layer is its head; name it in `head`"
        )
    return (f"{layers[-1]}.*",)
