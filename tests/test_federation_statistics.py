"""Features standardized by the training sites: over hosts as in one process, and in a resumed run as before."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from federation_trial import Trial
from flare import PATIENCE
from lightning.pytorch import LightningDataModule, Trainer, seed_everything

from fml_lightning import (
    MAML,
    Federation,
    Learner,
    SerialExecutor,
    SiteFailure,
    SiteMemory,
    SiteUpdate,
    UserError,
    Work,
)
from fml_lightning.commands import learning
from fml_lightning.commands.demo_federation import DemoFederation
from fml_lightning.commands.trainer import Trainer as PersonalTrainer
from fml_lightning.datamodules import Episodes, RemoteFleet, SimulatedFleet, SiteData
from fml_lightning.datamodules.fleet import Fleet
from fml_lightning.errors import NotYetError
from fml_lightning.executors.agreement import agreement
from fml_lightning.executors.consent import Consent
from fml_lightning.executors.kept_statistics import KEY, kept_statistics
from fml_lightning.executors.messages import Answered, Asked, outcome_of, request
from fml_lightning.executors.release import Release
from fml_lightning.executors.site_process import SiteProcess
from fml_lightning.executors.wire import unpack
from fml_lightning.personal import Registry
from fml_lightning.preprocessing import Features, LogBandPowers, Standardize, Windowing

MakeLearner = Callable[..., MAML]
MakeTrainer = Callable[..., Trainer]
TELLS = Consent(machines="names", statistics=True)
NAMES = ["plant1", "plant2", "plant3"]


def plants(
    standardize: Standardize | None = Standardize(),  # noqa: B008
    kind: type[SimulatedFleet] = SimulatedFleet,
    features: Features = LogBandPowers(bands=32),  # noqa: B008
) -> SimulatedFleet:
    return kind(
        sites=3,
        unseen_sites=1,
        machines=2,
        seconds=1.5,
        windowing=Windowing(length=512, hop=512),
        features=features,
        standardize=standardize,
        episodes=Episodes(shots=1, queries=3, tasks=3, repeats=2),
    )


class Wired:
    """Asks site processes by messages, as over a network.

    `away` says how often a site is not connected, and `broken`, how often it does not answer within the deadline.
    """

    def __init__(self, folder: Path, fleets: Mapping[str, Fleet], learner: MAML, consents: Mapping[str, Consent]):
        self.sites = {
            name: SiteProcess(
                name, learner, fleet.site(name), folder / name, consents.get(name, TELLS), fleet.classes
            )
            for name, fleet in fleets.items()
        }
        self.away: dict[str, int] = {}
        self.broken: dict[str, int] = {}
        self.asked: list[tuple[str, str]] = []
        self.together: list[list[str]] = []
        """Which sites each asking was of."""
        self.stamp = 0

    def run(
        self, learner: Learner, work: Work, sites: Mapping[str, LightningDataModule], memory: SiteMemory
    ) -> Iterator[SiteUpdate | SiteFailure]:
        self.together.append(list(sites))
        for name in sites:
            self.asked.append((work.verb, name))
            if self.broken.get(name):
                self.broken[name] -= 1
                yield SiteFailure(name, work.round, "it did not answer within 60 s")
                continue
            if self.away.get(name):
                self.away[name] -= 1
                yield SiteFailure(name, work.round, "it is not connected", not_yet=True)
                continue
            self.stamp += 1
            message = self.sites[name].answer(request(Asked(work, agreement(learner), self.stamp, 60.0)))
            came = outcome_of(*unpack(message), name, work.round)
            assert isinstance(came, Answered)
            yield came.outcome

    def sent(self, name: str) -> list[str]:
        lines = (self.sites[name].folder / "sent.jsonl").read_text().splitlines()
        return [f"{(line := json.loads(text))['verb']}: {line['what']}" for text in lines]


@pytest.fixture
def wired(tmp_path: Path, make_learner: MakeLearner) -> Callable[..., Wired]:
    def make(fleets: Mapping[str, Fleet] | None = None, **consents: Consent) -> Wired:
        given = {name: plants() for name in NAMES} | dict(fleets or {})
        return Wired(tmp_path / "sites", given, make_learner(), consents)

    return make


def remote(**more: Any) -> RemoteFleet:
    return RemoteFleet(NAMES, ("normal", "ball", "inner", "outer"), **more)


def fit(trainer: Trainer, federation: Federation, fleet: Fleet, **more: Any) -> Federation:
    seed_everything(3, verbose=False)
    trainer.fit(federation, datamodule=fleet, weights_only=True, **more)
    return federation


def equal(one: Federation, other: Federation) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(p, theirs[name]) for name, p in one.state_dict().items())


def test_messages_give_the_simulations_bits_and_statistics(
    wired: Callable[..., Wired], make_learner: MakeLearner, quiet_trainer: MakeTrainer, tmp_path: Path
) -> None:
    """Also of the unseen site, which tells no sums."""
    here, names = plants(), [*NAMES, "plant4"]
    simulated = fit(quiet_trainer(max_steps=2), Federation(make_learner(), local_steps=2), here)
    executor = wired({"plant4": plants()})
    away = remote(unseen=["plant4"])
    hosts = fit(quiet_trainer(max_steps=2), Federation(make_learner(), local_steps=2, executor=executor), away)
    assert equal(simulated, hosts)
    assert here.preprocessing.standardize
    assert simulated.statistics == hosts.statistics == here.preprocessing.standardize.statistics is not None
    assert [verb for verb, _ in executor.asked[:5]] == ["sums"] * 3 + ["rehearse", "fit"]
    measured = quiet_trainer().test(simulated, datamodule=here, verbose=False)
    assert quiet_trainer().test(hosts, datamodule=away, verbose=False) == measured
    assert executor.sent("plant1")[0].startswith("sums: sums: of 32 columns over ")
    assert not any("sums" in line for line in executor.sent("plant4"))
    assert executor.sites.keys() == set(names)


def test_a_channel_by_condition_is_told_too(
    wired: Callable[..., Wired], make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    """Standardized channels; weights are the server's."""
    here = plants(Standardize("channels"))
    here.setup("fit")
    here.sites["plant2"].weight = 0.25
    federation = Federation(make_learner(), local_steps=1)
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    heavy = plants(Standardize("channels"))
    heavy.setup("fit")
    executor = wired({name: plants(Standardize("channels")) for name in NAMES})
    hosts = fit(
        trainer, Federation(make_learner(), local_steps=1, executor=executor), remote(weights={"plant2": 0.25})
    )
    fit(quiet_trainer(max_steps=1, limit_val_batches=0), federation, here)
    assert federation.statistics == hosts.statistics
    assert heavy.preprocessing.standardize
    assert federation.statistics != heavy.preprocessing.standardize.statistics
    assert equal(federation, hosts)


def test_a_site_that_keeps_its_sums_takes_those_of_the_others(
    wired: Callable[..., Wired],
    make_learner: MakeLearner,
    quiet_trainer: MakeTrainer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Consent is off unless the site says so; both ends say one sentence."""
    assert not Consent().statistics
    executor = wired(plant2=Consent(machines="names"))
    federation = Federation(make_learner(), local_steps=1, executor=executor)
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    fit(trainer, federation, remote())
    sentence = "its site.yaml does not allow that sums over its windows leave (consent.statistics)"
    assert f"plant2 told no sums before round 0: {sentence}" in caplog.text
    assert executor.sent("plant2")[0].startswith(f"sums: failure: {sentence}")
    assert not any("columns" in line for line in executor.sent("plant2"))
    assert trainer.callback_metrics["round/sites"] == 3
    two = plants()
    two.setup("fit")
    del two.sites["plant2"]
    alone = fit(quiet_trainer(max_steps=1, limit_val_batches=0), Federation(make_learner(), local_steps=1), two)
    assert federation.statistics == alone.statistics


def test_where_every_site_keeps_its_sums_the_run_ends_with_the_sentence(
    wired: Callable[..., Wired], make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    executor = wired(**dict.fromkeys(NAMES, Consent()))
    with pytest.raises(UserError, match=r"every site failed in round 0, before training.*consent\.statistics"):
        fit(quiet_trainer(max_steps=1), Federation(make_learner(), executor=executor), remote())


@pytest.mark.parametrize(
    ("odd", "here", "there"),
    [
        ({"features": LogBandPowers(bands=16)}, "sums of 32 columns .* got those of 16", "expected 32 features"),
        ({"standardize": None}, "got none, as it gives statistics", "expected standardize without statistics"),
    ],
)
def test_a_site_that_differs_is_refused_at_both_ends(
    odd: dict[str, Any],
    here: str,
    there: str,
    wired: Callable[..., Wired],
    make_learner: MakeLearner,
    quiet_trainer: MakeTrainer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    executor = wired({"plant3": plants(**odd)})
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    fit(trainer, Federation(make_learner(), local_steps=1, executor=executor), remote())
    assert re.search(f"plant3 told no sums before round 0: expected .*{here}", caplog.text)
    assert trainer.callback_metrics["round/sites"] == 2
    assert re.search(there, executor.sent("plant3")[-1])


def test_sites_that_are_not_there_yet_are_waited_for_and_later_ones_take_the_statistics(
    wired: Callable[..., Wired],
    make_learner: MakeLearner,
    quiet_trainer: MakeTrainer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    executor = wired()
    executor.away = {"plant1": 1, "plant3": 2}
    federation = Federation(make_learner(), local_steps=1, executor=executor)
    fit(quiet_trainer(max_steps=1, limit_val_batches=0), federation, remote())
    here = plants()
    here.setup("fit")
    assert here.preprocessing.standardize
    assert federation.statistics == here.preprocessing.standardize.statistics
    assert "told no sums" not in caplog.text

    late = wired()
    late.away = {"plant2": 2}  # when all are asked, and when it alone is
    federation = Federation(make_learner(), local_steps=1, executor=late, max_wait=0.0)
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    fit(trainer, federation, remote())
    assert "plant2 told no sums before round 0: it is not connected" in caplog.text
    assert trainer.callback_metrics["round/sites"] == 3  # it takes part, with the statistics of the others
    del here.sites["plant2"]
    alone = fit(quiet_trainer(max_steps=1, limit_val_batches=0), Federation(make_learner(), local_steps=1), here)
    assert federation.statistics == alone.statistics

    none = wired()
    none.away = {"plant1": 9}
    with pytest.raises(NotYetError, match=r"0 of 1 sites \(quorum\) could tell .* it is not connected"):
        fit(
            quiet_trainer(max_steps=1),
            Federation(make_learner(), executor=none, max_wait=0.0, quorum=1),
            RemoteFleet(["plant1"], ("normal", "ball", "inner", "outer")),
        )


def test_sites_that_do_not_answer_cost_one_deadline_together_and_are_asked_again_up_to_the_quorum(
    wired: Callable[..., Wired], make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    executor = wired()
    executor.broken = {"plant1": 3, "plant2": 9}
    federation = Federation(make_learner(), local_steps=1, executor=executor, quorum=2)
    fit(quiet_trainer(max_steps=1, limit_val_batches=0), federation, remote())
    assert executor.together[:3] == [NAMES, ["plant1", "plant2"], ["plant1", "plant2"]]
    assert executor.asked.count(("sums", "plant3")) == 1  # what it has told is known
    here = plants()
    here.setup("fit")
    del here.sites["plant2"]
    alone = fit(quiet_trainer(max_steps=1, limit_val_batches=0), Federation(make_learner(), local_steps=1), here)
    assert federation.statistics == alone.statistics is not None


def test_statistics_of_fewer_sites_than_the_quorum_hold_for_no_run(
    wired: Callable[..., Wired], make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    """Whether the others do not answer, keep their sums, or have other features."""
    silent = wired()
    silent.broken = {"plant2": 99, "plant3": 99}
    keeping = wired(plant2=Consent(machines="names"), plant3=Consent(machines="names"))
    differing = wired({"plant3": plants(features=LogBandPowers(bands=16))}, plant2=Consent(machines="names"))
    for executor, said in (
        (silent, "plant2: it did not answer within 60 s; plant3: it did not"),
        (keeping, r"plant2: its site\.yaml does not allow"),
        (differing, r"plant2: its site\.yaml does not allow .*; plant3: expected sums of 32 columns"),
    ):
        federation = Federation(make_learner(), local_steps=1, executor=executor, quorum=2)
        with pytest.raises(UserError, match=rf"round 0: 1 of 2 sites \(quorum\) told .*{said}.*model\.quorum"):
            fit(quiet_trainer(max_steps=1, limit_val_batches=0), federation, remote())
        assert federation.statistics is None


def test_a_site_without_statistics_of_the_run_does_nothing(
    wired: Callable[..., Wired], make_learner: MakeLearner, tmp_path: Path
) -> None:
    """Nor with those of another run."""
    executor, learner = wired(), make_learner()
    shared = dict(learner.shared)
    here = plants()
    here.setup("fit")
    assert here.preprocessing.standardize
    known = here.preprocessing.standardize.statistics
    sites: dict[str, LightningDataModule] = {"plant1": here.sites["plant1"]}
    for work, works in (
        (Work("fit", 0, shared, 0, 1, "r1"), False),
        (Work("fit", 0, shared, 0, 1, "r1", known), True),
        (Work("fit", 0, shared, 0, 1, "r2"), False),
    ):
        (outcome,) = executor.run(learner, work, sites, SiteMemory(tmp_path))
        assert isinstance(outcome, SiteUpdate) == works
        assert works or "whose statistics the server does not know" in outcome.reason  # type: ignore[union-attr]


def test_sums_are_taken_without_a_fleets_setup(make_learner: MakeLearner, tmp_path: Path) -> None:
    """A site that stands alone tells the sums that its fleet adds up."""
    here = plants()
    here.setup("fit")
    alone = plants().site("plant1")
    work = Work("sums", 0, {}, 0)
    (outcome,) = SerialExecutor().run(make_learner(), work, {"plant1": alone}, SiteMemory(tmp_path))
    assert isinstance(outcome, SiteUpdate)
    assert outcome.sums is not None
    for name, array in here.sites["plant1"].early_sums().arrays().items():
        np.testing.assert_array_equal(outcome.sums.arrays()[name], array)


class Changed(SimulatedFleet):
    """The simulated plants, whose samples have grown since."""

    def _opened(self, part: Any) -> SiteData:
        site = super()._opened(part)
        site.recordings = [replace(each, values=2.0 * each.load()) for each in site.recordings]
        return site


def test_a_resumed_run_keeps_its_statistics_and_says_that_the_data_have_changed(
    make_learner: MakeLearner, quiet_trainer: MakeTrainer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "one.ckpt"
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    first = fit(trainer, Federation(make_learner(), local_steps=1), plants())
    trainer.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    assert kept_statistics(checkpoint) == first.statistics is not None

    def resumed(fleet: Fleet) -> Federation:
        caplog.clear()
        trainer = quiet_trainer(max_steps=2, limit_val_batches=0)
        return fit(trainer, Federation(make_learner(), local_steps=1), fleet, ckpt_path=path)

    changed = plants(kind=Changed)
    assert resumed(plants()).statistics == first.statistics
    assert "have changed since" not in caplog.text
    assert resumed(changed).statistics == first.statistics
    assert caplog.text.count("have changed since") == 1
    assert "Changed: features are standardized by the checkpoint's statistics" in caplog.text
    for site in (*changed.sites.values(), *changed.unseen.values()):
        assert site.preprocessing.standardize == Standardize(statistics=first.statistics)

    # A machine's own model follows from the run's statistics, not from what the training sites have become.
    grown = plants(kind=Changed)
    grown.setup("fit")
    for site in grown.unseen.values():  # the machine itself is as it was
        site.recordings = [replace(each, values=each.load() / 2.0) for each in site.recordings]
    models = []
    for fleet in (plants(), grown):
        federation = Federation(make_learner())
        federation.load(checkpoint)
        seed_everything(3, verbose=False)
        personal = PersonalTrainer(accelerator="cpu", logger=False, default_root_dir=tmp_path)
        (result, *_) = personal.personalize(federation, fleet, "all")
        models.append(result.model.state_dict())
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])

    # A configuration that no longer standardizes by training sites wins; a checkpoint of before has none to keep.
    assert resumed(plants(None)).statistics is None
    del checkpoint[KEY]
    torch.save(checkpoint, path)
    assert resumed(plants()).statistics == first.statistics


def test_a_release_has_the_statistics(
    make_learner: MakeLearner, quiet_trainer: MakeTrainer, tmp_path: Path
) -> None:
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    federation = fit(trainer, Federation(make_learner(), local_steps=1), plants())
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    release = Release.of(torch.load(tmp_path / "one.ckpt", weights_only=True))
    assert Release.read(release.pack()).statistics == federation.statistics is not None
    assert Release.read(replace(release, statistics=None).pack()).statistics is None


DATA = """\
data:
  class_path: fml_lightning.datamodules.SimulatedFleet
  init_args:
    sites: 3
    unseen_sites: 0
    machines: 2
    windowing: {length: 4096, hop: 2048}
    features:
      class_path: fml_lightning.preprocessing.FaultLines
      init_args: {statistics: [median, kurtosis, variance, level]}
    standardize: {}
    episodes: {shots: 2, queries: 3, of: normal only, normal: normal, permute_labels: false, tasks: 4}
"""
"""As in configs/demo_no_labels.yaml, but small."""


@pytest.mark.long
def test_the_flagship_over_hosts_gives_the_simulations_bits(
    kits: DemoFederation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sites and server are processes; the simulation, and what a site makes of a release, are of this one."""
    steps = ("--model.local_steps=2", "--trainer.check_val_every_n_epoch=3")
    with Trial(kits, tmp_path / "f") as trial:
        data = re.compile(r"^data:\n(?:  .*\n)+", re.MULTILINE)
        federation = trial.folder / "federation.yaml"
        for file in (federation, *(trial.folder / f"{name}.yaml" for name in trial.sites)):
            text = file.read_text().replace("in_features: 128", "in_features: 93")
            text = text.replace("statistics: false", "statistics: true")
            text = text.replace("folder: server}", f"folder: server, deadline: {PATIENCE}}}")
            file.write_text(text if file == federation else data.sub(DATA, text))
        trial.up(*trial.sites)
        fit = trial.fit(3, *steps)
        assert fit.wait(PATIENCE) == 0, trial.log("fit")
        monkeypatch.chdir(trial.folder)
    theirs = torch.load("runs/federation/1/checkpoints/last.ckpt", weights_only=True)
    release = Release.of(theirs)
    (fetched := Path("sites/plant1/fetched")).mkdir()
    (fetched / f"{release.run}.ckpt").write_bytes(release.pack())
    machine = ("--machine", "plant1-machine1")
    assert learning.run(["personalize", "--site", "plant1.yaml", *machine]) == 0
    text = re.sub(r"  executor:\n(?:    .*\n)+", "", federation.read_text())
    federation.write_text(data.sub(DATA, text))
    assert learning.run(["fit", "--config", "federation.yaml", "--trainer.max_steps=3", *steps]) == 0
    assert learning.run(["personalize", "--config", "federation.yaml", *machine]) == 0
    ours = torch.load("runs/federation/2/checkpoints/last.ckpt", weights_only=True)
    assert all(torch.equal(p, ours["state_dict"][name]) for name, p in theirs["state_dict"].items())
    assert kept_statistics(ours) == kept_statistics(theirs) is not None
    (simulated,) = Path("runs").glob("federation/*/machines")
    folders = (Path("sites/plant1/machines"), simulated)
    versions = [Registry(folder).versions("plant1", "plant1-machine1")[0] for folder in folders]
    there, here = (version.load() for version in versions)
    assert there.preprocessing is not None
    assert here.preprocessing is not None
    assert there.preprocessing.describe() == here.preprocessing.describe()
    assert all(torch.equal(p, here.state_dict()[name]) for name, p in there.state_dict().items())
    for name in kits.names:
        lines = (Path("sites") / name / "sent.jsonl").read_text().splitlines()
        told = [line["what"] for line in map(json.loads, lines) if line["verb"] == "sums"]
        assert len(told) == 1
        assert told[0].startswith("sums: of 93 columns over ")
