"""A fleet of names: it trains where the executor asks real sites, and says in one sentence what is not here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule

from fml_lightning import (
    MAML,
    MLP,
    Executor,
    Federation,
    Learner,
    SiteFailure,
    SiteMemory,
    SiteUpdate,
    UserError,
    Work,
)
from fml_lightning.commands import inspect, learning
from fml_lightning.commands.trainer import Trainer
from fml_lightning.datamodules import Episodes, JoinedFleets, RemoteFleet, RemoteSite

CLASSES = ("sound", "worn")


class Elsewhere(Executor):
    """Answers for sites, as real ones would: each parameter grows by one, and machines measure alike."""

    machines: ClassVar[tuple[str, ...]] = ("/press",)
    """What metrics of machines leave the sites."""
    asked: ClassVar[list[tuple[str, list[str], list[float]]]] = []

    def run(
        self, learner: Learner, work: Work, sites: Mapping[str, LightningDataModule], memory: SiteMemory
    ) -> Iterator[SiteUpdate | SiteFailure]:
        weights = [site.weight for site in sites.values() if isinstance(site, RemoteSite)]
        self.asked.append((work.verb, list(sites), weights))
        stage = {"fit": "train", "validate": "val", "test": "test"}.get(work.verb, "")
        delta = {name: torch.ones_like(p) for name, p in work.params.items()} if work.verb == "fit" else {}
        metrics = {
            f"{stage}/accuracy_{when}{of}": 0.5 for when in ("before", "after") for of in ("", *self.machines)
        }
        for name in sites:
            yield SiteUpdate(name, work.round, delta, 4, metrics)


def fleet(**options: Any) -> RemoteFleet:
    return RemoteFleet(["plant1", "plant2"], CLASSES, **options)


def test_sites_are_names_with_weights_and_unseen_ones_are_only_tested() -> None:
    made = fleet(unseen=["plant3"], weights={"plant2": 0.5, "plant3": 2.0}, target_unit="cycles")
    assert [(site.name, site.weight) for site in made.sites.values()] == [("plant1", 1.0), ("plant2", 0.5)]
    assert [(site.name, site.weight) for site in made.unseen.values()] == [("plant3", 2.0)]
    (train,), (val,), (test,) = made.train_dataloader(), made.val_dataloader(), made.test_dataloader()
    assert (list(train), list(val), list(test)) == (["plant1", "plant2"], ["plant1", "plant2"], ["plant3"])
    assert made.sites["plant1"].classes == made.classes == CLASSES
    assert made.target_unit == "cycles"
    assert fleet(episodes=Episodes(shots=2, normal="worn")).episodes.normal == 1


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"sites": []}, "at least one to train on; got sites"),
        ({"sites": ["a", "a"]}, "each once"),
        ({"unseen": ["plant1"]}, "each once"),
        ({"sites": [""]}, "expected the names of sites"),
        ({"classes": []}, "expected the names of its classes"),
        ({"weights": {"plant9": 1.0}}, "weights names 'plant9', which is none of plant1, plant2"),
        ({"weights": {"plant1": 0.0}}, "expected weights above 0, got 0.0 of plant1"),
        ({"weights": {"plant1": float("nan")}}, "expected weights above 0, got nan of plant1"),
        ({"episodes": Episodes(shots=2, normal="new")}, "episodes.normal to be one of sound, worn"),
    ],
)
def test_a_fleet_that_is_none_is_refused(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        RemoteFleet(**{"sites": ["plant1", "plant2"], "classes": CLASSES, **options})


@pytest.mark.parametrize(
    "use",
    [
        lambda made: made.predict_dataloader(),
        lambda made: made.machine_at("press"),
        lambda made: made.site_of("press"),
        lambda made: made.unseen_machines(),
    ],
)
def test_machines_are_personalized_where_they_are(use: Callable[[RemoteFleet], object]) -> None:
    with pytest.raises(UserError, match=r"fml fetch, and run fml personalize --site site\.yaml there"):
        use(fleet(unseen=["plant3"]))


def test_what_is_elsewhere_cannot_be_opened_or_joined() -> None:
    with pytest.raises(UserError, match="on hosts of their own"):
        fleet().site("plant1")
    with pytest.raises(UserError, match="on hosts of their own"):
        JoinedFleets({"here": fleet()}).setup("fit")


def test_an_executor_of_this_process_says_that_another_one_is_needed(tmp_path: Path) -> None:
    trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, default_root_dir=tmp_path)
    with pytest.raises(UserError, match=r"its data are at the site, not here; set executor: NVFlareExecutor"):
        trainer.fit(Federation(MAML(MLP(4, 2))), datamodule=fleet())


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Elsewhere.asked.clear()
    path = tmp_path / "federation.yaml"
    made = {
        "trainer": {"max_epochs": 2, "enable_progress_bar": False},
        "model": {
            "learner": {
                "class_path": "MAML",
                "init_args": {"net": {"class_path": "MLP", "init_args": {"in_features": 4, "out_features": 2}}},
            },
            "executor": {"class_path": f"{__name__}.Elsewhere"},
        },
        "data": {
            "class_path": "RemoteFleet",
            "init_args": {
                "sites": ["plant1", "plant2"],
                "unseen": ["plant3"],
                "classes": list(CLASSES),
                "weights": {"plant2": 0.5},
                "episodes": {"shots": 3},
            },
        },
    }
    path.write_text(yaml.safe_dump(made))
    return path


def test_fml_fit_ends_well_and_measures_the_unseen_sites(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert learning.run(["fit", "--config", str(config)]) == 0
    # The sites say that no sums are needed, and one that machines can adapt; then the rounds begin.
    assert [each[:2] for each in Elsewhere.asked[:2]] == [("sums", ["plant1", "plant2"]), ("rehearse", ["plant1"])]
    assert [each for each in Elsewhere.asked[2:] if each[0] != "validate"] == [
        *[("fit", ["plant1", "plant2"], [1.0, 0.5])] * 2,
        ("test", ["plant3"], [1.0]),
    ]
    assert Elsewhere.asked[-1] == ("test", ["plant3"], [1.0])
    assert "plant3" in capsys.readouterr().out


def test_sites_that_send_means_alone_are_rows_of_their_own(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Elsewhere, "machines", ())
    assert learning.run(["fit", "--config", str(config)]) == 0
    assert "mean of plant3  0.500 -> 0.500" in capsys.readouterr().out


@pytest.mark.parametrize("verb", [["predict"], ["personalize", "--machine", "all"]])
def test_other_verbs_say_one_sentence(verb: list[str], config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert learning.run(["fit", "--config", str(config)]) == 0
    capsys.readouterr()
    assert learning.run([verb[0], "--config", str(config), *verb[1:]]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "run fml personalize --site site.yaml there" in said[0]


def test_fml_inspect_says_one_sentence(config: Path) -> None:
    with pytest.raises(UserError, match="plant1: its machines are at the site, not here; look at them there"):
        inspect.run([str(config)])


def test_yaml_names_the_executor_briefly(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = yaml.safe_load(config.read_text())
    made["model"]["executor"] = {"class_path": "NVFlareExecutor", "init_args": {"folder": "hub", "max_wait": 0.0}}
    config.write_text(yaml.safe_dump(made))
    assert learning.run(["fit", "--config", str(config)]) == 1
    said = capsys.readouterr().err
    assert "NVFlareExecutor: no server answers in hub within 0 s; start it with fml server" in said
