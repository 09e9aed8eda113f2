"""Features of orders in a graph that is exported have the model's numbers, whatever speed and bearing are told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fml_lightning import MLP, Classification, PersonalModel, UserError
from fml_lightning.bearing import Bearing
from fml_lightning.export import export, exporter
from fml_lightning.export.features import module_of
from fml_lightning.export.fourier import Signal, Spectrum
from fml_lightning.export.graph import Graph
from fml_lightning.export.order_bins import largest_of_bins
from fml_lightning.export.pt2_file import OpenedPT2
from fml_lightning.export.trial import trial_of
from fml_lightning.preprocessing import (
    Cepstrum,
    Concat,
    FaultLines,
    Features,
    Moments,
    OrderSpectrum,
    Preprocessing,
    SpectralKurtosis,
    Standardize,
    Statistics,
    Trend,
    Windowing,
)
from fml_lightning.preprocessing.fault_lines import STATISTICS

RATE = 12_000.0
ORDERS = np.float32(list(Bearing.named("6203").inputs.values()))
SPEEDS = np.float32([25, 20, 17.3, 30, 22.2, 12, 33.3, 24.9, np.nan, 0, -25, np.inf, 5000, 0.1, 29.95, 18])
"""Hz; with some of them lines and edges of bins fall on one another, and five are none."""
FEATURES: dict[str, tuple[Features, int, float]] = {
    "lines, all told": (FaultLines(statistics=STATISTICS), 4096, 1e-5),
    "lines, fixed": (FaultLines("6205-2RS", 29.95), 4096, 1e-5),
    "lines, rate of the speed": (FaultLines("6203", bands=((1000.0, 2000.0),)), 6000, 1e-5),
    "lines, odd windows": (FaultLines("6205-2RS", bands=((0.0, 2000.0), (1500.0, 2700.0))), 3375, 1e-5),
    "lines, few": (FaultLines("6203", lines=("2bpfi-x", "x"), statistics=("level",)), 8192, 1e-5),
    "kurtogram": (FaultLines("6205-2RS", bands="kurtogram", statistics=STATISTICS), 4096, 1e-5),
    "orders of envelopes": (OrderSpectrum(), 4096, 5e-5),
    "orders of the signal": (OrderSpectrum(bands=(), speed=25.0), 2500, 5e-5),
    "narrow bins": (OrderSpectrum(bands=(), orders=3000), 2048, 5e-4),
    "cepstrum": (Cepstrum(), 4096, 1e-6),
    "cepstrum of odd windows": (Cepstrum(points=900, speed=25.0), 3375, 1e-6),
    "kurtosis": (SpectralKurtosis(), 4100, 1e-5),
    "trend": (Trend(), 33, 1e-5),
    "side by side": (Concat([Moments(), Cepstrum(), FaultLines(), Trend()]), 4096, 1e-5),
}
"""With the length of a window, and how far the model's own rounding to single precision may take logs."""


def windows_of(length: int) -> NDArray[np.float32]:
    """Noise, shocks, a tone in noise, a walk, and what has no spectrum: 16 windows."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, length))
    x[1] = 0.1 * x[1] + 5 * (rng.random(length) < 0.01)
    x[2] = np.sin(0.9 * np.arange(length)) + 0.3 * x[2]
    x[3] = np.cumsum(x[3]) / np.sqrt(length) + 0.05 * x[4]
    x[5:8] *= np.array([[1e-3], [30], [1e3]])
    x[14], x[15] = 0, 3
    return x.astype(np.float32)


def told_of(features: Features, count: int = 16) -> NDArray[np.float32] | None:
    if not features.needs:
        return None
    columns = {"speed": np.resize(SPEEDS, count)}
    for name, order in zip(("bpfo", "bpfi", "bsf", "ftf"), ORDERS, strict=True):
        columns[name] = np.full(count, order)
    columns["bsf"][7] = np.nan
    columns["ftf"][6] = 0
    return np.stack([columns[name] for name in features.needs], 1)


@pytest.mark.parametrize("name", FEATURES)
def test_features_are_the_models(name: str) -> None:
    """Whatever is told, however loud; what is not known to one is not known to the other."""
    features, length, tolerance = FEATURES[name]
    x, told = windows_of(length), told_of(features)
    with np.errstate(all="ignore"):
        expected = features._of_one(x, RATE, told)
    module = module_of(features, length, RATE)
    with torch.no_grad():
        got = (
            module(torch.from_numpy(x), torch.from_numpy(told))
            if told is not None
            else module(torch.from_numpy(x))
        )
    found = got.numpy()
    unknown = np.isnan(expected).any(1)
    np.testing.assert_array_equal(np.isnan(found).any(1), unknown)
    assert (~unknown).sum() >= 6
    np.testing.assert_allclose(found[~unknown], expected[~unknown], rtol=tolerance, atol=tolerance)


def test_samples_that_are_infinite_as_powers_are_known_to_neither() -> None:
    features = FaultLines("6205-2RS", 25.0)
    x = windows_of(4096)[:2] * np.float32(1e25)
    with np.errstate(all="ignore"):
        assert np.isnan(features(x, RATE)).all()
    with torch.no_grad():
        assert module_of(features, 4096, RATE)(torch.from_numpy(x)).isnan().all()


@pytest.mark.parametrize(("length", "held"), [(2048, 2048), (2560, 1000), (13, 13), (45, 40)])
def test_transforms_are_numpys(length: int, held: int) -> None:
    """Of even and odd lengths, a prime, and samples with zeros behind; lines before the first, and beyond half."""
    x = np.random.default_rng(length).normal(size=(3, held))
    full = np.fft.fft(x, length)
    lines = range(-4, length // 2 + 3)
    real, imaginary = Spectrum(length, lines, held)(torch.from_numpy(x))
    np.testing.assert_allclose(real + 1j * imaginary, full[:, np.array(lines) % length], atol=1e-10)
    first = full[:, : held // 2].copy()
    real, imaginary = Signal(length, held // 2)(torch.from_numpy(first.real), torch.from_numpy(first.imag))
    np.testing.assert_allclose(real + 1j * imaginary, np.fft.ifft(first, length), atol=1e-10)


def test_a_bin_has_its_largest_value_and_a_narrow_one_the_next() -> None:
    """Bins from 1 to 3, from 3 to 3, and from 3 to 5, which has the last border too: of 4, 1, 2, 9, 0, 7."""
    values = torch.tensor([[[4.0, 1, 2, 9, 0, 7]]])
    found = largest_of_bins(values, torch.tensor([[1.0, 3, 3, 5]]), widest=2)
    assert found.tolist() == [[[2.0, 9.0, 9.0]]]


def model_of(preprocessing: Preprocessing, told: dict[str, float], net: nn.Module | None = None) -> PersonalModel:
    """A network on features that are standardized, with a normal class and its threshold."""
    torch.manual_seed(0)
    length = preprocessing.windowing_at(RATE).length
    channels = len(preprocessing.channels) or 1
    x = np.random.default_rng(1).normal(size=(24, channels, length)).astype(np.float32)
    known = {"speed": 25.0, "load": 2.0} | dict(zip(("bpfo", "bpfi", "bsf", "ftf"), ORDERS.tolist(), strict=True))
    rows = np.float32([[known[name] for name in preprocessing.needs]] * 24)
    seen = preprocessing(x, RATE, rows)
    statistics = Statistics([seen.mean(0).tolist()], [np.maximum(seen.std(0), 0.1).tolist()])
    preprocessing = replace(preprocessing, standardize=Standardize(statistics=statistics))
    return PersonalModel(
        net or MLP(seen.shape[1], 4, (16,)),
        Classification(normal=0),
        torch.zeros(seen.shape[1]),
        torch.tensor(0.5),
        ("normal", "ball", "inner", "outer"),
        preprocessing=preprocessing,
        told=told,
    )


LINES = Preprocessing(Windowing(4096), FaultLines(statistics=STATISTICS), sample_rate=RATE, unit="g")
TWO = Preprocessing(
    Windowing(4096),
    Concat([Cepstrum(), FaultLines("6203"), Moments()]),
    ("x", "y"),
    sample_rate=RATE,
    inputs=("load", "speed"),
)
MODELS: dict[str, tuple[Preprocessing, dict[str, float], tuple[str, ...]]] = {
    "all told": (LINES, {}, ("speed", "bpfo", "bpfi", "bsf", "ftf")),
    "a nameplate's bearing": (
        LINES,
        dict(zip(("bpfo", "bpfi", "bsf", "ftf"), ORDERS.tolist(), strict=True)),
        ("speed",),
    ),
    "a nameplate's speed": (LINES, {"speed": 25.0}, ("bpfo", "bpfi", "bsf", "ftf")),
    "two channels, and the speed an input too": (TWO, {}, ("speed", "load")),
    "orders": (replace(LINES, features=OrderSpectrum()), {}, ("speed",)),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_graph_says_what_the_model_says(name: str) -> None:
    """On all that a file is tried on, with what is told as an input or from the nameplate."""
    preprocessing, nameplate, told = MODELS[name]
    model = model_of(preprocessing, nameplate)
    graph = Graph(model)
    assert graph.told == told
    trial = trial_of(model, graph)
    assert trial.told is not None
    expected = exporter._said_by(model, graph, trial)
    silent = np.array([kind in ("silence", "a constant") for kind in trial.kinds])
    broken = ~np.isfinite(trial.windows).all((1, 2))
    assert np.isfinite(expected[0][~broken & ~silent]).all()
    with torch.no_grad():
        said = graph(torch.from_numpy(trial.windows), torch.from_numpy(trial.told))
    for got, wanted in zip(said, expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


def read(model: PersonalModel, windows: Tensor, speeds: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    with np.errstate(all="ignore"):
        reading = model.reading(windows, told={"speed": speeds})
    return reading.outputs, reading.score


@pytest.mark.long
@pytest.mark.parametrize("format", ["pt2", "onnx"])
def test_a_file_of_fault_lines_takes_the_speed_of_each_window(format: exporter.Format, tmp_path: Path) -> None:
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    nameplate = MODELS["a nameplate's bearing"][1]
    bands = ((1000.0, 3000.0),)
    model = model_of(replace(LINES, features=FaultLines(bands=bands, statistics=STATISTICS)), nameplate)
    metadata = export(model, tmp_path / "pump", format)
    assert metadata.told == ("speed",)
    assert metadata.nameplate == pytest.approx(nameplate)
    content = (tmp_path / "pump").read_bytes()
    if format == "onnx":
        from fml_lightning.export.onnx_file import OpenedONNX

        opened: OpenedONNX | OpenedPT2 = OpenedONNX(content)
    else:
        opened = OpenedPT2(content)
    x = windows_of(4096)[:, None]
    for count in (1, 16):
        said = opened(x[:count], SPEEDS[:count, None])
        for got, wanted in zip(said, read(model, torch.from_numpy(x[:count]), SPEEDS[:count]), strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert np.isnan(said[1]).sum() == 8  # six speeds that are none, and two windows of silence


def test_a_model_that_says_nothing_is_not_exported(tmp_path: Path) -> None:
    """Its nameplate tells a speed of which no window of that length can say anything."""
    model = model_of(LINES, MODELS["a nameplate's bearing"][1] | {"speed": 4000.0})
    with pytest.raises(UserError, match=r"^export: the model says NaN of every window that it is tried on"):
        export(model, tmp_path / "pump.pt2", "pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "features", [FaultLines(statistics=STATISTICS), FaultLines(bands="kurtogram"), OrderSpectrum(), Cepstrum()]
)
def test_real_windows_of_bearings_are_the_models(features: Features, cwru_root: str) -> None:
    """Of a machine without a fault and one of each kind: features, and what a network says of them."""
    preprocessing = Preprocessing(Windowing(8192), features, sample_rate=RATE)
    model = model_of(preprocessing, {})
    graph = Graph(model)
    manifest = pl.read_csv(Path(cwru_root) / "cwru" / "manifest.csv")
    for file in (
        "normal12/L0_normal.parquet",
        "de12/L1_IR_07.parquet",
        "de12/L0_B_14.parquet",
        "de12/L2_ORat6_21.parquet",
    ):
        row = manifest.row(by_predicate=pl.col("file") == file, named=True)
        signal = pl.read_parquet(Path(cwru_root) / "cwru" / file)["DE"].to_numpy().astype(np.float32)
        windows = torch.from_numpy(signal[: 7 * 8192].reshape(7, 1, 8192).copy())
        known = {"speed": (row["rpm_measured"] or row["rpm_nominal"]) / 60} | Bearing.named("6205").inputs
        told = {name: known[name] for name in features.needs}
        reading = model.reading(windows, told=told)
        with torch.no_grad():
            outputs, score = graph(windows, torch.tensor([list(told.values())]).expand(7, -1))
        assert outputs.isfinite().all()
        np.testing.assert_allclose(outputs, reading.outputs, atol=1e-5)
        np.testing.assert_allclose(score, reading.score, atol=1e-5)
