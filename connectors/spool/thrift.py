"""Thrift's compact protocol, as far as it takes to read the metadata of a Parquet file.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md

A reader of bytes that may be damaged: it reads nothing beyond their end and makes nothing larger than they are.
"""

from __future__ import annotations

from typing import Any

DEEPEST = 16
"""Structs within structs, at most; Parquet's metadata have five."""

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12


class Compact:
    """Reads values one after the other from `data`, from `position` on.

    Raises (all methods):
        ValueError: the bytes are not of this protocol, or end too early.
    """

    def __init__(self, data: bytes | memoryview, position: int = 0) -> None:
        self._data = data
        self.position = position
        """Of the byte that is read next."""

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """A struct: its fields by their numbers. Structs are dicts, lists lists, texts bytes."""
        if depth > DEEPEST:
            raise ValueError("structs too deep")
        fields: dict[int, Any] = {}
        number = 0
        while kind := self._byte():
            delta, kind = kind >> 4, kind & 15
            number = number + delta if delta else self._signed()
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if _BYTE < kind < _DOUBLE:
            return self._signed()
        if kind == _BINARY:
            return bytes(self._take(self._varint()))
        if kind in (_LIST, _SET):
            size, kind = divmod(self._byte(), 16)
            size = self._varint() if size == 15 else size
            self._expect(size)
            return [self._value(kind, depth + 1) for _ in range(size)]
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind == _DOUBLE:
            return self._take(8)
        if kind in (_TRUE, _FALSE, _BYTE):
            return self._byte()
        raise ValueError(f"no such type: {kind}")  # Parquet has no maps

    def _expect(self, size: int) -> None:
        if size > len(self._data) - self.position:
            raise ValueError("the bytes end too early")

    def _take(self, size: int) -> bytes | memoryview:
        self._expect(size)
        self.position += size
        return self._data[self.position - size : self.position]

    def _byte(self) -> int:
        return self._take(1)[0]

    def _varint(self) -> int:
        value = shift = 0
        while shift < 70:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
        raise ValueError("a number of too many bytes")

    def _signed(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
