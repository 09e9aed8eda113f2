"""The split in time: every sample on one side at most, of one recording or of many short ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fml_lightning import UserError
from fml_lightning.datamodules import Ramp, Recording
from fml_lightning.datamodules.machine_windows import cut_machines
from fml_lightning.datamodules.split import split
from fml_lightning.preprocessing import Preprocessing, RawWindows, Windowing

TEN = Preprocessing(Windowing(length=10, hop=10), RawWindows())


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=12),
    st.floats(0.05, 0.95),
    st.integers(1, 20),
)
def test_no_sample_is_on_both_sides_and_early_comes_first(lengths: list[int], share: float, window: int) -> None:
    begins = np.cumsum([0, *lengths])
    early, late = set[int](), set[int]()
    for begin, length, (first, second) in zip(begins, lengths, split(lengths, share, window), strict=False):
        assert 0 <= first.start <= first.stop <= second.start <= second.stop == length
        early |= set(range(begin + first.start, begin + first.stop))
        late |= set(range(begin + second.start, begin + second.stop))
        if first.stop > 0 and second.start < length:  # the border lies within it
            assert second.start - first.stop == window
    assert not early & late
    assert not early or not late or max(early) < min(late)


@given(st.integers(2, 40), st.floats(0.1, 0.9))
def test_bursts_are_as_good_as_one_long_recording(bursts: int, share: float) -> None:
    """As many windows on each side, give or take the burst that the border is in."""
    parts = split([25] * bursts, share, 20)
    early = sum(first.stop >= 20 for first, _ in parts)
    late = sum(25 - second.start >= 20 for _, second in parts)
    assert early + late == bursts
    assert abs(early - share * bursts) <= 1


def test_bursts_are_split_in_order_of_their_times_not_as_they_are_given() -> None:
    rng = np.random.default_rng(0)
    recordings = [Recording("m", "c", 0, 1e3, np.full(10, k, np.float32), start=k * 60_000_000) for k in range(10)]
    (machine,) = cut_machines([recordings[k] for k in rng.permutation(10)], TEN, 0.5)
    assert sorted(machine.early.x[:, 0]) == [0, 1, 2, 3, 4]
    assert sorted(machine.late.x[:, 0]) == [5, 6, 7, 8, 9]
    assert machine.late.start.tolist() == [k * 60_000_000 for k in (5, 6, 7, 8, 9)]


def test_a_part_that_a_data_set_gives_is_kept() -> None:
    recordings = [Recording("m", "c", Ramp(9, 0), 1.0, np.arange(10.0), part="early")]
    recordings += [Recording("m", "c", 7.0, 1.0, np.arange(10.0), part="late")]
    preprocessing = Preprocessing(Windowing(length=2, hop=2), RawWindows())
    (machine,) = cut_machines(recordings, preprocessing, 0.5)
    assert machine.early.target is not None
    assert machine.early.target.tolist() == [8, 6, 4, 2, 0]  # at the last sample of each window
    assert machine.late.target is not None
    assert machine.late.target.tolist() == [7] * 5
    assert machine.late.recording.tolist() == [1] * 5


def test_channels_stand_side_by_side_or_stay_apart() -> None:
    values = np.arange(60, dtype=np.float32).reshape(3, 20)
    recording = Recording("m", "c", 0, 1.0, values)
    raw = Preprocessing(Windowing(length=4, hop=4), RawWindows(), channels=("x", "y", "z"))
    (machine,) = cut_machines([recording], raw, 0.5)
    assert machine.early.shape == (2, 3, 4)
    np.testing.assert_array_equal(machine.early.x[1], values[:, 4:8])
    np.testing.assert_array_equal(machine.late.x[0], values[:, 14:18])
    rows = Preprocessing(None, RawWindows(), channels=("x", "y", "z"))
    (machine,) = cut_machines([recording], rows, 0.5)
    np.testing.assert_array_equal(machine.early.x, values[:, :10].T)
    np.testing.assert_array_equal(machine.late.x, values[:, 11:].T)


def test_operating_conditions_are_inputs_beside_features() -> None:
    recording = Recording("m", "c", 0, 1.0, np.arange(40.0), inputs={"speed": 25.0, "load": 2.0})
    seen = Preprocessing(Windowing(length=10, hop=10), RawWindows(), inputs=("load", "speed"))
    (machine,) = cut_machines([recording], seen, 0.5)
    assert machine.early.x[:, 10:].tolist() == [[2, 25], [2, 25]]
    with pytest.raises(UserError, match="m, c: expected the operating condition 'torque' among its inputs"):
        cut_machines([recording], Preprocessing(Windowing(10, 10), RawWindows(), inputs=("torque",)), 0.5)


@pytest.mark.parametrize(
    ("fields", "preprocessing", "complaint"),
    [
        ({"sample_rate": 500.0}, {"sample_rate": 1e3}, "expected 1000 Hz, got 500 Hz; set resample: true"),
        ({"unit": "mg"}, {"unit": "g"}, "expected samples in g, got mg; convert them"),
        ({"values": np.zeros((2, 90))}, {}, "expected 1 channels; name the channels to use, got 2"),
        ({}, {"channels": ("x", "y")}, r"expected 2 channels \(x, y\), got 1"),
    ],
)
def test_what_is_not_as_expected_is_refused(
    fields: dict[str, object], preprocessing: dict[str, object], complaint: str
) -> None:
    whole = {"machine": "m", "condition": "c", "target": 0, "sample_rate": 1e3, "values": np.zeros(90)} | fields
    expected = Preprocessing(Windowing(10, 10), RawWindows(), **preprocessing)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=complaint):
        cut_machines([Recording(**whole)], expected, 0.5)  # type: ignore[arg-type]


def test_a_signal_of_another_rate_is_resampled_if_the_user_says_so() -> None:
    """A sine far below both rates stays that sine: within 1 % but at the ends, where the filter has no signal."""
    time = np.arange(4000) / 2000.0
    recording = Recording("m", "c", 0, 2000.0, np.sin(2 * np.pi * 10 * time))
    expected = Preprocessing(Windowing(1000, 1000), RawWindows(), sample_rate=1000.0, resample=True)
    values = expected.signal(recording.load(), 2000.0)
    assert (values.shape, expected.rate(2000.0), expected.samples(4000, 2000.0)) == ((1, 2000), 1000.0, 2000)
    sine = np.sin(2 * np.pi * 10 * np.arange(2000) / 1000.0)
    np.testing.assert_allclose(values[0, 50:-50], sine[50:-50], atol=0.01)


def test_windows_may_be_so_many_seconds_long() -> None:
    recordings = [
        Recording(name, "c", 0, rate, np.arange(int(4 * rate))) for name, rate in (("a", 10.0), ("b", 20.0))
    ]
    short, long = cut_machines(
        recordings, Preprocessing(Windowing(seconds=0.5, hop_seconds=0.5), RawWindows()), 0.5
    )
    assert short.early.shape == (4, 5)
    assert long.early.shape == (4, 10)


def test_recordings_without_a_start_follow_one_another_whatever_their_class() -> None:
    recordings = [Recording("m", "c", k, 1.0, np.full(40, k)) for k in (0, 1)]
    (machine,) = cut_machines(recordings, TEN, 0.5)
    assert (
        machine.early.start[machine.early.label == 0].max() < machine.early.start[machine.early.label == 1].min()
    )
    with pytest.raises(UserError, match="expected a start of all recordings of a machine, or of none"):
        cut_machines([recordings[0], Recording("m", "c", 1, 1.0, np.ones(40), start=5)], TEN, 0.5)
