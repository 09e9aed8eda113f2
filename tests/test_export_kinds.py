"""Every kind of learner, features and objective: a graph, and a file of it, say what the personal model says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fml_lightning import (
    MAML,
    MLP,
    Classification,
    Conv1d,
    Episode,
    Examples,
    FedAvg,
    FedBN,
    InnerLoop,
    Learner,
    NextTokenGRU,
    NormalDistance,
    PersonalModel,
    Prototypical,
    Reconstruction,
    RemainingUsefulLife,
    UserError,
    personalize,
)
from fml_lightning.export import Format, export
from fml_lightning.export.exporter import _said_by
from fml_lightning.export.graph import Graph
from fml_lightning.export.onnx_file import OpenedONNX
from fml_lightning.export.power_spectrum import PowerSpectrum
from fml_lightning.export.pt2_file import OpenedPT2
from fml_lightning.export.trial import trial_of
from fml_lightning.preprocessing import (
    Concat,
    FaultLines,
    LogBandPowers,
    Moments,
    Preprocessing,
    RawWindows,
    ShaftSpeed,
    Standardize,
    Statistics,
    TimeDomain,
    Windowing,
)

pytest.importorskip("onnxruntime")
RATE = 1000.0
CLASSES = ("normal", "worn", "broken")
LOOP = InnerLoop(lr=0.05, steps=2)
BANDS = Preprocessing(Windowing(32), LogBandPowers(8), sample_rate=RATE)
SAMPLES = Preprocessing(Windowing(8), RawWindows(), sample_rate=RATE)


def windows_of(preprocessing: Preprocessing, count: int = 24, seed: int = 0) -> Tensor:
    """Raw noise that grows louder from window to window, of channels that differ."""
    channels = len(preprocessing.channels) or 1
    length = preprocessing.windowing_at(RATE).length
    rng = np.random.default_rng(seed)
    loud = np.linspace(0.5, 2, count)[:, None, None]
    noise = loud * rng.normal(size=(count, channels, length)) + np.arange(channels)[:, None]
    return torch.from_numpy(noise.astype(np.float32))


def personal(
    learner: Learner, preprocessing: Preprocessing, told: Mapping[str, float] | None = None
) -> PersonalModel:
    """What personalization makes of a learner for a machine whose windows are noise of three loudnesses."""
    windows = preprocessing.standardized(windows_of(preprocessing).numpy())
    needs = preprocessing.needs
    rows = np.tile(np.float32([(told or {}).get(name, 20.0) for name in needs]), (24, 1)) if needs else None
    x = torch.from_numpy(preprocessing(windows, RATE, rows))[None]
    if isinstance(learner.objective, Classification):
        y = torch.arange(24)[None] // 8 if isinstance(learner, Prototypical) else torch.arange(24)[None] % 2
    else:
        y = torch.arange(24.0)[None] if isinstance(learner.objective, RemainingUsefulLife) else torch.zeros(1, 24)
    centre = x.mean(1)
    x = x - centre[:, None]
    order = torch.arange(24).reshape(3, 8).T.reshape(-1)
    support, query = order[:12], order[12:]
    episode = Episode(
        Examples(x[:, support], y[:, support].to(y.dtype)), Examples(x[:, query], y[:, query]), ("pump",), centre
    )
    result = personalize(learner, episode, CLASSES, preprocessing=preprocessing, told=dict(told or {}))
    return result.model


def test_the_power_spectrum_is_numpys() -> None:
    """Of even and odd lengths, primes, and lengths that are no power of two."""
    for length in (2, 13, 30, 45, 64, 250):
        x = np.random.default_rng(length).normal(size=(3, length)).astype(np.float32)
        lines = length // 2
        expected = np.abs(np.fft.rfft(x.astype(np.float64)))[:, 1 : lines + 1] ** 2
        got = PowerSpectrum(length, lines)(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


CHANNELS = Statistics([[0.2, 1.0], [0.5, 1.5]], [[1.0, 2.0], [0.5, 1.0]], [1.0])
"""Of two channels under two conditions."""
PREPROCESSINGS: dict[str, Preprocessing] = {
    "2,048 samples": Preprocessing(Windowing(2048), LogBandPowers(128), sample_rate=12_000.0),
    "2,560 samples, two channels": Preprocessing(
        Windowing(2560), LogBandPowers(64), ("x", "y"), sample_rate=25_600.0
    ),
    "seconds": Preprocessing(Windowing(seconds=0.1), LogBandPowers(10), sample_rate=RATE),
    "time domain": Preprocessing(Windowing(500), TimeDomain(), ("x", "y"), sample_rate=RATE),
    "moments": Preprocessing(Windowing(7), Moments(), sample_rate=RATE),
    "side by side": Preprocessing(
        Windowing(64), Concat([Moments(), LogBandPowers(8), RawWindows()]), ("x", "y"), sample_rate=RATE
    ),
    "raw": Preprocessing(Windowing(64), RawWindows(), sample_rate=RATE),
    "standardized channels of two conditions": Preprocessing(
        Windowing(64),
        LogBandPowers(8),
        ("x", "load", "y"),
        sample_rate=RATE,
        standardize=Standardize("channels", "load", statistics=CHANNELS),
    ),
    "standardized features and inputs": Preprocessing(
        Windowing(64),
        Moments(),
        ("x", "y"),
        sample_rate=RATE,
        inputs=("speed", "load", "heat"),
        standardize=Standardize(
            condition="load",
            statistics=Statistics(
                [[0, 1, 0, 1, 20, 3], [1, 1, 1, 1, 30, 2]], [[1, 1, 1, 1, 5, 2], [2, 1, 2, 1, 9, 1]], [20.0]
            ),
        ),
    ),
    "rows": Preprocessing(
        None,
        RawWindows(),
        ("x", "load", "y"),
        standardize=Standardize(condition="load", statistics=CHANNELS),
    ),
}


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_the_graph_sees_windows_as_the_model_does(name: str) -> None:
    """On all that a file is tried on, alone and together."""
    torch.manual_seed(0)
    preprocessing = PREPROCESSINGS[name]
    told = {"heat": 3.0}.items() & dict.fromkeys(preprocessing.inputs, 3.0).items()
    windows = windows_of(preprocessing)
    rows = np.float32([[20.0] * len(preprocessing.inputs)] * 24) if preprocessing.inputs else None
    features = torch.from_numpy(
        preprocessing(preprocessing.standardized(windows.numpy()), preprocessing.sample_rate or 1.0, rows)
    )
    net = MLP(features.shape[1], 3, (8,))
    model = PersonalModel(
        net, Classification(), features.mean(0), None, CLASSES, preprocessing=preprocessing, told=dict(told)
    )
    graph = Graph(model)
    trial = trial_of(model, graph)
    assert len(set(trial.kinds)) == 10
    expected = _said_by(model, graph, trial)
    for part in trial.parts():
        rows = None if trial.told is None else torch.from_numpy(trial.told[part])
        with torch.no_grad():
            outputs, score = graph(torch.from_numpy(trial.windows[part]), rows)
        for got, wanted in zip((outputs, score), expected, strict=True):
            np.testing.assert_allclose(got, wanted[part], atol=1e-5)
    broken = ~np.isfinite(trial.windows).all((1, 2))
    assert np.isnan(expected[1][broken]).all()
    assert np.isfinite(expected[0][~broken]).mean() > 0.8


def normed() -> nn.Module:
    """A network whose running statistics are somebody's."""
    net = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.ReLU(), nn.Linear(6, 3))
    net(torch.randn(64, 8) * 2 + 1)
    return net


@dataclass(frozen=True)
class Kind:
    """A learner, what it sees, and the format in which it is tried: ONNX takes seconds."""

    learner: Callable[[], Learner]
    format: Format = "pt2"
    preprocessing: Preprocessing = SAMPLES
    told: Mapping[str, float] = field(default_factory=dict)


TOLD = Preprocessing(
    Windowing(32),
    TimeDomain(),
    sample_rate=RATE,
    inputs=("heat", "speed"),
    standardize=Standardize(statistics=Statistics([[0.0] * 16 + [3, 20]], [[1.0] * 15 + [100, 1, 5]])),
)
KINDS: dict[str, Kind] = {
    "BatchNorm, batch": Kind(lambda: MAML(normed(), inner_loop=LOOP, batch_norm="batch")),
    "BatchNorm, frozen": Kind(lambda: MAML(normed(), inner_loop=LOOP, batch_norm="frozen")),
    "BatchNorm, personal": Kind(lambda: FedBN(normed(), adaptation=LOOP)),
    "prototypes": Kind(lambda: Prototypical(normed(), ways=3, batch_norm="batch"), "onnx"),
    "normal distance": Kind(lambda: NormalDistance(8)),
    "reconstruction": Kind(
        lambda: FedAvg(
            nn.Sequential(nn.Linear(16, 3), nn.Tanh(), nn.Linear(3, 16)), Reconstruction(), adaptation=LOOP
        ),
        "onnx",
        PREPROCESSINGS["standardized channels of two conditions"],
    ),
    "remaining life": Kind(
        lambda: FedAvg(MLP(18, 1, (8,)), RemainingUsefulLife(cap=20.0), adaptation=LOOP),
        "onnx",
        TOLD,
        {"heat": 4.0},
    ),
    "raw windows": Kind(
        lambda: MAML(Conv1d(2, 2, (4, 4)), Classification(normal=0), inner_loop=LOOP),
        preprocessing=Preprocessing(Windowing(32), RawWindows(), ("x", "y"), sample_rate=RATE),
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_says_what_the_model_says(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    kind = KINDS[name]
    model = personal(kind.learner(), kind.preprocessing, kind.told)
    path = tmp_path / "plant" / f"pump.{kind.format}"
    metadata = export(model, path, kind.format)
    content = path.read_bytes()
    opened = OpenedONNX(content) if kind.format == "onnx" else OpenedPT2(content)
    about = json.loads(opened.metadata)
    assert about["objective"] == type(model.objective).__name__
    assert (about["outputs"] == "probabilities") == isinstance(model.objective, Classification)
    assert str(Path(__file__).parent.parent).encode() not in content
    windows = windows_of(kind.preprocessing, 5, seed=1)
    told = np.float32([[15], [18], [21], [24], [27]]) if metadata.told else None
    reading = model.reading(windows, told={"speed": told[:, 0]} if told is not None else None)
    for count in (1, 2, 5):
        outputs, score = opened(windows[:count].numpy(), None if told is None else told[:count])
        np.testing.assert_allclose(outputs, reading.outputs[:count], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(score, reading.score[:count], rtol=1e-5, atol=1e-5)
    assert (metadata.threshold is None) == bool(reading.score.isnan().all())
    assert metadata.told == (("speed",) if name == "remaining life" else ())


def unexported(preprocessing: Preprocessing, net: nn.Module | None = None) -> PersonalModel:
    return PersonalModel(
        net or nn.Linear(8, 3), Classification(), torch.zeros(8), None, CLASSES, preprocessing=preprocessing
    )


class Louder(LogBandPowers):
    """Features of a user's."""


class Judging(nn.Module):
    """A network that looks at numbers to decide what to compute."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :3] if x.sum() > 0 else x[:, 3:6]


class Lying(nn.Module):
    """A network that says something else where it is traced."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :3] * (1.001 if torch.compiler.is_compiling() else 1)


def test_an_export_that_is_interrupted_is_no_fault_of_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise RuntimeError("empty_strided(): KeyboardInterrupt: <EMPTY MESSAGE>")  # as torch's C++ tells it

    monkeypatch.setattr(torch.export, "export", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(unexported(BANDS), tmp_path / "pump.pt2", "pt2")


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (
            unexported(replace(BANDS, features=Louder(8))),
            "the features Louder cannot be exported, only RawWindows, LogBandPowers,",
        ),
        (
            unexported(replace(BANDS, features=Concat([Moments(), Louder(8)]))),
            "the features Louder cannot be exported",
        ),
        (
            unexported(replace(BANDS, features=FaultLines(bands=((100.0, 400.0),)), shaft_speed=ShaftSpeed())),
            "shaft_speed, which looks for the speed in the signal, cannot be exported",
        ),
        (
            unexported(replace(BANDS, windowing=Windowing(2 * 1021), features=LogBandPowers(1021))),
            "got 2042 = 2 · 1021 samples",
        ),
        (unexported(replace(BANDS, sample_rate=None)), "expected a model that knows its sample rate"),
        (unexported(BANDS, Judging()), "the network Judging cannot be exported as pt2: Could not guard on data"),
        (unexported(BANDS, Lying()), "differs from its model by .* on .*, more than 1e-05: nothing is written"),
        (unexported(BANDS, NextTokenGRU()), "the network NextTokenGRU cannot be tried on noise"),
    ],
    ids=[
        "own features",
        "in Concat",
        "shaft speed",
        "prime length",
        "no rate",
        "control flow",
        "difference",
        "tokens",
    ],
)
def test_what_cannot_be_exported_is_said_in_a_sentence(model: PersonalModel, why: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^export: .*{why}") as refused:
        export(model, tmp_path / "pump.pt2", "pt2")
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())
