"""Messages between server and sites: what is packed comes back, and what is no message is refused."""

from __future__ import annotations

import contextlib
import random

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fml_lightning.executors.nvflare.envelope import Disable, EnvelopeError, decode, encode
from fml_lightning.executors.wire import WireError, pack, unpack

PARAMS = {
    "net.0.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3).t(),  # not contiguous
    "rate": torch.tensor(0.5, dtype=torch.float64),
    "half": torch.ones(0, 3, dtype=torch.float16),
    "count": torch.tensor([2**60]),
    "mask": torch.tensor([True, False]),
}
HEAD = {"verb": "fit", "round": 3, "metrics": {"train/loss": 0.25}, "reason": "pump 泵", "list": [1, None]}


def test_a_message_comes_back_bit_for_bit() -> None:
    head, params = unpack(pack(HEAD, PARAMS))
    assert head == HEAD
    assert list(params) == list(PARAMS)
    for name, p in PARAMS.items():
        assert params[name].dtype == p.dtype
        assert torch.equal(params[name], p)
    params["rate"].add_(1)  # its memory is its own
    assert unpack(pack({}))[1] == {}


def test_what_does_not_travel_is_refused_at_once() -> None:
    with pytest.raises(WireError, match=r"w: expected one of the dtypes .*, got <c8"):
        pack({}, {"w": torch.zeros(2, dtype=torch.complex64)})


def _listed(*arrays: tuple[str, str, list[int]], behind: bytes = b"") -> bytes:
    envelope = msgspec.msgpack.encode([{}, [list(array) for array in arrays]])
    return len(envelope).to_bytes(4, "little") + envelope + behind


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        (b"", "expected a head|cannot be read"),
        (b"\xff\xff\xff\xff", "expected a head of 4294967295 bytes, got 0"),
        (_listed(("w", "<f4", [2**40])), "expected 4398046511104 bytes of an array, got 0"),
        (_listed(("w", "<f4", [2**62, 2**62])), "bytes of an array"),
        (_listed(("w", "<f4", [-1])), "known dtype and shape"),
        (_listed(("w", "|O8", [1]), behind=b"12345678"), "known dtype and shape"),
        (_listed(("w", "<f4", [1] * 40), behind=b"1234"), "known dtype and shape"),
        (_listed(("w", "|b1", []), ("w", "|b1", []), behind=b"\1\1"), "each name once"),
        (_listed(behind=b"x"), "nothing behind its arrays, got 1 bytes"),
        (_listed(*[(str(n), "<f4", [0]) for n in range(100_001)]), "at most 100000 arrays"),
        (b"\x02\0\0\0\x91\x01", "cannot be read"),
        (b"\xff\xff\0\0" + b"\x91" * 0xFFFF, "cannot be read"),  # lists in lists in lists
    ],
)
def test_what_is_no_message_says_so(message: bytes, fault: str) -> None:
    with pytest.raises(WireError, match=fault):
        unpack(message)


@given(st.integers(0, 2**32), st.binary(max_size=40))
def test_damaged_messages_are_refused_or_read_but_never_break(seed: int, noise: bytes) -> None:
    message = bytearray(pack(HEAD, PARAMS))
    at = random.Random(seed).randrange(len(message))
    message[at : at + len(noise)] = noise
    with contextlib.suppress(WireError):
        unpack(bytes(message))


def test_an_envelope_that_holds_no_text_is_none() -> None:
    with pytest.raises(EnvelopeError, match="expected another message"):
        decode(encode(Disable(["ab"])).replace(b"ab", b"\xff\xff"), Disable)
