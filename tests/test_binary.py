"""Packed samples in bytes or text: every encoding, every dtype, and interleaved channels."""

from __future__ import annotations

import base64
import struct

import numpy as np
import pytest

from fml_lightning.connectors import Binary, RawSamples
from fml_lightning.connectors.codecs.codec import CodecError
from fml_lightning.errors import UserError

LETTERS = {
    "float32": "f",
    "float64": "d",
    "int8": "b",
    "uint8": "B",
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
}
"""What `struct` calls each dtype."""
SIX = struct.pack("<6h", 1, 2, 3, 4, 5, 6)


def read(binary: Binary, value: object) -> dict[str | None, list[float]]:
    return {name: values.tolist() for name, values in binary.read(value, "a.b")}


@pytest.mark.parametrize(
    ("encoding", "value"),
    [
        ("none", SIX),
        ("hex", SIX.hex()),
        ("hex", SIX.hex().upper().encode()),
        ("base64", base64.b64encode(SIX).decode()),
        ("base64", base64.b64encode(SIX)),
    ],
)
def test_samples_in_text_and_bytes(encoding: str, value: object) -> None:
    assert read(Binary(encoding, "int16"), value) == {None: [1, 2, 3, 4, 5, 6]}  # type: ignore[arg-type]
    three = Binary(encoding, "int16", scale=0.5, offset=1.0, channels=("x", "y", "z"))  # type: ignore[arg-type]
    assert read(three, value) == {"x": [1.5, 3.0], "y": [2.0, 3.5], "z": [2.5, 4.0]}


@pytest.mark.parametrize(("dtype", "letter"), LETTERS.items())
@pytest.mark.parametrize("order", ["little", "big"])
def test_every_dtype_interleaved(dtype: str, letter: str, order: str) -> None:
    raw = struct.pack((">" if order == "big" else "<") + "4" + letter, 1, 100, 2, 101)
    blocks = Binary("none", dtype, order, channels=("a", "b")).read(raw, "")  # type: ignore[arg-type]
    assert [(name, values.tolist()) for name, values in blocks] == [("a", [1, 2]), ("b", [100, 101])]
    assert all(values.dtype == np.float32 and values.flags.c_contiguous for _, values in blocks)


@pytest.mark.parametrize(
    ("binary", "value", "fault"),
    [
        (Binary(), 1.5, "a.b: expected text in base64, got 1.5"),
        (Binary(), None, "a.b: expected text in base64, got None"),
        (Binary(), "{}", "a.b: base64: expected base64, got '{}'"),
        (Binary("hex"), "\ud800", "a.b: "),
        (Binary("none"), "AAAA", "a.b: expected bytes, got 'AAAA'; is an encoding missing in binary?"),
        (Binary("hex"), "", "a.b: expected samples of 4 bytes, at least one, got 0 bytes"),
        (Binary("hex"), "000000", "a.b: expected samples of 4 bytes, at least one, got 3 bytes"),
        (
            Binary("none", "int16", channels=("x", "y", "z")),
            SIX[:8],
            "a.b: expected samples of 3 channels of 2 bytes, at least one, got 8 bytes",
        ),
    ],
)
def test_what_holds_no_samples_says_where(binary: Binary, value: object, fault: str) -> None:
    with pytest.raises(CodecError) as error:
        binary.read(value, "a.b")
    assert str(error.value).startswith(fault)


def test_raw_samples_of_three_axes_are_three_blocks() -> None:
    codec = RawSamples(1000.0, "int16", channels=("x", "y", "z"))
    samples = codec.decode(SIX)
    assert [(s.channel, s.values.tolist(), s.sample_rate) for s in samples] == [  # type: ignore[union-attr]
        ("x", [1, 4], 1000.0),
        ("y", [2, 5], 1000.0),
        ("z", [3, 6], 1000.0),
    ]
    assert codec.decode(b"") == ()
    with pytest.raises(CodecError, match="payload: expected samples of 3 channels of 2 bytes"):
        codec.decode(SIX[:-2])


@pytest.mark.parametrize(
    "options",
    [{"scale": 0.0}, {"offset": float("nan")}, {"channels": ("x", "")}, {"channels": ("x", "x")}],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"^Binary(\.channels)?: expected"):
        Binary(**options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^RawSamples(\.channels)?: expected"):
        RawSamples(1.0, **options)  # type: ignore[arg-type]
