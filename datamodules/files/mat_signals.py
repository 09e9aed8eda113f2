"""Samples in MATLAB's files: a vector is a channel."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from fml_lightning.datamodules.files.signal_file import SignalFile
from fml_lightning.datamodules.mat_file import MatError, read_shapes, read_vector
from fml_lightning.errors import UserError

Read = TypeVar("Read")


class MatSignalFile(SignalFile):
    """A level 5 MAT-file whose vectors are channels.

    Args:
        path: of the file.

    Raises:
        UserError: it is none.
    """

    row_name = "sample"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shapes = self._tried(lambda: read_shapes(path))
        super().__init__(path, list(self.shapes))

    def rows(self, columns: Sequence[int]) -> int:
        """How many numbers each of some vectors has."""
        lengths = {}
        for column in columns:
            shape = self.shapes[self.names[column]]
            if sum(size != 1 for size in shape) > 1:
                raise UserError(
                    f"{self.path}, {self.called(column)}: expected a variable that is a vector, got shape {shape}"
                )
            lengths[self.names[column]] = math.prod(shape)
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise UserError(f"{self.path}: expected channels with equally many samples, got {told}")
        return max(lengths.values(), default=0)

    def read(self, columns: Sequence[int], first: int, count: int) -> list[NDArray[Any]]:
        """Samples of some vectors, float64."""
        names = [self.names[column] for column in columns]
        vectors = [self._tried(partial(read_vector, self.path, name)) for name in names]
        assert all(vector is not None for vector in vectors)
        return [vector[first : first + count] for vector in vectors if vector is not None]

    def called(self, column: int) -> str:
        """How messages call a vector."""
        return f"variable {self.names[column]!r}"

    def _tried(self, read: Callable[[], Read]) -> Read:
        try:
            return read()
        except (MatError, OSError) as error:
            raise UserError(
                f"{self.path}: expected a MAT-file of level 5 with vectors, got one that cannot be read ({error});"
                " save it by save(..., '-v7')"
            ) from error
