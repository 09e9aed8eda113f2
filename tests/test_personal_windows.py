"""From raw windows a personal model's file says what personalization itself said, whatever the data came from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from fml_lightning import (
    MLP,
    Classification,
    Conv1d,
    FedAvg,
    InnerLoop,
    Learner,
    PersonalModel,
    Reconstruction,
    Regression,
    SiteMemory,
    UserError,
)
from fml_lightning.commands.personal_models import personalize_machine
from fml_lightning.datamodules import Episodes, Files, Fleet, Recording, SimulatedFleet, SpoolFleet, Table
from fml_lightning.datamodules.fleet import SiteRecordings
from fml_lightning.personal import Personalization
from fml_lightning.personal.registry import Registry
from fml_lightning.preprocessing import (
    Concat,
    FaultLines,
    Features,
    LogBandPowers,
    Preprocessing,
    RawWindows,
    Standardize,
    Statistics,
    TimeDomain,
    Windowing,
)
from fml_lightning.stream_timing import LONGEST, StreamTiming
from tests.test_spool_fleet import SMALL, Plant

EPISODES = Episodes(shots=2, queries=2)
LOOP = InnerLoop(lr=0.05, steps=2)
BEARING = {"speed": 25.0, "bpfo": 3.58, "bpfi": 5.41, "bsf": 2.36, "ftf": 0.4}


class Plants(Fleet):
    """Two sites of two machines, one unseen, whose recordings are noise of a level and colour of their class."""

    classes = ("normal", "worn")

    def __init__(
        self, preprocessing: Preprocessing, rate: float = 4000.0, unit: str | None = None, inputs: Any = None
    ) -> None:
        super().__init__(preprocessing, EPISODES)
        self.of_recordings = {"sample_rate": rate, "unit": unit}
        self.inputs = inputs or {}

    def read(self) -> Iterator[SiteRecordings]:
        rng = np.random.default_rng(0)
        channels = len(self.preprocessing.channels) or 1
        for site in ("north", "south"):
            recordings = []
            for machine in ("fan", "pump"):
                for label in range(2):
                    noise = rng.normal(size=(channels, 24_000)).astype(np.float32)
                    noise = noise + 2 * label * np.roll(noise, 1, axis=1) + 0.3 * len(machine)
                    recordings.append(
                        Recording(machine, "any", label, values=noise, inputs=self.inputs, **self.of_recordings)
                    )
            yield SiteRecordings(site, site == "south", recordings)


def personalized(fleet: Fleet, learner: Learner, folder: Path) -> tuple[Personalization, Tensor, str, str]:
    """A machine's personalization, and what it says of its query windows as it sees them."""
    fleet.setup("fit")
    site, machine = fleet.unseen_machines_at()[0]
    result = personalize_machine(learner, SiteMemory.below(folder), 0, site, machine, fleet.classes, seed=3)
    query = site.personal_episode(machine, seed=3).query.x[0]
    model = result.model
    calibration = None if model.calibration is None else model.calibration[None]
    with torch.no_grad():
        said = model.objective.predict(model.outputs(query)[None], query[None], calibration)[0]
    return result, said, site.name, machine


def raw_windows(fleet: Fleet, site: str, machine: str) -> Tensor:
    """The same query windows as they were recorded, of a fleet without features."""
    fleet.episodes = replace(fleet.episodes, centre=False)
    fleet.setup("fit")
    return {**fleet.sites, **fleet.unseen}[site].personal_episode(machine, seed=3).query.x[0]


def without_features(preprocessing: Preprocessing) -> Preprocessing:
    return replace(preprocessing, features=RawWindows(), standardize=None, inputs=())


def simulated(features: Features | None = None, standardize: Standardize | None = None) -> SimulatedFleet:
    return SimulatedFleet(
        sites=1,
        unseen_sites=1,
        machines=1,
        seconds=4.0,
        features=features,
        standardize=standardize,
        episodes=EPISODES,
    )


SHORT = Windowing(512, 256)
TWO = ("x", "y")
LINES = FaultLines(bands=((500.0, 1500.0),))
CASES: dict[str, tuple[Callable[[], Fleet], Callable[[], Fleet], int, float]] = {
    "simulated": (simulated, lambda: simulated(RawWindows()), 128, 12_000.0),
    "simulated, standardized": (
        lambda: simulated(TimeDomain(), Standardize()),
        lambda: simulated(RawWindows()),
        len(TimeDomain().columns(2048, 1.0)),
        12_000.0,
    ),
    **{
        name: (
            lambda p=preprocessing, o=options: Plants(p, **o),  # type: ignore[misc]
            lambda p=preprocessing, o=options: Plants(without_features(p), **o),  # type: ignore[misc]
            features,
            rate,
        )
        for name, preprocessing, options, features, rate in (
            (
                "two channels, inputs, standardized features",
                Preprocessing(
                    SHORT, LogBandPowers(16), TWO, unit="g", inputs=("speed",), standardize=Standardize()
                ),
                {"inputs": {"speed": 25.0}, "unit": "g"},
                33,
                4000.0,
            ),
            (
                "standardized channels",
                Preprocessing(SHORT, LogBandPowers(16), TWO, standardize=Standardize(of="channels")),
                {},
                32,
                4000.0,
            ),
            (
                "resampled, in seconds",
                Preprocessing(Windowing(seconds=0.256), LogBandPowers(16), sample_rate=2000.0, resample=True),
                {"rate": 4000.0},
                16,
                2000.0,
            ),
            (
                "fault lines of a nameplate",
                Preprocessing(Windowing(4096, 2048), Concat([LINES, LogBandPowers(8)])),
                {"inputs": BEARING},
                8 + len(LINES.columns(4096, 4000.0)),
                4000.0,
            ),
        )
    },
}


@pytest.mark.parametrize("case", CASES)
def test_the_file_says_of_raw_windows_what_personalization_said(case: str, tmp_path: Path) -> None:
    """To the bit: features of a window are the same among any other windows."""
    torch.manual_seed(0)
    make, make_raw, features, rate = CASES[case]
    fleet = make()
    result, said, site, machine = personalized(
        fleet, FedAvg(MLP(features, len(fleet.classes), (8,)), adaptation=LOOP), tmp_path
    )
    result.model.save(tmp_path / "model.safetensors")
    model = PersonalModel.load(tmp_path / "model.safetensors")
    windows = raw_windows(make_raw(), site, machine)
    assert (model.site, model.machine, model.classes) == (site, machine, fleet.classes)
    assert model.preprocessing is not None
    assert model.preprocessing.sample_rate == rate
    assert torch.equal(model.predict(windows), said)
    assert torch.equal(model.predict(windows.numpy(), rate), said)
    with pytest.raises(UserError, match=f"expected windows at {rate:g} Hz, got {2 * rate:g} Hz"):
        model.predict(windows, 2 * rate)
    with pytest.raises(UserError, match=r"expected windows of \d+ samples"):
        model.predict(windows[..., 1:])


def test_raw_windows_and_an_autoencoder_need_no_features(tmp_path: Path) -> None:
    torch.manual_seed(0)
    windowing = Windowing(256, 128)
    for learner in (
        FedAvg(Conv1d(1, 2, channels=(4, 4)), adaptation=LOOP),
        FedAvg(nn.Sequential(nn.Linear(256, 4), nn.Linear(4, 256)), Reconstruction(), adaptation=LOOP),
    ):
        result, said, site, machine = personalized(
            Plants(Preprocessing(windowing, RawWindows())), learner, tmp_path
        )
        result.model.save(tmp_path / "model.safetensors")
        windows = raw_windows(Plants(Preprocessing(windowing, RawWindows())), site, machine)
        model = PersonalModel.load(tmp_path / "model.safetensors")
        assert torch.equal(model.predict(windows[:, None]), said)
        assert torch.equal(model.predict(windows), said)
        fixed = windows.numpy().copy()
        fixed.flags.writeable = False  # as windows are that were cut as views
        assert torch.equal(model.predict(fixed), said)
        fixed = result.model.features(windows).numpy()
        model.preprocessing = None
        fixed.flags.writeable = False
        assert torch.equal(model.predict(fixed), said)


def test_what_is_told_of_windows_counts_before_the_nameplate(tmp_path: Path) -> None:
    preprocessing = Preprocessing(SHORT, LogBandPowers(16), TWO, unit="g", inputs=("speed",))
    torch.manual_seed(0)
    fleet = Plants(preprocessing, inputs={"speed": 25.0})
    result, said, site, machine = personalized(fleet, FedAvg(MLP(33, 2, (8,)), adaptation=LOOP), tmp_path)
    model = result.model
    windows = raw_windows(Plants(without_features(preprocessing)), site, machine)
    assert model.told == {"speed": 25.0}
    for told in ({"speed": 25.0}, {"speed": [25.0] * len(windows)}, np.full((len(windows), 1), 25.0)):
        assert torch.equal(model.predict(windows, told=told), said)
    assert not torch.equal(model.predict(windows, told={"speed": 50.0}), said)
    swapped = windows[:, [1, 0]]
    assert torch.equal(model.predict(swapped, channels=["y", "x"]), said)
    assert not torch.equal(model.predict(swapped), said)
    for change, why in (
        ({"channels": ["x", "z"]}, "expected the channels x, y, got x, z"),
        ({"channels": ["x"]}, "expected a name of each of 2 channels"),
        ({"unit": "m/s2"}, "expected samples in g, got m/s2"),
        ({"told": {"sped": 1.0}}, "expected told of speed, got sped too"),
        ({"told": {"speed": [1.0, 2.0]}}, r"expected one number of speed, or one of each of"),
        ({"told": np.zeros((1, 1))}, "expected told of shape"),
        ({"sample_rate": float("nan")}, "expected windows at 4000 Hz, got nan Hz"),
    ):
        with pytest.raises(UserError, match=why):
            model.predict(windows, **change)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="expected 2 channels"):
        model.predict(windows[:, :1])
    model.told = {}
    with pytest.raises(UserError, match="expected the operating condition speed, got none"):
        model.predict(windows)


class Worn(Plants):
    """The same, where no class is called normal."""

    classes = ("fresh", "worn")


def test_a_class_of_normal_operation_is_kept_in_the_file_and_by_later_models(tmp_path: Path) -> None:
    fleet = Worn(Preprocessing(Windowing(200, 200), LogBandPowers(10)))
    fleet.setup("fit")
    site, machine = fleet.unseen_machines_at()[0]
    registry, memory = Registry(tmp_path / "machines"), SiteMemory.below(tmp_path)

    def made(normal: str, learner: Learner) -> Personalization:
        classes = fleet.classes
        return personalize_machine(learner, memory, 0, site, machine, classes, 3, None, registry, normal)

    torch.manual_seed(0)
    learner = FedAvg(MLP(10, 2, (8,)), adaptation=LOOP)
    assert made("", learner).card.qualification is None
    first = made("fresh", learner)
    assert first.card.qualification is not None
    version = registry.add(first.model, first.card)
    registry.rollback(site.name, machine, version.name)  # whatever its card says
    assert version.load().normal_index() == 0
    assert (made("", learner).model.normal, made("worn", learner).model.normal) == ("fresh", "worn")
    with pytest.raises(UserError, match="normal: expected one of the classes fresh, worn, got 'old'"):
        made("old", learner)
    with pytest.raises(UserError, match="normal: expected worn, as the objective of the run has it, got fresh"):
        made("fresh", FedAvg(MLP(10, 2, (8,)), Classification(normal=1), adaptation=LOOP))
    with pytest.raises(UserError, match="normal: expected labels that are classes, got Regression"):
        made("fresh", FedAvg(MLP(10, 1, (8,)), Regression(), adaptation=LOOP))


def test_rows_of_a_table_are_standardized_by_the_model(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        [f"plant{p}", f"m{p}", hour, ("ok", "worn")[hour % 2], "ab"[hour % 2], *rng.normal(3 + hour % 2, 2, 2)]
        for p in range(3)
        for hour in range(40)
    ]
    names = ["plant", "machine", "hour", "state", "kind", "load", "heat"]
    pl.DataFrame(rows, names, orient="row").write_csv(tmp_path / "machines.csv")

    def table(**options: Any) -> Table:
        return Table(
            str(tmp_path / "machines.csv"),
            site="plant",
            machine="machine",
            target="state",
            time="hour",
            categories=["kind"],
            unseen=["plant2"],
            episodes=EPISODES,
            **options,
        )

    torch.manual_seed(0)
    result, said, site, machine = personalized(table(), FedAvg(MLP(4, 2, (8,)), adaptation=LOOP), tmp_path)
    result.model.save(tmp_path / "model.safetensors")
    model = PersonalModel.load(tmp_path / "model.safetensors")
    windows = raw_windows(table(standardize=None), site, machine)
    assert torch.equal(model.predict(windows), said)
    assert model.preprocessing is not None
    assert torch.equal(model.predict(windows.flip(1), channels=model.preprocessing.channels[::-1]), said)


def test_a_stream_and_files_give_models_of_raw_windows(tmp_path: Path) -> None:
    plant = Plant(tmp_path / "north", "north")
    rng = np.random.default_rng(0)
    for label in ("normal", "ball", "outer"):
        plant.tone("n1", label)
        plant.tone("n2", label)
    for site in ("plant1", "plant2"):
        for label in ("ball", "normal"):
            path = tmp_path / "files" / site / "m1" / f"{label}_1.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, rng.normal(size=2000).astype(np.float32))
    mean = Standardize(statistics=Statistics([[1.0] * 16], [[2.0] * 16]))

    def spool(features: Features, standardize: Standardize | None) -> Fleet:
        seen = {"features": features, "standardize": standardize}
        options = {**SMALL, **seen, "max_lateness": math.inf, "within": 2.5}
        return SpoolFleet({"north": str(plant.folder)}, unseen=["n2"], **options)

    def files(features: Features, standardize: Standardize | None) -> Fleet:
        return Files(
            str(tmp_path / "files/{site}/{machine}/{label}_*.npy"),
            sample_rate=500.0,
            unseen=["plant2"],
            windowing=Windowing(64, 64),
            features=features,
            episodes=EPISODES,
        )

    of_spool = StreamTiming(max_lateness=LONGEST, within=2.5)
    made: Sequence[tuple[Callable[..., Fleet], float, int, StreamTiming]] = (
        (spool, 1000.0, 3, of_spool),
        (files, 500.0, 2, StreamTiming()),
    )
    for make, rate, classes, timing in made:
        torch.manual_seed(0)
        learner = FedAvg(MLP(16, classes, (8,)), adaptation=LOOP)
        result, said, site, machine = personalized(make(LogBandPowers(16), mean), learner, tmp_path)
        result.model.save(tmp_path / "model.safetensors")
        model = PersonalModel.load(tmp_path / "model.safetensors")
        windows = raw_windows(make(RawWindows(), None), site, machine)
        assert model.preprocessing is not None
        assert model.preprocessing.sample_rate == rate
        assert model.timing == timing
        assert torch.equal(model.predict(windows), said)
