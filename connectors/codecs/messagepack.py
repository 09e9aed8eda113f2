"""MessagePack: one map per message. https://github.com/msgpack/msgpack/blob/master/spec.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from fml_lightning.connectors.codecs.codec import CodecError, Sample
from fml_lightning.connectors.codecs.members import Members
from fml_lightning.connectors.codecs.plain_reader import Read

_CONTENT = msgspec.msgpack.Decoder()


def content(payload: bytes) -> Any:
    """What a payload says in MessagePack: dicts, lists, and what is in them.

    Raises:
        CodecError: it is no MessagePack.
    """
    try:
        return _CONTENT.decode(payload)
    except (ValueError, TypeError, RecursionError) as error:  # TypeError: of a key such as a map
        raise CodecError(f"expected MessagePack, got: {error}") from error


@dataclass(frozen=True)
class MessagePack(Members):
    """One map with the members that `JSONObject` has; a time may also be a MessagePack timestamp."""

    @cached_property
    def _plain(self) -> tuple[Callable[[bytes], Any], Read] | None:
        """What decodes most messages, and what reads them then."""
        plain = self._plain_reader
        return None if plain is None else (msgspec.msgpack.Decoder(plain.type).decode, plain.read)

    def decode(self, payload: bytes) -> Sequence[Sample]:
        """One sample, or one of each channel where keys name channels."""
        if not payload:
            return ()
        if (plain := self._plain) is not None:
            decode, read = plain
            try:
                record = decode(payload)
            except (ValueError, RecursionError):
                pass  # the general way says what is wrong, if anything is
            else:
                if (samples := read(record)) is not None:
                    return samples
        return self._reader.read(content(payload))
