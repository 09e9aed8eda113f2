"""Fault lines against the plain recipe at the full sample rate, on signals whose faults are known."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from scipy import signal

from fml_lightning.bearing import INPUTS, Bearing
from fml_lightning.errors import UserError
from fml_lightning.preprocessing import Concat, FaultLines, LogBandPowers, Preprocessing, ShaftSpeed
from fml_lightning.preprocessing.description import describe, from_description
from fml_lightning.preprocessing.envelope import (
    band_signal,
    centred_spectrum,
    kernels,
    lines_of,
    relative_envelopes,
)
from fml_lightning.preprocessing.fault_lines import BANDS, LINES, multiples

RATE = 12_000.0
LENGTH = 8192
SPEED = 29.2
SKF = Bearing.named("6205")


def ringing(
    order: float, seed: int, count: int = 4, speed: float = SPEED, noise: float = 0.3
) -> NDArray[np.float32]:
    """Windows of a resonance at 2.8 kHz that is struck `order` times per revolution, 1 % of slip, in noise."""
    rng = np.random.default_rng(seed)
    n = count * LENGTH
    at = np.cumsum(rng.normal(1, 0.01, size=int(n / RATE * order * speed * 1.1))) / (order * speed) * RATE
    force = np.zeros(n)
    force[at[at < n].astype(int)] = 1
    time = np.arange(400) / RATE
    x = signal.fftconvolve(force, np.exp(-900 * time) * np.sin(2 * np.pi * 2800 * time))[:n]
    return (x + noise * rng.normal(size=n)).reshape(count, LENGTH).astype(np.float32)


def recipe(
    windows: NDArray[np.float32], rate: float, speed: float, bearing: Bearing, bands: object = BANDS
) -> NDArray[np.float64]:
    """Every step at the full rate in double precision; the analytic signal is scipy's of a band-passed one."""
    x = windows.astype(np.float64)
    length = x.shape[1]
    spectrum, frequency = np.fft.rfft(x - x.mean(1, keepdims=True)), np.fft.rfftfreq(length, 1 / rate)
    o, i, b, c = bearing.bpfo, bearing.bpfi, 2 * bearing.bsf, bearing.ftf
    orders = [o, 2 * o, 3 * o, 4 * o, i, 2 * i, 3 * i, 4 * i, b, 2 * b, 3 * b, b / 2]
    orders += [i - 1, i + 1, i - 2, i + 2, 2 * i - 1, 2 * i + 1]
    orders += [b - c, b + c, b - 2 * c, b + 2 * c, c, 2 * c, 1, 2, 3]
    columns = []
    for low, high in BANDS:
        passed = np.fft.irfft(spectrum * ((frequency >= low) & (frequency < high)), length)
        size = np.abs(signal.hilbert(passed, axis=1))
        e = size / size.mean(1, keepdims=True) - 1
        amplitude = np.abs(np.fft.rfft(e * np.hanning(length), 4 * length)) / (length / 4)
        order = np.fft.rfftfreq(4 * length, 1 / rate) / speed
        median = np.median(amplitude[:, (order > 0.2) & (order < 20)], axis=1)
        for each in orders:
            half = max(0.015 * each, 0.75 * rate / length / speed)
            near = (order >= each - half) & (order <= each + half)
            columns.append(np.log(amplitude[:, near].max(1) + 1e-9) - np.log(median + 1e-9))
        columns.append(np.log(median + 1e-9))
        columns.append(np.log((e**4).mean(1) / (e**2).mean(1) ** 2))
        columns.append(np.log((e**2).mean(1) + 1e-9))
    return np.stack(columns, axis=1)


def check_against_recipe(ours: NDArray[np.float32], plain: NDArray[np.float64]) -> None:
    """What decimation folds back is small beside a line that stands out, and beside the median of all.

    Natural logarithms: a line more than a factor e above the median is off by 10 % at most, all lines by 2.5 % in
    the mean, the statistics by 6 %; from window to window they differ by 30 %.
    """
    by_band = (len(ours), len(BANDS), -1)
    off, plain = np.abs(ours - plain).reshape(by_band), plain.reshape(by_band)
    lines, statistics = off[..., : len(LINES)], off[..., len(LINES) :]
    assert lines[plain[..., : len(LINES)] > 1].max(initial=0) < 0.1
    assert lines.mean() < 0.025
    assert statistics.max() < 0.06


@pytest.mark.parametrize("order", [SKF.bpfo, SKF.bpfi, 2 * SKF.bsf])
def test_equal_to_the_recipe_at_the_full_rate(order: float) -> None:
    windows = ringing(order, seed=0, count=12)
    told = np.full((12, 1), SPEED, np.float32)
    ours = FaultLines("6205")(windows, RATE, told)
    check_against_recipe(ours, recipe(windows, RATE, float(told[0, 0]), SKF))


def test_equal_to_the_recipe_on_a_real_machine(cwru_root: str) -> None:
    manifest = pl.read_csv(Path(cwru_root) / "cwru" / "manifest.csv")
    for file, fault in (
        ("de12/L1_IR_07.parquet", "IR"),
        ("de12/L0_B_14.parquet", "B"),
        ("de12/L2_ORat6_21.parquet", "OR"),
    ):
        row = manifest.row(by_predicate=pl.col("file") == file, named=True)
        assert row["fault"] == fault
        x = pl.read_parquet(Path(cwru_root) / "cwru" / file)["DE"].to_numpy().astype(np.float32)
        windows = x[: 12 * LENGTH].reshape(12, LENGTH)
        speed = row["rpm_measured"] / 60
        ours = FaultLines("6205", speed)(windows, RATE)
        check_against_recipe(ours, recipe(windows, RATE, speed, SKF))


def told(*rows: tuple[float, ...]) -> NDArray[np.float32]:
    return np.array(rows, np.float32)


def test_what_is_not_given_is_told() -> None:
    """The same numbers, whether speed and bearing are fixed or told of each window, in the order of `needs`."""
    windows = ringing(SKF.bpfi, seed=1)
    fixed = FaultLines("SKF 6205", SPEED)
    assert fixed.needs == ()
    expected = fixed(windows, RATE)
    orders = tuple(SKF.inputs.values())
    for features, row in (
        (FaultLines("6205"), (SPEED,)),
        (FaultLines(speed=SPEED), orders),
        (FaultLines(), (SPEED, *orders)),
    ):
        assert features.needs == (("speed", *INPUTS) if len(row) == 5 else ("speed",) if len(row) == 1 else INPUTS)
        np.testing.assert_allclose(features(windows, RATE, told(*[row] * 4)), expected, atol=1e-3)
    with pytest.raises(
        UserError, match="expected speed, bpfo, bpfi, bsf, ftf told of each of 4 windows, got nothing"
    ):
        FaultLines()(windows, RATE)


def test_each_window_has_its_own_speed_and_no_other_window_matters() -> None:
    windows = np.concatenate([ringing(SKF.bpfo, 2, 2, speed) for speed in (20.0, 33.0)])
    speeds = told((20.0,), (20.0,), (33.0,), (33.0,))
    for bands in (BANDS, "kurtogram"):
        features = FaultLines("6205", bands=bands)  # type: ignore[arg-type]
        together = features(windows, RATE, speeds)
        alone = [features(windows[i : i + 1], RATE, speeds[i : i + 1]) for i in range(4)]
        np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-4)
        outer = [c.name for c in features.columns(LENGTH, RATE)].index(
            "bpfo_2000_3500" if bands == BANDS else "bpfo_kurtogram"
        )
        assert (together[:, outer] > 2).all()


def test_lines_stand_out_where_the_fault_is() -> None:
    """In the band of the resonance the fault's own line is the largest of the three."""
    features = FaultLines("6205", SPEED)
    names = [c.name for c in features.columns(LENGTH, RATE)]
    lines = [names.index(f"{line}_2000_3500") for line in ("bpfo", "bpfi", "2bsf")]
    for number, order in enumerate((SKF.bpfo, SKF.bpfi, 2 * SKF.bsf)):
        mean = features(ringing(order, seed=3), RATE).mean(0)[lines]
        assert mean.argmax() == number
        assert mean[number] > 2.5  # e^2.5 is twelve times the median; noise alone reaches e^1.5


def test_a_sensors_gain_and_offset_do_not_matter() -> None:
    windows = ringing(SKF.bpfo, seed=4)
    features = FaultLines("6205", SPEED)
    np.testing.assert_allclose(features(windows * 1000 + 5, RATE), features(windows, RATE), atol=0.01)


def test_a_large_offset_does_not_matter_and_windows_may_be_read_only(recwarn: pytest.WarningsRecorder) -> None:
    """The offset is a thousand times the vibration; float32 holds 1/16000 of the vibration beside it."""
    windows = ringing(SKF.bpfo, seed=13)
    shifted = windows + np.float32(1000)
    shifted.setflags(write=False)
    features = FaultLines("6205", SPEED, statistics=["median", "kurtosis", "variance", "level"])
    np.testing.assert_allclose(features(shifted, RATE), features(windows, RATE), atol=0.01)
    assert not recwarn.list


@pytest.mark.parametrize(
    "power",
    [
        np.random.default_rng(0).exponential(size=1594),
        np.random.default_rng(1).exponential(size=1593),
        np.random.default_rng(2).exponential(size=1594) * np.where(np.arange(1594) == 7, 1e9, 1e-9),
        np.round(np.random.default_rng(3).exponential(size=1000)),
        np.where(np.arange(1000) % 2, 1.0, 0.0),
        np.where(np.arange(1001) % 2, 0.0, 1.0),
        np.where(np.arange(1001) % 2, 1e-12, 1.0),
        np.zeros(5),
        np.full(6, 2.0),
        np.array([3.0]),
        np.array([9.0, 1.0]),
    ],
    ids=lambda power: f"{len(power)}",
)
def test_the_median_is_numpys(power: NDArray[np.float64]) -> None:
    found = kernels()._median_amplitude(power.astype(np.float32))
    assert found == pytest.approx(np.median(np.sqrt(power)), rel=1e-6)


@pytest.mark.parametrize("bands", [BANDS, "kurtogram"])
@pytest.mark.parametrize(
    "broken",
    [
        lambda x: np.zeros_like(x),
        lambda x: np.full_like(x, 0.1),
        lambda x: np.full_like(x, -1e4),
        lambda x: np.where(np.arange(LENGTH) == 77, np.nan, x),
        lambda x: np.where(np.arange(LENGTH) == 77, -np.inf, x),
    ],
    ids=["silence", "constant", "large-constant", "nan", "inf"],
)
def test_a_broken_window_is_nan_and_the_others_stay(broken: object, bands: object) -> None:
    windows = ringing(SKF.bpfo, seed=5)
    features = FaultLines("6205", SPEED, bands=bands)  # type: ignore[arg-type]
    whole = features(windows, RATE)
    windows[1] = broken(windows[1])  # type: ignore[operator]
    table = features(windows, RATE)
    assert np.isnan(table[1]).all()
    np.testing.assert_allclose(np.delete(table, 1, 0), np.delete(whole, 1, 0), atol=1e-4)


@pytest.mark.parametrize("speed", [np.nan, 0.0, -29.2, np.inf, 2.9, 80.0])
def test_an_impossible_speed_makes_nan(speed: float) -> None:
    """2.9 Hz is 1.98 revolutions; 80 Hz puts 4 bpfi at 1733 Hz, where the 1.5 kHz of a band end."""
    windows = ringing(SKF.bpfo, seed=6)
    table = FaultLines("6205")(windows, RATE, told((SPEED,), (speed,), (SPEED,), (SPEED,)))
    assert np.isnan(table[1]).all()
    assert np.isfinite(np.delete(table, 1, 0)).all()


def test_an_impossible_bearing_makes_nan() -> None:
    orders = tuple(SKF.inputs.values())
    table = FaultLines(speed=SPEED)(
        ringing(SKF.bpfo, 7, 3), RATE, told(orders, (np.nan, *orders[1:]), (0, *orders[1:]))
    )
    assert np.isnan(table).all(1).tolist() == [False, True, True]


def test_clipping_leaves_numbers() -> None:
    windows = np.clip(ringing(SKF.bpfo, seed=8), -0.3, 0.3)
    table = FaultLines("6205", SPEED)(windows, RATE)
    assert np.isfinite(table).all()


def test_what_cannot_work_is_refused() -> None:
    windows = ringing(SKF.bpfo, seed=9)
    with pytest.raises(UserError, match="expected bands up to 3000 Hz, half the sample rate, got 2000 to 3500 Hz"):
        FaultLines("6205", SPEED)(windows, 6000.0)
    with pytest.raises(UserError, match=r"raise windowing\.length"):
        FaultLines("6205", SPEED, bands=[(500, 501)]).columns(LENGTH, RATE)
    for arguments, what in (
        ({"speed": 0.0}, "speed: expected"),
        ({"bands": [(2000, 500)]}, "bands: expected"),
        ({"bands": []}, "bands: expected"),
        ({"lines": ["bpfx"]}, "such as 2bpfi-x, got 'bpfx'"),
        ({"lines": ["bpfo", "bpfo"]}, "each once"),
        ({"statistics": ["skewness"]}, "statistics: expected some of"),
        ({"bearing": "1234"}, "is not in the table"),
    ):
        with pytest.raises(UserError, match=what):
            FaultLines(**arguments)  # type: ignore[arg-type]


def test_lines_are_sums_of_multiples() -> None:
    assert multiples("2bpfo") == [2, 0, 0, 0, 0]
    assert multiples("x") == [0, 0, 0, 0, 1]
    assert multiples("2bsf - 2ftf") == [0, 0, 2, -2, 0]
    for line in ("", "2", "bpfobpfi", "bpfo+", "bpfo+2", "0.5x"):
        with pytest.raises(UserError, match="expected a sum of multiples"):
            multiples(line)


def test_lines_statistics_and_bands_can_be_chosen() -> None:
    windows = ringing(SKF.bpfo, seed=10)
    whole, some = (
        FaultLines("6205", SPEED),
        FaultLines("6205", SPEED, [BANDS[1]], ["2bpfi-x", "bpfo"], ["kurtosis"]),
    )
    names = [c.name for c in some.columns(LENGTH, RATE)]
    assert names == ["2bpfi-x_2000_3500", "bpfo_2000_3500", "kurtosis_2000_3500"]
    at = [[c.name for c in whole.columns(LENGTH, RATE)].index(name) for name in names]
    np.testing.assert_array_equal(some(windows, RATE), whole(windows, RATE)[:, at])


def test_the_level_is_the_log_of_the_rms_in_each_band_and_a_gain_shifts_it() -> None:
    windows = ringing(SKF.bpfo, seed=12)
    features = FaultLines("6205", SPEED, statistics=["level"])
    at = [k for k, column in enumerate(features.columns(LENGTH, RATE)) if column.name.startswith("level")]
    levels = features(windows, RATE)[:, at]
    frequencies = np.fft.rfftfreq(LENGTH, 1 / RATE)
    for (low, high), found in zip(BANDS, levels.T, strict=True):
        kept = np.fft.rfft(windows - windows.mean(1, keepdims=True)) * (
            (frequencies >= low) & (frequencies < high)
        )
        np.testing.assert_allclose(found, np.log(np.fft.irfft(kept, LENGTH).std(1)), atol=1e-3)
    np.testing.assert_allclose(features(2 * windows, RATE)[:, at] - levels, np.log(2), atol=1e-3)


@pytest.mark.parametrize(
    "features",
    [
        FaultLines(),
        FaultLines("6205", 29.0, "kurtogram"),
        FaultLines(Bearing(8, 0.2, 15.0), bands=[(500, 2500)], lines=["bpfo"], statistics=[]),
    ],
)
def test_described_features_are_the_same_again(features: FaultLines) -> None:
    preprocessing = Preprocessing(features=Concat([LogBandPowers(8), features]))
    again = Preprocessing.from_description(preprocessing.describe())
    assert again.describe() == preprocessing.describe()
    assert again.needs == features.needs
    alone = from_description(describe(features))
    windows = ringing(SKF.bpfo, seed=11)
    rows = told(*[[{"speed": SPEED, **SKF.inputs}[name] for name in features.needs]] * 4)
    np.testing.assert_array_equal(alone(windows, RATE, rows), features(windows, RATE, rows))
    assert alone.columns(LENGTH, RATE) == features.columns(LENGTH, RATE)


def test_polars_reads_what_is_needed_from_columns_of_that_name() -> None:
    windows = ringing(SKF.bpfo, seed=12)
    frame = pl.DataFrame({"window": windows, "speed": [SPEED] * 4})
    features = FaultLines("6205")
    table = frame.select(features.expr("window", LENGTH, RATE)).unnest("window")
    assert table.columns == [c.name for c in features.columns(LENGTH, RATE)]
    np.testing.assert_array_equal(table.to_numpy(), features(windows, RATE, np.full((4, 1), SPEED, np.float32)))


def strongest_order(windows: NDArray[np.float32], rate: float, speed: float, near: float) -> float:
    """The order, within 6 % of `near`, of the line that stands out most in any envelope's mean spectrum."""
    found = []
    for band in BANDS:
        spectra, peaks = centred_spectrum(windows)
        signal = band_signal(spectra, lines_of(band, windows.shape[1], rate, "band"), {})
        e, _ = relative_envelopes(signal, windows.shape[1], peaks)
        amplitude = np.abs(np.fft.rfft(e * np.hanning(e.shape[1]), 16 * e.shape[1])).mean(0)
        orders = np.arange(len(amplitude)) * rate / windows.shape[1] / 16 / speed
        region = np.flatnonzero(np.abs(orders / near - 1) < 0.06)
        peak = region[amplitude[region].argmax()]
        found.append((amplitude[peak] / np.median(amplitude[(orders > 0.2) & (orders < 20)]), float(orders[peak])))
    return max(found)[1]


def test_cwru_has_its_faults_lines_where_the_geometry_says(cwru_root: str) -> None:
    """Within 1 %: inner and outer race, 7 and 21 mil, all loads; of an outer race's its line leads the inner's."""
    manifest = pl.read_csv(Path(cwru_root) / "cwru" / "manifest.csv").filter(
        pl.col("set") == "de12", pl.col("diameter_mil").is_in([7, 21]), pl.col("fault").is_in(["IR", "OR"])
    )
    manifest = manifest.filter((pl.col("fault") == "IR") | (pl.col("clock") == 6))
    assert len(manifest) == 16
    features = FaultLines("6205")
    names = [c.name for c in features.columns(LENGTH, RATE)]
    lines = np.array(
        [[names.index(f"{line}_{low:g}_{high:g}") for low, high in BANDS] for line in ("bpfo", "bpfi")]
    )
    for row in manifest.iter_rows(named=True):
        x = pl.read_parquet(Path(cwru_root) / "cwru" / row["file"])["DE"].to_numpy().astype(np.float32)
        windows = x[: 14 * LENGTH].reshape(14, LENGTH)
        speed = (row["rpm_measured"] or row["rpm_nominal"]) / 60
        order = SKF.bpfi if row["fault"] == "IR" else SKF.bpfo
        assert strongest_order(windows, RATE, speed, order) == pytest.approx(order, rel=0.01), row["file"]
        outer, inner = features(windows, RATE, np.full((14, 1), speed, np.float32)).mean(0)[lines].max(1)
        assert (inner if row["fault"] == "IR" else outer) > 2, row["file"]
        assert (inner > outer) == (row["fault"] == "IR"), row["file"]


def test_mfpt_has_its_faults_lines_where_the_geometry_says() -> None:
    """Within 1 %, at the speed that the recordings themselves name: their label of 25 Hz is .7 % off."""
    root = Path(os.environ.get("FML_DATA", Path(__file__).parent.parent.parent / "shared" / "data")) / "mfpt"
    if not root.is_dir():
        pytest.skip(f"needs MFPT at {root}: set FML_DATA to the folder that holds mfpt/")
    for path in sorted(root.glob("*.parquet")):
        x = pl.read_parquet(path)["x"].to_numpy()
        speed = ShaftSpeed(least_confidence=0.0).of(x, 48_828.0, 25.0).hz
        nice = Bearing.named("NICE")
        order = nice.bpfi if path.name.startswith("inner") else nice.bpfo
        windows = x[: 4 * 32_768].reshape(4, 32_768)
        assert strongest_order(windows, 48_828.0, speed, order) == pytest.approx(order, rel=0.01), path.name
