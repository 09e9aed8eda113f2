"""Features against scipy, closed forms, and themselves through polars."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from scipy import signal, stats

from fml_lightning import UserError
from fml_lightning.preprocessing import Concat, Features, LogBandPowers, RawWindows, TimeDomain

RATE = 12_000.0


@pytest.fixture(scope="module")
def windows() -> NDArray[np.float32]:
    """Noise, impulses and an offset: (6, 2048)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 2048)) * np.array([1, 1e-3, 1e3, 1, 1, 1])[:, None]
    x[3] += 1e4  # a DC offset that breaks one-pass moments in float32
    x[4, ::200] += 20
    x[5] = np.sin(2 * np.pi * 200 * np.arange(2048) / RATE)
    return x.astype(np.float32)


def column(features: Features, table: NDArray[np.float32], name: str, length: int = 2048) -> NDArray[np.float32]:
    names = [c.name for c in features.columns(length, RATE)]
    values: NDArray[np.float32] = table[:, names.index(name)]
    return values


def test_time_domain_against_numpy_and_scipy(windows: NDArray[np.float32]) -> None:
    """2e-5 relative: blocks of 256 are summed in float32."""
    features = TimeDomain()
    table = features(windows, RATE)
    x = windows.astype(np.float64)
    centred = x - x.mean(1, keepdims=True)
    rms, peak, mean_abs = np.sqrt((x**2).mean(1)), abs(x).max(1), abs(x).mean(1)
    root = np.sqrt(abs(x)).mean(1) ** 2
    std, slope = x.std(1), np.diff(x, axis=1)
    expected = {
        "mean_abs": mean_abs,
        "root_amplitude": root,
        "rms": rms,
        "std": std,
        "peak": peak,
        "peak_to_peak": np.ptp(x, axis=1),
        "kurtosis": stats.kurtosis(x, axis=1, fisher=False),
        "crest_factor": peak / rms,
        "shape_factor": rms / mean_abs,
        "impulse_factor": peak / mean_abs,
        "clearance_factor": peak / root,
        "zero_crossing_rate": (np.diff(centred >= 0, axis=1)).sum(1) * RATE / 2048,
        "mean_abs_slope": abs(slope).mean(1) * RATE,
        "mobility": slope.std(1) / std * RATE / (2 * np.pi),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(column(features, table, name), values, rtol=2e-5, err_msg=name)
    # A mean near zero and a small skewness are differences of large sums: absolute, in units of the spread.
    np.testing.assert_allclose(column(features, table, "mean") / std, x.mean(1) / std, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(column(features, table, "skewness"), stats.skew(x, axis=1), rtol=1e-4, atol=1e-4)
    assert {c.name for c in features.columns(2048, RATE)} == {*expected, "mean", "skewness"}


def test_time_domain_of_a_sine() -> None:
    """Amplitude 2 at 200 Hz: rms √2, crest √2, kurtosis 3/2, 400 crossings a second, mobility 200 Hz."""
    x = (2 * np.sin(2 * np.pi * 200 * np.arange(12_000) / RATE + 0.1)).astype(np.float32)[None]
    features = TimeDomain()
    table = features(x, RATE)
    for name, value in {"rms": 2**0.5, "crest_factor": 2**0.5, "kurtosis": 1.5, "peak_to_peak": 4.0}.items():
        assert column(features, table, name)[0] == pytest.approx(value, rel=2e-3)
    assert column(features, table, "zero_crossing_rate")[0] == pytest.approx(400, abs=1)
    assert column(features, table, "mobility")[0] == pytest.approx(200, rel=2e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_time_domain_of_a_broken_window_is_nan_and_the_others_stay(
    windows: NDArray[np.float32], bad: float
) -> None:
    broken = windows.copy()
    broken[2, 1500] = bad
    table = TimeDomain()(broken, RATE)
    assert np.isnan(table[2]).all()
    np.testing.assert_array_equal(np.delete(table, 2, 0), np.delete(TimeDomain()(windows, RATE), 2, 0))


def test_time_domain_of_a_constant_has_no_shape() -> None:
    features = TimeDomain()
    constants = np.random.default_rng(0).normal(size=(200, 1)).astype(np.float32)
    table = features(np.repeat(constants, 300, axis=1), RATE)
    assert (column(features, table, "std", 300) == 0).all()
    for name in ("skewness", "kurtosis", "mobility"):
        assert np.isnan(column(features, table, name, 300)).all()


def test_log_band_powers_of_a_constant_are_those_of_silence() -> None:
    """The rounded mean of a constant may be another number, whose leakage would depend on the constant."""
    constants = np.random.default_rng(0).normal(scale=100, size=(200, 1)).astype(np.float32)
    table = LogBandPowers(bands=10)(np.repeat(constants, 300, axis=1), RATE)
    assert (table == np.log(np.float32(1e-12))).all()


def test_log_band_powers_against_scipy(windows: NDArray[np.float32]) -> None:
    """scipy's periodogram per Hz, doubled for one side, times its line's width: the same power.

    1e-3 in the logarithm: spectra are float32. A pure sine's empty bands are rounding noise, and left out.
    """
    windows = windows[:5]
    features = LogBandPowers(bands=64)
    taper = np.hanning(2048)
    _, density = signal.periodogram(windows.astype(np.float64), RATE, window=taper, detrend="constant")
    power = density[:, 1:1025] * RATE / 2
    power[:, -1] *= 2  # scipy does not double the Nyquist line
    expected = np.log(power.reshape(5, 64, 16).mean(2) + 1e-12)
    np.testing.assert_allclose(features(windows, RATE), expected, atol=1e-3)


def test_gain_only_shifts_log_band_powers(windows: NDArray[np.float32]) -> None:
    features = LogBandPowers(bands=16)
    louder = features(windows[4:5] * 10, RATE) - features(windows[4:5], RATE)
    np.testing.assert_allclose(louder, 2 * np.log(10), atol=1e-4)


def test_band_edges_are_in_hertz(windows: NDArray[np.float32]) -> None:
    """The 200 Hz sine is loudest in the band whose name holds 200 Hz."""
    features = LogBandPowers(bands=64)
    loudest = features.columns(2048, RATE)[int(features(windows[5:6], RATE).argmax())]
    low, high = (float(edge) for edge in loudest.name.split("_")[1:])
    assert low <= 200 <= high
    with pytest.raises(UserError, match="64 bands do not divide the 50 spectral lines"):
        features.columns(100, RATE)
    slow = [column.name for column in LogBandPowers(bands=128).columns(2048, 50.0)]
    assert len(set(slow)) == 128  # names stay apart at 50 Hz


@pytest.mark.parametrize("features", [LogBandPowers(bands=8), TimeDomain(), RawWindows()])
def test_polars_gives_the_same_numbers_under_the_columns_names(
    features: Features, windows: NDArray[np.float32]
) -> None:
    short = np.ascontiguousarray(windows[:, :64])
    frame = pl.DataFrame({"window": short.tolist()}, schema={"window": pl.List(pl.Float32)})
    table = frame.select(features.expr("window", 64, RATE)).unnest("window")
    assert table.columns == [c.name for c in features.columns(64, RATE)]
    np.testing.assert_array_equal(table.to_numpy(), features(short, RATE))


def test_windows_that_are_read_only_have_the_same_numbers() -> None:
    windows = np.random.default_rng(0).normal(size=(64, 8192)).astype(np.float32)
    expected = TimeDomain()(windows, RATE)
    windows.flags.writeable = False
    np.testing.assert_array_equal(TimeDomain()(windows, RATE), expected)


def test_concat_joins_columns(windows: NDArray[np.float32]) -> None:
    both = Concat([TimeDomain(), LogBandPowers(bands=8)])
    assert both(windows, RATE).shape == (6, 24)
    assert [c.name for c in both.columns(2048, RATE)][15:17] == ["mobility", "power_5.85938_755.859"]
    assert {c.unit for c in both.columns(2048, RATE)} == {"x", "1", "Hz", "x/s", "ln(x²)"}
