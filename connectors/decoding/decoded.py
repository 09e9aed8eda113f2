"""What was decoded from messages: readings, labels, dead letters, and what was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.connectors.decoding.columns import Columns
from fml_lightning.connectors.decoding.dead_letter import DeadLetter
from fml_lightning.connectors.decoding.streams import StreamNames
from fml_lightning.connectors.readings import LABELS, TIME, Batch


@dataclass(frozen=True)
class Decoded:
    """What was decoded from messages."""

    columns: Columns
    """All n readings, repeated ones too."""
    kept: NDArray[np.bool_]
    """Which readings are not repeated (`History.compare`), (n,)."""
    labels: Sequence[tuple[int, int, int, str, str, str]]
    """Rows of `LABELS`, times in µs since 1970."""
    dead: Sequence[DeadLetter]
    """What could not be read."""
    names: StreamNames
    """The streams that `columns` refers to by number."""
    skipped: Counter[tuple[str, str]]
    """How many messages had something that was left out, by its name and what it is (`PartlyRead.skipped`); not
    all, if there are very many names."""
    unread: int
    """How many messages say something of which nothing could be read."""

    @property
    def repeated(self) -> int:
        """How many readings are repeated, and so not in `batch`."""
        return len(self.kept) - int(self.kept.sum())

    @cached_property
    def batch(self) -> Batch:
        """The readings that are not repeated, and the labels."""
        labels = pl.DataFrame(
            self.labels, schema={**LABELS, "time": pl.Int64(), "received": pl.Int64()}, orient="row"
        )
        return Batch(self.columns.frame(self.names, self.kept), labels.cast({"time": TIME, "received": TIME}))
