"""Stacking: run T tasks through T sets of parameters in one pass, or one after another.

The rule (measured by `python -m benchmarks.meta_step`): all tasks are stacked, which saves the overhead of T small
passes. Tasks run one by one where stacking gains nothing: where convolutions adapt (each task's own filters make
a grouped convolution, which is no faster, and all tasks' activations are held at once), in networks with recurrent
or attention layers, and in those that `vmap` refuses. A chain of linear, LayerNorm and pointwise layers needs no
`vmap`: each is one batched operation, which is faster still.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from fml_lightning.nets import MLP
from fml_lightning.params import own_names
from fml_lightning.types import Forward, Params, StackedForward

POINTWISE = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Tanh,
    nn.Identity,
    nn.Dropout,
)
"""Layers that treat each number alone, whatever the shape."""


class StackingRule:
    """Whether the tasks of a network should be stacked, given the parameters that adapt.

    >>> rule = StackingRule(nn.Sequential(nn.Conv1d(1, 4, 3), nn.Flatten(), nn.Linear(4, 2)))
    >>> rule.stacks(["0.weight", "2.weight"]), rule.stacks(["2.weight"])
    (False, True)

    Args:
        net: the network.
    """

    def __init__(self, net: nn.Module) -> None:
        self.never = any(isinstance(module, nn.RNNBase | nn.MultiheadAttention) for module in net.modules())
        convolutions = [(prefix, module) for prefix, module in net.named_modules() if isinstance(module, _ConvNd)]
        self.filters = frozenset(n for prefix, module in convolutions for n, _ in module.named_parameters(prefix))

    def stacks(self, adapting: Iterable[str]) -> bool:
        """Whether all tasks should run in one pass if these parameters adapt; else they run one by one."""
        return not self.never and self.filters.isdisjoint(adapting)


def stacked(forward: Forward) -> StackedForward:
    """The network of one task as a network of T tasks in one pass.

    Parameters that are one view for all tasks (`params.stack`) take part in one large product; each task's own
    make a batched one. Where the forward pass cannot be vmapped, the tasks run one after another.
    """

    def outputs(adapted: Params, x: Tensor) -> Tensor:
        if x.shape[0] == 1:
            return forward({name: p.squeeze(0) for name, p in adapted.items()}, x.squeeze(0)).unsqueeze(0)
        own = {name: adapted[name] for name in own_names(adapted)}
        common = {name: p[0] for name, p in adapted.items() if name not in own}
        try:
            result: Tensor = vmap(lambda p, window: forward(common | p, window), randomness="different")(own, x)
        except RuntimeError as error:
            if "vmap" not in str(error) and "Batching rule" not in str(error):
                raise
            return looped(forward)(adapted, x)
        return result

    return outputs


def chained(
    net: nn.Module, otherwise: StackedForward, first_names: Mapping[str, str] = MappingProxyType({})
) -> StackedForward:
    """A chain of `Linear`, `LayerNorm` and `POINTWISE` layers as a network of T tasks, one operation per layer.

    Args:
        net: the network of one task.
        otherwise: what runs a network that is no such chain, and windows that do not fit its first layer.
        first_names: the name by which a tied parameter is known, for each of its names (see `tied_weights`).
    """
    layers = [
        (n, x) for n, x in net._modules.items() if x is not None
    ]  # `named_children` would leave out a layer that comes again
    is_chain = type(net).forward in (nn.Sequential.forward, MLP.forward)
    is_hooked = any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    if is_hooked or not is_chain or any(type(x) not in (nn.Linear, nn.LayerNorm, *POINTWISE) for _, x in layers):
        return otherwise
    width = next((layer.in_features for _, layer in layers if isinstance(layer, nn.Linear)), None)

    def outputs(adapted: Params, x: Tensor) -> Tensor:
        if x.dim() != 3 or x.shape[-1] != width:
            return otherwise(adapted, x)
        own = own_names(adapted)
        for name, layer in layers:
            names = [first_names.get(full, full) for full in (f"{name}.weight", f"{name}.bias")]
            weight, bias = (adapted.get(full) for full in names)
            if isinstance(layer, nn.LayerNorm):
                x = F.layer_norm(x, layer.normalized_shape, eps=layer.eps)
                x = x if weight is None else x * weight.unsqueeze(1)
                x = x if bias is None else x + bias.unsqueeze(1)
            elif weight is None:
                x = layer(x)
            elif names[0] not in own:
                x = F.linear(x, weight[0])  # one large product
                x = x if bias is None else x + bias.unsqueeze(1)
            elif bias is None:
                x = torch.bmm(x, weight.transpose(1, 2))
            else:
                x = torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))
        return x  # (T, N, C)

    return outputs


def looped(forward: Forward) -> StackedForward:
    """The network of one task as a network of T tasks, one after another."""

    def outputs(adapted: Params, x: Tensor) -> Tensor:
        each = [forward({name: p[t] for name, p in adapted.items()}, x[t]) for t in range(x.shape[0])]
        return torch.stack(each)

    return outputs
