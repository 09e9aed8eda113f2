"""Text in JSON, or in what devices take for it, as dicts, lists, and what is in them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec

from fml_lightning.connectors.codecs.codec import CodecError

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"

_CONTENT = msgspec.json.Decoder()
_NOT_A_NUMBER = re.compile(
    rb'"(?:[^"\\]|\\.)*+"?|[+-]?\b(?:nan(?:\(\w*\))?|inf(?:inity)?)\b', re.DOTALL | re.IGNORECASE
)


def content(payload: bytes) -> Any:
    """What a payload says in JSON: dicts, lists, and what is in them.

    Raises:
        CodecError: it is no JSON.
    """
    return read(_CONTENT.decode, payload, "a JSON object")


def read(decode: Callable[[bytes], Any], payload: bytes, expected: str) -> Any:
    """What a payload says in JSON, or in what devices take for it.

    Raises:
        CodecError: it is not as `expected`, a word for the error, says.
    """
    try:
        return _strict(decode, payload, expected)
    except CodecError:
        if (better := _as_json(payload)) == payload:
            raise
    return _strict(decode, better, expected)


def _strict(decode: Callable[[bytes], Any], payload: bytes, expected: str) -> Any:
    try:
        if not payload.isascii():
            payload.decode()  # msgspec does not look into strings that it skips
        return decode(payload)
    except (ValueError, RecursionError) as error:
        raise CodecError(f"expected {expected}, got: {error}") from error


def _as_json(payload: bytes) -> bytes:
    r"""A payload without what devices put around JSON, and with NaN and infinity, which JSON has not, as text.

    >>> _as_json(b'{"a": nan, "b": [-Infinity, "nan"]}\n\0')
    b'{"a": "nan", "b": ["-Infinity", "nan"]}'
    """
    payload = payload.removeprefix(BYTE_ORDER_MARK).rstrip(b"\0 \t\r\n")
    return _NOT_A_NUMBER.sub(lambda match: match[0] if match[0][:1] == b'"' else b'"%s"' % match[0], payload)


def bare(payload: bytes) -> object:
    """What a payload says that is no object: as JSON, or as text without quotes.

    Raises:
        CodecError: it is no text.
    """
    try:
        return read(_CONTENT.decode, payload, "JSON")
    except CodecError:
        try:
            return _as_json(payload).decode().strip()
        except UnicodeDecodeError as error:
            raise CodecError(f"expected a number or text, got: {error}") from error
