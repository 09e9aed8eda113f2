"""Formats: what kind of payload a message has, and what it says as a document, if it is one."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from fml_lightning.connectors.codecs import CodecError, InfluxLine
from fml_lightning.connectors.codecs.unwrap import Wrapper, unwrap
from fml_lightning.connectors.codecs.waveform import MAGIC as WAVEFORM

try:
    import cbor2
except ImportError:
    cbor2 = None  # type: ignore[assignment]

Format = Literal[
    "number", "json", "cbor", "msgpack", "senml", "senml_cbor", "influx", "sparkplug", "waveform", "text", "binary"
]
"""What a payload is, within its wrappers. `json`, `cbor` and `msgpack` are objects or arrays."""

DEEPEST = 3
"""Wrappers around one payload."""
_COMPRESSED: tuple[tuple[bytes, Wrapper], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"\x78\x01", "zlib"),
    (b"\x78\x5e", "zlib"),
    (b"\x78\x9c", "zlib"),
    (b"\x78\xda", "zlib"),
)
_HEX = re.compile(r"(?:0x)?(?:[0-9a-f]{2}){4,}|(?:0x)?(?:[0-9A-F]{2}){4,}")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{11,}={0,2}")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_NOT_JSON = re.compile(r"(?<=[:\[,\s])(?:[-+]?(?:nan|inf)(?:inity)?)(?=[\s,\]}])", re.IGNORECASE)
_AROUND = " \t\r\n\0"
_SENML = {"bn", "bt", "bu", "bv", "bs", "bver", "n", "u", "v", "vs", "vb", "vd", "s", "t", "ut"}
_SENML_CBOR = {-6, -5, -4, -3, -2, -1, *range(9)}


@dataclass(frozen=True)
class Parsed:
    """One payload."""

    format: Format
    wrappers: tuple[Wrapper, ...] = ()
    """Around it, the outermost first."""
    document: Any = None
    """What it says: a number, text, or objects and arrays; None where there is no document."""


def parsed(topic: str, payload: bytes) -> Parsed:
    """What a payload is.

    >>> parsed("a/b", b"21.5"), parsed("a/b", b'{"rms": nan}').document
    (Parsed(format='number', wrappers=(), document=21.5), {'rms': nan})
    """
    if re.match(r"spBv1\.0/", topic):
        return Parsed("sparkplug")
    return _within(payload, ()) or Parsed("binary", document=payload)


def _within(payload: bytes, wrappers: tuple[Wrapper, ...]) -> Parsed | None:
    """What is within the wrappers; None if it is not known as anything."""
    if payload.startswith(WAVEFORM):
        return Parsed("waveform", wrappers)
    for magic, wrapper in _COMPRESSED:
        if payload.startswith(magic) and (found := _unwrapped(payload, wrapper, wrappers)):
            return found
    try:
        text = payload.decode("utf-8-sig").strip(_AROUND)
    except UnicodeDecodeError:
        return _packed(payload, wrappers)
    if not text or not _is_readable(text):
        return _packed(payload, wrappers)
    return _of_text(text, payload, wrappers)


def _of_text(text: str, payload: bytes, wrappers: tuple[Wrapper, ...]) -> Parsed | None:
    if _NUMBER.fullmatch(text):
        return Parsed("number", wrappers, float(text))
    try:
        document = json.loads(_NOT_JSON.sub("NaN", text) if text[0] in "[{" else text)
    except (ValueError, RecursionError):
        pass
    else:
        if isinstance(document, dict | list):
            return Parsed("senml" if _is_senml(document, _SENML) else "json", wrappers, document)
        return Parsed("text", wrappers, document)
    if "=" in text and _is_influx(payload):
        return Parsed("influx", wrappers)
    patterns: tuple[tuple[re.Pattern[str], Wrapper], ...] = ((_HEX, "hex"), (_BASE64, "base64"))
    for pattern, wrapper in patterns:
        if pattern.fullmatch(text) and (found := _unwrapped(payload, wrapper, wrappers)):
            return found
    return Parsed("text", wrappers, text)


def _unwrapped(payload: bytes, wrapper: Wrapper, wrappers: tuple[Wrapper, ...]) -> Parsed | None:
    """What a payload is once a wrapper is undone; None if text that may stand for bytes holds nothing known."""
    if len(wrappers) == DEEPEST:
        return None
    try:
        inner = unwrap(payload, (wrapper,))
    except CodecError:
        return None
    found = _within(inner, (*wrappers, wrapper))
    if wrapper in ("gzip", "zlib"):
        return found or Parsed("binary", (*wrappers, wrapper), inner)
    if found is None and (wrapper == "hex" or (len(inner) >= 16 and _looks_packed(payload))):
        return Parsed("binary", (*wrappers, wrapper), inner)
    # A word may happen to be the base64 of other letters: what is within must have a form of its own.
    return None if found is None or found.format == "text" else found


def _looks_packed(text: bytes) -> bool:
    """Whether text is no word: it has capital letters, small letters and digits (or zeros), or padding."""
    kinds = (rb"[A-Z]", rb"[a-z]", rb"[0-9+/]|AA")
    return text.rstrip().endswith(b"=") or all(re.search(kind, text) for kind in kinds)


def _packed(payload: bytes, wrappers: tuple[Wrapper, ...]) -> Parsed | None:
    """A map, or an array of maps, in MessagePack or CBOR."""
    try:
        document = msgspec.msgpack.decode(payload, strict=False)
        if _is_document(document):
            return Parsed("msgpack", wrappers, document)
    except (ValueError, RecursionError, TypeError):
        pass
    if cbor2 is None:
        return None
    try:
        stream = io.BytesIO(payload)
        document = cbor2.CBORDecoder(stream, max_depth=16).decode()
        if stream.tell() == len(payload) and _is_document(document):
            return Parsed("senml_cbor" if _is_senml(document, _SENML_CBOR) else "cbor", wrappers, document)
    except Exception:  # whatever bytes that are no CBOR do to its decoder
        pass
    return None


def _is_document(document: object) -> bool:
    items = document if isinstance(document, list) else [document]
    return bool(items) and all(isinstance(item, dict) and item for item in items)


def _is_senml(document: object, labels: set[Any]) -> bool:
    """Whether it is an array of SenML records (RFC 8428)."""
    if not isinstance(document, list) or not document:
        return False
    records = [record for record in document if isinstance(record, dict)]
    name = {"n", "bn"} if "n" in labels else {0, -2}
    return (
        len(records) == len(document)
        and all(set(record) <= labels for record in records)
        and any(name & set(record) for record in records)
    )


def _is_influx(payload: bytes) -> bool:
    try:
        return len(InfluxLine().decode(payload)) > 0
    except CodecError as error:
        return bool(error.samples)


def _is_readable(text: str) -> bool:
    return all(c.isprintable() or c in "\t\r\n" for c in text[:1000])
