"""Batch normalization: which statistics tasks are normalized with, said in as many words.

Left alone, a BatchNorm layer mixes one task's running statistics into the next. Layers of other norms, and
BatchNorm with `track_running_stats=False`, need no policy.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from fml_lightning.errors import UserError

BatchNorm = Literal["batch", "frozen"]
"""`batch`: every set of windows is normalized with its own statistics, support and query each for itself, in
training and after; predictions then depend on the other windows of the set (the *transductive* protocol of the
few-shot literature). `frozen`: the statistics the network came with are constants; scale and shift adapt."""


def tracking(net: nn.Module) -> dict[str, _NormBase]:
    """The layers that keep running statistics, by name."""
    return {
        name: module
        for name, module in net.named_modules()
        if isinstance(module, _NormBase) and module.running_mean is not None
    }


def batch_statistics(net: nn.Module) -> str | None:
    """The first BatchNorm layer that normalizes with the statistics of the set at hand, if there is one."""
    name: str
    for name, module in net.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            return name
    return None


def apply_policy(net: nn.Module, policy: BatchNorm | None) -> None:
    """Make the layers of `net` follow the policy, in place.

    Raises:
        UserError: a layer keeps running statistics and there is no policy.
    """
    layers = tracking(net)
    if policy is not None and policy not in get_args(BatchNorm):
        raise UserError(f"batch_norm: expected one of {', '.join(get_args(BatchNorm))}, got {policy!r}")
    if policy is None and layers:
        name, layer = next(iter(layers.items()))
        raise UserError(
            f"{type(net).__name__}: layer {name!r} ({type(layer).__name__}) keeps running statistics, which would"
            " leak between tasks; set batch_norm: batch (adapt with batch statistics) or batch_norm: frozen (keep"
            " the network's statistics), or use LayerNorm or GroupNorm"
        )
    if policy == "batch":
        for layer in layers.values():
            layer.track_running_stats = False
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None
