"""`Standardize` as operations of torch, for a graph that is exported."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fml_lightning.errors import UserError
from fml_lightning.preprocessing import Standardize


class Standardization(nn.Module):
    """Rows (N, F), standardized: (N, F), or (N, F − 1) where a column tells the condition.

    Args:
        standardize: with its statistics.
        names: of the columns that have one, which are the last.
        columns: how many there are, F.

    Raises:
        UserError: there are no statistics, or they are of other columns.
    """

    mean: Tensor
    deviation: Tensor
    borders: Tensor
    kept: Tensor

    def __init__(self, standardize: Standardize, names: Sequence[str], columns: int) -> None:
        super().__init__()
        statistics = standardize.statistics
        if statistics is None:
            raise UserError(
                "export: the model's preprocessing standardizes, and has no statistics; make the model again with"
                " fml personalize"
            )
        self.place: int | None = None
        if standardize.condition is not None:
            self.place = columns - len(names) + list(names).index(standardize.condition)
        kept = [column for column in range(columns) if column != self.place]
        if len(statistics.mean[0]) != len(kept):
            raise UserError(
                f"export: expected statistics of {len(kept)} {standardize.of}, got {len(statistics.mean[0])}"
            )
        self.register_buffer("mean", torch.tensor(statistics.mean))
        self.register_buffer("deviation", torch.tensor(statistics.deviation))
        self.register_buffer("borders", torch.tensor(statistics.borders, dtype=torch.double))
        self.register_buffer("kept", torch.tensor(kept))

    def forward(self, rows: Tensor) -> Tensor:
        """(N, F) → (N, F) or (N, F − 1)."""
        if self.place is None:
            return (rows - self.mean[0]) / self.deviation[0]
        rows, by = rows.index_select(1, self.kept), rows[:, self.place]
        if not len(self.borders):
            return (rows - self.mean[0]) / self.deviation[0]
        which = (by[:, None].double() > self.borders).sum(1)  # (N,)
        return (rows - self.mean.index_select(0, which)) / self.deviation.index_select(0, which)
