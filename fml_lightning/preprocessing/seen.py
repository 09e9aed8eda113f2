"""The blocks of a channel that have come, by which one that comes again is known."""

from __future__ import annotations

from array import array

import msgspec
import numpy as np
from xxhash import xxh3_64_intdigest

from fml_lightning.preprocessing.block import Block
from fml_lightning.preprocessing.packed import Packed

MOST = 2**15
"""Blocks in a generation. At least so many are remembered, and less than twice as many: 512 KiB of digests."""

NEVER = int(np.iinfo(np.int64).min)
"""Earlier than any time stamp."""


class SeenState(msgspec.Struct, frozen=True):
    """All that is remembered of blocks, as plain types."""

    filling: Packed
    """Digests."""
    full: Packed
    newest: int
    newest_full: int
    forgotten: int


class Seen:
    """The last blocks of a channel, as digests of their whole content (64 bits of XXH3, https://xxhash.com)."""

    def __init__(self) -> None:
        self._filling, self._full = array("q"), array("q")  # the last blocks, and those before them
        self._newest, self._newest_full = NEVER, NEVER  # time stamp of each
        self._forgotten = NEVER  # the newest time stamp of those before both

    @classmethod
    def restored(cls, state: SeenState) -> Seen:
        """What a state is of.

        Raises:
            ValueError: it is none.
        """
        seen = cls()
        seen._filling = array("q", state.filling.array(np.int64).tobytes())
        seen._full = array("q", state.full.array(np.int64).tobytes())
        seen._newest, seen._newest_full, seen._forgotten = state.newest, state.newest_full, state.forgotten
        return seen

    def state(self) -> SeenState:
        """All of it."""
        filling, full = (Packed.of(np.array(some, np.int64)) for some in (self._filling, self._full))
        return SeenState(filling, full, self._newest, self._newest_full, self._forgotten)

    def add(self, block: Block) -> None:
        """Remember a block."""
        self._filling.append(_digest(block))
        if block.time > self._newest:
            self._newest = block.time
        if len(self._filling) == MOST:
            self._forgotten = max(self._forgotten, self._newest_full)
            self._full, self._filling = self._filling, array("q")
            self._newest_full, self._newest = self._newest, NEVER

    def has(self, block: Block) -> bool | None:
        """Whether a block with the same time stamp and samples has come; None if that is not remembered."""
        digest = _digest(block)
        if any((np.frombuffer(some, np.int64) == digest).any() for some in (self._filling, self._full)):
            return True
        return False if block.time > self._forgotten else None


def _digest(block: Block) -> int:
    return hash((block.time, block.sample_rate, xxh3_64_intdigest(np.ascontiguousarray(block.values).data)))
