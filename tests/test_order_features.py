"""Order spectra, cepstra and kurtograms of signals whose lines, families and bursts are known."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from scipy import signal, stats

from fml_lightning.errors import UserError
from fml_lightning.preprocessing import Cepstrum, Features, OrderSpectrum, SpectralKurtosis, kurtogram
from fml_lightning.preprocessing.description import describe, from_description

RATE = 12_000.0
LENGTH = 8192
TIME = np.arange(LENGTH) / RATE
ALL = [
    OrderSpectrum(speed=25.0),
    OrderSpectrum(bands=(), speed=25.0),
    Cepstrum(speed=25.0),
    SpectralKurtosis(),
    OrderSpectrum(),
    Cepstrum(),
]


def noise(seed: int, count: int = 1, size: float = 1.0) -> NDArray[np.float32]:
    return (size * np.random.default_rng(seed).normal(size=(count, LENGTH))).astype(np.float32)


def told(features: Features, count: int, speed: float = 25.0) -> NDArray[np.float32] | None:
    return np.full((count, 1), speed, np.float32) if features.needs else None


def test_the_raw_order_spectrum_has_a_sines_amplitude() -> None:
    """2 sin at 7.5 orders: log 2 in its bin, but for 1.5 % between padded lines; far off nothing but the floor."""
    x = (2 * np.sin(2 * np.pi * 7.5 * 25 * TIME)).astype(np.float32)[None]
    features = OrderSpectrum(bands=(), speed=25.0)
    table = features(x, RATE)[0]
    columns = features.columns(LENGTH, RATE)
    assert columns[149] == ("order_7.5", "ln(x)")
    assert table.argmax() == 149
    assert table[149] == pytest.approx(np.log(2), abs=0.015)
    assert table[[20, 300]].max() < np.log(2e-4)


def test_the_envelopes_order_spectrum_has_the_modulation() -> None:
    """(1 + .4 sin at 3.6 orders) carried by 2.8 kHz: .4 in that band; the others hold noise alone."""
    carrier = np.sin(2 * np.pi * 2800 * TIME)
    x = ((1 + 0.4 * np.sin(2 * np.pi * 3.6 * 25 * TIME)) * carrier)[None] + noise(0, size=1e-3)
    features = OrderSpectrum(speed=25.0)
    table = features(x.astype(np.float32), RATE)[0]
    names = [c.name for c in features.columns(LENGTH, RATE)]
    middle = table[names.index("order_3.6_2000_3500")]
    assert middle == pytest.approx(np.log(0.4), abs=0.02)
    assert table[320:640].argmax() == names.index("order_3.6_2000_3500") - 320


def test_orders_follow_the_speed_of_each_window() -> None:
    """The same 200 Hz are 10 orders of 20 Hz and 8 of 25 Hz."""
    x = np.sin(2 * np.pi * 200 * TIME).astype(np.float32)
    table = OrderSpectrum(bands=(), highest=12.0, orders=120)(
        np.stack([x, x]), RATE, np.array([[20], [25]], np.float32)
    )
    assert table.argmax(1).tolist() == [99, 79]


@pytest.mark.parametrize("orders", [320, 4000])
def test_bins_are_numpys_largest_amplitudes(orders: int) -> None:
    """Of 4,000 bins most are narrower than the lines of the padded spectrum are apart: they have the next line."""
    x, speeds = noise(12, 3), np.array([19.1, 25.1, 33.3])  # no line is on an edge
    table = OrderSpectrum(bands=(), orders=orders)(x, RATE, speeds[:, None].astype(np.float32))
    centred = x.astype(np.float64) - x.mean(1, keepdims=True, dtype=np.float64)
    amplitude = np.abs(np.fft.rfft(centred * np.hanning(LENGTH), 4 * LENGTH)) / (LENGTH / 4)
    order = np.fft.rfftfreq(4 * LENGTH, 1 / RATE)[None] / speeds.astype(np.float32)[:, None]
    edges = (np.arange(orders + 1) + 0.5) * 16 / orders
    for row in range(3):
        at = np.searchsorted(order[row], edges)
        expected = [amplitude[row, low : max(high, low + 1)].max() for low, high in pairwise(at.tolist())]
        np.testing.assert_allclose(table[row, :-1], np.log(np.array(expected) + 1e-6)[:-1], atol=1e-4)


def test_an_echo_is_in_the_cepstrum() -> None:
    """x + a x(t − τ) has a at the quefrency τ, less half of a at 2 τ squared: .5 here, of noise of unit power."""
    x = noise(1, 200).astype(np.float64)
    delayed = np.roll(x, 240, axis=1)  # 240 samples are half a revolution at 25 Hz
    table = Cepstrum(speed=25.0)((x + 0.5 * delayed).astype(np.float32), RATE).mean(0)
    columns = [c.name for c in Cepstrum(speed=25.0).columns(LENGTH, RATE)]
    at = int(table.argmax())
    assert float(columns[at].split("_")[1]) == pytest.approx(0.5, abs=0.005)
    assert table[at] == pytest.approx(0.25, abs=0.03)  # an even function: half of a on each side


def test_spectral_kurtosis_of_noise_of_a_tone_and_of_bursts() -> None:
    """0, −1, and what scipy's moments of the same short spectra give."""
    tone = np.sin(2 * np.pi * 3000 * TIME)[None]
    bursts = noise(2) * (np.arange(LENGTH) % 2048 < 200)
    features = SpectralKurtosis()
    names = [c.name for c in features.columns(LENGTH, RATE)]
    at = names.index("kurtosis_3000")
    many = features(noise(3, 100), RATE)
    assert many.mean() == pytest.approx(0, abs=0.05)
    assert features((tone + noise(4, size=0.01)).astype(np.float32), RATE)[0, at] == pytest.approx(-1, abs=0.01)
    _, _, spectra = signal.stft(
        bursts[0] - bursts[0].mean(), RATE, np.hanning(128), 128, 64, boundary=None, padded=False
    )
    power = np.abs(spectra[1:-1]) ** 2
    expected = (power**2).mean(1) / power.mean(1) ** 2 - 2
    np.testing.assert_allclose(features(bursts.astype(np.float32), RATE)[0], expected, rtol=1e-3, atol=1e-3)


def test_the_kurtogram_finds_the_band_of_the_bursts() -> None:
    """Rings at 4,100 Hz, twenty a second, in noise: the best band holds them; in noise alone is none."""
    force = np.zeros((1, LENGTH))
    force[0, ::600] = 1
    ring = np.exp(-600 * TIME[:400]) * np.sin(2 * np.pi * 4100 * TIME[:400])
    x = signal.fftconvolve(force, ring[None], axes=1)[:, :LENGTH] + noise(5, size=0.2)
    found = kurtogram(np.concatenate([x, noise(6)]).astype(np.float32), RATE)
    low, high = found.bands[found.best[0]]
    assert low <= 4100 <= high
    assert 300 <= high - low <= 3000
    assert found.kurtosis[0].max() > 2
    wide = [number for number, (low, high) in enumerate(found.bands) if high - low >= 1000]
    assert np.abs(found.kurtosis[1][wide]).max() < 0.5
    widths = sorted({round(6000 / (high - low)) for low, high in found.bands})
    assert widths == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128]


def test_a_kurtograms_band_against_a_filtered_analytic_signal() -> None:
    x = noise(7) * (1 + 5 * (np.arange(LENGTH) % 1000 < 50))
    found = kurtogram(x.astype(np.float32), RATE)
    spectrum = np.fft.rfft(x[0] - x[0].mean())
    frequency = np.fft.rfftfreq(LENGTH, 1 / RATE)
    for number in (3, 8, 20):
        low, high = found.bands[number]
        passed = np.fft.irfft(spectrum * ((frequency >= low) & (frequency < high)), LENGTH)
        expected = stats.moment(np.abs(signal.hilbert(passed)), 4, center=0)
        expected /= stats.moment(np.abs(signal.hilbert(passed)), 2, center=0) ** 2
        assert found.kurtosis[0, number] == pytest.approx(expected - 2, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("features", ALL, ids=lambda f: f"{type(f).__name__}-{len(f.needs)}")
@pytest.mark.parametrize(
    "broken",
    [
        lambda x: np.zeros_like(x),
        lambda x: np.full_like(x, 0.1),
        lambda x: np.where(np.arange(LENGTH) == 9, np.nan, x),
        lambda x: np.where(np.arange(LENGTH) == 9, np.inf, x),
    ],
    ids=["silence", "constant", "nan", "inf"],
)
def test_a_broken_window_is_nan_and_the_others_stay(
    features: Features, broken: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> None:
    windows = noise(8, 5)
    whole = features(windows, RATE, told(features, 5))
    assert whole.shape == (5, len(features.columns(LENGTH, RATE)))
    assert np.isfinite(whole).all()
    windows[3] = broken(windows[3])
    table = features(windows, RATE, told(features, 5))
    assert np.isnan(table[3]).all()
    np.testing.assert_allclose(np.delete(table, 3, 0), np.delete(whole, 3, 0), atol=1e-3)


@pytest.mark.parametrize("features", [OrderSpectrum(), OrderSpectrum(bands=()), Cepstrum()])
@pytest.mark.parametrize("speed", [np.nan, 0.0, -1.0, np.inf])
def test_an_impossible_speed_makes_nan(features: Features, speed: float) -> None:
    speeds = np.array([[25], [speed]], np.float32)
    table = features(noise(9, 2), RATE, speeds)
    assert np.isnan(table).all(1).tolist() == [False, True]
    with pytest.raises(UserError, match="expected the speed told of each of 2 windows, got nothing"):
        features(noise(9, 2), RATE)


def test_speeds_that_do_not_fit_make_nan() -> None:
    """16 orders of 400 Hz are beyond 6 kHz; 1.2 revolutions of 3 Hz are more than half of 8192 samples."""
    assert np.isnan(OrderSpectrum(bands=(), speed=400.0)(noise(10), RATE)).all()
    assert np.isnan(Cepstrum(speed=3.0)(noise(10), RATE)).all()


def test_what_cannot_work_is_refused() -> None:
    for make, what in (
        (lambda: OrderSpectrum(highest=0), "expected highest above 0"),
        (lambda: OrderSpectrum(speed=-1), "expected the shaft's speed"),
        (lambda: OrderSpectrum(bands=[(3, 2)]), "bands: expected"),
        (lambda: Cepstrum(shortest=2.0), "expected 0 < shortest < longest"),
        (lambda: SpectralKurtosis(7), "an even number"),
        (lambda: SpectralKurtosis(4096).columns(LENGTH, RATE), "at least 16384 samples"),
        (lambda: OrderSpectrum().columns(LENGTH, 8000.0), "name lower bands"),
    ):
        with pytest.raises(UserError, match=what):
            make()


@pytest.mark.parametrize("features", ALL, ids=lambda f: f"{type(f).__name__}-{len(f.needs)}")
def test_described_and_through_polars_they_are_the_same(features: Features) -> None:
    windows = noise(11, 3)
    expected = features(windows, RATE, told(features, 3))
    again = from_description(describe(features))
    np.testing.assert_array_equal(again(windows, RATE, told(features, 3)), expected)
    frame = pl.DataFrame({"window": windows, "speed": [25.0] * 3})
    table = frame.select(features.expr("window", LENGTH, RATE)).unnest("window")
    assert table.columns == [c.name for c in features.columns(LENGTH, RATE)]
    np.testing.assert_array_equal(table.to_numpy(), expected)
