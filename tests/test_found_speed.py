"""The speed that is found in a machine's signal, in place of the told one: in recordings, files and YAML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonargparse import ArgumentParser
from numpy.typing import NDArray

from fml_lightning.bearing import Bearing
from fml_lightning.datamodules import Recording
from fml_lightning.datamodules.fleet import Fleet
from fml_lightning.datamodules.machine_windows import cut_machines, early_sums
from fml_lightning.datamodules.spool.stream import SpoolStream
from fml_lightning.errors import UserError
from fml_lightning.preprocessing import (
    Column,
    Concat,
    FaultLines,
    Features,
    LogBandPowers,
    Preprocessing,
    RawWindows,
    ShaftSpeed,
    Standardize,
)

RATE = 12_000.0
TOLD = 29.2
"""Hz, the nameplate's; machines here turn 4 % slower."""
TRUE = 0.96 * TOLD
BEARING = Bearing.named("6205")
LINES = Preprocessing(
    features=FaultLines("6205", lines=("3bpfo", "3bpfi"), statistics=()), shaft_speed=ShaftSpeed()
)


class Told(Features):
    """What is told, as features."""

    needs = ("speed",)

    def columns(self, length: int, sample_rate: float) -> list[Column]:
        return [Column("speed", "Hz")]

    def __call__(
        self, windows: NDArray[np.float32], sample_rate: float, told: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        assert told is not None
        return told


def machine(speed: float = TRUE, seconds: float = 12.0, bpfo: float = 0.0) -> NDArray[np.float32]:
    """Forty harmonics of a shaft in noise, and strikes at `bpfo` orders that ring at 2,750 Hz."""
    rng = np.random.default_rng(0)
    time = np.arange(int(seconds * RATE)) / RATE
    phases = rng.uniform(0, 2 * np.pi, 40)
    x = sum(np.sin(2 * np.pi * h * speed * time + phases[h - 1]) / np.sqrt(h) for h in range(1, 41))
    noisy = 0.2 * np.asarray(x) + 0.3 * rng.normal(size=len(time))
    if bpfo:
        since = time % (1 / (bpfo * speed))
        noisy += 2.0 * np.exp(-since * 600) * np.sin(2 * np.pi * 2750 * since)
    return np.asarray(noisy, np.float32)


def recording(values: NDArray[np.float32], speed: float = TOLD, **of: Any) -> Recording:
    return Recording("m1", "any", 0, RATE, values, inputs={"speed": speed, **BEARING.inputs}, source="a.npy", **of)


def test_a_speed_4_percent_off_the_nameplate_is_found_and_used() -> None:
    """On both sides of the split, each by its own samples; the speed seen beside the features is that one too."""
    values = np.concatenate([machine(TRUE), machine(1.03 * TOLD)])
    preprocessing = Preprocessing(features=Told(), inputs=("speed",), shaft_speed=ShaftSpeed())
    (found,) = cut_machines([recording(values)], preprocessing, 0.5)
    for side, speed in ((found.early, TRUE), (found.late, 1.03 * TOLD)):
        assert side.x.shape[1] == 2
        np.testing.assert_allclose(side.x, speed, rtol=1e-3)


def test_fault_lines_are_found_where_the_nameplate_alone_misses_them() -> None:
    """The third harmonic of an outer race's line: 4 % off it is 12 Hz away, and lines are searched within 5 Hz."""
    faulty = recording(machine(bpfo=BEARING.bpfo))
    (with_it,), (without,) = (
        cut_machines([faulty], Preprocessing(features=LINES.features, shaft_speed=each), 0.5)
        for each in (ShaftSpeed(), None)
    )
    names = [column.name for column in LINES.features.columns(8192, RATE)]
    outer, inner = (names.index(f"{line}_2000_3500") for line in ("3bpfo", "3bpfi"))
    for side, missed in ((with_it.early, without.early), (with_it.late, without.late)):
        assert side.x[:, outer].min() > side.x[:, inner].max() + 0.5
        assert side.x[:, outer].min() > missed.x[:, outer].max() + 0.5


@pytest.mark.parametrize(
    ("values", "told", "reason"),
    [
        (np.random.default_rng(3).normal(size=144_000), TOLD, "(no harmonics|lowest harmonics|more than 8%)"),
        (machine(1.2 * TOLD), TOLD, "its harmonics name 35.04 Hz, more than 8% off the nominal 29.2 Hz"),
        (machine(seconds=2.0), TOLD, "29 revolutions are too few"),
        (machine(), 0.0, "expected a nominal speed in Hz above 0"),
    ],
)
def test_a_speed_that_cannot_be_found_is_refused(values: NDArray[Any], told: float, reason: str) -> None:
    said = (
        rf"a\.npy \(m1, any\), its early samples: expected the shaft's speed in the signal near the told"
        rf" {told:.4g} Hz, found none up to [\d.]+ s: .*{reason}.*; correct the speed that is told,"
        " as by the nameplate, or leave shaft_speed out"
    )
    with pytest.raises(UserError, match=said):
        cut_machines([recording(values.astype(np.float32), told)], LINES, 0.5)


def test_samples_that_are_not_finite_are_called_so() -> None:
    values = machine()
    values[1000] = np.nan
    with pytest.raises(UserError, match="the recording holds NaN or infinite samples"):
        cut_machines([recording(values)], LINES, 0.5)


def test_the_speed_that_is_found_is_what_features_are_standardized_by() -> None:
    preprocessing = Preprocessing(features=Told(), standardize=Standardize(), shaft_speed=ShaftSpeed())
    sums = early_sums([recording(machine())], preprocessing, 0.5)
    assert preprocessing.standardize is not None
    statistics = preprocessing.standardize.fitted(sums).statistics
    assert statistics is not None
    assert statistics.mean[0][0] == pytest.approx(TRUE, rel=1e-3)


def test_a_speed_that_nothing_needs_is_not_looked_for() -> None:
    for arguments, got in (
        ({}, "LogBandPowers, for which none is told"),
        ({"features": FaultLines("6205", speed=29.2)}, "FaultLines, for which none is told"),
        ({"windowing": None, "features": RawWindows(), "inputs": ("speed",)}, "rows"),
    ):
        with pytest.raises(
            UserError, match=f"shaft_speed: expected windows, and features that .* got {got}; leave"
        ):
            Preprocessing(shaft_speed=ShaftSpeed(), **arguments)  # type: ignore[arg-type]
    Preprocessing(features=Concat([LogBandPowers(), FaultLines("6205")]), shaft_speed=ShaftSpeed())


def test_a_description_in_json_holds_how_the_speed_is_found() -> None:
    preprocessing = Preprocessing(features=FaultLines(), shaft_speed=ShaftSpeed(0.05, 0.2, 4.0))
    description = json.loads(json.dumps(preprocessing.describe()))
    assert description["shaft_speed"] == {"tolerance": 0.05, "least_confidence": 0.2, "seconds": 4.0}
    assert Preprocessing.from_description(description).shaft_speed == preprocessing.shaft_speed
    del description["shaft_speed"]  # as written before there was such a thing
    assert Preprocessing.from_description(description).shaft_speed is None
    with pytest.raises(UserError, match=r"ShaftSpeed\.tolerance: expected a share above 0"):
        Preprocessing.from_description({**preprocessing.describe(), "shaft_speed": {"tolerance": 2.0}})


def test_features_that_are_not_finite_may_be_for_what_is_told() -> None:
    """The sentence gives the numbers told: a speed of 0, or an order that is beyond every band."""
    plain = Preprocessing(features=FaultLines("6205"))
    with pytest.raises(
        UserError,
        match="FaultLines of some windows are not finite; is the sensor stuck or off, or is one of speed 0",
    ):
        cut_machines([recording(machine(), speed=0.0)], plain, 0.5)
    high = Recording("m1", "any", 0, RATE, machine(), inputs={"speed": TOLD, **BEARING.inputs, "bpfo": 500.0})
    with pytest.raises(UserError, match=r"speed 29\.2, bpfo 500, .* wrong\?"):
        cut_machines([high], Preprocessing(features=FaultLines()), 0.5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two sites with a machine each, normal and with an outer race's fault."""
    for site in ("north", "south"):
        for label, bpfo in (("normal", 0.0), ("outer", BEARING.bpfo)):
            (tmp_path / site).mkdir(exist_ok=True)
            np.save(tmp_path / site / f"{label}.npy", machine(bpfo=bpfo))
    return tmp_path


def fleet_of(config: str) -> Fleet:
    parser = ArgumentParser()
    parser.add_subclass_arguments(Fleet, "data")
    fleet: Fleet = parser.instantiate_classes(parser.parse_string(config)).data
    fleet.setup("fit")
    return fleet


FILES = """
    class_path: fml_lightning.datamodules.Files
    init_args:
      files: {folder}/{{site}}/{{label}}.npy
      sample_rate: 12000
      inputs: [speed]
      nameplates: {{"*": {{speed: {speed}, bearing: 6205-2RS}}}}
"""
LOOKED_FOR = "shaft_speed: {tolerance: 0.08, least_confidence: 0.1}"


def test_files_find_the_speed_from_yaml(folder: Path) -> None:
    text = "data:" + FILES.format(folder=folder, speed=TOLD) + f"      {LOOKED_FOR}\n"
    fleet = fleet_of(text)
    assert fleet.preprocessing.shaft_speed == ShaftSpeed(0.08, 0.1)
    for site in ("north", "south"):
        (found,) = fleet.site(site).machines
        np.testing.assert_allclose(found.early.x[:, -1], TRUE, rtol=1e-3)
    far = fleet_of(text.replace(f"speed: {TOLD}", "speed: 20.0")).site("north")
    with pytest.raises(
        UserError, match=r"normal\.npy .*expected the shaft's speed in the signal near the told 20 Hz"
    ):
        _ = far.machines


def test_joined_fleets_find_the_speed_from_yaml(folder: Path) -> None:
    own = FILES.format(folder=folder, speed=TOLD).replace("\n", "\n      ")
    text = f"""
data:
  class_path: fml_lightning.datamodules.JoinedFleets
  init_args:
    inputs: [speed]
    {LOOKED_FOR}
    fleets:
      plant:{own}
"""
    (found,) = fleet_of(text).site("north").machines
    np.testing.assert_allclose(found.late.x[:, -1], TRUE, rtol=1e-3)


def test_a_stream_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"north: expected no shaft_speed for a stream, .*; tell the speed by a channel"
    ):
        SpoolStream("north", tmp_path, ["x"], ["normal"], LINES, 0.5, 100)
