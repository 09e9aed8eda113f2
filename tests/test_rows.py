"""Scalars of one machine as rows: one for each time."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fml_lightning.connectors import READINGS
from fml_lightning.connectors.decoding.rows import Rows
from fml_lightning.errors import UserError

NOON = 1_714_564_800_000_000
"""2024-05-01, 12:00 UTC, µs since 1970."""

Reading = tuple[int, str, float, str | None, int]
"""Time after noon in µs, channel, value, unit, flags."""


def readings(*made: Reading, blocks: int = 0) -> pl.DataFrame:
    """A frame of scalars in the order in which they came, and of some blocks."""
    rows: list[tuple[Any, ...]] = [
        (i, NOON + time, NOON, "n", "pump", channel, None, [value], unit, flags)
        for i, (time, channel, value, unit, flags) in enumerate(made)
    ]
    rows += [(len(rows), NOON, NOON, "n", "pump", "vibration", 100.0, [1.0, 2.0], "g", 0)] * blocks
    schema = {**READINGS, "time": pl.Int64(), "received": pl.Int64()}
    return pl.DataFrame(rows, schema, orient="row").cast(dict(READINGS))


def one_by_one(made: list[Reading], within: int) -> list[tuple[int, int, dict[tuple[str, str | None], float]]]:
    """Rows as the docstring says, in plain Python: time, flags, and the values by channel and unit."""
    rows: list[tuple[int, int, dict[tuple[str, str | None], float]]] = []
    for time, channel, value, unit, flags in sorted(made, key=lambda reading: reading[0]):  # stable
        if not rows or time - rows[-1][0] > within or (channel, unit) in rows[-1][2]:
            rows.append((time, 0, {}))
        first, all_flags, values = rows[-1]
        rows[-1] = first, all_flags | flags, {**values, (channel, unit): value}
    return rows


READING = st.tuples(
    st.integers(0, 12).map(lambda tenths: tenths * 100_000),
    st.sampled_from(["t", "p", "time", "p [bar]"]),
    st.integers(-3, 3).map(float),
    st.sampled_from([None, "bar", "Pa"]),
    st.sampled_from([0, 1, 4, 64]),
)


@settings(max_examples=300, deadline=None)
@given(made=st.lists(READING, max_size=40), within=st.sampled_from([0, 100_000, 250_000, 10**9]))
def test_rows_are_those_of_a_plain_loop(made: list[Reading], within: int) -> None:
    rows = Rows.of(readings(*made, blocks=2), within / 1e6)
    expected = one_by_one(made, within)
    frame = rows.frame
    assert (frame["time"].to_physical() - NOON).to_list() == [time for time, _, _ in expected]
    assert frame["quality"].to_list() == [flags for _, flags, _ in expected]
    streams = sorted({(channel, unit) for _, channel, _, unit, _ in made}, key=lambda s: (s[0], s[1] or ""))
    assert frame.columns[2:] == list(rows.units)
    assert list(rows.units.values()) == [unit for _, unit in streams]
    for name, stream in zip(rows.units, streams, strict=True):
        assert frame[name].to_list() == [values.get(stream) for _, _, values in expected]
        assert frame[name].dtype == pl.Float32


def test_slow_numbers_of_several_channels_are_one_row() -> None:
    rows = Rows.of(
        readings(
            (0, "rms", 1.5, "g", 0),
            (200_000, "temp", 40.0, "°C", 64),
            (1_000_000, "rms", 1.25, "g", 0),
            (1_200_001, "temp", 41.0, "°C", 0),
        ),
        within=0.2,
    )
    assert rows.units == {"rms": "g", "temp": "°C"}
    assert rows.frame.select("rms", "temp", "quality").rows() == [
        (1.5, 40.0, 64),
        (1.25, None, 0),
        (None, 41.0, 0),
    ]


def test_a_channel_in_several_units_has_a_column_for_each() -> None:
    rows = Rows.of(readings((0, "flow", 1.0, "l/min", 0), (0, "flow", 2.0, "m3/h", 0), (0, "time", 3.0, None, 0)))
    assert rows.units == {"flow [l/min]": "l/min", "flow [m3/h]": "m3/h", "time (2)": None}
    assert rows.frame.rows()[0][2:] == (1.0, 2.0, 3.0)


def test_without_scalars_there_are_no_rows() -> None:
    rows = Rows.of(readings(blocks=1))
    assert rows.frame.schema == pl.Schema({"time": READINGS["time"], "quality": READINGS["quality"]})
    assert not len(rows.frame)
    assert not rows.units
    with pytest.raises(UserError, match=r"expected within of at least 0 seconds, got -1"):
        Rows.of(readings(), within=-1.0)
