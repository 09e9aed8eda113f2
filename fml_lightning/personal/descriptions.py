"""Descriptions of networks and objectives in JSON, from which a personal model's file makes them again.

A layer of torch tells what it was made with by its attributes; a class of a user's keeps each argument of its
constructor under the argument's name, or is made from YAML, where `remembering` notes what it is given.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from fml_lightning.description import MADE_WITH, Describer, class_path, imported
from fml_lightning.errors import UserError
from fml_lightning.nets import NextTokenGRU
from fml_lightning.objectives import Objective

__all__ = ["MADE_WITH", "NETWORKS", "OBJECTIVES", "remembering"]

T = TypeVar("T")

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
NOT_TOLD = ("device", "dtype", "size_average", "reduce")
"""Arguments of torch's layers that the saved tensors tell, or that say in an old way what others say."""


def _recurrent(net: Any) -> dict[str, Any]:
    names = ["input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"]
    names += {nn.LSTM: ["proj_size"], nn.RNN: ["nonlinearity"]}.get(type(net), [])
    return {name: getattr(net, name) for name in names}


def _attention(net: Any) -> dict[str, Any]:
    names = ("embed_dim", "num_heads", "dropout", "kdim", "vdim", "batch_first", "add_zero_attn")
    biases = {"bias": net.in_proj_bias is not None, "add_bias_kv": net.bias_k is not None}
    return {name: getattr(net, name) for name in names} | biases


def _encoder_layer(net: Any) -> dict[str, Any]:
    return {
        "d_model": net.self_attn.embed_dim,
        "nhead": net.self_attn.num_heads,
        "dim_feedforward": net.linear1.out_features,
        "dropout": net.dropout.p,
        "activation": net.activation,
        "layer_norm_eps": net.norm1.eps,
        "batch_first": net.self_attn.batch_first,
        "norm_first": net.norm_first,
        "bias": net.linear1.bias is not None,
    }


def _encoder(net: Any) -> dict[str, Any]:
    return {
        "encoder_layer": net.layers[0],
        "num_layers": net.num_layers,
        "norm": net.norm,
        "enable_nested_tensor": net.enable_nested_tensor,
        "mask_check": net.mask_check,
    }


def _next_token(net: Any) -> dict[str, Any]:
    embedding = net.embedding
    return {
        "tokens": embedding.num_embeddings,
        "embedding": embedding.embedding_dim,
        "hidden": net.recurrent.hidden_size,
    }


LAYERS: Mapping[type[nn.Module], Callable[[Any], dict[str, Any]]] = {
    nn.GRU: _recurrent,
    nn.LSTM: _recurrent,
    nn.RNN: _recurrent,
    nn.MultiheadAttention: _attention,
    nn.TransformerEncoderLayer: _encoder_layer,
    nn.TransformerDecoderLayer: _encoder_layer,
    nn.TransformerEncoder: _encoder,
    NextTokenGRU: _next_token,
}
"""What those layers were made with that do not keep it under the arguments' names."""


def _arguments(net: nn.Module, where: str) -> dict[str, Any]:
    """What a network was made with.

    Raises:
        UserError: it does not tell.
    """
    kind = type(net)
    if _is_container(kind):
        return {"modules": dict(net.named_children())}
    if kind in LAYERS:
        return LAYERS[kind](net)
    is_torchs = kind.__module__.startswith("torch.nn.")
    arguments = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        if is_torchs and (name in NOT_TOLD or name.startswith("_") or parameter.kind in (2, 4)):
            continue
        if not hasattr(net, name):
            raise UserError(
                f"{where}: expected the attribute {name}, the argument it was made with; keep it, as in"
                f" self.{name} = {name}"
            )
        value = getattr(net, name)
        if isinstance(value, Tensor) and not value.ndim:
            value = value.item()
        if isinstance(parameter.default, bool) and (value is None or isinstance(value, Tensor)):
            value = value is not None  # such as `bias`: whether there is one
        arguments[name] = value
    return arguments


def _build(kind: type[nn.Module], arguments: dict[str, Any]) -> nn.Module:
    if issubclass(kind, Metric):
        raise UserError(f"network {kind.__name__}: expected a network, got a metric")
    if arguments.get("device") is not None:
        arguments["device"] = torch.get_default_device()
    if not _is_container(kind):
        return kind(**arguments)
    modules = arguments.get("modules")
    if not isinstance(modules, dict) or len(arguments) > 1:
        raise UserError(f"network {kind.__name__}: expected modules by name")
    if issubclass(kind, nn.ModuleList):
        return kind(modules.values())
    return kind(OrderedDict(modules)) if issubclass(kind, nn.Sequential) else kind(modules)


def _is_container(kind: type) -> bool:
    """Whether a class is one of torch's containers, or one of these with another name."""
    return any(issubclass(kind, each) and kind.__init__ is each.__init__ for each in CONTAINERS)


def _other(value: Any, where: str) -> dict[str, Any] | None:
    """Describes a tensor by its shape, as the state has its values; a kind of layer, and torch's functions."""
    if isinstance(value, Tensor):
        return {"zeros": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, type) and issubclass(value, nn.Module):
        return {"import_path": class_path(value, where)}
    name = getattr(value, "__name__", "")
    if callable(value) and getattr(F, name, None) is value:
        return {"import_path": f"torch.nn.functional.{name}"}
    return None


def _other_made(content: Mapping[str, Any]) -> Any:
    if content.keys() == {"zeros", "dtype"}:
        dtype = getattr(torch, str(content["dtype"]), None)
        shape = content["zeros"]
        if not isinstance(dtype, torch.dtype) or not isinstance(shape, list):
            raise UserError(f"network: expected the shape and dtype of a tensor, got {dict(content)!r:.100}")
        return torch.zeros([int(size) for size in shape], dtype=dtype)
    if content.keys() == {"import_path"}:
        path = str(content["import_path"])
        module, _, name = path.rpartition(".")
        if module == "torch.nn.functional" and callable(function := getattr(F, name, None)):
            return function
        return imported(path, nn.Module, "network")
    return None


NETWORKS = Describer(nn.Module, "network", _arguments, _build, _other, _other_made)


def _of_objective(value: Any, where: str) -> dict[str, Any] | None:
    """Describes what `Loss` is made of: a function, or a module without a state."""
    if isinstance(value, nn.Module) and not value.state_dict():
        return {"torch_module": NETWORKS.describe(value)}
    return None if isinstance(value, Tensor | nn.Module) else _other(value, where)


def _of_objective_made(content: Mapping[str, Any]) -> Any:
    return NETWORKS.made(content["torch_module"]) if "torch_module" in content else _other_made(content)


OBJECTIVES = Describer(
    Objective,  # type: ignore[type-abstract]
    "objective",
    lambda objective, _: objective.arguments(),
    other=_of_objective,
    other_made=_of_objective_made,
)


def remembering(kind: type[T], *args: Any, **arguments: Any) -> T:
    """An object of a class, which keeps what it is made with for its description: an instantiator of jsonargparse.

    Learners and federations, which are no networks, keep nothing, nor do classes that tell it by themselves.
    """
    value = kind(*args, **arguments)
    if args or isinstance(value, LightningModule):
        return value
    if isinstance(value, nn.Module) and not _is_container(kind):
        NETWORKS.remember(value, arguments)
    elif isinstance(value, Objective):
        try:
            value.arguments()
        except UserError:
            OBJECTIVES.remember(value, {name: each for name, each in arguments.items() if name != "metrics"})
    return value
