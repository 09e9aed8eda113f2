"""Rows of single numbers as they arrive: those of `StreamRows`, each once, however the numbers are grouped."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fml_lightning.connectors.readings import READINGS
from fml_lightning.datamodules.spool.inputs import Inputs
from fml_lightning.datamodules.spool.labels import Labels
from fml_lightning.datamodules.spool.left_out import Reason
from fml_lightning.datamodules.spool.rows_cutter import (
    GIVEN,
    NUMBERS,
    TIDY,
    Number,
    OpenRows,
    RowsCutter,
    RowsCutterState,
)
from fml_lightning.datamodules.spool.stream_cutter import StreamCutter, StreamCutterState
from fml_lightning.datamodules.spool.stream_rows import StreamRows
from fml_lightning.preprocessing import Preprocessing, RawWindows, Windowing

BEGIN = 1_800_000_000_000_000
"""µs since 1970."""
CHANNELS = ("rms", "kurtosis", "temp")
Sent = list[tuple[str, int]]
"""Channels and tenths of seconds, in the order in which they come."""
SENT = st.lists(st.tuples(st.sampled_from(CHANNELS), st.integers(0, 40)), min_size=1, max_size=40)


def readings(sent: Sent, machine: str = "m", of: int = 0) -> pl.DataFrame:
    """Numbers, each its own place among those that were sent."""
    count = len(sent)
    columns: dict[str, Any] = {
        "sequence": list(range(of, of + count)),
        "time": [BEGIN + tenths * 100_000 for _, tenths in sent],
        "received": [BEGIN + 60_000_000] * count,
        "site": ["plant"] * count,
        "machine": [machine] * count,
        "channel": [channel for channel, _ in sent],
        "sample_rate": [None] * count,
        "values": [[float(of + place)] for place in range(count)],
        "unit": [None] * count,
        "quality": [0] * count,
    }
    schema = {**READINGS, "time": pl.Int64(), "received": pl.Int64()}
    return pl.DataFrame(columns, schema).cast(dict(READINGS))


def cutter(inputs: tuple[str, ...] = (), within: float = 0.5) -> RowsCutter:
    preprocessing = Preprocessing(None, RawWindows(), channels=CHANNELS, inputs=inputs)
    return RowsCutter(preprocessing, CHANNELS, preprocessing.needs, Inputs(inputs, 3600.0), within)


def given_rows(of: RowsCutter, frame: pl.DataFrame) -> list[tuple[int, list[float], int]]:
    """Begin in µs, numbers, and the place of the reading that completed each row."""
    return [
        (start - BEGIN, values[:, 0].tolist(), int(frame["sequence"][place]))
        for _, cut, _ in of.add(frame)
        for values, start, place in zip(cut.values, cut.start.tolist(), cut.place.tolist(), strict=True)
    ]


def streams_rows(frame: pl.DataFrame) -> list[tuple[int, list[float]]]:
    """The rows that are trained on."""
    stream = StreamRows(
        Preprocessing(None, RawWindows(), channels=CHANNELS),
        0.5,
        CHANNELS,
        Inputs((), 60.0),
        Labels("plant", ["normal"]),
        10_000,
        0.5,
    )
    stream.add(frame)
    windows = stream._rows("m")
    return list(zip((windows.start - BEGIN).tolist(), windows.x.tolist(), strict=True))


@settings(deadline=None, max_examples=60)
@given(sent=SENT, data=st.data())
def test_rows_depend_on_the_order_of_the_readings_alone(sent: Sent, data: st.DataObject) -> None:
    """Any order, repeated and late; each number is given once, and by the reading that completed its row."""
    whole = given_rows(cutter(), readings(sent))
    frame, one, at = readings(sent), cutter(), 0
    parts: list[tuple[int, list[float], int]] = []
    while at < len(sent):
        count = data.draw(st.integers(1, 7))
        parts += given_rows(one, frame.slice(at, count))
        at += count
        if data.draw(st.booleans()):  # the process ends, and another one goes on
            kept, one = msgspec.json.encode(one.state()), cutter()
            one.restore(msgspec.json.decode(kept, type=StreamCutterState | RowsCutterState))
    assert parts == whole
    numbers = [number for _, values, _ in whole for number in values]
    assert len(numbers) == len(set(numbers))
    for begin, values, place in whole:
        assert [sent[int(number)][0] for number in values] == list(CHANNELS)
        times = [sent[int(number)][1] * 100_000 for number in values]
        assert min(times) == begin
        assert max(values) <= place  # a late number that begins a row before may make one whole in which it is not
        assert max(times) - begin <= 500_000


@settings(deadline=None, max_examples=60)
@given(sent=SENT.map(lambda sent: sorted(sent, key=lambda each: each[1])))
def test_rows_of_numbers_that_come_in_time_are_those_that_are_trained_on(sent: Sent) -> None:
    frame = readings(sent)
    assert [(begin, values) for begin, values, _ in given_rows(cutter(), frame)] == streams_rows(frame)


@pytest.mark.parametrize("order", ["as a device stored them", "channel by channel", "shuffled"])
def test_numbers_that_come_late_are_in_the_rows_that_are_trained_on(order: str) -> None:
    """Rows a second apart; those of the second half are sent first, or all of one channel, or anyhow."""
    sent = [(channel, 10 * row + place) for row in range(40) for place, channel in enumerate(CHANNELS)]
    if order == "as a device stored them":
        sent = [*sent[60:], *sent[:60]]
    elif order == "channel by channel":
        sent = sorted(sent, key=lambda each: each[0])
    else:
        sent = [sent[place] for place in np.random.default_rng(0).permutation(len(sent))]
    frame = readings(sent)
    found = given_rows(cutter(), frame)
    assert sorted((begin, values) for begin, values, _ in found) == streams_rows(frame)
    assert len(found) == 40


def test_a_row_waits_for_what_it_needs() -> None:
    one = cutter(("speed",))
    row = [(channel, 10) for channel in CHANNELS]
    assert not given_rows(one, readings(row))
    found = list(one.add(readings([("speed", 5), ("speed", 20)], of=3)))
    ((_, cut, told),) = found
    assert (cut.values[0, :, 0].tolist(), told.tolist()) == ([0, 1, 2], [[3.0]])  # that of .5 s
    assert cut.place.tolist() == [1]  # it is known for good when a later one has come


def test_what_is_kept_of_a_machine_is_bounded() -> None:
    one = cutter()
    for part in range(30):
        sent = [(channel, 10 * row) for row in range(100 * part, 100 * part + 100) for channel in CHANNELS[:2]]
        sent += [("temp", 10 * row) for row in range(100 * part, 100 * part + 50)]
        assert len(given_rows(one, readings(sent, of=1000 * part))) == 50
    rows = one.open["m"].rows
    numbers = sum(len(row) for row in rows)
    assert len([row for row in rows if row[0].given]) <= GIVEN + TIDY
    assert numbers <= 2 * 30 * 50 + 3 * (GIVEN + TIDY)
    assert one.left_out_of("m") == {Reason.PARTIAL: 1500}  # told at any time, forgotten or not
    few = OpenRows()
    for number in range(20_000):
        few.add(number * 10**6, 0, 0.0, 2, 1000)
        few.tidy()
    assert len(few.rows) <= NUMBERS + TIDY


def test_a_state_that_is_none_of_rows_is_refused() -> None:
    blocks = Preprocessing(Windowing(4), RawWindows(), channels=CHANNELS, sample_rate=10.0)
    with pytest.raises(ValueError, match="got that of one of blocks"):
        cutter().restore(StreamCutter(blocks, CHANNELS, (), Inputs((), 60.0)).state())
    for numbers in ([Number(5, 0, 0, 1.0, False), Number(4, 1, 1, 1.0, False)], [Number(5, 0, 3, 1.0, False)], []):
        state = msgspec.structs.replace(cutter().state(), open={"m": OpenRows([numbers], 2)})
        with pytest.raises(ValueError, match="expected rows of 3 columns in order of time"):
            cutter().restore(state)
