"""Tied weights: one tensor under several names, such as an embedding that is also the decoder's weight.

All names of a tensor mean the same thing to every setting. Its first name in the order of `named_parameters`
stands for it in parameters, gradients and updates; patterns select it by all of its names or not at all
(`params.select`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from fml_lightning.errors import UserError


def tied_names(net: nn.Module) -> dict[str, tuple[str, ...]]:
    """First name → all names of each parameter or buffer that has more than one.

    Buffers that are views of one another count as one tensor.

    >>> layer = nn.Linear(2, 2)
    >>> tied_names(nn.Sequential(layer, nn.ReLU(), layer))
    {'0.weight': ('0.weight', '2.weight'), '0.bias': ('0.bias', '2.bias')}

    Raises:
        UserError: a parameter shares memory with another tensor that is not the same object, so that it would
            change with that one in some places (an optimizer's step) and not in others (an inner loop).
    """
    tensors = [
        *net.named_parameters(remove_duplicate=False),
        *net.named_buffers(remove_duplicate=False),
    ]
    names: dict[int, list[str]] = {}
    first: dict[str, Tensor] = {}
    for name, tensor in tensors:
        names.setdefault(id(tensor), []).append(name)
        if len(names[id(tensor)]) == 1:
            first[name] = tensor
    groups = {same[0]: same for same in names.values()}
    for a, b in _sharing_memory(first):
        if isinstance(first[a], nn.Parameter) or isinstance(first[b], nn.Parameter):
            raise UserError(
                f"{type(net).__name__}: {a!r} and {b!r} are tied by their memory, not as one parameter; make both"
                " the same nn.Parameter (decoder.weight = embedding.weight), or clone one of them"
            )
        if groups[a] is not groups[b]:
            merged = groups[a] + groups[b]
            groups |= dict.fromkeys(groups.keys() & set(merged), merged)
    return {name: tuple(same) for name, same in groups.items() if len(same) > 1 and same[0] == name}


def _sharing_memory(tensors: dict[str, Tensor]) -> list[tuple[str, str]]:
    """Pairs of different tensors whose elements lie in the same memory."""
    by_storage: dict[int, list[tuple[str, int, int]]] = defaultdict(list)
    for name, tensor in tensors.items():
        if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
            continue
        if tensor.layout != torch.strided or tensor.is_meta or not tensor.numel():
            continue
        steps: Iterator[tuple[int, int]] = zip(tensor.shape, tensor.stride(), strict=True)
        begin = int(tensor.storage_offset()) * tensor.element_size()
        length = (1 + sum((size - 1) * stride for size, stride in steps)) * tensor.element_size()
        by_storage[tensor.untyped_storage().data_ptr()].append((name, begin, begin + length))
    return [
        (a, b)
        for places in by_storage.values()
        for (a, begin_a, end_a), (b, begin_b, end_b) in combinations(places, 2)
        if begin_a < end_b and begin_b < end_a
    ]
