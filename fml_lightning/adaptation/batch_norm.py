"""Batch normalization: with which statistics the windows of a task are normalized.

Without a policy, a BatchNorm layer would mix one task's running statistics into the next's. Layers of other norms,
and BatchNorm with `track_running_stats=False`, need no policy.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from fml_lightning.errors import UserError

BatchNorm = Literal["batch", "frozen"]
"""`batch`: every set of windows is normalized with its own statistics, support and query each for itself, in
training and in validation; predictions then depend on the other windows of the set (the *transductive* protocol of
the few-shot literature). A personal model keeps the statistics of its support set, so that it can judge one window
alone. `frozen`: the statistics the network came with are constants; scale and shift adapt."""


def tracking(net: nn.Module) -> dict[str, _NormBase]:
    """The layers that keep running statistics, by name."""
    return {
        name: module
        for name, module in net.named_modules()
        if isinstance(module, _NormBase) and module.running_mean is not None
    }


def batch_statistics(net: nn.Module) -> str | None:
    """The first BatchNorm layer that normalizes with the statistics of the set at hand, if there is one."""
    return next(iter(_without_statistics(net)), None)


def _without_statistics(net: nn.Module) -> dict[str, _BatchNorm]:
    return {
        name: module
        for name, module in net.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is None
    }


def apply_policy(net: nn.Module, policy: BatchNorm | None, personal: Collection[str] = ()) -> None:
    """Make the layers of `net` follow the policy, in place.

    Args:
        net: the network.
        policy: what its layers normalize with.
        personal: names of buffers that may change in training; a layer with all of its own among them needs no
            policy.

    Raises:
        UserError: a layer keeps running statistics and there is no policy.
    """
    layers = tracking(net)
    if policy is not None and policy not in get_args(BatchNorm):
        raise UserError(f"batch_norm: expected one of {', '.join(get_args(BatchNorm))}, got {policy!r}")
    for name, layer in layers.items():
        own = {f"{name}.{buffer}".lstrip(".") for buffer, _ in layer.named_buffers()}
        if policy is None and not own <= set(personal):
            raise UserError(
                f"{type(net).__name__}: layer {name!r} ({type(layer).__name__}) keeps running statistics, which"
                " would leak between tasks; set batch_norm: batch (adapt with batch statistics) or batch_norm:"
                " frozen (keep the network's statistics), or use LayerNorm or GroupNorm"
            )
        if policy == "batch":
            drop_statistics(layer)


def drop_statistics(layer: _NormBase) -> None:
    """Let a layer normalize with the statistics of the set at hand, in place."""
    layer.track_running_stats = False
    layer.running_mean = layer.running_var = layer.num_batches_tracked = None


def add_statistics(net: nn.Module, layers: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Give layers statistics to normalize with, in place: name → mean and (biased) variance, (C,)."""
    for name, (mean, variance) in layers.items():
        layer = net.get_submodule(name)
        assert isinstance(layer, _BatchNorm)
        layer.track_running_stats = True
        layer.running_mean, layer.running_var = mean.clone(), variance.clone()
        layer.num_batches_tracked = torch.zeros((), dtype=torch.long, device=mean.device)


def keep_statistics(net: nn.Module, x: Tensor) -> None:
    """Make the statistics of a set of windows constants of those layers that keep none, in place.

    In evaluation mode the network's outputs on this set stay as they were, and its output for a window no longer
    depends on the other windows.

    Args:
        net: the network, in evaluation mode.
        x: the windows, (N, …).

    Raises:
        UserError: a layer normalizes more than once in a pass.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def note(name: str, values: Tensor) -> None:
        if name in found:
            raise UserError(
                f"{type(net).__name__}: layer {name!r} normalizes twice in a pass, with different statistics;"
                " use a layer of its own for each, batch_norm: frozen, LayerNorm or GroupNorm"
            )
        others = [dim for dim in range(values.ndim) if dim != 1]
        variance, mean = torch.var_mean(
            values.float() if values.dtype.itemsize < 4 else values, others, correction=0
        )
        found[name] = mean, variance

    layers = _without_statistics(net)
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: note(name, inputs[0]))
        for name, layer in layers.items()
    ]
    try:
        if layers:
            with torch.no_grad():
                net(x)
    finally:
        for hook in hooks:
            hook.remove()
    add_statistics(net, found)
