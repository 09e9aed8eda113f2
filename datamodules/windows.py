"""Windows: stretches of a machine's signal as the network sees them, with class, operating condition and time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Windows:
    """Windows of one machine, n in number.

    Selecting windows copies no features, only `x` does.
    """

    chunks: tuple[NDArray[np.float32], ...]
    """Features, in one or several arrays (m, F), or (m, C, W) of raw windows of several channels. Raw windows are
    views of the recording, so that windows which overlap need no more memory than its samples."""
    row: NDArray[np.intp]
    """Where each window's features are: its row in the chunks, counted through all of them, (n,)."""
    label: NDArray[np.int64]
    """Class of each window, (n,); 0 where its target is a number, below 0 where it has none."""
    condition: NDArray[np.str_]
    """Operating condition of each window, (n,)."""
    start: NDArray[np.int64]
    """Time of each window's first sample, µs, (n,): since 1970, UTC; of recordings that do not say when they
    began, since the first of the machine's did, one after the other."""
    period: NDArray[np.float64]
    """Time from one sample to the next, µs, (n,)."""
    recording: NDArray[np.intp]
    """Which of the machine's recordings each window is of, (n,); 0 of a stream."""
    target: NDArray[np.float32] | None = None
    """What is to be estimated of each window, where that is a number, (n,); None where windows have classes."""

    @classmethod
    def of(
        cls,
        chunks: Sequence[NDArray[np.float32]],
        label: int | NDArray[np.int64],
        condition: str,
        start: NDArray[np.int64],
        sample_rate: float,
        recording: int = 0,
        target: NDArray[np.float32] | None = None,
    ) -> Windows:
        """Windows of one recording, or of a stream with one sample rate (Hz), in the order of their features.

        `label` is the class of all of them, or of each, (n,).
        """
        n = len(start)
        return cls(
            tuple(chunks),
            np.arange(n),
            np.full(n, label, np.int64),
            np.full(n, condition),
            start,
            np.full(n, 1e6 / sample_rate),
            np.full(n, recording, np.intp),
            target,
        )

    @classmethod
    def join(cls, parts: Sequence[Windows]) -> Windows:
        """The windows of all parts, in their order."""
        sizes = [sum(len(chunk) for chunk in part.chunks) for part in parts]
        begins = np.cumsum([0, *sizes[:-1]])
        targets: list[Any] = [part.target for part in parts]
        return cls(
            tuple(chunk for part in parts for chunk in part.chunks),
            np.concatenate([part.row + begin for part, begin in zip(parts, begins, strict=True)]),
            np.concatenate([part.label for part in parts]),
            np.concatenate([part.condition for part in parts]),
            np.concatenate([part.start for part in parts]),
            np.concatenate([part.period for part in parts]),
            np.concatenate([part.recording for part in parts]),
            None if any(target is None for target in targets) else np.concatenate(targets),
        )

    def __len__(self) -> int:
        return len(self.row)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of `x`: (n, F), or (n, C, W)."""
        return (len(self), *self.chunks[0].shape[1:])

    @property
    def nbytes(self) -> int:
        """Bytes of `x`."""
        return 4 * math.prod(self.shape)

    @property
    def x(self) -> NDArray[np.float32]:
        """What the network sees of each window, of this `shape`; a copy."""
        return self.copy_to(np.empty(self.shape, np.float32))

    @property
    def rows(self) -> NDArray[np.float32]:
        """`x` with the numbers of each window in a row, (n, F) or (n, C · W)."""
        return self.x.reshape(len(self), math.prod(self.shape[1:]))

    def copy_to(self, out: NDArray[np.float32]) -> NDArray[np.float32]:
        """Write what the network sees of each window into an array of this `shape`, and return it."""
        if len(self.chunks) == 1:
            out[...] = self.chunks[0][self.row]
            return out
        ends = np.cumsum([len(chunk) for chunk in self.chunks])
        chunk = np.searchsorted(ends, self.row, side="right")
        for k in np.unique(chunk):
            here = chunk == k
            out[here] = self.chunks[k][self.row[here] - (ends[k] - len(self.chunks[k]))]
        return out

    def where(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> Windows:
        """The windows that a mask (n,) or numbers (m,) select."""
        return Windows(
            self.chunks,
            self.row[rows],
            self.label[rows],
            self.condition[rows],
            self.start[rows],
            self.period[rows],
            self.recording[rows],
            None if self.target is None else self.target[rows],
        )

    def compact(self) -> Windows:
        """The same windows with features of their own, in one array: those left out can be freed."""
        return replace(self, chunks=(self.x,), row=np.arange(len(self)))
