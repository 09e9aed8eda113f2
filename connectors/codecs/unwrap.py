"""Wrappers around payloads, undone: compression (gzip, zlib, raw deflate) and bytes written as text (base64, hex).

https://www.rfc-editor.org/rfc/rfc1950, 1951 and 1952; https://www.rfc-editor.org/rfc/rfc4648.
"""

from __future__ import annotations

import binascii
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Literal

from fml_lightning.connectors.codecs.codec import CodecError
from fml_lightning.connectors.codecs.numbers import shown

Wrapper = Literal["gzip", "zlib", "deflate", "base64", "hex"]
"""`zlib` is deflate with zlib's header, which HTTP calls deflate; `deflate` has no header. base64 may be that of
URLs, and without padding."""

LARGEST = 16 << 20
"""Bytes that a payload may become: a few bytes may say that they are gigabytes."""
MOST_MEMBERS = 100
"""Members of one gzip payload, which may be several gzip files one after the other."""

_BITS = {"gzip": 31, "zlib": 15, "deflate": -15}  # zlib's `wbits`, which name the format
_MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"\x78\x01", "zlib"),
    (b"\x78\x5e", "zlib"),
    (b"\x78\x9c", "zlib"),
    (b"\x78\xda", "zlib"),
)
_BOM = b"\xef\xbb\xbf"
_AROUND = b" \t\r\n\0"
_SPACE = re.compile(rb"[ \t\r\n]+")


def unwrap(payload: bytes, wrappers: Sequence[Wrapper]) -> bytes:
    """What is within the wrappers; nothing, if the payload is empty.

    >>> unwrap(b"312e35", ["hex"]), unwrap(b"MS41", ["base64"])
    (b'1.5', b'1.5')

    Args:
        payload: what came.
        wrappers: in the order in which they are undone, the outermost first.

    Raises:
        CodecError: a wrapper is not there, is cut off, is followed by something else, or holds too much.
    """
    for wrapper in wrappers:
        payload = _UNDO[wrapper](payload) if payload else payload
    return payload


def _inflated(payload: bytes, wrapper: Wrapper) -> bytes:
    """What was compressed; only NUL bytes may follow it."""
    parts: list[bytes] = []
    room = LARGEST
    rest = payload
    while rest:
        if len(parts) == MOST_MEMBERS:
            raise CodecError(f"{wrapper}: expected at most {MOST_MEMBERS} members in one payload, got more")
        inflater = zlib.decompressobj(_BITS[wrapper])
        try:
            part = inflater.decompress(rest, room + 1)
        except zlib.error as error:
            raise CodecError(f"{wrapper}: expected {wrapper} data, {_instead(rest, wrapper, error)}") from error
        if len(part) > room:
            raise CodecError(
                f"{wrapper}: expected at most {LARGEST:,} bytes in a payload, got more within its {len(payload):,}"
            )
        if not inflater.eof:
            raise CodecError(
                f"{wrapper}: expected the end of the data, got a payload cut off at {len(payload)} bytes"
            )
        parts.append(part)
        room -= len(part)
        rest = inflater.unused_data.lstrip(b"\0")
        if rest and not (wrapper == "gzip" and rest.startswith(b"\x1f\x8b")):
            raise CodecError(f"{wrapper}: expected nothing after the data, got {len(rest)} more bytes")
    return b"".join(parts) if len(parts) != 1 else parts[0]


def _instead(data: bytes, wrapper: Wrapper, error: zlib.error) -> str:
    """What came in place of compressed data: another compression by its first bytes, or what zlib says."""
    for magic, name in _MAGIC:
        if data.startswith(magic) and name != wrapper:
            return f"got {name}; write {name} in unwrap"
    return f"got {shown(data[:24].decode('latin-1'))} ({error})"


def _from_base64(payload: bytes) -> bytes:
    text = _text(payload).translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        return binascii.a2b_base64(text + b"=" * (-len(text) % 4), strict_mode=True)
    except binascii.Error as error:
        raise CodecError(f"base64: expected base64, got {shown(text[:24].decode('latin-1'))} ({error})") from error


def _from_hex(payload: bytes) -> bytes:
    text = _text(payload).removeprefix(b"0x")
    try:
        return binascii.a2b_hex(text)
    except binascii.Error as error:
        raise CodecError(
            f"hex: expected two hexadecimal digits a byte, got {shown(text[:24].decode('latin-1'))} ({error})"
        ) from error


def _text(payload: bytes) -> bytes:
    """The characters of a payload, without the spaces and line ends that senders put into long text."""
    return _SPACE.sub(b"", payload.removeprefix(_BOM).strip(_AROUND))


_UNDO: dict[Wrapper, Callable[[bytes], bytes]] = {
    "gzip": lambda payload: _inflated(payload, "gzip"),
    "zlib": lambda payload: _inflated(payload, "zlib"),
    "deflate": lambda payload: _inflated(payload, "deflate"),
    "base64": _from_base64,
    "hex": _from_hex,
}
