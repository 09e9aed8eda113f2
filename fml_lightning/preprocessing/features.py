"""The contract of features: windows in, named columns with units out; usable from YAML, numpy and polars."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray


class Column(NamedTuple):
    """One feature."""

    name: str
    """Such as `rms`, unique among the features of a window."""
    unit: str
    """`x` stands for the unit of the signal (such as g), `1` for no unit."""


class Features(ABC):
    """Numbers that describe a window.

    Subclasses give `columns` and `__call__`, and `needs` where samples alone do not suffice; polars support
    follows from them.
    """

    needs: tuple[str, ...] = ()
    """Names of what must be told of every window beside its samples, such as `speed`: a recording's `inputs`."""

    @abstractmethod
    def columns(self, length: int, sample_rate: float) -> list[Column]:
        """Name and unit of each feature, for windows of `length` samples at `sample_rate` Hz."""

    @abstractmethod
    def __call__(
        self, windows: NDArray[np.float32], sample_rate: float, told: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Features of each window: (n, W) at `sample_rate` Hz → (n, F), float32.

        A NaN or an infinity in a window makes its features NaN, never a number.

        Args:
            windows: (n, W).
            sample_rate: Hz.
            told: of each window what `needs` names, (n, `len(needs)`); None where it names nothing.
        """

    def of_channels(
        self, windows: NDArray[np.float32], sample_rate: float, told: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Features of windows of C channels: (n, C, W) → (n, C · F), the channels side by side in their order."""
        parts = [self._of_one(windows[:, channel], sample_rate, told) for channel in range(windows.shape[1])]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _of_one(
        self, windows: NDArray[np.float32], sample_rate: float, told: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        return self(windows, sample_rate, told) if self.needs else self(windows, sample_rate)

    def expr(self, column: str, length: int, sample_rate: float) -> pl.Expr:
        """The features of a polars column of windows, as a struct with one field per feature.

        What the features need is read from the columns of these names.

        Args:
            column: a column of `Array(Float32, length)` or of lists of `length` samples.
            length: samples per window, W.
            sample_rate: Hz.
        """
        schema = pl.Struct({c.name: pl.Float32 for c in self.columns(length, sample_rate)})

        def compute(series: Sequence[pl.Series]) -> pl.Series:
            windows, *needed = series
            told = np.stack([each.cast(pl.Float32).to_numpy() for each in needed], axis=1) if needed else None
            samples = windows.cast(pl.Array(pl.Float32, length)).to_numpy()
            table = self._of_one(np.ascontiguousarray(samples, np.float32), sample_rate, told)
            frame = pl.DataFrame(table, schema=list(schema.to_schema()), orient="row")
            return frame.to_struct(windows.name)

        return pl.map_batches([pl.col(column), *map(pl.col, self.needs)], compute, return_dtype=schema)


class RawWindows(Features):
    """The samples themselves, for a network that finds its own features, such as `Conv1d`."""

    def columns(self, length: int, sample_rate: float) -> list[Column]:
        """One column per sample: `sample_0`, `sample_1` and so on."""
        return [Column(f"sample_{i}", "x") for i in range(length)]

    def __call__(
        self, windows: NDArray[np.float32], sample_rate: float, told: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """(n, W) → (n, W): the windows themselves, no copy."""
        return np.asarray(windows, np.float32)

    def of_channels(
        self, windows: NDArray[np.float32], sample_rate: float, told: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """(n, C, W) → (n, C, W), no copy; of one channel (n, W), and of windows of one sample (n, C)."""
        channels, length = windows.shape[1:]
        if channels == 1:
            return self(windows[:, 0], sample_rate)
        return self(windows[:, :, 0] if length == 1 else windows, sample_rate)


class Concat(Features):
    """Several kinds of features side by side.

    Args:
        parts: the kinds, in the order of their columns.
    """

    def __init__(self, parts: Sequence[Features]) -> None:
        self.parts = parts
        self.needs = tuple(dict.fromkeys(name for part in parts for name in part.needs))

    def columns(self, length: int, sample_rate: float) -> list[Column]:
        """All columns, in the order of the parts."""
        return [column for part in self.parts for column in part.columns(length, sample_rate)]

    def __call__(
        self, windows: NDArray[np.float32], sample_rate: float, told: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """All features side by side: (n, W) → (n, ΣF)."""
        of_parts = []
        for part in self.parts:
            columns = [self.needs.index(name) for name in part.needs]
            of_parts.append(part._of_one(windows, sample_rate, None if told is None else told[:, columns]))
        return np.concatenate(of_parts, axis=1)
