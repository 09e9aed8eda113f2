"""MessagePack: one map per message. https://github.com/msgpack/msgpack/blob/master/spec.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from fml_lightning.connectors.codecs.codec import CodecError, Sample
from fml_lightning.connectors.codecs.members import Members


@dataclass(frozen=True)
class MessagePack(Members):
    """One map with the members that `JSONObject` has; a time may also be a MessagePack timestamp."""

    @cached_property
    def _decoder(self) -> msgspec.msgpack.Decoder[Any]:
        return msgspec.msgpack.Decoder(self._type)

    def decode(self, payload: bytes) -> Sequence[Sample]:
        """One sample, or one of each channel where keys name channels."""
        if not payload:
            return ()
        try:
            members = self._decoder.decode(payload)
        except (ValueError, RecursionError) as error:
            raise CodecError(f"expected a map in MessagePack, got: {error}") from error
        return self._from_mapping(members) if type(members) is dict else self._from_record(members)
