"""Resampling block by block: the windows are those of the whole stretch, resampled at once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.signal import resample_poly

from fml_lightning.preprocessing import Block, Preprocessing, RawWindows, WindowCutter, Windowing
from fml_lightning.preprocessing.channels_cutter import ChannelsCutter
from fml_lightning.preprocessing.resampling import Resampling

BEGIN = 1_800_000_000_000_000
"""µs since 1970."""
RATES = [
    (25_600.0, 12_000.0),
    (10_000.0, 12_000.0),
    (12_000.0, 12_000.0),
    (48_000.0, 12_000.0),
    (6_400.0, 9_000.0),
]
"""Hz of a signal, and what it is brought to."""


def noise(samples: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=samples).astype(np.float32)


def preprocessing(rate: float, length: int = 64, hop: int = 40) -> Preprocessing:
    return Preprocessing(Windowing(length, hop), RawWindows(), sample_rate=rate, resample=True)


def blocks_of(values: NDArray[np.float32], rate: float, sizes: Iterable[int], begin: float = BEGIN) -> list[Block]:
    """A signal from a time (µs) on, in blocks of these sizes; the last block has what is left."""
    blocks, at = [], 0
    for size in [*sizes, len(values)]:
        if at < len(values):
            blocks.append(Block(round(begin + at * 1e6 / rate), rate, values[at : at + size]))
            at += size
    return blocks


def cut(cutter: WindowCutter, blocks: Iterable[Block]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """All windows, in order of time, and when they begin."""
    parts = [cutter.update(block) for block in blocks]
    windows, starts = (np.concatenate(each) for each in zip(*parts, strict=True))
    order = np.argsort(starts, kind="stable")
    return windows[order], starts[order]


@pytest.mark.parametrize(("rate", "wanted"), RATES)
@pytest.mark.parametrize("begin", [0, 7, 501])
def test_a_part_of_a_resampled_signal_is_that_of_all_of_it(rate: float, wanted: float, begin: int) -> None:
    by = preprocessing(wanted).resampling(rate)
    values = noise(4000)
    whole = resample_poly(values, by.up, by.down)
    found = by.part(values, begin * by.down, 300)
    np.testing.assert_allclose(found, whole[begin : begin + 300], atol=1e-5)
    np.testing.assert_array_equal(by(values[None])[0], np.asarray(whole, np.float32))
    assert len(by.part(values, 0, len(whole))) == len(whole)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(RATES), st.lists(st.integers(20, 700), max_size=30), st.booleans())
def test_windows_of_a_resampled_stream_are_those_of_the_whole_stretch(
    rates: tuple[float, float], sizes: list[int], timed: bool
) -> None:
    rate, wanted = rates
    given_preprocessing = preprocessing(wanted)
    by = given_preprocessing.resampling(rate)
    values = noise(6000)
    blocks = [block._replace(timed=timed) for block in blocks_of(values, rate, sizes)]
    windows, starts = cut(WindowCutter(Windowing(64, 40), given_preprocessing.resampling), blocks)
    whole = Windowing(64, 40).cut(resample_poly(values, by.up, by.down).astype(np.float32))
    # Windows wait for the samples that the filter needs beyond their end.
    reach = by.reach / by.down
    assert len(whole) - reach / 40 - 1 <= len(windows) <= len(whole)
    np.testing.assert_allclose(windows, whole[: len(windows)], atol=1e-5)
    np.testing.assert_allclose(starts, BEGIN + 40 * np.arange(len(windows)) * 1e6 * by.down / by.up / rate, atol=2)


def test_every_stretch_is_resampled_by_itself_and_ends_as_a_whole_signal_does() -> None:
    """Bursts of 2,560 samples every ten minutes, in one block or in several: each gives all its windows."""
    windowing = Windowing(length=600, hop=300)
    given_preprocessing = preprocessing(12_800.0, 600, 300)
    cutter = WindowCutter(windowing, given_preprocessing.resampling)
    bursts = [noise(2560, seed) for seed in range(5)]
    blocks = [
        block
        for k, burst in enumerate(bursts)
        for block in blocks_of(burst, 25_600.0, [[], [1000, 700]][k % 2], BEGIN + 600_000_000 * k)
    ]
    windows, _ = cut(cutter, blocks)
    expected = [windowing.cut(resample_poly(burst, 1, 2).astype(np.float32)) for burst in bursts]
    assert len(expected[0]) == 3
    # Of the last burst nobody knows yet whether it goes on; its third window ends 80 samples before it does.
    np.testing.assert_allclose(windows, np.concatenate(expected), atol=1e-5)
    tight = WindowCutter(Windowing(1280, 1280), given_preprocessing.resampling)
    windows, _ = cut(tight, blocks)
    np.testing.assert_allclose(windows, [resample_poly(burst, 1, 2) for burst in bursts[:4]], atol=1e-5)
    assert tight.held >= 2560


@settings(deadline=None, max_examples=40)
@given(st.permutations(range(12)), st.sampled_from(RATES))
def test_blocks_in_any_order_differ_only_near_joints(order: list[int], rates: tuple[float, float]) -> None:
    rate, wanted = rates
    given_preprocessing = preprocessing(wanted)
    by = given_preprocessing.resampling(rate)
    values = noise(12 * 500)
    blocks = blocks_of(values, rate, [500] * 12)
    windows, starts = cut(
        WindowCutter(Windowing(64, 40), given_preprocessing.resampling), [blocks[k] for k in order]
    )
    ticks = np.rint((starts - BEGIN) * rate / 1e6 * by.up).astype(int)
    near = -(-by.reach // by.down)  # samples that the filter reaches from a joint
    for window, begin in zip(windows, ticks, strict=True):
        expected = by.part(values, begin, 64)
        np.testing.assert_allclose(window[near : 64 - near], expected[near : 64 - near], atol=1e-5)
    assert len(windows) >= 12 * 500 * by.up / by.down / 40 - 3 - near / 40
    assert (np.diff(starts) <= 40e6 * by.down / by.up / rate + 2).all()


@pytest.mark.parametrize(("length", "block"), [(2048, 4800), (12_000, 48_000)])
def test_blocks_that_change_places_lose_no_window_that_is_made_of_many_samples(length: int, block: int) -> None:
    pre = preprocessing(1000.0, length, length)  # a window is made of 48 times as many samples at 48 kHz
    blocks = blocks_of(noise(7 * 48 * (length + 10)), 48_000.0, [block] * 200)
    swapped = [blocks[i ^ 1] if 20 <= i < len(blocks) // 2 * 2 else blocks[i] for i in range(len(blocks))]
    windowing = pre.windowing
    assert windowing is not None
    (_, starts), (_, found) = (cut(WindowCutter(windowing, pre.resampling), some) for some in (blocks, swapped))
    assert len(starts) == 7
    assert found.tolist() == starts.tolist()


def test_channels_of_other_rates_are_joined_after_resampling() -> None:
    given_preprocessing = preprocessing(1000.0, 50, 50)
    cutter = ChannelsCutter(Windowing(50, 50), ["x", "y"], given_preprocessing.resampling)
    fast, slow = noise(2000), noise(1000, 1)
    parts = [
        cutter.update(name, block)
        for name, values, rate in (("x", fast, 2000.0), ("y", slow, 1000.0))
        for block in blocks_of(values, rate, [333, 333])
    ]
    windows = np.concatenate([some for some, _ in parts])
    assert len(windows) == 19  # the last one of x waits
    np.testing.assert_allclose(windows[:, 0], resample_poly(fast, 1, 2).reshape(20, 50)[:19], atol=1e-5)
    np.testing.assert_array_equal(windows[:, 1], slow.reshape(20, 50)[:19])


def test_no_resampling_leaves_the_samples_as_views() -> None:
    values = noise(10)
    assert np.shares_memory(Resampling().part(values, 2, 5), values)
