"""History finds in frames what a loop over single readings finds."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fml_lightning.connectors import Quality
from fml_lightning.connectors.decoding import history
from fml_lightning.connectors.decoding.columns import Columns
from fml_lightning.connectors.decoding.history import History
from fml_lightning.connectors.decoding.streams import Stream, StreamNames

Row = tuple[int, int, int, float, Quality]
"""Stream, time, when it was received, value, what is doubtful."""

ROWS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(-3, 12),
        st.integers(-3, 12),
        st.sampled_from([0.0, 1.0]),
        st.sampled_from([Quality(0), Quality(0), Quality.NO_DEVICE_TIME, Quality.IMPLAUSIBLE_TIME]),
    ),
    max_size=60,
)


def by_loop(rows: list[Row], remembered: int) -> list[tuple[bool, bool]]:
    """Whether each reading is repeated and late, one after another."""
    recent: list[tuple[int, int, float]] = []
    before: list[tuple[int, int, float]] = []
    newest: dict[int, int] = {}
    found = []
    for stream, time, received, value, quality in rows:
        repeated = False
        if not quality & Quality.NO_DEVICE_TIME:
            key = stream, time, value
            repeated = key in recent or key in before
            recent.append(key)
            if len(recent) >= remembered:
                recent, before = [], recent
        found.append((repeated, time < newest.get(stream, time)))
        if not quality & Quality.IMPLAUSIBLE_TIME:
            come = min(time, received)  # a clock that is ahead makes nothing late
            newest[stream] = max(come, newest.get(stream, come))
    return found


def columns(rows: list[Row]) -> Columns:
    stream, time, received, values, quality = (
        (list(column) for column in zip(*rows, strict=True)) if rows else [[]] * 5
    )
    return Columns(
        sequence=np.arange(len(rows)),
        received=np.array(received, np.int64),
        time=np.array(time, np.int64),
        stream=np.array(stream, np.int64),
        quality=np.array([int(flags) for flags in quality], np.uint8),
        scalars=np.array(values, np.float32),
        blocks=[],
        rates=[],
        order=None,
    )


@settings(deadline=None, max_examples=300)
@given(rows=ROWS, cuts=st.lists(st.integers(0, 60), max_size=4), remembered=st.integers(1, 20))
def test_frames_are_compared_as_single_readings_are(rows: list[Row], cuts: list[int], remembered: int) -> None:
    names = StreamNames()
    for i in range(4):
        names.number(Stream("n", "m", str(i)))
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "REMEMBERED", remembered)
        compared = History()
        for begin, end in pairwise([0, *sorted(cuts), 60]):
            readings, repeated = compared.compare(columns(rows[begin:end]), names)
            late = (readings.quality & int(Quality.LATE)) != 0
            found += list(zip(repeated.tolist(), late.tolist(), strict=True))
    assert found == by_loop(rows, remembered)
