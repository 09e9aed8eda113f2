"""Fleets that train as one: their classes, their weights, and what each holds out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from fml_lightning import MAML, Federation, SerialExecutor, SiteMemory, SiteUpdate, UserError, WeightedMean, Work
from fml_lightning.commands.learning import run
from fml_lightning.datamodules import (
    Episodes,
    Fleet,
    JoinedFleets,
    Recording,
    SimulatedFleet,
    SiteData,
    SiteRecordings,
)
from fml_lightning.federation.outcomes import Limits, sort_outcomes
from fml_lightning.params import clone
from fml_lightning.preprocessing import LogBandPowers, Preprocessing, Standardize, Windowing

SETTINGS: dict[str, Any] = {
    "windowing": Windowing(length=256, hop=256),
    "features": LogBandPowers(bands=32),
    "episodes": Episodes(shots=1, queries=3, tasks=3, repeats=2),
}


def simulated(**options: Any) -> SimulatedFleet:
    """Two small sites and an unseen one."""
    return SimulatedFleet(**{"sites": 2, "unseen_sites": 1, "machines": 1, "seconds": 0.5, **options})


class Rig(Fleet):
    """A rig at another sample rate, whose classes are some of the simulator's, in an order of its own."""

    classes = ("outer", "normal")
    rate = 24_000.0

    def __init__(self, sites: Sequence[str] = ("rig", "other-rig-unseen")) -> None:
        super().__init__(Preprocessing(), Episodes())
        self.names = sites
        self.opened: list[str] = []

    def read(self) -> Iterator[SiteRecordings]:
        """One machine a site."""
        for name in self.names:
            yield SiteRecordings(name, name.endswith("unseen"), lambda name=name: self._site(name))

    def _site(self, name: str) -> list[Recording]:
        self.opened.append(name)
        time = np.arange(24_000) / self.rate
        noise = np.random.default_rng(len(name)).normal(size=(2, 24_000))
        tones = [
            np.sin(2 * np.pi * hertz * time) + 0.1 * own for hertz, own in zip((500, 1500), noise, strict=True)
        ]
        return [
            Recording(f"{name}-pump", "any", label, self.rate, tone.astype(np.float32))
            for label, tone in enumerate(tones)
        ]


class At12kHz(Rig):
    """A rig at the simulator's sample rate."""

    rate = 12_000.0


class Mixed(Rig):
    """A rig whose normal recordings have twice the sample rate of the others."""

    def _site(self, name: str) -> list[Recording]:
        return [replace(each, sample_rate=self.rate * (1 + each.label)) for each in super()._site(name)]


class In(Rig):
    """A rig of one site that tells the unit of its samples."""

    def __init__(self, unit: str, site: str) -> None:
        super().__init__([site])
        self.unit = unit

    def _site(self, name: str) -> list[Recording]:
        return [replace(each, unit=self.unit) for each in super()._site(name)]


def test_sites_of_all_fleets_have_one_preprocessing_and_classes_of_one_meaning() -> None:
    joined = JoinedFleets({"simulated": simulated(), "rig": Rig()}, sample_rate=12_000, **SETTINGS)
    joined.setup("fit")
    assert joined.classes == SimulatedFleet.classes
    assert list(joined.sites) == ["plant1", "plant2", "rig"]
    assert list(joined.unseen) == ["plant3", "other-rig-unseen"]
    assert {id(s.preprocessing) for s in (*joined.sites.values(), *joined.unseen.values())} == {
        id(joined.preprocessing)
    }
    # The rig's classes 0 and 1 are the joined fleet's outer and normal.
    assert [(r.label, joined.classes[r.label]) for r in joined.sites["rig"].recordings] == [
        (3, "outer"),
        (0, "normal"),
    ]
    machine = joined.sites["rig"].machines[0]
    assert np.bincount(machine.early.label).tolist() == [23, 0, 0, 23]  # 12,000 samples after resampling
    assert joined.site("plant1").recordings[2].label == 2
    episode = next(iter(joined.sites["rig"].predict_dataloader()))
    assert set(episode.query.y.unique().tolist()) == {0, 3}


def test_a_fleet_that_lacks_classes_is_asked_for_those_it_has() -> None:
    episodes = Episodes(
        shots=4, queries=2, tasks=3, batches=2, repeats=2, of="normal only", normal="normal", permute_labels=False
    )
    fleets: dict[str, Fleet] = {"simulated": simulated(), "rig": Rig()}
    joined = JoinedFleets(fleets, sample_rate=12_000, **{**SETTINGS, "episodes": episodes})
    joined.setup("fit")
    for name, classes in (("rig", {0, 3}), ("plant1", {0, 1, 2, 3})):
        for episode in (*joined.sites[name].train_dataloader(), *joined.sites[name].val_dataloader()):
            assert set(episode.support.y.unique().tolist()) == {0}
            assert set(episode.query.y.unique().tolist()) == classes


def test_a_site_is_opened_alone() -> None:
    rig = Rig()
    joined = JoinedFleets({"simulated": simulated(), "rig": rig}, {"rig": 3.0}, sample_rate=12_000, **SETTINGS)
    assert joined.site("plant2").weight == 1.0
    assert rig.opened == []
    assert joined.site("rig").weight == 3.0
    assert rig.opened == ["rig"]


def test_unseen_sites_stay_unseen_or_only_those_named() -> None:
    def unseen(*names: str) -> list[str]:
        fleets: dict[str, Fleet] = {"simulated": simulated(), "rig": Rig()}
        joined = JoinedFleets(fleets, unseen=names, sample_rate=12_000, **SETTINGS)
        joined.setup("test")
        assert list(joined.sites) == ["plant1", "plant2", "rig"]
        return list(joined.unseen)

    assert unseen("rig") == ["other-rig-unseen"]
    assert unseen("plant3") == ["plant3"]
    assert unseen("plant3", "rig") == ["plant3", "other-rig-unseen"]
    assert unseen() == []
    with pytest.raises(UserError, match=r"JoinedFleets.unseen: .*got 'plant1'"):  # it trains
        unseen("plant1")


def test_what_does_not_fit_together_is_told_in_a_sentence() -> None:
    class Gears(Rig):
        classes = ("normal", "chipped", "worn")

    class Cycles(Rig):
        target_unit = "cycles"

    cases: tuple[tuple[Callable[[], JoinedFleets], str], ...] = (
        (
            lambda: JoinedFleets({"sim": simulated(), "gears": Gears(["gears"])}),
            r"expected the classes of gears among those of sim \(normal, .*\), got chipped, worn; call what is",
        ),
        (lambda: JoinedFleets({}), "expected at least one fleet"),
        (lambda: JoinedFleets({"a": Rig()}, {"a": 0.0}), "expected a finite number above 0 for a, got 0.0"),
        (lambda: JoinedFleets({"a": Rig()}, {"b": 1.0}), "weights: expected names .*, got 'b'"),
        (lambda: JoinedFleets({"a": Rig(), "b": Cycles(["c"])}), "targets of one unit, got None, cycles"),
        (lambda: JoinedFleets({"a": Rig(), "b": Rig()}), "two sites are called 'rig'; rename one of them"),
        (lambda: JoinedFleets({"a": Rig(), "b": simulated()}, sample_rate=12_000, unseen=["nobody"]), "'nobody'"),
    )
    for make, message in cases:
        with pytest.raises(UserError, match=message):
            make().setup("fit")


def test_a_weight_is_that_of_the_site_or_else_of_its_fleet() -> None:
    fleets: dict[str, Fleet] = {"simulated": simulated(), "rig": Rig()}
    joined = JoinedFleets(fleets, {"simulated": 0.1, "plant2": 2.0}, sample_rate=12_000, **SETTINGS)
    joined.setup("fit")
    assert {name: site.weight for name, site in joined.sites.items()} == {"plant1": 0.1, "plant2": 2.0, "rig": 1.0}


def test_weights_of_joined_fleets_within_joined_fleets_multiply() -> None:
    inner = JoinedFleets({"simulated": simulated(), "rig": Rig()}, {"plant1": 0.5}, sample_rate=12_000, **SETTINGS)
    joined = JoinedFleets({"inner": inner}, {"inner": 3.0}, sample_rate=12_000, **SETTINGS)
    assert [part.site for part in joined.read()] == ["plant1", "plant2", "plant3", "rig", "other-rig-unseen"]
    joined.setup("fit")
    assert {name: site.weight for name, site in joined.sites.items()} == {"plant1": 1.5, "plant2": 3.0, "rig": 3.0}


def test_each_fleet_checks_its_own_sites() -> None:
    class Checked(Rig):
        def check_sites(self, sites: Mapping[str, SiteData], unseen: Mapping[str, SiteData]) -> None:
            checked.append((list(sites), list(unseen)))

    checked: list[tuple[list[str], list[str]]] = []
    joined = JoinedFleets({"simulated": simulated(), "rig": Checked()}, sample_rate=12_000, **SETTINGS)
    joined.setup("fit")
    assert checked == [(["rig"], ["other-rig-unseen"])]


def test_recordings_of_several_rates_are_refused_unless_they_are_brought_to_one() -> None:
    fleets: dict[str, Fleet] = {"simulated": simulated(), "rig": Rig()}
    with pytest.raises(
        UserError, match=r"rig-pump, any: expected 12000 Hz as of plant1-machine1.*set sample_rate"
    ):
        JoinedFleets(fleets, **SETTINGS).setup("fit")
    JoinedFleets(fleets, sample_rate=12_000, **SETTINGS).setup("fit")
    JoinedFleets({"simulated": simulated(), "rig": At12kHz()}, **SETTINGS).setup("fit")

    mixed = JoinedFleets({"mixed": Mixed()}, **SETTINGS)  # its classes have rates of their own
    for opened in (lambda: mixed.setup("fit"), lambda: mixed.site("rig")):
        with pytest.raises(UserError, match="rig-pump, any: expected 24000 Hz as of rig-pump, any, got 48000 Hz"):
            opened()


def test_recordings_of_two_units_are_refused() -> None:
    fleets: dict[str, Fleet] = {"in-g": In("g", "north"), "sim": simulated(), "si": In("m/s2", "south")}
    options: dict[str, Any] = {"sample_rate": 12_000, **SETTINGS}
    with pytest.raises(UserError, match="south-pump, any: expected samples in g as of north-pump, any, got m/s2"):
        JoinedFleets(fleets, **options).setup("fit")
    with pytest.raises(UserError, match="north-pump, any: expected samples in m/s2, got g"):
        JoinedFleets(fleets, unit="m/s2", **options).setup("fit")
    del fleets["si"]
    JoinedFleets(fleets, **options).setup("fit")
    JoinedFleets(fleets, unit="g", **options).setup("fit")


def test_features_are_standardized_by_weighted_windows() -> None:
    """Each window of plant1 counts as a quarter of one of the rig."""
    joined = JoinedFleets(
        {"simulated": simulated(sites=1, unseen_sites=0), "rig": Rig()},
        {"plant1": 0.25},
        sample_rate=12_000,
        standardize=Standardize(),
        **SETTINGS,
    )
    joined.setup("fit")
    plain = replace(joined.preprocessing, standardize=None)
    rows, weights = [], []
    for site in joined.sites.values():
        site = type(site)(site.name, site.recordings, plain, site.episodes)
        for machine in site.machines:
            rows.append(machine.early.x)
            weights.append(np.full(len(machine.early), 0.25 if site.name == "plant1" else 1.0))
    x, w = np.concatenate(rows).astype(np.float64), np.concatenate(weights)
    mean = np.average(x, axis=0, weights=w)
    deviation = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=w))
    assert joined.preprocessing.standardize is not None
    statistics = joined.preprocessing.standardize.statistics
    assert statistics is not None
    np.testing.assert_allclose(statistics.mean[0], mean, rtol=1e-6)
    np.testing.assert_allclose(statistics.deviation[0], deviation, rtol=1e-5)


def test_updates_are_averaged_by_weight_times_windows() -> None:
    """(0.1·100·1 + 1·10·4) / (0.1·100 + 1·10) = 2.5."""
    first = SiteUpdate("a", 0, {"w": torch.tensor([1.0])}, 100, examples_seen=5, weight=0.1)
    second = SiteUpdate("b", 0, {"w": torch.tensor([4.0])}, 10, examples_seen=5)
    assert WeightedMean()([first, second])["w"].item() == pytest.approx(2.5)
    seen = WeightedMean(weight_by="examples_seen")([first, second])["w"].item()
    assert seen == pytest.approx((0.5 * 1 + 5 * 4) / 5.5)


def test_a_round_takes_the_weights_from_the_fleet_and_not_from_the_sites(
    make_learner: Callable[..., MAML], quiet_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    fleets: dict[str, Fleet] = {"simulated": simulated()}
    joined = JoinedFleets(fleets, {"plant1": 0.2}, **SETTINGS)
    joined.setup("fit")
    learner = make_learner()
    before = clone(learner.shared)
    torch.manual_seed(5)
    work = Work("fit", 0, before, torch.initial_seed(), local_steps=1)
    updates = list(SerialExecutor().run(learner, work, joined.sites, SiteMemory(tmp_path)))
    one, two = sorted((u for u in updates if isinstance(u, SiteUpdate)), key=lambda u: u.site)
    assert one.examples == two.examples
    torch.manual_seed(5)
    federation = Federation(learner, local_steps=1)
    quiet_trainer(max_steps=1, default_root_dir=tmp_path).fit(federation, datamodule=joined)
    for name, p in learner.shared.items():
        expected = before[name] + (0.2 * one.delta[name] + two.delta[name]) / 1.2
        torch.testing.assert_close(p.detach(), expected, rtol=1e-4, atol=1e-6)

    boasting = replace(one, weight=1e6)
    (checked,), _ = sort_outcomes([boasting], work, ["plant1"], "accuracy", Limits())
    assert checked.weight == 1.0
    joined.sites["plant2"].weight = -1.0
    with pytest.raises(UserError, match=r"plant2: expected as weight of the site a finite .*, got -1.0"):
        quiet_trainer(max_steps=1, default_root_dir=tmp_path).fit(Federation(make_learner()), datamodule=joined)


CONFIG = """
seed_everything: 0
model:
  learner:
    class_path: fml_lightning.MAML
    init_args:
      net:
        class_path: fml_lightning.MLP
        init_args: {in_features: 32, out_features: 4, hidden: [8], norm_input: false}
      inner_loop: {lr: 0.1, steps: 1}
  local_steps: 1
data:
  class_path: JoinedFleets
  init_args:
    fleets:
      simulated:
        class_path: SimulatedFleet
        init_args:
          {sites: 2, unseen_sites: 0, machines: 2, seconds: 1.0, name: simulated, randomization: {hum: [0, 0.2]}}
      plant:
        class_path: SimulatedFleet
        init_args: {sites: 1, unseen_sites: 1, machines: 2, seconds: 1.0}
    weights: {simulated: 0.2, plant1: 2}
    unseen: [plant]
    windowing: {length: 512, hop: 512}
    features: {class_path: LogBandPowers, init_args: {bands: 32}}
    standardize: {of: features}
    episodes: {of: normal only, normal: normal, shots: 4, queries: 2, permute_labels: false, repeats: 2, tasks: 2}
trainer: {max_steps: 2, accelerator: cpu}
"""


def test_a_federation_of_simulated_and_other_machines_learns_from_normal_windows_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """End to end: support is four normal windows of an unseen machine, and all four classes are judged."""
    monkeypatch.chdir(tmp_path)
    Path("joined.yaml").write_text(CONFIG)
    run(["fit", "--config", "joined.yaml"])
    capsys.readouterr()
    checkpoints = sorted(Path(".").rglob("*.ckpt"))
    assert checkpoints
    run(["test", "--config", "joined.yaml", "--ckpt_path", str(checkpoints[-1])])
    said = capsys.readouterr().out
    assert "plant2-machine1" in said
    assert "plant2-machine2" in said
    assert "simulated1-machine1" not in said
