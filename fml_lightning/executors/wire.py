"""What crosses the wire between server and sites: a head in msgpack, and raw arrays behind it.

Nothing is unpickled. Whoever reads a message says how large it may be; names, dtypes, shapes and sizes are checked
before an array is made of it, so that a stranger's message costs no more memory than its own bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import torch

from fml_lightning.errors import UserError
from fml_lightning.types import Params

DTYPES = {"<f4": np.float32, "<f8": np.float64, "<f2": np.float16, "<i8": np.int64, "|b1": np.bool_}
"""Dtypes that arrays may have, as numpy writes them."""
MOST_ARRAYS = 100_000
"""Arrays of a message, at most."""
MOST_AXES = 16
"""Axes of an array, at most."""


class WireError(UserError):
    """A message that is none."""


class _Array(msgspec.Struct, array_like=True):
    name: str
    dtype: str
    shape: list[int]


class _Envelope(msgspec.Struct, array_like=True):
    head: dict[str, Any]
    arrays: list[_Array]


def pack(head: Mapping[str, Any], params: Params | None = None) -> bytes:
    """A message.

    Args:
        head: what msgpack can hold: text, numbers, lists and mappings.
        params: tensors by name, on the CPU.

    Raises:
        WireError: a tensor has a dtype that does not travel.
    """
    arrays = {name: p.detach().cpu().numpy() for name, p in (params or {}).items()}
    for name, array in arrays.items():
        if array.dtype.str not in DTYPES:
            raise WireError(f"{name}: expected one of the dtypes {', '.join(DTYPES)}, got {array.dtype.str}")
    listed = [_Array(name, array.dtype.str, list(array.shape)) for name, array in arrays.items()]
    envelope = msgspec.msgpack.encode(_Envelope(dict(head), listed))
    return b"".join([len(envelope).to_bytes(4, "little"), envelope, *(a.tobytes() for a in arrays.values())])


def unpack(message: bytes) -> tuple[dict[str, Any], Params]:
    """The head and the tensors of a message.

    Raises:
        WireError: it is no such message.
    """
    size = int.from_bytes(message[:4], "little")
    if len(message) < 4 + size:
        raise WireError(f"message: expected a head of {size} bytes, got {max(0, len(message) - 4)}")
    try:
        envelope = msgspec.msgpack.decode(message[4 : 4 + size], type=_Envelope)
    except (ValueError, RecursionError) as error:
        raise WireError(f"message: its head cannot be read ({type(error).__name__})") from error
    if len(envelope.arrays) > MOST_ARRAYS:
        raise WireError(f"message: expected at most {MOST_ARRAYS} arrays, got {len(envelope.arrays)}")
    at, params = 4 + size, Params()
    for array in envelope.arrays:
        if array.dtype not in DTYPES or len(array.shape) > MOST_AXES or any(n < 0 for n in array.shape):
            raise WireError(f"message: expected an array of a known dtype and shape, got {array.dtype:.10}")
        if array.name in params:
            raise WireError("message: expected each name once, got one twice")
        dtype, count = np.dtype(DTYPES[array.dtype]), math.prod(array.shape)
        if count * dtype.itemsize > len(message) - at:
            raise WireError(
                f"message: expected {count * dtype.itemsize} bytes of an array, got {len(message) - at}"
            )
        values = np.frombuffer(message, dtype, count, at).reshape(array.shape)
        params[array.name] = torch.from_numpy(values.copy())
        at += count * dtype.itemsize
    if at != len(message):
        raise WireError(f"message: expected nothing behind its arrays, got {len(message) - at} bytes")
    return envelope.head, params
