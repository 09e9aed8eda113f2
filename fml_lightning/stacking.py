"""Stacking: run T tasks through T sets of parameters in one pass, or one after another.

The rule (measured by `python -m benchmarks.meta_step`): tasks are stacked, which saves the overhead of T small
passes, unless a convolution adapts (each task's own filters make it a grouped convolution: slower, and all tasks'
activations are held at once) or the network is recurrent. What `vmap` refuses runs one by one as well.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.modules.conv import _ConvNd

from fml_lightning.types import Forward, Params, StackedForward


def solitary(net: nn.Module) -> frozenset[str]:
    """Names of the parameters that make tasks run one by one if they adapt.

    >>> sorted(solitary(nn.Sequential(nn.Conv1d(1, 4, 3), nn.Flatten(), nn.Linear(4, 2))))
    ['0.bias', '0.weight']
    """
    if any(isinstance(module, nn.RNNBase) for module in net.modules()):
        return frozenset(name for name, _ in net.named_parameters())
    convolutions = [(prefix, module) for prefix, module in net.named_modules() if isinstance(module, _ConvNd)]
    return frozenset(name for prefix, module in convolutions for name, _ in module.named_parameters(prefix))


def stacked(forward: Forward) -> StackedForward:
    """The network of one task as a network of T tasks in one pass.

    Parameters that are one view for all tasks (`params.stack`) take part in one large product; each task's own
    make a batched one. Where the forward pass cannot be vmapped, the tasks run one after another.
    """

    def outputs(adapted: Params, x: Tensor) -> Tensor:
        if x.shape[0] == 1:
            return forward({name: p.squeeze(0) for name, p in adapted.items()}, x.squeeze(0)).unsqueeze(0)
        own = {name: p for name, p in adapted.items() if p.stride(0) != 0}
        common = {name: p[0] for name, p in adapted.items() if name not in own}
        try:
            result: Tensor = vmap(lambda p, window: forward(common | p, window), randomness="different")(own, x)
        except RuntimeError as error:
            if "vmap" not in str(error) and "Batching rule" not in str(error):
                raise
            return looped(forward)(adapted, x)
        return result

    return outputs


def looped(forward: Forward) -> StackedForward:
    """The network of one task as a network of T tasks, one after another."""

    def outputs(adapted: Params, x: Tensor) -> Tensor:
        each = [forward({name: p[t] for name, p in adapted.items()}, x[t]) for t in range(x.shape[0])]
        return torch.stack(each)

    return outputs
