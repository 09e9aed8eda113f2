"""Nothing is preprocessed in two ways: a signal gives the same windows as a recording and as a stream."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fml_lightning.connectors import LABELS, READINGS
from fml_lightning.datamodules.machine_windows import cut_machines
from fml_lightning.datamodules.recordings import Recording
from fml_lightning.datamodules.spool.inputs import Inputs
from fml_lightning.datamodules.spool.labels import Labels
from fml_lightning.datamodules.spool.left_out import Reason
from fml_lightning.datamodules.spool.stream_cutter import MOST_AWAITING
from fml_lightning.datamodules.spool.stream_windows import StreamWindows
from fml_lightning.preprocessing import (
    Column,
    Concat,
    Features,
    LogBandPowers,
    Preprocessing,
    RawWindows,
    Standardize,
    Statistics,
    Windowing,
)

BEGIN = 1_800_000_000_000_000
"""µs since 1970."""
RATE = 25_600.0
"""Hz of the signal."""


class Orders(Features):
    """Amplitudes at the first orders of the shaft."""

    needs = ("speed",)

    def columns(self, length: int, sample_rate: float) -> list[Column]:
        return [Column(f"order_{k}", "x") for k in (1, 2, 3)]

    def __call__(
        self, windows: NDArray[np.float32], sample_rate: float, told: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        assert told is not None
        turns = told[:, :1] * np.arange(windows.shape[1]) / sample_rate
        waves = [np.exp(2j * np.pi * k * turns) for k in (1, 2, 3)]
        return np.stack([np.abs((windows * wave).mean(1)) for wave in waves], axis=1).astype(np.float32)


def reading(channel: str, time: float, rate: float | None, values: Sequence[float], unit: str | None) -> Any:
    """A reading of the machine, `time` seconds after the begin."""
    at = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=BEGIN + round(time * 1e6))
    return (0, at, at, "plant", "m", channel, rate, list(values), unit, 0)


def frame(rows: Sequence[Any]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=READINGS, orient="row").with_columns(
        sequence=pl.Series(range(len(rows)), dtype=pl.Int64)
    )


def blocks(channel: str, values: NDArray[np.float32], sizes: Sequence[int], unit: str | None = None) -> list[Any]:
    rows, at = [], 0
    for size in [*sizes, len(values)]:
        if at < len(values):
            rows.append(reading(channel, at / RATE, RATE, values[at : at + size].tolist(), unit))
            at += size
    return rows


def always_normal() -> Labels:
    labels = Labels("plant", ["normal"])
    early = datetime(2000, 1, 1, tzinfo=UTC)
    labels.add(pl.DataFrame([(0, early, early, "plant", "m", "normal")], schema=LABELS, orient="row"))
    return labels


def stream_of(preprocessing: Preprocessing, nameplate: dict[str, float] | None = None) -> StreamWindows:
    inputs = Inputs(preprocessing.needs, 60.0, lambda machine: nameplate or {})
    return StreamWindows(
        preprocessing, 0.9999, preprocessing.channels or ("vibration",), always_normal(), inputs, 2000
    )


def seen(stream: StreamWindows) -> NDArray[np.float32]:
    """All its windows but the last one, which is not early."""
    (machine,) = stream.machines()
    return machine.early.x


def as_recording(
    preprocessing: Preprocessing, values: NDArray[np.float32], **inputs: float
) -> NDArray[np.float32]:
    """All windows of a signal, (C, n), as a recording."""
    recording = Recording("m", "any", 0, RATE, values, BEGIN, preprocessing.unit, inputs, "early")
    (machine,) = cut_machines([recording], preprocessing, 0.5)
    return machine.early.x


CHANNELS = Standardize("channels", statistics=Statistics([[0.5, -1.0]], [[2.0, 0.3]]))
FEATURES = Standardize(
    "features", statistics=Statistics([np.arange(15.0).tolist()], [np.arange(1.0, 16.0).tolist()])
)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.integers(50, 3000), max_size=12),
    st.lists(st.integers(50, 3000), max_size=12),
    st.sampled_from([CHANNELS, FEATURES]),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_a_signal_gives_the_same_windows_as_a_recording_and_as_a_stream(
    sizes: list[int], others: list[int], standardize: Standardize, by_channel: bool, random: Any
) -> None:
    features = Concat([LogBandPowers(bands=4), Orders()])
    preprocessing = Preprocessing(
        Windowing(512, 300), features, ("x", "y"), 12_000.0, "g", True, ("load",), standardize
    )
    values = np.random.default_rng(0).normal(size=(2, 16_000)).astype(np.float32)
    expected = as_recording(preprocessing, values, speed=29.5, load=2.0)
    assert expected.shape == (24, 15)
    stream = stream_of(preprocessing, {"load": 2.0} if by_channel else {"load": 2.0, "speed": 29.5})
    # Each channel's blocks come in their order; messages of the two come in any.
    queues = {"x": blocks("x", values[0], sizes, "g"), "y": blocks("y", values[1], others)}
    rows = []
    while any(queues.values()):
        rows.append(queues[random.choice([name for name, queue in queues.items() if queue])].pop(0))
    if by_channel:  # which is late: windows wait for it
        rows.insert(random.randrange(len(rows) + 1), reading("speed", -1.0, None, [29.5], "Hz"))
    readings, at = frame(rows), 0
    while at < len(readings):
        count = random.randint(1, 5)
        stream.add(readings.slice(at, count))
        at += count
    found = seen(stream)
    assert len(found) >= len(expected) - 2
    np.testing.assert_allclose(found, expected[: len(found)], rtol=1e-4, atol=1e-4)
    assert set(stream.left_out("m")) <= {Reason.WAITING, Reason.UNMATCHED}


def test_channels_of_raw_windows_are_standardized_as_those_of_recordings() -> None:
    """The load tells the condition: it is left out, and which mean is taken changes within windows."""
    standardize = Standardize(
        "channels", "load", statistics=Statistics([[0.0, 1.0], [10.0, 20.0]], [[1.0, 2.0], [4.0, 5.0]], [0.5])
    )
    preprocessing = Preprocessing(
        Windowing(100, 70), RawWindows(), ("x", "load", "y"), RATE, standardize=standardize
    )
    values = np.random.default_rng(0).normal(size=(3, 1000)).astype(np.float32)
    stream = stream_of(preprocessing)
    stream.add(
        frame(
            [row for name, own in zip(["x", "y"], values[[0, 2]], strict=True) for row in blocks(name, own, [333])]
        )
    )
    stream.add(frame(blocks("load", values[1], [250, 250])))
    found, expected = seen(stream), as_recording(preprocessing, values)
    assert found.shape == (12, 2, 100)
    np.testing.assert_array_equal(found, expected[:12])
    by_hand = np.where(values[1, :100] > 0.5, (values[0, :100] - 10) / 4, values[0, :100])
    np.testing.assert_allclose(found[0, 0], by_hand, rtol=1e-6)


def test_the_expected_unit_is_the_unit() -> None:
    """Not the channel's first one; what names none counts as in it."""
    preprocessing = Preprocessing(Windowing(10, 10), RawWindows(), unit="g")
    stream = stream_of(preprocessing)
    units = ["m/s²", "g", None, "g", "mg"]
    rows = [reading("vibration", k * 10 / RATE, RATE, [float(k)] * 10, unit) for k, unit in enumerate(units)]
    stream.add(frame(rows))
    assert seen(stream)[:, 0].tolist() == [1, 2]  # and the last one, 3
    assert stream.left_out("m") == {Reason.OTHER_UNIT: 2}


def test_blocks_of_another_rate_are_left_out_or_resampled_or_cannot_be() -> None:
    rows = [
        reading("vibration", 10 * k, rate, [1.0] * 400, None) for k, rate in enumerate([1e3, 2e3, 1e-5, 1000.5])
    ]
    for resample, others in ((False, 2), (True, 1)):
        preprocessing = Preprocessing(Windowing(50, 50), RawWindows(), sample_rate=1e3, resample=resample)
        stream = stream_of(preprocessing)
        stream.add(frame(rows))
        assert stream.left_out("m")[Reason.OTHER_RATE] == others
        # 8 windows of each block at about 1 kHz, and 4 of that at 2 kHz; the last of all is not early.
        assert len(seen(stream)) == (19 if resample else 15)


SPEEDS = Preprocessing(Windowing(10, 10), Orders(), sample_rate=RATE)


@pytest.mark.parametrize("at_once", [1, 3, 1000])
def test_what_features_need_is_what_holds_at_a_windows_end_as_far_as_has_come(at_once: int) -> None:
    """A stream that is read again, in other portions, gives the same windows."""
    values = np.random.default_rng(1).normal(size=200).astype(np.float32)
    rows = blocks("vibration", values, [10] * 20)

    def speed(window: float, value: float) -> Any:
        return reading("speed", window * 10 / RATE, None, [value], None)

    # Window k lasts from k to k + 0.9. What comes before the blocks of windows 18, 12 and 5:
    rows[18:18] = [speed(13.0, 700.0)]  # too late for 13, of which all was known when 14.95 came
    rows[15:15] = [speed(8.0, 500.0), speed(14.0, 600.0), speed(14.95, 650.0)]  # too late for 8, not for 14
    rows[12:12] = [speed(11.0, 450.0), speed(11.5, 470.0)]
    rows[5:5] = [speed(2.5, 300.0), speed(3.95, 400.0)]  # windows 2 to 4 have waited
    stream = stream_of(SPEEDS)
    for part in frame(rows).iter_slices(at_once):
        stream.add(part)
        stream.machines()  # a look between changes nothing
    told = {
        **dict.fromkeys([2, 3], 300),
        **dict.fromkeys(range(4, 11), 400),
        11: 470,
        **dict.fromkeys([12, 13], 470),
        14: 600,
        **dict.fromkeys(range(15, 20), 650),
    }
    expected = [
        SPEEDS(values[None, None, 10 * k : 10 * k + 10], RATE, np.float32([[v]]))[0] for k, v in told.items()
    ]
    np.testing.assert_array_equal(seen(stream), expected[:-1])
    assert stream.left_out("m") == {Reason.NO_INPUT: 2}  # nobody says how fast it was during 0 and 1


def test_few_windows_wait_for_what_features_need_and_the_others_are_counted() -> None:
    stream = stream_of(SPEEDS)
    stream.add(frame(blocks("vibration", np.ones(1000, np.float32), [500])))
    assert stream.machines() == []
    assert stream.left_out("m") == {Reason.NO_INPUT: 100}
    stream.add(frame([reading("speed", -1.0, None, [30.0], None)]))
    assert len(seen(stream)) == MOST_AWAITING - 1
    assert stream.left_out("m") == {Reason.NO_INPUT: 100 - MOST_AWAITING}
    stream.forget()
    stream.add(frame([reading("speed", 1.0, None, [40.0], None)]))  # later than all of them
    assert len(seen(stream)) == MOST_AWAITING - 1
    assert stream.cutter.awaiting["m"] == []


def test_a_channel_wins_over_the_nameplate_from_when_it_speaks() -> None:
    values = np.random.default_rng(2).normal(size=40).astype(np.float32)
    stream = stream_of(SPEEDS, {"speed": 30.0})
    rows = blocks("vibration", values, [10] * 4)
    rows.insert(2, reading("speed", 20 / RATE, None, [200.0], None))
    stream.add(frame(rows))
    speeds = np.float32([[30], [30], [200], [200]])
    np.testing.assert_array_equal(seen(stream), SPEEDS(values.reshape(4, 1, 10), RATE, speeds)[:3])
