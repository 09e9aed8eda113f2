"""Several channels of a machine in a stream: aligned in time, with inputs, or as rows of single numbers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fml_lightning.connectors import LABELS, READINGS
from fml_lightning.connectors.decoding.rows import Rows
from fml_lightning.connectors.readings import TIME
from fml_lightning.datamodules import Episodes
from fml_lightning.datamodules.spool.inputs import Inputs
from fml_lightning.datamodules.spool.labels import Labels
from fml_lightning.datamodules.spool.left_out import Reason
from fml_lightning.datamodules.spool.stream_rows import StreamRows
from fml_lightning.datamodules.spool.stream_windows import StreamWindows
from fml_lightning.datamodules.tasks import prediction_task
from fml_lightning.preprocessing import Block, Preprocessing, RawWindows, Windowing
from fml_lightning.preprocessing.channels_cutter import ChannelsCutter

BEGIN = 1_800_000_000_000_000
"""µs since 1970."""


def at(microseconds: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=microseconds)


def readings(*rows: tuple[str, int, float | None, Sequence[float]], machine: str = "m") -> pl.DataFrame:
    """Of (channel, µs since `BEGIN`, sample rate, values), in the order in which they come."""
    columns: dict[str, Any] = {
        "sequence": range(len(rows)),
        "time": [at(BEGIN + time) for _, time, _, _ in rows],
        "received": [at(BEGIN + time) for _, time, _, _ in rows],
        "site": ["plant"] * len(rows),
        "machine": [machine] * len(rows),
        "channel": [channel for channel, *_ in rows],
        "sample_rate": [rate for *_, rate, _ in rows],
        "values": [list(values) for *_, values in rows],
        "unit": [None] * len(rows),
        "quality": [0] * len(rows),
    }
    return pl.DataFrame(columns, schema=READINGS)


def labels(*said: tuple[int, str]) -> Labels:
    known = Labels("plant", ["normal", "worn"])
    frame = pl.DataFrame(
        {
            "sequence": range(len(said)),
            "time": pl.Series([at(BEGIN + time) for time, _ in said], dtype=TIME),
            "received": pl.Series([at(BEGIN + time) for time, _ in said], dtype=TIME),
            "site": ["plant"] * len(said),
            "machine": ["m"] * len(said),
            "label": [label for _, label in said],
        },
        schema=LABELS,
    )
    known.add(frame)
    return known


@settings(deadline=None, max_examples=50)
@given(st.permutations(range(20)), st.integers(0, 1000))
def test_channels_in_messages_of_their_own_are_joined_in_any_order(order: list[int], offset: int) -> None:
    """Blocks of 50 samples at 1 kHz; the second channel's stamps are up to 1 ms later than the first one's."""
    signal = np.random.default_rng(0).normal(size=(2, 500)).astype(np.float32)
    cutter = ChannelsCutter(Windowing(length=100, hop=50), ["x", "y"])
    windows, starts = [], []
    for number in order:
        channel, k = divmod(number, 10)
        block = Block(BEGIN + k * 50_000 + channel * offset, 1000.0, signal[channel, 50 * k : 50 * k + 50])
        some, start = cutter.update("xy"[channel], block)
        windows.append(some)
        starts.append(start)
    found, time = np.concatenate(windows), np.concatenate(starts)
    expected = Windowing(length=100, hop=50).cut(signal)
    rows = np.argsort(time)
    assert len(found) == len(expected)
    np.testing.assert_array_equal(found[rows], expected)
    assert cutter.unmatched == 0


def test_a_window_of_one_channel_without_the_other_is_counted() -> None:
    cutter = ChannelsCutter(Windowing(length=10, hop=10), ["x", "y"])
    for k in range(5):
        cutter.update("x", Block(BEGIN + k * 10_000, 1000.0, np.ones(10, np.float32)))
    windows, start = cutter.update("y", Block(BEGIN + 20_000, 1000.0, np.ones(10, np.float32)))
    assert (windows.shape, start.tolist()) == ((1, 2, 10), [BEGIN + 20_000])
    assert cutter.unmatched == 4


def test_streams_of_several_channels_have_inputs_beside_their_features() -> None:
    preprocessing = Preprocessing(
        Windowing(length=10, hop=10), RawWindows(), channels=("x",), sample_rate=1000.0, inputs=("rpm",)
    )
    known = labels((0, "normal"))
    stream = StreamWindows(preprocessing, 0.5, ["x"], known, Inputs(["rpm"], max_age=0.05), 100)
    stream.add(readings(*(("x", k * 10_000, 1000.0, [float(k)] * 10) for k in range(1, 20))))
    stream.add(readings(("rpm", 95_000, None, [1500.0]), ("rpm", 25_000, None, [1400.0])))
    stream.add(readings(("x", 300_000, 990.0, [1.0] * 10)))
    (machine,) = stream.machines()
    seen = np.concatenate([machine.early.x, machine.late.x])
    # Windows k end at 10 k + 9 ms; a value holds for 50 ms: 1400 from 29 to 75 ms, 1500 from 95 to 145 ms.
    by_window = dict(zip(seen[:, 0].astype(int).tolist(), seen[:, -1].tolist(), strict=True))
    assert set(by_window) <= {*range(2, 7), *range(9, 14)}
    assert all(rpm == (1400 if k < 9 else 1500) for k, rpm in by_window.items())
    left_out = stream.left_out("m")
    assert left_out[Reason.NO_INPUT] == 19 - 10
    assert left_out[Reason.OTHER_RATE] == 1


def test_single_numbers_of_several_channels_are_rows() -> None:
    preprocessing = Preprocessing(None, RawWindows(), channels=("rms", "kurtosis"))
    known = labels((0, "normal"), (6_000_000, "worn"))
    stream = StreamRows(
        preprocessing, 0.5, ["rms", "kurtosis"], Inputs((), 60.0), known, max_windows=100, within=0.5
    )
    rows = []
    for k in range(12):
        rows.append(("rms", k * 1_000_000, None, [float(k)]))
        if k != 3:  # which then is no row
            rows.append(("kurtosis", k * 1_000_000 + 300_000, None, [10.0 * k]))
    order = np.random.default_rng(0).permutation(len(rows))
    for number in order:
        stream.add(readings(rows[number]))
    stream.add(readings(("rms", 99_000_000, 1e3, [1.0, 2.0])))
    (machine,) = stream.machines()
    seen = {int(x[0]): int(x[1]) for side in (machine.early, machine.late) for x in side.x}
    assert seen == {k: 10 * k for k in range(12) if k != 3}
    assert machine.early.label.tolist() == [0, 0, 1, 1, 1]
    assert sorted(machine.early.x[machine.early.label == 0, 0]) == [0, 1]
    assert stream.left_out("m") == {Reason.PARTIAL: 1, Reason.NO_SCALAR: 1}


def test_rows_are_forgotten_but_the_newest_of_each_class() -> None:
    preprocessing = Preprocessing(None, RawWindows(), channels=("rms",))
    stream = StreamRows(preprocessing, 0.5, ["rms"], Inputs((), 60.0), labels((0, "normal")), max_windows=5)
    stream.add(readings(*(("rms", k * 2_000_000, None, [float(k)]) for k in range(50))))
    stream.forget()
    (machine,) = stream.machines()
    assert sorted([*machine.early.x[:, 0], *machine.late.x[:, 0]]) == [45, 46, 47, 48, 49]
    assert stream.left_out("m")[Reason.OLD] == 45
    assert len(stream._aligned["m"].readings) == 5


def test_rows_without_a_class_are_predicted_where_they_come_later() -> None:
    """Of 8 normal rows 4 are early; 2 rows come before the first label, and 3 under one that is no class."""
    preprocessing = Preprocessing(None, RawWindows(), channels=("rms",))
    known = labels((4_000_000, "normal"), (20_000_000, "?"))
    stream = StreamRows(preprocessing, 0.5, ["rms"], Inputs((), 60.0), known, max_windows=100)
    stream.add(readings(*(("rms", k * 2_000_000, None, [float(k)]) for k in range(13))))
    (machine,) = stream.machines()
    assert (machine.early.x[:, 0].tolist(), machine.late.x[:, 0].tolist()) == ([2, 3, 4, 5], [6, 7, 8, 9])
    task = prediction_task(machine, Episodes(shots=1, of="as they come"), np.random.default_rng(0))
    assert task.query.x[:, 0].tolist() == [6, 7, 8, 9, 10, 11, 12]
    assert (task.query.label >= 0).tolist() == [True] * 4 + [False] * 3


@pytest.mark.parametrize("channels", [["x", "y"], ["y", "x"]])
def test_channels_stand_in_the_order_of_the_configuration(channels: list[str]) -> None:
    preprocessing = Preprocessing(Windowing(length=4, hop=4), RawWindows(), channels=tuple(channels))
    stream = StreamWindows(preprocessing, 0.5, channels, labels((0, "normal")), Inputs([], 1.0), 100)
    value = {"x": 1.0, "y": 2.0}
    for k in range(8):
        stream.add(readings(*((name, k * 4_000, 1000.0, [value[name]] * 4) for name in ("y", "x"))))
    (machine,) = stream.machines()
    assert machine.early.shape[1:] == (2, 4)
    assert machine.early.x[0, :, 0].tolist() == [value[name] for name in channels]


def test_rows_have_the_last_inputs_beside_their_channels() -> None:
    preprocessing = Preprocessing(None, RawWindows(), channels=("rms",), inputs=("rpm",))
    stream = StreamRows(preprocessing, 0.5, ["rms"], Inputs(["rpm"], max_age=3.0), labels((0, "normal")), 100)
    stream.add(readings(*(("rms", k * 1_000_000, None, [float(k)]) for k in range(12))))
    stream.add(readings(("rpm", 6_500_000, None, [1500.0]), ("rpm", 2_000_000, None, [1400.0])))
    (machine,) = stream.machines()
    seen = dict(np.concatenate([machine.early.x, machine.late.x]).tolist())
    # 1400 holds from 2 to 5 s, 1500 from 6.5 to 9.5 s.
    assert seen == {2: 1400, 3: 1400, 4: 1400, 5: 1400, 7: 1500, 8: 1500, 9: 1500}
    assert stream.left_out("m") == {Reason.NO_INPUT: 5}


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(["rms", "kurtosis"]), st.integers(0, 30)), min_size=1), st.data())
def test_rows_that_are_looked_at_on_the_way_are_those_of_all_readings(
    sent: list[tuple[str, int]], data: st.DataObject
) -> None:
    """Readings of tenths of seconds come in any order, repeated and late."""
    preprocessing = Preprocessing(None, RawWindows(), channels=("rms", "kurtosis"))
    rows = readings(*((channel, time * 100_000, None, [float(k)]) for k, (channel, time) in enumerate(sent)))

    def stream() -> StreamRows:
        return StreamRows(
            preprocessing, 0.5, ["rms", "kurtosis"], Inputs((), 60.0), labels((0, "normal")), 1000, 0.5
        )

    whole, looked_at = stream(), stream()
    whole.add(rows)
    at = 0
    while at < len(rows):
        count = data.draw(st.integers(1, 5))
        looked_at.add(rows.slice(at, count))
        looked_at.machines()
        at += count
    assert looked_at.left_out("m") == whole.left_out("m")
    for mine, theirs in zip(looked_at.machines(), whole.machines(), strict=True):
        for side in ("early", "late"):
            np.testing.assert_array_equal(getattr(mine, side).x, getattr(theirs, side).x)
            np.testing.assert_array_equal(getattr(mine, side).start, getattr(theirs, side).start)


def test_a_look_at_rows_aligns_only_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    aligned: list[int] = []
    of = Rows.of

    def counted(frame: pl.DataFrame, within: float) -> Rows:
        aligned.append(len(frame))
        return of(frame, within)

    monkeypatch.setattr(Rows, "of", counted)
    preprocessing = Preprocessing(None, RawWindows(), channels=("rms",))
    stream = StreamRows(preprocessing, 0.5, ["rms"], Inputs((), 60.0), labels((0, "normal")), 1000)
    rows = readings(*(("rms", k * 2_000_000, None, [float(k)]) for k in range(500)))
    for part in (rows[:490], *rows[490:].iter_slices(1)):
        stream.add(part)
        stream.machines()
        stream.left_out("m")
    assert aligned == [490, *[2] * 10]


def test_rows_are_of_each_channels_first_unit() -> None:
    """A channel that names its unit only sometimes is one column; a reading in another unit is left out."""
    preprocessing = Preprocessing(None, RawWindows(), channels=("rms",))
    stream = StreamRows(preprocessing, 0.5, ["rms"], Inputs((), 60.0), labels((0, "normal")), 1000)
    rows = readings(*(("rms", k * 2_000_000, None, [float(k)]) for k in range(5)))
    stream.add(rows.with_columns(unit=pl.Series([None, "g", "mg", None, "g"], dtype=pl.String)))
    (machine,) = stream.machines()
    assert [*machine.early.x[:, 0], *machine.late.x[:, 0]] == [0, 1, 3, 4]
    assert stream.left_out("m") == {Reason.OTHER_UNIT: 1}
