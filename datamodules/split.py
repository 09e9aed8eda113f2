"""The split in time: early samples are learnt from, late ones judge; no sample is on both sides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def split(lengths: Sequence[int], share: float, window: int) -> list[tuple[slice, slice]]:
    """The early and the late part of each of several recordings that follow one another in time.

    Of all their samples together the first `share` is early. Where the border lies within a recording, a gap of
    one window follows it; but if neither part of that recording would then hold a window, as of a short burst,
    the recording is early or late as a whole, as the larger part of it is.

    Args:
        lengths: samples of each recording, in order of time.
        share: in (0, 1).
        window: samples of a window.

    >>> split([100], 0.5, 10)
    [(slice(0, 50, None), slice(60, 100, None))]
    >>> [(early.stop, late.start) for early, late in split([10, 10, 10], 0.5, 9)]
    [(10, 10), (0, 0), (0, 0)]
    """
    ends = np.cumsum(lengths)
    middle = int(ends[-1] * share)
    parts = []
    for end, length in zip(ends.tolist(), lengths, strict=True):
        border = min(max(middle - (end - length), 0), length)
        begin = border if border in (0, length) else min(border + window, length)
        if len(lengths) > 1 and 0 < border < length and border < window and length - begin < window:
            border = begin = length if 2 * border > length else 0
        parts.append((slice(0, border), slice(begin, length)))
    return parts
