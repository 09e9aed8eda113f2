"""The window cutter: whatever the order of blocks, the windows of those in order; jitter, drift, whole seconds."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fml_lightning.preprocessing import Block, WindowCutter, Windowing
from fml_lightning.preprocessing import seen as seen_module
from fml_lightning.preprocessing import window_cutter as cutter_module
from fml_lightning.preprocessing.stretch import Stretch

BEGIN = 1_800_000_000_000_000  # µs since 1970, a whole second
RATE = 1000.0  # Hz: a sample is 1000 µs

Window = tuple[int, tuple[float, ...]]
"""Start and samples."""


def ramp(begin: int, end: int) -> NDArray[np.float32]:
    """Samples that are their own number."""
    return np.arange(begin, end, dtype=np.float32)


def block(begin: int, end: int, late: float = 0.0, rate: float = RATE, timed: bool = True) -> Block:
    """Samples `begin` to `end` of a ramp, whose time stamp is `late` µs after they were measured."""
    return Block(BEGIN + round(begin * 1e6 / rate + late), rate, ramp(begin, end), timed)


def cut(cutter: WindowCutter, blocks: Iterable[Block]) -> list[Window]:
    """All windows of blocks, in order of time."""
    cuts = [cutter.update(b) for b in blocks]
    windows = [(int(t), tuple(w.tolist())) for some, start in cuts for w, t in zip(some, start, strict=True)]
    return sorted(windows)


def first_samples(cutter: WindowCutter, blocks: Iterable[Block]) -> list[float]:
    """The first sample of each window, which tells where it begins, in order."""
    return sorted(samples[0] for _, samples in cut(cutter, blocks))


def trained(windows: Iterable[Window], blocks: Sequence[Block]) -> int:
    """How many blocks, all samples of which are different, have a sample in a window."""
    seen = {sample for _, samples in windows for sample in samples}
    return sum(not seen.isdisjoint(b.values.tolist()) for b in blocks)


def left_out(cutter: WindowCutter) -> int:
    """How many blocks the cutter says it has left out."""
    return cutter.overlapping + cutter.waiting + cutter.between


# In order -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "hop"), [(8, 8), (8, 4), (8, 3), (4, 11), (1, 1)])
@pytest.mark.parametrize("size", [1, 5, 8, 100])
def test_blocks_of_any_size_give_the_windows_of_the_whole(length: int, hop: int, size: int) -> None:
    windowing = Windowing(length=length, hop=hop)
    cutter = WindowCutter(windowing)
    cuts = []
    for begin in range(0, 100, size):
        cuts.append(cutter.update(block(begin, min(100, begin + size))))
        assert cutter.held < 2 * length
    windows = np.concatenate([windows for windows, _ in cuts])
    np.testing.assert_array_equal(windows, windowing.cut(ramp(0, 100)))
    starts = np.concatenate([start for _, start in cuts])
    np.testing.assert_array_equal(starts, BEGIN + 1000 * windows[:, 0].astype(np.int64))


def test_no_window_reaches_over_a_gap_or_a_change_of_rate_or_source() -> None:
    windowing = Windowing(length=10, hop=10)
    assert first_samples(WindowCutter(windowing), [block(0, 15), block(15, 30)]) == [0, 10, 20]
    assert first_samples(WindowCutter(windowing), [block(0, 15), block(25, 40)]) == [0, 25]
    assert first_samples(WindowCutter(windowing), [block(0, 15), block(15, 30, late=-8000)]) == [0, 15]
    other = Block(BEGIN + 15_000, 2 * RATE, ramp(15, 30))
    assert first_samples(WindowCutter(windowing), [block(0, 15), other]) == [0, 15]
    renamed = block(15, 30)._replace(source="the new name")
    assert first_samples(WindowCutter(windowing), [block(0, 15), renamed]) == [0, 15]


def test_blocks_without_a_time_go_by_their_arrival() -> None:
    windowing = Windowing(length=10, hop=10)
    received = [block(0, 20, timed=False), block(20, 40, late=8000, timed=False)]  # by the network's leave
    assert first_samples(WindowCutter(windowing), received) == [0, 10, 20, 30]
    lost = [block(0, 15, timed=False), block(30, 45, timed=False)]
    cutter = WindowCutter(windowing)
    assert first_samples(cutter, lost) == [0, 30]
    assert (cutter.gaps, cutter.deviation) == (1, 15_000)
    again = [block(0, 15, timed=False), block(0, 15, timed=False)]  # the receiver's clock was set back
    assert first_samples(WindowCutter(windowing), again) == [0, 0]


# In any order -------------------------------------------------------------------------------------------


@st.composite
def shuffled(draw: st.DrawFn, whole_hops: bool) -> tuple[Windowing, list[Block], list[Block]]:
    """A windowing, the blocks of a stream with gaps, and the same blocks out of order, some of them repeatedly."""
    windowing = Windowing(length=draw(st.integers(1, 12)), hop=draw(st.integers(1, 12)))
    # Of at least 4 samples each: a stamp that is 1.5 samples late does not show a gap.
    sizes = st.integers(4, 8).map(lambda n: n * windowing.hop) if whole_hops else st.integers(4, 30)
    blocks, at = [], 0
    for size in draw(st.lists(sizes, min_size=1, max_size=25)):
        at += draw(st.sampled_from([0, 0, 0, 0, 4, 60, 100_000]))  # samples that are lost
        blocks.append(block(at, at + size))
        at += size
    repeated = draw(st.lists(st.sampled_from(blocks), max_size=8))
    return windowing, blocks, draw(st.permutations(blocks + repeated))


@settings(max_examples=400, deadline=None)
@given(shuffled(whole_hops=True))
def test_the_windows_of_whole_hops_do_not_depend_on_the_order(
    stream: tuple[Windowing, list[Block], list[Block]],
) -> None:
    windowing, blocks, come = stream
    ordered, cutter = WindowCutter(windowing), WindowCutter(windowing)
    assert cut(cutter, come) == cut(ordered, blocks)
    assert cutter.overlapping == len(come) - len(blocks)
    assert (cutter.waiting, cutter.between, cutter.gaps) == (ordered.waiting, ordered.between, ordered.gaps)


FOURS = [block(4 * k, 4 * k + 4) for k in range(4)]


@settings(max_examples=400, deadline=None)
@given(shuffled(whole_hops=False))
@example((Windowing(length=1, hop=5), FOURS, [FOURS[0], *FOURS[:0:-1]]))
def test_every_block_is_in_a_window_or_counted_whatever_the_order(
    stream: tuple[Windowing, list[Block], list[Block]],
) -> None:
    windowing, blocks, come = stream
    in_order = cut(ordered := WindowCutter(windowing), blocks)
    windows = cut(cutter := WindowCutter(windowing), come)
    assert trained(in_order, blocks) + left_out(ordered) == len(blocks)
    assert trained(windows, blocks) + left_out(cutter) == len(come)
    assert cutter.gaps == ordered.gaps
    for start, samples in windows:  # none reaches over a gap, and each has its time
        assert samples == tuple(range(int(samples[0]), int(samples[0]) + windowing.length))
        assert start == BEGIN + 1000 * samples[0]
    assert len(set(windows)) == len(windows)
    if windowing.hop <= windowing.length:  # of a stretch, no more waits than a hop at either end
        stretches = len([b for b, c in itertools.pairwise(blocks) if c.values[0] != b.values[-1] + 1]) + 1
        in_windows = {sample for _, samples in windows for sample in samples}
        in_order_too = {sample for _, samples in in_order for sample in samples}
        assert len(in_order_too - in_windows) <= 2 * windowing.hop * stretches


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.sampled_from([0, 0, 0, 0, 0, 7, 500, -7, -25, -500])), max_size=30),
    st.randoms(use_true_random=False),
)
def test_blocks_of_a_clock_that_is_set_are_in_a_window_or_counted(
    steps: list[tuple[int, int]], order: object
) -> None:
    """Whoever sets a clock back lets blocks overlap: which of them is left out depends on the order."""
    at, clock, blocks = 0, 0, []
    for size, step in steps:
        clock += step
        blocks.append(block(at, at + size, late=1000 * clock))
        at += size
    order.shuffle(blocks)  # type: ignore[attr-defined]
    windows = cut(cutter := WindowCutter(Windowing(length=10, hop=5)), blocks)
    assert trained(windows, blocks) + left_out(cutter) == len(blocks)


def test_a_block_between_two_stretches_joins_them() -> None:
    cutter = WindowCutter(Windowing(length=10, hop=5))
    assert first_samples(cutter, [block(0, 20), block(40, 60)]) == [0, 5, 10, 40, 45, 50]
    assert first_samples(cutter, [block(20, 40)]) == [15, 20, 25, 30, 35]
    assert (cutter.gaps, cutter.waiting) == (0, 0)


def test_before_windows_the_grid_goes_on_backwards() -> None:
    cutter = WindowCutter(Windowing(length=10, hop=4))
    assert first_samples(cutter, [block(30, 45)]) == [30, 34]
    assert first_samples(cutter, [block(17, 30)]) == [18, 22, 26]
    assert first_samples(cutter, [block(0, 17)]) == [2, 6, 10, 14]


def test_two_grids_that_meet_leave_no_sample_out() -> None:
    cutter = WindowCutter(Windowing(length=10, hop=10))
    assert first_samples(cutter, [block(0, 13), block(19, 30)]) == [0, 19]
    assert first_samples(cutter, [block(13, 19)]) == [10]  # which has one sample of the next one
    assert first_samples(cutter, [block(30, 39)]) == [29]


def test_repetitions_of_any_age_are_left_out() -> None:
    cutter = WindowCutter(Windowing(length=10, hop=10))
    blocks = [block(15 * k, 15 * k + 15) for k in range(200)]
    assert len(cut(cutter, blocks)) == 300
    assert cut(cutter, blocks) == []
    assert cutter.overlapping == 200


def test_a_repetition_is_known_by_its_content_while_it_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 70 blocks the last 30 are remembered; where others are covered, whatever comes is left out."""
    monkeypatch.setattr(seen_module, "MOST", 20)
    blocks = [block(20 * k, 20 * k + 20) for k in range(70)]
    again = [b._replace(values=b.values + 10_000) for b in blocks]
    cut(cutter := WindowCutter(Windowing(length=20, hop=20)), blocks)
    assert first_samples(cutter, again[60:]) == [10_000 + 20 * k for k in range(60, 70)]
    assert (cutter.overlapping, cutter.gaps) == (0, 1)
    assert first_samples(cutter, again[:10]) == []
    assert cutter.overlapping == 10
    assert first_samples(cutter, blocks) == []
    assert cutter.overlapping == 80


@pytest.mark.parametrize("back", [2000, 2005, 50, 21])
def test_a_clock_that_is_set_back_costs_no_block_and_makes_no_window_across(back: int) -> None:
    """By so many ms after 4 s, as at the end of summer time: at 4 s by the clock, two streams end."""
    blocks = [block(40 * k, 40 * k + 40, late=-1000 * back if k >= 100 else 0) for k in range(200)]
    windows = cut(cutter := WindowCutter(Windowing(length=100, hop=20)), blocks)
    for _, samples in windows:
        assert samples[-1] - samples[0] == 99
    assert trained(windows, blocks) == 200
    assert (left_out(cutter), cutter.gaps) == (0, 1)


def test_a_repetition_that_is_due_at_the_end_of_another_stretch_is_left_out() -> None:
    """By the clock of the last two blocks the second one begins 16 ms, or 16 samples, after the first one."""
    first, second = block(0, 400), block(400, 800)
    last = [block(800, 1200, late=18_286), block(1200, 1600, late=18_286)]
    cutter = WindowCutter(Windowing(length=400, hop=400))
    assert first_samples(cutter, [*last, second, first]) == [0, 400, 800, 1200]
    assert cutter.gaps == 1
    assert cut(cutter, [second]) == []
    assert cutter.overlapping == 1


def test_a_block_that_is_partly_covered_has_a_stretch_of_its_own() -> None:
    cutter = WindowCutter(Windowing(length=10, hop=10))
    ahead = [block(20, 40, late=-12_000), block(40, 60, late=-12_000)]  # the clock was set back by 12 ms
    assert first_samples(cutter, [block(0, 20), *ahead]) == [0, 10, 20, 30, 40, 50]
    assert (cutter.overlapping, cutter.gaps) == (0, 1)


@pytest.mark.parametrize("ahead", [20, 30, 400])
def test_a_stamp_ahead_discards_no_other_block(ahead: int) -> None:
    """A device whose clock is hours ahead for one block."""
    blocks = [block(20 * k, 20 * k + 20, late=ahead * 3.6e9 if k == 5 else 0) for k in range(60)]
    windows = cut(cutter := WindowCutter(Windowing(length=10, hop=10)), blocks)
    assert len(windows) == 120
    assert left_out(cutter) == 0


def test_where_a_block_is_as_if_from_the_future_the_stream_passes_it() -> None:
    blocks = [block(20 * k, 20 * k + 20, late=105_000 if k == 5 else 0) for k in range(60)]
    windows = cut(cutter := WindowCutter(Windowing(length=10, hop=10)), blocks)
    assert trained(windows, blocks) + left_out(cutter) == 60
    assert cutter.overlapping <= 1


def test_live_data_and_a_backlog_of_a_week_interleave() -> None:
    week = 7 * 86_400_000
    live = [block(week + 20 * k, week + 20 * k + 20) for k in range(300)]
    stored = [block(20 * k, 20 * k + 20) for k in range(300)]
    mixed = [b for pair in zip(live, reversed(stored), strict=True) for b in pair]
    cutter = WindowCutter(Windowing(length=16, hop=10))
    assert len(cut(cutter, mixed)) == 2 * ((6000 - 16) // 10 + 1)
    assert (cutter.gaps, left_out(cutter)) == (1, 0)


def test_memory_is_bounded_and_that_which_waited_longest_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutter_module, "MOST_HELD", 200)
    monkeypatch.setattr(cutter_module, "MOST_OPEN", 10)
    cutter = WindowCutter(Windowing(length=10, hop=10))
    islands = [block(100 * k, 100 * k + 5) for k in range(50)]
    assert cut(cutter, islands) == []
    assert (cutter.held, cutter.waiting, cutter.gaps) == (50, 50, 49)
    assert first_samples(cutter, [block(4505, 4510), block(5, 10)]) == [
        4500
    ]  # of the ten newest; the first is closed
    assert cutter.waiting == 50
    cut(cutter, [block(10_000 * k, 10_000 * k + 45) for k in range(1, 50)])
    assert cutter.held <= 200


@pytest.mark.parametrize(("length", "windows"), [(256, 256), (2048, 32), (8192, 32), (65_536, 16)])
def test_bursts_keep_the_samples_of_so_many_windows(length: int, windows: int) -> None:
    """Each burst is a stretch of its own, to which a block that comes late may lead."""
    cutter = WindowCutter(Windowing(length=length, hop=length))
    bursts = [Block(BEGIN + 2 * length * 1000 * k, RATE, np.zeros(length, np.float32)) for k in range(300)]
    assert len(cut(cutter, bursts)) == 300
    assert cutter.held == windows * length
    state = msgspec.msgpack.encode(cutter.state())
    assert len(state) < 4 * cutter.held + 200_000


def test_the_covered_times_of_streams_with_many_rates_are_bounded() -> None:
    cutter = WindowCutter(Windowing(length=10, hop=10))
    for k in range(100):
        cutter.update(block(100 * k, 100 * k + 20, rate=RATE + k))
    assert len(cutter._covered) == cutter_module.MOST_KINDS


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(1, 40), st.sampled_from([500, 1000])),
            st.sampled_from([0, 0, 0, 0.3, -0.4, 1, 2, -3, 30, -7, 1000]),
        ),
        max_size=40,
    ),
    st.integers(0, 5),
)
def test_the_shortcut_for_blocks_that_are_due_changes_nothing(steps: list[tuple[int, float]], late: int) -> None:
    at, clock, blocks = 0, 0.0, []
    for size, step in steps:
        clock += step
        blocks.append(block(at, at + size, late=1000 * clock))
        at += size
    blocks = blocks[late:] + blocks[:late]
    with_shortcut = cut(one := WindowCutter(Windowing(length=10, hop=5)), blocks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stretch, "go_on", lambda *_: None)
        without = cut(other := WindowCutter(Windowing(length=10, hop=5)), blocks)
    assert with_shortcut == without
    assert (left_out(one), one.gaps, one.held, one.deviation) == (
        left_out(other),
        other.gaps,
        other.held,
        other.deviation,
    )


# Clocks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("milliseconds", [0.0, 0.5, 1.5, 5.0])
@pytest.mark.parametrize("noise", ["uniform", "normal"])
def test_small_blocks_with_jitter_give_all_windows(milliseconds: float, noise: str) -> None:
    """400 blocks of 512 samples at 6,400 Hz are 100 windows of 2,048."""
    rng = np.random.default_rng(1)
    jitter = 1000 * milliseconds * (rng.uniform(-1, 1, 400) if noise == "uniform" else rng.normal(size=400))
    blocks = [block(512 * k, 512 * k + 512, late, 6400.0) for k, late in enumerate(jitter)]
    windows = cut(cutter := WindowCutter(Windowing(length=2048, hop=2048)), blocks)
    assert [samples[0] for _, samples in windows] == [2048 * k for k in range(100)]
    assert left_out(cutter) == 0
    wrong = np.array([start for start, _ in windows]) - BEGIN - 320_000 * np.arange(100)
    assert np.abs(wrong).max() <= max(1, np.abs(jitter).max())


@settings(max_examples=200, deadline=None)
@given(
    size=st.sampled_from([1, 20, 512, 6400, 64_000]),
    lost=st.sets(st.integers(1, 38), max_size=5),
    jitter=st.sampled_from([0.0, 0.01, 0.1, 0.2]),
    seed=st.integers(0, 100),
)
def test_a_lost_block_lies_in_no_window(size: int, lost: set[int], jitter: float, seed: int) -> None:
    """Whatever the blocks' duration, and a jitter up to a fifth of it, or 20 ms."""
    late = min(size / 6400, 0.1) * 1e6 * jitter * np.random.default_rng(seed).uniform(-1, 1, 40)
    blocks = [block(size * k, size * k + size, late[k], 6400.0) for k in range(40) if k not in lost]
    blocks = [b._replace(time=b.time + 1) if b.time % 1_000_000 == 0 else b for b in blocks]
    cutter = WindowCutter(Windowing(length=2 * size, hop=size))
    for _, samples in cut(cutter, blocks):
        assert samples[-1] - samples[0] == 2 * size - 1
    alone = sum(1 for k in range(40) if k not in lost and {k - 1, k + 1} <= lost | {-1, 40})
    assert cutter.waiting == alone


@pytest.mark.parametrize("pause", [3000, 3000.4, 10_300.4, 45_000.4])
def test_a_device_that_loses_samples_after_each_block_is_not_taken_for_one_with_jitter(pause: float) -> None:
    """Blocks of a second that begin later and later, never too early; pauses in µs."""
    blocks = [block(1000 * k, 1000 * k + 1000, late=pause * k) for k in range(200)]
    blocks = [b._replace(time=b.time + 1) if b.time % 1_000_000 == 0 else b for b in blocks]
    across = cut(cutter := WindowCutter(Windowing(length=1500, hop=100)), blocks)
    assert len({samples[0] // 1000 for _, samples in across}) <= 16
    assert cutter.gaps >= 183


def test_drift_makes_no_gap() -> None:
    """A sample clock 100 ppm too slow, for a day; and one that is wrong by 6 %, for blocks of 15 ms."""
    day = [block(1024 * k, 1024 * k + 1024, late=102.4 * k) for k in range(86_400_000 // 1024)]
    cutter = WindowCutter(Windowing(length=1024, hop=102_400))
    assert len(cut(cutter, day)) == len(day) // 100 + 1
    assert cutter.gaps == 0
    fast = [block(15 * k, 15 * k + 15, late=900 * k) for k in range(100)]  # in the end 89 samples behind
    assert len(cut(WindowCutter(Windowing(length=10, hop=10)), fast)) == 150
    for ppm, duration in ((1000, 10), (1000, 100), (-1000, 60)):
        n = duration * 1000
        drifting = [block(n * k, n * k + n, late=ppm * duration * k) for k in range(200)]
        cutter = WindowCutter(Windowing(length=1000, hop=10_000))
        cut(cutter, drifting)
        assert cutter.gaps == 0


@settings(max_examples=100, deadline=None)
@given(phase=st.integers(0, 999_999), size=st.sampled_from([512, 320, 2000, 4480, 6400, 9600]))
@example(phase=950_000, size=512)
def test_stamps_of_whole_seconds_give_all_windows(phase: int, size: int) -> None:
    """Blocks of 50 ms to 1.5 s whose clock knows no parts of a second, from any moment on."""
    blocks = []
    for k in range(120):
        true = phase + round(size * k / 6400.0 * 1e6)
        blocks.append(Block(BEGIN + true // 1_000_000 * 1_000_000, 6400.0, ramp(size * k, size * k + size)))
    cutter = WindowCutter(Windowing(length=2 * size, hop=2 * size))
    windows = cut(cutter, blocks)
    assert len({samples[0] for _, samples in windows}) == len(windows)
    assert trained(windows, blocks) + left_out(cutter) == 120
    assert left_out(cutter) <= 1 + 2 * (phase != 0)
    for start, samples in windows:
        assert abs(start - BEGIN - phase - samples[0] / 6400 * 1e6) <= 1e6
        assert samples[-1] - samples[0] == 2 * size - 1


def test_a_lost_second_of_blocks_with_stamps_of_whole_seconds_is_a_gap() -> None:
    seconds = [block(1000 * k, 1000 * k + 1000) for k in range(20) if k not in (7, 13)]
    windows = cut(cutter := WindowCutter(Windowing(length=500, hop=500)), seconds)
    assert len(windows) == 36
    assert cutter.gaps == 2
    across = cut(WindowCutter(Windowing(length=2000, hop=1000)), seconds)
    assert [samples[-1] - samples[0] for _, samples in across] == [1999] * (6 + 4 + 5)


def test_an_exact_clock_is_not_taken_for_one_of_whole_seconds() -> None:
    """Blocks of 100 ms, and of those first the ones at whole seconds."""
    tenths = [block(100 * k, 100 * k + 100) for k in range(50)]
    cutter = WindowCutter(Windowing(length=100, hop=100))
    assert first_samples(cutter, sorted(tenths, key=lambda b: b.values[0] % 1000)) == [100 * k for k in range(50)]
    assert left_out(cutter) == 0


def test_chunks_of_one_stamp_follow_one_another() -> None:
    """Bursts of four messages, each with the burst's time, once with all of them repeated."""
    bursts = [
        Block(BEGIN + 7 + 600_000_000 * burst, RATE, ramp(n, n + 50))
        for burst in range(5)
        for n in range(200 * burst, 200 * burst + 200, 50)
    ]
    cutter = WindowCutter(Windowing(length=100, hop=50))
    expected = [200 * burst + begin for burst in range(5) for begin in (0, 50, 100)]
    assert first_samples(cutter, [*bursts, *bursts]) == expected
    assert (cutter.overlapping, cutter.gaps) == (20, 4)
    steady = [Block(BEGIN + 7 + 200_000 * (k // 4), RATE, ramp(50 * k, 50 * k + 50)) for k in range(40)]
    assert len(cut(WindowCutter(Windowing(length=100, hop=100)), steady)) == 20


def test_gaps_are_told_with_their_distance() -> None:
    """Blocks of 80 ms, each of which comes 130 ms after the one before."""
    cutter = WindowCutter(Windowing(length=100, hop=100))
    assert cut(cutter, [block(80 * k, 80 * k + 80, late=50_001 * k) for k in range(100)]) == []
    assert (cutter.waiting, cutter.gaps, cutter.deviation) == (100, 99, 50_001)
