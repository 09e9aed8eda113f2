"""CBOR: one map per message. https://www.rfc-editor.org/rfc/rfc8949."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from fml_lightning.connectors.codecs import typed_array
from fml_lightning.connectors.codecs.codec import CodecError, Sample
from fml_lightning.connectors.codecs.members import Members
from fml_lightning.errors import UserError

try:
    import cbor2
except ImportError:
    cbor2 = None  # type: ignore[assignment]

MAX_DEPTH = 16
"""Of arrays and maps within one another."""

_REFUSED = (4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000)
"""Tags of which cbor2 would make objects, such as compiled patterns and references back. Dates and big integers,
which sensors may send, are not among them."""


def _refuse(*_: object) -> object:
    raise ValueError("a tag that no sensor needs")


_TAGS: dict[int, Callable[..., object]] = dict.fromkeys(_REFUSED, _refuse) | typed_array.DECODERS


@dataclass(frozen=True)
class CBOR(Members):
    """One map with the members that `JSONObject` has; a time may also be a CBOR date."""

    def __post_init__(self) -> None:
        if cbor2 is None:
            raise UserError("CBOR: expected the package cbor2, got none; run: pip install 'fml-lightning[cbor]'")
        super().__post_init__()

    def decode(self, payload: bytes) -> Sequence[Sample]:
        """One sample, or one of each channel where keys name channels."""
        if not payload:
            return ()
        stream = io.BytesIO(payload)
        try:
            content = cbor2.CBORDecoder(
                stream,
                max_depth=MAX_DEPTH,
                allow_duplicate_keys=False,
                strict_hashable_types=True,
                semantic_decoders=_TAGS,
            ).decode()
        except cbor2.CBORDecodeError as error:
            raise CodecError(f"expected CBOR, got: {error}") from error
        if stream.tell() < len(payload):
            raise CodecError(f"expected one item of CBOR, got {len(payload) - stream.tell()} more bytes after it")
        if self._record_type is not None:
            try:
                record = msgspec.convert(content, self._record_type.type)
            except msgspec.ValidationError:
                pass  # the general way says what is wrong, if anything is: keys may be numbers
            else:
                if (samples := self._from_record(record)) is not None:
                    return samples
        return self._reader.read(content)
