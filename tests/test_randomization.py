"""Simulated machines drawn from wide ranges: what is asked for is heard, and what is left out is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import signal

from fml_lightning.bearing import Bearing
from fml_lightning.connectors.plant.randomization import Randomization
from fml_lightning.connectors.plant.randomized_machine import RandomizedMachine, load_at
from fml_lightning.connectors.plant.simulated_machine import CLASSES, SAMPLE_RATE
from fml_lightning.errors import UserError

QUIET = RandomizedMachine(
    bearing=Bearing(9, 0.2034),
    shaft=30.0,
    load=1.0,
    resonances=(3000.0, 4500.0),
    damping=0.05,
    gain=1.0,
    colour=(),
    noise=0.001,
)


def spectrum(x: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Frequencies, Hz, and amplitudes of a recording's tones."""
    window = np.hanning(len(x))
    return np.fft.rfftfreq(len(x), 1 / SAMPLE_RATE), 2 * abs(np.fft.rfft(x * window)) / window.sum()


def tone(x: NDArray[Any], frequency: float) -> float:
    """The amplitude at a frequency, Hz."""
    hertz, amplitude = spectrum(x)
    return float(amplitude[abs(hertz - frequency) < 1].max())


def high(x: NDArray[Any]) -> NDArray[np.float64]:
    """What there is above 1,500 Hz."""
    left: NDArray[np.float64] = signal.sosfiltfilt(signal.butter(4, 1500, "high", fs=SAMPLE_RATE, output="sos"), x)
    return left


def envelope(x: NDArray[Any]) -> NDArray[np.float64]:
    """How loud it is above 1,500 Hz, at each moment."""
    loud: NDArray[np.float64] = abs(signal.hilbert(high(x)))
    return loud


def strikes(x: NDArray[Any], least: float) -> int:
    """How often it becomes louder than `least`, at least 3 ms after it last did."""
    above = envelope(x) > least
    starts = np.flatnonzero(above[1:] & ~above[:-1])
    return int(np.sum(np.diff(starts, prepend=-1000) > 36))


def run(machine: RandomizedMachine, fault: str, seconds: float = 8.0, seed: int = 0) -> NDArray[np.float64]:
    """A recording in double precision."""
    return machine.run(fault, seconds, np.random.default_rng(seed)).astype(np.float64)


@pytest.mark.parametrize("angle", [0.0, 35.0])
def test_faults_strike_at_their_bearings_frequencies(angle: float) -> None:
    machine = replace(QUIET, bearing=Bearing(9, 0.2034, angle), slip=0.0)
    cosine = 0.2034 * np.cos(np.radians(angle))
    expected = {
        "outer": 9 / 2 * 30 * (1 - cosine),
        "inner": 9 / 2 * 30 * (1 + cosine),
        "ball": 30 / 0.2034 * (1 - cosine**2),
    }
    for fault, frequency in expected.items():
        loud = envelope(run(machine, fault))
        hertz, amplitude = spectrum(loud - loud.mean())
        near = (hertz > 45) & (hertz < 1.4 * frequency)  # above the shaft and cage modulation
        assert hertz[near][amplitude[near].argmax()] == pytest.approx(frequency, rel=0.002), fault


def test_what_is_drawn_lies_in_its_ranges_and_is_the_same_for_the_same_seed() -> None:
    ranges = Randomization(contact_angle=(15, 40), modes=(1, 3), neighbour=(0.1, 0.2))
    machines = [ranges.draw(np.random.default_rng(seed)) for seed in range(200)]
    for m in machines:
        assert 0.16 <= m.bearing.ratio <= 0.27
        assert 15 <= m.bearing.contact_angle <= 40
        assert 20 <= m.shaft <= 32
        assert 0.05 <= m.noise <= 0.6
        assert 1 <= len(m.modes) <= 3
        assert all(900 <= f <= 5200 for f in (*m.resonances, *(f for f, _ in m.modes)))
        assert m.neighbour is not None
        assert m.neighbour.neighbour is None
        assert m.neighbour.shaft != m.shaft
    assert {m.bearing.balls for m in machines} == set(range(7, 13))
    # Log-uniform: the median is the geometric mean of .05 and .6, not their mean.
    assert np.median([m.noise for m in machines]) == pytest.approx(np.sqrt(0.05 * 0.6), rel=0.2)
    again = ranges.draw(np.random.default_rng(7))
    np.testing.assert_array_equal(run(again, "inner", 1.0), run(machines[7], "inner", 1.0))


def test_the_told_speed_is_off_by_the_speed_error() -> None:
    machine = Randomization(speed_error=0.01).draw(np.random.default_rng(0))
    rng = np.random.default_rng(1)
    errors = [machine.told_speed(rng) / machine.shaft - 1 for _ in range(1000)]
    assert np.std(errors) == pytest.approx(0.01, rel=0.1)
    assert Randomization(speed_error=0).draw(rng).told_speed(rng) != machine.told_speed(rng)


@pytest.mark.parametrize(
    "field", ["gear", "hum", "looseness", "impacts", "neighbour", "growth", "other_fault", "drift"]
)
def test_an_addition_leaves_the_rest_as_it_is(field: str) -> None:
    """A range of zero leaves it out; with it, the same machine is drawn, and the same noise."""
    without = Randomization().draw(np.random.default_rng(3))
    added: dict[str, Any] = {field: (2.0, 3.0) if field == "impacts" else (0.05, 0.1)}
    with_it = Randomization(**added).draw(np.random.default_rng(3))
    assert (with_it.bearing, with_it.colour) == (without.bearing, without.colour)
    x, y = run(without, "outer", 4.0), run(with_it, "outer", 4.0)
    assert not np.array_equal(x, y)
    if field != "drift":
        assert np.corrcoef(x, y)[0, 1] > 0.8


@pytest.mark.parametrize(
    "fixed", [{"balls": (9, 9)}, {"teeth": (20, 20)}, {"mains": (50.0,)}, {"balls": (9, 9), "mains": (50.0,)}]
)
def test_a_fixed_number_leaves_the_rest_as_it_is(fixed: dict[str, Any]) -> None:
    """Whole numbers that leave no choice take as much from the generator as those that do."""
    free_rng, fixed_rng = np.random.default_rng(3), np.random.default_rng(3)
    free, found = Randomization().draw(free_rng), Randomization(**fixed).draw(fixed_rng)
    balls = fixed.get("balls", (free.bearing.balls,))[0]
    teeth, mains = fixed.get("teeth", (free.teeth,))[0], fixed.get("mains", (free.mains,))[0]
    bearing = replace(free.bearing, balls=balls)
    assert found == replace(free, bearing=bearing, teeth=teeth, mains=mains)
    assert fixed_rng.random() == free_rng.random()


def test_fixing_how_many_modes_there_are_leaves_them_as_they_are() -> None:
    free, found = (Randomization(modes=modes).draw(np.random.default_rng(3)) for modes in ((2, 3), (3, 3)))
    assert len(found.modes) == 3
    assert found.modes[: len(free.modes)] == free.modes


def test_gears_hum_and_loose_feet_are_tones_of_their_amplitude() -> None:
    plain = run(QUIET, "normal")
    geared = run(replace(QUIET, gear=0.4, teeth=31, sidebands=0.5), "normal")
    assert tone(geared, 31 * 30) == pytest.approx(0.4, rel=0.02)
    assert tone(geared, 32 * 30) == pytest.approx(0.4 * 0.5 / 2, rel=0.02)  # a sideband
    assert tone(geared, 62 * 30) == pytest.approx(0.2, rel=0.02)
    assert tone(plain, 31 * 30) < 0.001
    assert tone(run(replace(QUIET, hum=0.3, mains=60.0), "normal"), 120) == pytest.approx(0.3, rel=0.02)
    assert tone(run(replace(QUIET, looseness=0.2), "normal"), 15) == pytest.approx(0.2, rel=0.02)
    fast = run(replace(QUIET, gear=0.4, teeth=110), "normal")
    assert tone(fast, 3300) == pytest.approx(0.4, rel=0.02)
    for harmonic in (6600, 9900):  # which would fold back
        assert tone(fast, 12_000 - harmonic) < 0.01


def test_a_slow_drift_spreads_the_shafts_line_and_keeps_its_mean() -> None:
    steady, drifting = run(QUIET, "normal"), run(replace(QUIET, drift=(0.02, 0.02)), "normal")
    hertz, amplitude = spectrum(drifting)
    near = (hertz > 28) & (hertz < 32)
    assert tone(drifting, 30) < 0.8 * tone(steady, 30)
    centre = (hertz * amplitude**2)[near].sum() / (amplitude**2)[near].sum()
    assert centre == pytest.approx(30, rel=0.02)
    assert (hertz[near][amplitude[near] > 0.01]).min() > 30 * 0.97


def test_a_growing_fault_is_louder_at_the_end() -> None:
    for growth, ratio in ((0.0, 1.0), (2.0, 2.0)):  # linear from 1 to 3: its halves' means are 1.5 and 2.5
        loud = envelope(run(replace(QUIET, growth=(growth, growth)), "outer"))
        first, last = loud[: len(loud) // 4].mean(), loud[-len(loud) // 4 :].mean()
        expected = 1.0 if ratio == 1 else (1 + 2 * 7 / 8) / (1 + 2 / 8)
        assert last / first == pytest.approx(expected, rel=0.03)


def test_severity_and_load_scale_a_fault() -> None:
    whole = envelope(run(replace(QUIET, severity=(1.0, 1.0)), "outer")).mean()
    tenth = envelope(run(replace(QUIET, severity=(0.1, 0.1)), "outer")).mean()
    idle = envelope(run(replace(QUIET, load=0.0), "outer")).mean()
    assert (tenth / whole, idle / whole) == (pytest.approx(0.1, rel=0.05), pytest.approx(0.5, rel=0.02))


def test_a_second_fault_is_of_another_kind_and_the_smaller_one() -> None:
    """An outer race's fault rings at the first resonance alone, any other kind at the second one too."""
    alone = replace(QUIET, damping=0.01)
    both = replace(alone, other_fault=(0.3, 0.3))
    for seed in range(4):
        levels = []
        for machine in (alone, both):
            hertz, amplitude = spectrum(run(machine, "outer", seed=seed))
            power = [(amplitude[abs(hertz - f) < 150] ** 2).sum() for f in machine.resonances]
            levels.append(power[1] / power[0])
        assert levels[0] < 0.01 < levels[1] < 0.3
    np.testing.assert_array_equal(run(alone, "normal"), run(both, "normal"))  # a sound bearing has none


def test_blows_come_at_random_times_as_often_as_asked() -> None:
    blows = run(replace(QUIET, impacts=1.0, impact_size=(2.0, 2.0)), "normal", 60.0)
    assert 40 <= strikes(blows, 0.5) <= 80


def test_another_machine_is_heard_through_the_structure() -> None:
    other = replace(QUIET, shaft=23.0, noise=0.001)
    x = run(replace(QUIET, neighbour=other, neighbour_share=0.5), "normal")
    assert tone(x, 23) == pytest.approx(0.1, rel=0.03)  # half of the shaft's 0.2
    assert tone(x, 30) == pytest.approx(0.2, rel=0.03)


def test_the_load_is_borne_within_the_load_zone() -> None:
    """With ε of 0.25, 1 − cos θ < 0.5: 60 degrees to either side. With ε of 1, all angles but one bear some."""
    angle = np.radians([0, 30, 59, 61, 180, 300.5])
    expected = [1, 1 - (1 - np.cos(np.pi / 6)) / 0.5, 1 - (1 - np.cos(np.radians(59))) / 0.5, 0, 0]
    np.testing.assert_allclose(load_at(angle, 0.25)[:5], expected, atol=1e-12)
    assert load_at(angle, 0.25)[5] > 0
    np.testing.assert_allclose(load_at(np.radians([0, 90, 180]), 1.0), [1, 0.5, 0], atol=1e-12)


def test_a_narrow_load_zone_silences_an_inner_race() -> None:
    still = replace(QUIET, noise=1e-6)
    wide, narrow = (np.square(high(run(replace(still, load_zone=z), "inner"))).mean() for z in (10.0, 0.25))
    # The mean square of 1 − (1 − cos θ) / 2ε over the revolution: 0.95² + 0.05² / 2, and for ε = 0.25
    # (3θ + sin 2θ − 4 sin θ) / 2π from −π/3 to π/3.
    assert narrow / wide == pytest.approx(0.1730 / 0.90375, rel=0.05)


def test_ranges_are_checked() -> None:
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"noise": (0.6, 0.05)}, r"Randomization.noise: expected two numbers, the smaller one first, from"),
        ({"noise": (0.0, 0.6)}, r"Randomization.noise"),
        ({"balls": (7.5, 12)}, r"Randomization.balls"),
        (
            {"resonances": (900, 7000)},
            r"Randomization.resonances: .* from 100 to 5900, got \(900, 7000\); mend it",
        ),
        ({"other_fault": (0, 1.5)}, r"Randomization.other_fault"),
        ({"drift": (float("nan"), 0.1)}, r"Randomization.drift"),
        ({"mains": ()}, r"Randomization.mains: expected numbers"),
        ({"speed_error": -0.1}, r"Randomization.speed_error"),
        ({"hum": (0.1,)}, r"Randomization.hum"),
    )
    for arguments, message in cases:
        with pytest.raises(UserError, match=message):
            Randomization(**arguments)
    assert set(CLASSES[1:]) == {"ball", "inner", "outer"}


def test_a_ball_that_turns_about_changing_axes_leaves_no_line_and_other_faults_as_they_are() -> None:
    steady, astray = replace(QUIET, slip=0.0), replace(QUIET, slip=0.0, wander=(1.0, 1.0))
    x, y = (machine.run("ball", 8.0, np.random.default_rng(3)) for machine in (steady, astray))
    line = 2 * QUIET.bearing.bsf * QUIET.shaft
    assert tone(abs(x), line) > 5 * tone(abs(y), line)
    same = [machine.run("outer", 1.0, np.random.default_rng(4)) for machine in (steady, astray)]
    np.testing.assert_array_equal(*same)


def test_a_rough_ball_is_louder_by_its_noise() -> None:
    smooth, rough = (replace(QUIET, roughness=(share, share)) for share in (0.0, 0.5))
    x, y = (machine.run("ball", 8.0, np.random.default_rng(5)) for machine in (smooth, rough))
    noise = y - x  # all else is drawn the same
    twice = replace(rough, roughness=(1.0, 1.0)).run("ball", 8.0, np.random.default_rng(5)) - x
    assert np.std(noise) > 10 * QUIET.noise
    assert np.std(twice) / np.std(noise) == pytest.approx(2, rel=1e-3)


def test_strikes_scatter_by_the_standard_deviation_of_their_log() -> None:
    even, scattered = (
        replace(QUIET, scatter=(share, share))._impulses(
            "outer", np.arange(240_000) * 0.0025, np.random.default_rng(6)
        )
        for share in (0.0, 0.8)
    )
    struck = even[0] > 0
    assert np.log(scattered[0][struck] / even[0][struck]).std() == pytest.approx(0.8, rel=0.05)
