"""Samples in numpy's files: (n,), (n, C), or records with named fields."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fml_lightning.datamodules.files.signal_file import SignalFile
from fml_lightning.errors import UserError

MOST_COLUMNS = 256
"""More columns than rows and than this are samples that lie the wrong way."""


class NpyFile(SignalFile):
    """A `.npy` file whose rows are samples.

    Args:
        path: of the file.

    Raises:
        UserError: it is none, or its rows are no samples.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        array = self._map()
        shape, fields = array.shape, array.dtype.names
        kinds = [array.dtype[name].kind for name in fields] if fields else [array.dtype.kind]
        if array.ndim not in ((1,) if fields else (1, 2)) or not set("".join(kinds)) <= set("fiub"):
            raise UserError(
                f"{path}: expected numbers of shape (n,) or (n, C), got {array.dtype} of shape {shape}"
            )
        columns = len(fields) if fields else (shape[1] if len(shape) == 2 else 1)
        if columns > max(shape[0], MOST_COLUMNS):
            raise UserError(
                f"{path}: expected samples as rows, (n, C), got shape {shape}; save the transposed array"
            )
        super().__init__(path, fields or [""] * columns)
        self.count = int(shape[0])

    def rows(self, columns: Sequence[int]) -> int:
        """How many rows there are."""
        return self.count

    def read(self, columns: Sequence[int], first: int, count: int) -> list[NDArray[Any]]:
        """Samples of some columns."""
        rows = self._map()[first : first + count]
        if rows.dtype.names:
            return [np.array(rows[self.names[column]]) for column in columns]
        return [np.array(rows if rows.ndim == 1 else rows[:, column]) for column in columns]

    def _map(self) -> NDArray[Any]:
        try:
            array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"{self.path}: expected a .npy file of numbers, got one that cannot be read ({reason})"
            ) from error
        if not isinstance(array, np.ndarray):
            raise UserError(f"{self.path}: expected a .npy file of one array, got an .npz; save the array alone")
        return array
