"""The largest value in each bin of a row, as operations of torch: bins of orders, or of revolutions."""

from __future__ import annotations

import torch
from torch import Tensor


def largest_of_bins(values: Tensor, borders: Tensor, widest: int) -> Tensor:
    """The largest value from each bin's border to just before the next one, but of the last bin, at it, too.

    A bin that is narrower than values are apart has the value at its border.

    Args:
        values: (N, B, P).
        borders: places among them, in ascending order, (N, bins + 1).
        widest: values in a bin, at most.

    Returns:
        (N, B, bins).
    """
    starts, stops = borders[:, :-1], borders[:, 1:]
    stops = torch.cat([stops[:, :-1], stops[:, -1:] + 1], 1)
    places = starts[..., None] + torch.arange(widest + 1, dtype=borders.dtype)  # (N, bins, K)
    is_within = places < torch.maximum(stops, starts + 1)[..., None]
    index = places.clamp(0, values.shape[2] - 1).long().flatten(1)
    found = values.gather(2, index[:, None].expand(-1, values.shape[1], -1))
    found = found.reshape(*values.shape[:2], *places.shape[1:])
    return torch.where(is_within[:, None], found, -torch.inf).amax(3)
