"""Networks as a saved state has them: made again of their description, and seen to fit before memory is taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from fml_lightning.adaptation.batch_norm import add_statistics, drop_statistics, tracking
from fml_lightning.errors import UserError
from fml_lightning.personal.descriptions import MADE_WITH, NETWORKS

MOST_PARAMETERS, MOST_LAYERS = 4, 100
"""Parameters and layers that a network may have, beside a few, for each tensor of its state."""
SHOWN = 3
"""Names of tensors in an error."""


def restored(description: object, state: Mapping[str, Tensor]) -> nn.Module:
    """The network of a description, with a saved state; torch's global generator stays as it is.

    Args:
        description: as `NETWORKS` describes it.
        state: what its `state_dict` was.

    Raises:
        UserError: it cannot be made again, or the state is of another network.
    """
    with bounded(len(state)):
        with torch.device("meta"):
            fit(NETWORKS.made(description), state)
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            net = NETWORKS.made(description)
    return filled(net, state)


def filled(net: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """A network with a saved state, in place, in evaluation mode.

    Raises:
        UserError: the state is of another network.
    """
    fit(net, state)
    net.load_state_dict(state)
    return net.eval()


def fit(net: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a network the running statistics that a saved state has, and no others, and the state's precision.

    Raises:
        UserError: the state is of another network.
    """
    for name, layer in tracking(net).items():
        if _key(name, "running_mean") not in state:  # an InstanceNorm: batch_norm: batch has taken its statistics
            drop_statistics(layer)
    added = {}
    for name, layer in net.named_modules():
        mean, variance = (state.get(_key(name, kind)) for kind in ("running_mean", "running_var"))
        if (
            isinstance(layer, _BatchNorm)
            and layer.running_mean is None
            and mean is not None
            and variance is not None
        ):
            expected = (layer.num_features,)
            if not mean.shape == variance.shape == expected:
                raise UserError(
                    f"expected statistics of shape {expected} for the layer {name!r}, the file has"
                    f" {tuple(mean.shape)} and {tuple(variance.shape)}"
                )
            added[name] = mean, variance
    add_statistics(net, added)
    own = net.state_dict(keep_vars=True)
    for what, names in (("lacks", own.keys() - state.keys()), ("has besides", state.keys() - own.keys())):
        if names:
            some = ", ".join(sorted(names)[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
            raise UserError(f"expected the tensors of {type(net).__name__}, the file {what} {some}")
    for name, saved in state.items():
        tensor = own[name]
        if tensor.shape != saved.shape or tensor.is_floating_point() != saved.is_floating_point():
            raise UserError(
                f"expected {name} of {type(net).__name__} as {tensor.dtype} {tuple(tensor.shape)}, the file has"
                f" {saved.dtype} {tuple(saved.shape)}"
            )
        if tensor.dtype != saved.dtype:
            tensor.data = tensor.data.to(saved.dtype)


def differences(net: nn.Module, again: nn.Module) -> str:
    """In what a network that was made again differs from the first one, for errors; empty where it does not.

    States are not compared: constants outside the state are, and the settings of all layers.
    """
    first, second = (dict(each.named_modules(remove_duplicate=False)) for each in (net, again))
    if names := first.keys() ^ second.keys():
        return f"the layers {', '.join(sorted(names)[:SHOWN])}"
    for name, layer in second.items():
        other = first[name]
        if type(other) is not type(layer):
            return f"the layer {name!r}, {type(layer).__name__} in place of {type(other).__name__}"
        saved = {*other.state_dict(), *layer._parameters}
        mine, theirs = ({**vars(each), **each._buffers} for each in (layer, other))
        for key, value in mine.items():
            if key not in saved and key not in _NOT_COMPARED and not _same(value, theirs.get(key)):
                return f"{key} of the layer {name!r} ({type(layer).__name__})"
    return ""


_NOT_COMPARED = {*vars(nn.Module()), MADE_WITH}
"""Attributes that every module has, such as its mode, and what was noted of its arguments."""


def _same(value: Any, other: Any) -> bool:
    """Whether two attributes are alike, of the kinds of which that can be said; of others it is taken to be so."""
    if isinstance(value, Tensor):
        return isinstance(other, Tensor) and value.shape == other.shape and torch.equal(value, other.to(value))
    if isinstance(value, list | tuple):
        is_long = isinstance(other, list | tuple) and len(value) == len(other)
        return is_long and all(map(_same, value, other))
    if isinstance(value, bool | int | float | str | None):
        return bool(value == other)
    return True


def _key(layer: str, buffer: str) -> str:
    return f"{layer}.{buffer}".lstrip(".")


@contextmanager
def bounded(tensors: int) -> Iterator[None]:
    """Refuse to make many more parameters and layers inside than a network with so many tensors has."""
    left = {"parameters": 64 + MOST_PARAMETERS * tensors, "layers": 1000 + MOST_LAYERS * tensors}

    def count(what: str) -> None:
        left[what] -= 1
        if left[what] < 0:
            raise UserError(f"expected a network of {tensors} tensors, its description has many more {what}")

    hooks = [
        register_module_parameter_registration_hook(lambda *_: count("parameters")),
        register_module_module_registration_hook(lambda *_: count("layers")),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
