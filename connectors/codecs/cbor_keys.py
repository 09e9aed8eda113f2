"""The keys of maps in CBOR, looked at before they are decoded. https://www.rfc-editor.org/rfc/rfc8949#section-3."""

from __future__ import annotations

_LENGTHS = {24: 1, 25: 2, 26: 4, 27: 8}  # bytes of an argument that has no room in an item's first byte
_ENDLESS, _BREAK = 31, 0xFF
_INTEGERS, _STRINGS, _ARRAY, _MAP, _TAG, _SIMPLE = (0, 1), (2, 3), 4, 5, 6, 7


def are_plain(payload: bytes) -> bool:
    """Whether all keys are integers of 64 bits, text or bytes, as keys of devices are.

    Others, such as arrays and integers of any length, can be chosen so that their hashes are all the same, and a
    few of them take a dict as long as a million.

    >>> are_plain(bytes.fromhex("a1 01 02")), are_plain(bytes.fromhex("a1 80 02"))
    (True, False)
    """
    open_items = [
        [1, False]
    ]  # of each item that is not at its end: parts to come, below 0 without end; is it a map
    at = 0
    try:
        while open_items:
            parts, is_map = open_items[-1]
            if parts == 0 or payload[at] == _BREAK:
                at += parts != 0
                open_items.pop()
                continue
            is_key = is_map and parts % 2 == 0
            open_items[-1][0] = parts - 1
            major, argument = payload[at] >> 5, payload[at] & 31
            if is_key and major not in (*_INTEGERS, *_STRINGS):
                return False
            at += 1
            is_endless = argument == _ENDLESS
            if length := _LENGTHS.get(argument):
                argument = int.from_bytes(payload[at : at + length])
                at += length
            if major in (_ARRAY, _MAP) or (major in _STRINGS and is_endless):
                count = argument * 2 if major == _MAP else argument
                open_items.append([-2 if is_endless else count, major == _MAP])
            elif major == _TAG:
                open_items.append([1, False])
            elif major in _STRINGS:
                at += argument
    except IndexError:  # it is cut off
        return False
    return True
