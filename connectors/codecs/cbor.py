"""CBOR: one map per message. https://www.rfc-editor.org/rfc/rfc8949."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from fml_lightning.connectors.codecs import cbor_keys, typed_array
from fml_lightning.connectors.codecs.codec import CodecError, Sample
from fml_lightning.connectors.codecs.members import Members
from fml_lightning.errors import UserError

try:
    import cbor2
except ImportError:
    cbor2 = None  # type: ignore[assignment]

SELF_DESCRIBED = b"\xd9\xd9\xf7"
"""A tag that marks CBOR as such."""
MAX_DEPTH = 16
"""Of arrays and maps within one another."""

_REFUSED = (5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000)
"""Tags of which cbor2 would make objects, such as compiled patterns and references back. Dates and big integers,
which sensors may send, are not among them."""


def _refuse(*_: object) -> object:
    raise ValueError("a tag that no sensor needs")


def _decimal_fraction(value: object, _immutable: bool = False) -> float:
    """The number mantissa · 10^exponent: `[-1, 215]` is 21.5."""
    match value:
        case [int(exponent), int(mantissa)] if abs(exponent) <= 400 and mantissa.bit_length() <= 64:
            return float(f"{mantissa}e{exponent}")
    raise ValueError("a decimal fraction that is none, or far from any measurement")


_TAGS: dict[int, Callable[..., object]] = {
    **dict.fromkeys(_REFUSED, _refuse),
    4: _decimal_fraction,
    **typed_array.DECODERS,
}


def check_installed() -> None:
    """Refuse to go on without the package that reads CBOR.

    Raises:
        UserError: it is not installed.
    """
    if cbor2 is None:
        raise UserError("CBOR: expected the package cbor2, got none; run: pip install 'fml-lightning[cbor]'")


def content(payload: bytes) -> Any:
    """What a payload says in CBOR: dicts, lists, and what is in them.

    Raises:
        CodecError: it is not one item of CBOR.
    """
    payload = payload.removeprefix(SELF_DESCRIBED)  # within a tag, cbor2 makes tuples of arrays
    try:
        return _decoded(payload, True)
    except CodecError:
        if not cbor_keys.are_plain(payload):
            raise
    return _decoded(payload, False)


def _decoded(payload: bytes, has_text_keys: bool) -> Any:
    """One item, in which all keys are text or bytes, or, as `cbor_keys` has seen, integers too."""
    stream = io.BytesIO(payload)
    try:
        found = cbor2.CBORDecoder(
            stream,
            max_depth=MAX_DEPTH,
            allow_duplicate_keys=False,
            strict_hashable_types=has_text_keys,
            semantic_decoders=_TAGS,
        ).decode()
    except cbor2.CBORDecodeError as error:
        raise CodecError(f"expected CBOR, got: {error}") from error
    if stream.tell() < len(payload):
        raise CodecError(f"expected one item of CBOR, got {len(payload) - stream.tell()} more bytes after it")
    return found


@dataclass(frozen=True)
class CBOR(Members):
    """One map with the members that `JSONObject` has; a time may also be a CBOR date."""

    def __post_init__(self) -> None:
        check_installed()
        super().__post_init__()

    def decode(self, payload: bytes) -> Sequence[Sample]:
        """One sample, or one of each channel where keys name channels."""
        if not payload:
            return ()
        members = content(payload)
        plain_reader = self._plain_reader
        if plain_reader is not None:
            try:
                record: Any = msgspec.convert(members, plain_reader.type)
            except msgspec.ValidationError:
                pass  # the general way says what is wrong, if anything is: keys may be numbers
            else:
                if (samples := plain_reader.read(record)) is not None:
                    return samples
        return self._reader.read(members)
