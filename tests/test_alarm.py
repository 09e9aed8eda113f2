"""Alarms, drift and health by sequences made by hand, and by what must hold of any."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fml_lightning.errors import UserError
from fml_lightning.live.alarm import Alarm, AlarmRule
from fml_lightning.live.data_clock import DataClock
from fml_lightning.live.drift import BLOCK, Drift, DriftRule
from fml_lightning.live.duration import duration
from fml_lightning.live.health import health
from fml_lightning.live.past import Past, Trend

SECOND = 1_000_000
BEGIN = 1_800_000_000 * SECOND
RULE = AlarmRule(on_delay=5.0, off_delay=10.0)


def run(
    scores: Sequence[float], rule: AlarmRule = RULE, ends: Sequence[int] | None = None
) -> tuple[Alarm, list[tuple[int, str]]]:
    """An alarm after windows, half a second long and a second apart, and at which of them what changed."""
    alarm, clock, changes = Alarm(), DataClock(seconds=0.0), []
    for _ in range(4):  # so that the usual step is known
        clock.add(BEGIN - 4 * SECOND + _ * SECOND, 0.5)
    for i, score in enumerate(scores):
        end = BEGIN + i * SECOND if ends is None else ends[i]
        change = alarm.add(rule, clock.add(end, 0.5), end, score, "outer")
        if change is not None:
            changes.append((i, change.what))
    return alarm, changes


def test_an_alarm_is_raised_and_cleared_after_its_delays() -> None:
    # At 0 a second mean of one window reaches .8; 5 s later it has lasted. Below .3 from 8 on; 10 s later, at 18.
    alarm, changes = run([0.9] * 8 + [0.1] * 11)
    assert changes == [(5, "raised"), (18, "cleared")]
    assert (alarm.state, alarm.raised, alarm.number) == ("normal", BEGIN + 5 * SECOND, 2)
    assert [change.number for change in alarm.changes] == [1, 2]
    assert alarm.changes[0].reason == "outer"


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.9, 0.9, 0.2, 0.9, 0.9, 0.2] * 5, []),  # never for 5 s
        ([0.9, 0.5, 0.5, 0.5, 0.5, 0.5], [(5, "raised")]),  # within the deadband it lasts
        ([0.79] * 30, []),
        ([0.9] * 6 + [0.1] * 9 + [0.9] + [0.1] * 11, [(5, "raised"), (26, "cleared")]),  # not quiet for 10 s
        ([0.9, math.nan, math.nan, math.nan, math.nan, 0.9], [(5, "raised")]),
        ([math.nan] * 30, []),
    ],
)
def test_deadband_and_delays(scores: list[float], expected: list[tuple[int, str]]) -> None:
    assert run(scores)[1] == expected


def test_scores_are_averaged_over_the_time_of_the_data() -> None:
    alarm, _ = run([0.0, 0.3, 0.6, 0.9], AlarmRule(mean=3.0))
    assert alarm.mean == pytest.approx(0.6)  # of the last three


def test_a_latched_alarm_waits_for_somebody() -> None:
    rule = AlarmRule(on_delay=0.0, off_delay=2.0, latch=True)
    alarm, changes = run([0.9, 0.1, 0.1, 0.1, 0.1], rule)
    assert changes == [(0, "raised")]
    assert alarm.state == "recovering"
    said = alarm.acknowledge(rule, 100.0, BEGIN, "anna")
    assert [(change.what, change.number) for change in said] == [("acknowledged", 2), ("cleared", 3)]
    assert alarm.acknowledge(rule, 100.0, BEGIN, "anna") == []


def test_a_new_alarm_is_not_acknowledged() -> None:
    alarm, _ = run([0.9] * 6)
    assert [change.what for change in alarm.acknowledge(RULE, 9.0, BEGIN, "anna")] == ["acknowledged"]
    assert alarm.acknowledged
    assert alarm.changes[-1].reason == "by anna"


HOURS = 3600 * SECOND


@pytest.mark.parametrize("step", [-5 * HOURS, -SECOND // 2, 5 * HOURS, 400 * 24 * HOURS])
@pytest.mark.parametrize("at", [1, 3, 5, 9])
def test_a_clock_that_is_set_raises_clears_and_loses_nothing(step: int, at: int) -> None:
    scores = [0.9] * 12 + [0.1] * 14
    ends = [BEGIN + i * SECOND + (step if i >= at else 0) for i in range(len(scores))]
    _, changes = run(scores, ends=ends)
    assert [what for _, what in changes] == ["raised", "cleared"]
    (raised, _), (cleared, _) = changes
    assert 5 <= raised <= 6
    assert 22 <= cleared <= 23


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=5, max_size=60),
    st.lists(st.integers(-10, 10), min_size=60, max_size=60),
)
def test_whatever_clocks_do_states_follow_each_other_and_a_quiet_machine_stays_quiet(
    scores: list[float], jumps: list[int]
) -> None:
    ends = (BEGIN + np.cumsum([SECOND + jump * HOURS * (jump % 5 == 0) for jump in jumps])).tolist()
    quiet, changes = run([0.0] * len(scores), ends=ends[: len(scores)])
    assert changes == []
    _, changes = run([1.0] * 60, ends=ends)
    assert [what for _, what in changes] == ["raised"]
    assert changes[0][0] >= 2  # three windows at the least: a step counts for no more than the usual one twice
    _, changes = run(scores, ends=ends[: len(scores)])
    assert [what for _, what in changes] == (["raised", "cleared"] * 60)[: len(changes)]
    assert msgspec.json.decode(msgspec.json.encode(quiet), type=Alarm) == quiet


def test_stored_data_that_come_late_among_new_ones_move_the_clock_as_any_window_does() -> None:
    clock = DataClock()
    ends = [BEGIN + i * SECOND - (3 * HOURS if i % 2 else 0) for i in range(40)]
    assert 19 <= [clock.add(end, 0.5) for end in ends][-1] <= 80


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ({"raise_at": 0.3, "clear_at": 0.3}, "expected 0 < clear < raise <= 1"),
        ({"clear_at": 0.0}, "expected 0 < clear < raise <= 1"),  # no mean is below it: such an alarm never ends
        ({"mean": 3601.0}, "alarm.mean: expected at most 3600 s, got 3601; see on_delay for longer ones"),
        ({"mean": -1.0}, "alarm.mean: expected a time of at least 0 s"),
        ({"on_delay": math.nan}, "alarm.on_delay"),
    ],
)
def test_rules_that_cannot_be(rule: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        AlarmRule(**rule)  # type: ignore[arg-type]


# Drift ----------------------------------------------------------------------------------------------------

DRIFT = DriftRule(baseline=5 * BLOCK, confirm=3)


def drifting(gains: Sequence[float], shapes: Sequence[float] | None = None, calm: bool = True) -> list[str]:
    """The reason after each minute, of windows of four bands, a second apart, so many dB off."""
    drift, reasons, generator = Drift(), [], np.random.default_rng(0)
    for minute, gain in enumerate(gains):
        for second in range(60):
            level = generator.normal(scale=0.5, size=5) + gain
            level[0] += 0 if shapes is None else shapes[minute]
            level[4] = 0.0
            drift.add(DRIFT, 60.0 * minute + second, level.tolist(), 1, calm or minute < 5, 0)
        reasons.append(drift.reason)
    return reasons


def test_a_sensor_that_drifts_is_found_after_three_blocks_and_over_after_three() -> None:
    reasons = drifting([0.0] * 6 + [3.0] * 5 + [0.0] * 5)
    # The block of minute 6 is closed by the first window of minute 7, and so on: three of them by minute 9.
    assert [bool(reason) for reason in reasons] == [False] * 9 + [True] * 5 + [False] * 2
    assert "+3.0 dB off its baseline at all frequencies alike" in reasons[9]


def test_a_spectrum_of_another_shape_is_drift_only_while_there_is_no_alarm() -> None:
    shapes = [0.0] * 6 + [6.0] * 6
    assert "the spectrum of channel 1 has changed by 5.9 dB" in drifting([0.0] * 12, shapes)[-1]
    assert drifting([0.0] * 12, shapes, calm=False)[-1] == ""


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.95])
def test_stationary_streams_do_not_drift(rho: float) -> None:
    """As measured: 3,000 windows, with autocorrelation as overlap causes."""
    for seed in range(10):
        generator, drift, level = np.random.default_rng(seed), Drift(), np.zeros(5)
        for second in range(3000):
            level = rho * level + math.sqrt(1 - rho**2) * generator.normal(size=5)
            drift.add(DriftRule(), float(second), level.tolist(), 1, True, 0)
            assert drift.reason == ""
        assert drift.frozen is not None


def test_a_baseline_holds_no_alarm_and_a_new_model_begins_one() -> None:
    drift = Drift()
    for second in range(600):
        drift.add(DRIFT, float(second), [1.0] * 5, 1, second >= 300, 0)
    assert drift.frozen is None
    drift.reset(1, 600.0)
    assert (drift.blocks, drift.frozen) == ([], None)


# Health ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "word", "reason"),
    [
        ({}, "NORMAL", ""),
        ({"alarm": "pending"}, "NORMAL", ""),
        ({"alarm": "firing"}, "FAILURE", "outer"),
        ({"alarm": "firing", "fault": ""}, "FAILURE", "a fault"),
        (
            {"alarm": "firing", "doubt": "few windows"},
            "MAINTENANCE_REQUIRED",
            "outer, says a doubtful model: few",
        ),
        ({"alarm": "recovering"}, "MAINTENANCE_REQUIRED", "outer is over, and the alarm not yet cleared"),
        ({"drift": "off"}, "OFF_SPEC", "off"),
        ({"alarm": "firing", "drift": "off"}, "FAILURE", "outer"),
        ({"version": ""}, "CHECK_FUNCTION", "no model watches it; make one with fml personalize"),
        ({"missing": "no data for 60 s"}, "CHECK_FUNCTION", "no data for 60 s"),
        ({"missing": "no data for 60 s", "alarm": "firing"}, "FAILURE", "outer; no data for 60 s"),
        ({"shelved_until": BEGIN}, "NORMAL", ""),
        (
            {"shelved_until": BEGIN, "alarm": "firing"},
            "CHECK_FUNCTION",
            "outer; shelved until 2027-01-15 08:00 UTC: oil",
        ),
    ],
)
def test_health(given: dict[str, object], word: str, reason: str) -> None:
    usual: dict[str, object] = {
        "alarm": "normal",
        "fault": "outer",
        "drift": "",
        "missing": "",
        "version": "v1",
        "doubt": "",
        "shelved_until": None,
        "shelved_reason": "oil",
    }
    found = health(**{**usual, **given})  # type: ignore[arg-type]
    assert found[0] == word
    assert found[1].startswith(reason)


# Small parts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", ["", "5 weeks", "-1s", "nan", "s", "1e400"])
def test_what_is_no_duration(written: str) -> None:
    with pytest.raises(UserError, match="expected a duration such as"):
        duration(written)


@given(st.lists(st.floats(-1, 1), max_size=400))
def test_the_past_is_bounded_and_keeps_its_mean(values: list[float]) -> None:
    past = Past(20)
    for at, value in enumerate(values):
        past.add(at, value)
    assert len(past.times) <= 20
    assert past.times == sorted(past.times)
    assert sum(past.counts) == len(values)
    total = sum(mean * count for mean, count in zip(past.means, past.counts, strict=True))
    assert total == pytest.approx(sum(values), abs=1e-9)


def test_the_past_has_the_last_hour_as_well_as_the_last_days() -> None:
    past = Past(2000)
    for at in range(200_000):  # a window a second: two days
        past.add(at, 0.0)
    assert len(past.times) <= 2000
    assert past.times[0] == 0
    for span in (900, 3600, 86_400):
        assert sum(at >= 200_000 - span for at in past.times) > 200
    for first, second in itertools.pairwise(past.times):
        assert second - first <= max(1, 0.02 * (200_000 - second))


def test_a_trend_is_evenly_spaced_whatever_its_length_and_forgets_what_is_older_than_a_shift() -> None:
    trend, hours = Trend(120), 3_600_000_000
    for minute in range(40 * 60):
        trend.add(minute * hours // 60, float(minute))
        times = [at for at, _ in trend.points()]
        assert len(times) <= 120
        assert len({later - earlier for earlier, later in itertools.pairwise(times)}) <= 1
        assert times[-1] - times[0] <= 8 * hours
    assert len(times) > 50
    for at, mean in trend.points():  # of minutes m, m + 1, ..., n the mean is (m + n) / 2
        first = at * 60 // hours
        assert mean == pytest.approx((first + min(first + trend.size - 1, 40 * 60 - 1)) / 2)
    trend.add(100 * hours, 7.0)
    assert trend.points() == ((100 * hours, 7.0),)
    trend.add(0, 8.0)  # its clock is set back: what it said before is forgotten with it
    assert trend.points() == ((0, 8.0),)


@given(st.lists(st.integers(-3, 3), max_size=200))
def test_pasts_are_in_order_of_time_whatever_a_clock_does(steps: list[int]) -> None:
    past, trend = Past(20), Trend(20, span=20)
    for at in itertools.accumulate(steps):
        for kept in (past, trend):
            kept.add(at, 1.0)
            assert list(kept.points()) == sorted(kept.points())
            assert len(kept.points()) <= 20
