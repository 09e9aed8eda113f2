"""Exported models say what the personal model says, wherever they run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fml_lightning import MLP, Classification, PersonalModel, UserError
from fml_lightning.commands.export import run
from fml_lightning.export import export, exporter, onnx_file
from fml_lightning.export.graph import Graph
from fml_lightning.export.onnx_file import OpenedONNX
from fml_lightning.personal.card import Card
from fml_lightning.personal.registry import CARD, Registry, digest
from fml_lightning.preprocessing import Features, LogBandPowers, Preprocessing, RawWindows, TimeDomain, Windowing
from tests.test_registry import card

pytest.importorskip("onnxruntime")
GATEWAY = Path(__file__).parent.parent / "docs" / "gateway.md"
CLASSES = ("normal", "ball", "inner", "outer")


def noise(count: int, *shape: int, seed: int = 1) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def band_power_model(length: int = 256, bands: int = 16) -> PersonalModel:
    """A network with dropout on log band powers of one channel, with a normal class and its threshold."""
    torch.manual_seed(0)
    preprocessing = Preprocessing(
        Windowing(length, length), LogBandPowers(bands), sample_rate=12_000.0, unit="g", resample=True
    )
    centre = torch.from_numpy(preprocessing(noise(9, 1, length).numpy(), 12_000.0)).mean(0)
    net = MLP(bands, len(CLASSES), (8,), dropout=0.1)
    return PersonalModel(
        net,
        Classification(normal=0),
        centre,
        torch.tensor(1.0),
        CLASSES,
        preprocessing=preprocessing,
        site="plant1",
        machine="pump 3",
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose registry has one machine, exported as ONNX."""
    folder = tmp_path_factory.mktemp("run")
    Registry(folder / "machines").add(band_power_model(), card("plant1", "pump 3"))
    assert run([str(folder), "--machine", "pump 3", "--format", "onnx"]) == 0
    return folder


@pytest.fixture(scope="module")
def onnx(exported: Path) -> Path:
    return exported / "exported" / "plant1" / "pump%203.onnx"


def test_the_file_says_what_the_model_says(onnx: Path) -> None:
    model, opened = band_power_model(), OpenedONNX(onnx.read_bytes())
    for count in (1, 2, 5):
        windows = noise(count, 1, 256, seed=count)
        outputs, score = opened(windows.numpy(), None)
        reading = model.reading(windows)
        np.testing.assert_allclose(outputs, reading.outputs, atol=1e-5)
        np.testing.assert_allclose(score, reading.score, atol=1e-5)


def test_silence_is_a_number_and_a_broken_window_is_none(onnx: Path) -> None:
    """The exporter's optimizer takes 1e-12 for 0, and a runtime's ReLU may take a NaN for 0."""
    windows = np.zeros((5, 1, 256), np.float32)
    windows[1, 0, 0] = np.nan
    windows[2, 0, 255] = np.inf
    windows[3] = 1e30  # its powers are infinite
    windows[3, 0, ::2] = -1e30
    windows[4] = noise(1, 256).clip(-0.3, 0.3).numpy()
    outputs, score = OpenedONNX(onnx.read_bytes())(windows, None)
    model = band_power_model()
    with np.errstate(all="ignore"):
        reading = model.reading(windows)
    np.testing.assert_array_equal(np.isnan(score), [False, True, True, True, False])
    np.testing.assert_allclose(outputs, reading.outputs, atol=1e-5)
    np.testing.assert_allclose(score, reading.score, atol=1e-5)


class Bounded(nn.Module):
    """A network that makes a sure class of any number, of an infinity and of a NaN too."""

    def __init__(self, features: int = 8) -> None:
        super().__init__()
        self.features = features
        self.layer = nn.Linear(features, 2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(x.nan_to_num().clamp(-9, 9))
        return output


@pytest.mark.parametrize("features", [RawWindows(), LogBandPowers(8), TimeDomain()])
def test_a_window_that_holds_no_numbers_is_unknown_to_the_model_and_to_its_files(features: Features) -> None:
    """Whatever its network makes of it: a dead sensor is neither normal nor a fault."""
    preprocessing = Preprocessing(Windowing(32), features, sample_rate=1000.0)
    width = len(features.columns(32, 1000.0))
    model = PersonalModel(
        Bounded(width), Classification(), torch.zeros(width), None, ("normal", "worn"), preprocessing=preprocessing
    )
    windows = np.repeat(noise(1, 1, 32).numpy(), 4, 0)
    windows[1, 0, 3] = np.nan
    windows[2, 0, 30] = -np.inf
    with np.errstate(all="ignore"):
        reading = model.reading(windows)
        said = model.predict(windows)
    is_known = [True, False, False, True]
    assert reading.score.isfinite().tolist() == is_known
    assert said.isfinite().all(1).tolist() == is_known
    assert [bool(label) for label in reading.label] == is_known
    with torch.no_grad():
        outputs, score = Graph(model)(torch.from_numpy(windows))
    np.testing.assert_allclose(outputs, said, atol=1e-5)
    np.testing.assert_allclose(score, reading.score, atol=1e-5)


def test_the_file_tells_whose_model_it_is_and_not_where_it_was_made(onnx: Path, exported: Path) -> None:
    content = onnx.read_bytes()
    told = json.loads(OpenedONNX(content).metadata)
    version = Registry(exported / "machines").current("plant1", "pump 3")
    assert version is not None
    expected: dict[str, Any] = {
        "site": "plant1",
        "machine": "pump 3",
        "version": "v1",
        "objective": "Classification",
        "outputs": "probabilities",
        "classes": list(CLASSES),
        "normal": "normal",
        "threshold": 0.5,
        "sample_rate": 12_000.0,
        "unit": "g",
        "channels": [],
        "window_shape": [1, 256],
        "window_length": 256,
        "told": [],
        "resample": True,
        "format": 1,
        "card_sha256": digest(version.folder / CARD),
        "model_sha256": Card.read(version.folder / CARD).sha256,
    }
    assert {name: told[name] for name in expected} == expected
    assert b"site-packages" not in content
    assert str(Path(__file__).parent.parent).encode() not in content


def scored_by_the_script_of_the_docs(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What the script says, in a process that has no torch."""
    (script,) = re.findall(r"```python\n(.*?)```", GATEWAY.read_text(), re.DOTALL)
    assert len(script.splitlines()) <= 20
    (folder / "score.py").write_text(script)
    blocked = (
        "import runpy, sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'fml_lightning', 'onnx')))\n"  # None: no module of that name
        "runpy.run_path(sys.argv.pop(1), run_name='__main__')\n"
    )
    return subprocess.run(
        [sys.executable, "-c", blocked, "score.py", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_script_of_the_docs_runs_without_torch(onnx: Path, tmp_path: Path) -> None:
    windows = noise(3, 1, 256).numpy()
    windows[1, 0, 9] = np.nan
    np.save(tmp_path / "windows.npy", windows)
    done = scored_by_the_script_of_the_docs(tmp_path, str(onnx), "windows.npy")
    assert done.returncode == 0, done.stderr
    reading = band_power_model().reading(windows[[0, 2]])
    title, *lines = done.stdout.splitlines()
    assert title == "plant1/pump 3 v1, 12000.0 Hz, g"
    assert lines.pop(1) == "unknown nan "
    for line, label, score in zip(lines, reading.label, reading.score.tolist(), strict=True):
        said, number, *alarm = line.split()
        assert (said, float(number)) == (label, pytest.approx(score, abs=1e-5))
        assert alarm == (["alarm"] if score > 0.5 else [])


def test_the_script_of_the_docs_takes_what_is_told_of_windows(tmp_path: Path) -> None:
    model = band_power_model()
    assert model.preprocessing is not None
    model.preprocessing = replace(model.preprocessing, inputs=("speed",))
    model.net, model.centre = MLP(17, len(CLASSES), (8,)), torch.zeros(17)
    export(model, tmp_path / "m.onnx", "onnx")
    windows, told = noise(3, 1, 256).numpy(), np.float32([[10], [20], [30]])
    np.save(tmp_path / "windows.npy", windows)
    np.save(tmp_path / "told.npy", told)
    done = scored_by_the_script_of_the_docs(tmp_path, "m.onnx", "windows.npy")
    assert "here that is ['speed']" in done.stderr
    done = scored_by_the_script_of_the_docs(tmp_path, "m.onnx", "windows.npy", "told.npy")
    assert done.returncode == 0, done.stderr
    expected = model.reading(windows, told=told).score
    found = [float(line.split()[1]) for line in done.stdout.splitlines()[1:]]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_all_machines_are_exported_but_those_that_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that cannot be are named, each in a sentence, and the status says that there are some."""
    monkeypatch.setattr(exporter, "_tried", lambda *_: b"whole")
    registry = Registry(tmp_path / "machines")
    registry.add(band_power_model(), card("plant1", "pump"))
    registry.add(band_power_model(), card("plant2", "pump"))
    registry.add(band_power_model(), card("plant2", "fan", "refused"))
    registry.add(band_power_model(length=2 * 1021, bands=1021), card("plant2", "mill"))
    (registry.add(band_power_model(), card("plant2", "saw")).folder / "card.json").unlink()
    arguments = [str(tmp_path), "--format", "pt2", "--output", str(tmp_path / "out")]
    assert run([*arguments, "--machine", "all"]) == 1
    said = capsys.readouterr()
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    assert written == {"plant1/pump.pt2", "plant2/pump.pt2"}
    assert said.out.count(" v1: wrote ") == said.out.count("windows must be at 12000 Hz: resampling is not") == 2
    assert "fml: error: plant2/fan: there is no current model" in said.err
    assert "fml: error: plant2/mill: export: expected windows of a length that is a product" in said.err
    assert f"fml: error: {registry.folder}/plant2/saw: the card of none of its models can be read" in said.err
    with pytest.raises(UserError, match="plant2/fan: there is no current model"):
        run([*arguments, "--machine", "fan"])
    with pytest.raises(UserError, match="2 sites have one; say which: plant1/pump, plant2/pump"):
        run([*arguments, "--machine", "pump"])
    assert run([*arguments, "--machine", "plant2/pump"]) == 0
    with pytest.raises(UserError, match="there are no models of machines; make them with fml personalize"):
        run([str(tmp_path / "out"), "--machine", "all", "--format", "pt2"])


def test_a_file_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pump.pt2").write_bytes(b"the one before")
    monkeypatch.setattr(exporter, "_tried", lambda *_: b"whole")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fml_lightning.durable.os.fsync", full)
    with pytest.raises(UserError, match=r"pump\.pt2 cannot be written: No space left on device"):
        exporter.export(band_power_model(), tmp_path / "pump.pt2", "pt2")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"the one before"]


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None if name != "onnx" else object())
    with pytest.raises(UserError, match=r"onnxscript, onnxruntime; pip install 'fml-lightning\[export\]'"):
        exporter.export(band_power_model(), tmp_path / "pump.onnx", "onnx")
