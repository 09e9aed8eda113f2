"""Thrift's compact protocol, as far as it takes to read the metadata of a Parquet file.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md

A reader of bytes that may be damaged: it reads nothing beyond their end and makes nothing larger than they are.
"""

from __future__ import annotations

from itertools import islice
from operator import length_hint
from typing import Any

DEEPEST = 16
"""Structs within structs, at most; Parquet's metadata have five."""

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12


class Compact:
    """Reads a struct from the beginning of bytes."""

    def __init__(self, data: bytes) -> None:
        self._length = len(data)
        self._rest = iter(data)
        self._next = self._rest.__next__

    @property
    def position(self) -> int:
        """Of the byte after what was read."""
        return self._length - length_hint(self._rest)

    def struct(self) -> dict[int, Any]:
        """A struct: its fields by their numbers. Structs are dicts, lists lists, texts bytes.

        Raises:
            ValueError: the bytes are not of this protocol, or end too early.
        """
        try:
            return self._struct(0)
        except StopIteration:
            raise ValueError("the bytes end too early") from None

    def _struct(self, depth: int) -> dict[int, Any]:
        if depth > DEEPEST:
            raise ValueError("structs too deep")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._next():
            kind = head & 15
            number = number + (head >> 4) if head > 15 else self._signed()
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if _BYTE < kind < _DOUBLE:
            return self._signed()
        if kind == _STRUCT:
            return self._struct(depth + 1)
        if kind in (_LIST, _SET):
            size, kind = divmod(self._next(), 16)
            size = self._varint() if size == 15 else size
            if size > length_hint(self._rest):  # each has a byte at least
                raise StopIteration
            return [self._value(kind, depth + 1) for _ in range(size)]
        if kind in (_BINARY, _DOUBLE):
            size = 8 if kind == _DOUBLE else self._varint()
            if size > length_hint(self._rest):
                raise StopIteration
            return bytes(islice(self._rest, size))
        if kind in (_TRUE, _FALSE, _BYTE):
            return self._next()
        raise ValueError(f"no such type: {kind}")  # Parquet has no maps

    def _varint(self) -> int:
        if (value := self._next()) < 128:
            return value
        value &= 127
        for shift in range(7, 70, 7):
            byte = self._next()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a number of too many bytes")

    def _signed(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
