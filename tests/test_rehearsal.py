"""Before the first round a site rehearses, so that what cannot adapt is known before all rounds are trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor, nn

from fml_lightning import (
    MAML,
    MLP,
    Classification,
    Cohort,
    Episode,
    FedAvg,
    Federation,
    FedPer,
    InnerLoop,
    Learner,
    NormalDistance,
    SerialExecutor,
    SiteFailure,
    SiteMemory,
    SiteUpdate,
    UserError,
    Work,
)
from fml_lightning.datamodules import Episodes, SimulatedFleet, SiteData
from fml_lightning.datamodules.machine_windows import MachineWindows
from fml_lightning.errors import NotYetError
from fml_lightning.params import clone

MakeLearner = Callable[..., MAML]
MakeTrainer = Callable[..., Trainer]


class Noted(SerialExecutor):
    """An executor that notes what is asked of whom, and may leave rehearsals out."""

    def __init__(self, rehearses: bool = True) -> None:
        super().__init__()
        self.rehearses = rehearses
        self.asked: list[tuple[str, int, str]] = []

    def run(
        self, learner: Learner, work: Work, sites: Mapping[str, LightningDataModule], memory: SiteMemory
    ) -> Iterator[SiteUpdate | SiteFailure]:
        """Note and run."""
        self.asked += [(work.verb, work.round, site) for site in sites]
        if work.verb == "rehearse" and not self.rehearses:
            return iter([SiteUpdate(site, work.round, {}, 0) for site in sites])
        return super().run(learner, work, sites, memory)


class FailsToAdapt(SiteData):
    """A site that trains, but has nothing to be judged on."""

    error: Exception = UserError("plant: expected late windows, got none; record more")

    def val_dataloader(self) -> Iterable[Episode]:
        """Raise."""
        raise self.error


def replace_site(fleet: SimulatedFleet, name: str, kind: type[SiteData]) -> SiteData:
    fleet.setup("fit")
    old = fleet.sites[name]
    fleet.sites[name] = kind(name, old.recordings, old.preprocessing, old.episodes)
    return fleet.sites[name]


def test_what_cannot_adapt_anywhere_ends_before_the_first_round(
    fleet: SimulatedFleet, quiet_trainer: MakeTrainer
) -> None:
    """With the sentence that the end of the run would have: here of an inner loop that diverges."""
    learner = FedAvg(MLP(32, 4), adaptation=InnerLoop(lr=1e30, steps=3))
    executor = Noted()
    trainer = quiet_trainer(max_steps=2, limit_val_batches=0)
    with pytest.raises(
        UserError,
        match=r"every site failed in round 0, before training, .*plant1 said: FedAvg: adaptation diverged",
    ):
        trainer.fit(Federation(learner, executor=executor), datamodule=fleet)
    assert executor.asked == [("rehearse", 0, "plant1"), ("rehearse", 0, "plant2")]
    assert trainer.global_step == 0


class Uncopied(nn.Linear):
    """A network that trains, but is not to be copied in evaluation: what only `personalize` does."""

    def forward(self, x: Tensor) -> Tensor:
        """Linear."""
        return super().forward(x)

    def __deepcopy__(self, memo: Any) -> nn.Module:
        if not self.training:
            raise TypeError("this network has a lock")
        copied = type(self)(self.in_features, self.out_features)
        copied.load_state_dict(self.state_dict())
        return copied


def test_what_only_personalization_does_is_rehearsed_too(
    fleet: SimulatedFleet, quiet_trainer: MakeTrainer
) -> None:
    with pytest.raises(UserError, match=r"before training, .*plant1 said: TypeError in .*__deepcopy__"):
        quiet_trainer(max_steps=1, limit_val_batches=0).fit(Federation(FedAvg(Uncopied(32, 4))), datamodule=fleet)


@pytest.mark.parametrize(
    "learner",
    [MAML(MLP(32, 4), Classification(normal=0)), FedAvg(MLP(32, 4), Classification(normal=3)), NormalDistance(32)],
    ids=["MAML", "FedAvg", "NormalDistance"],
)
def test_another_normal_class_than_the_datas_is_named_before_training(
    learner: Learner, fleet: SimulatedFleet, quiet_trainer: MakeTrainer
) -> None:
    fleet.episodes = Episodes(shots=2, of="normal only", normal="inner", permute_labels=False)
    with pytest.raises(
        UserError, match=r"before training, .*normal class \d, task 0 shows class 2 alone; let .*episodes\.normal"
    ):
        quiet_trainer(max_steps=1, limit_val_batches=0).fit(Federation(learner), datamodule=fleet)


@pytest.mark.parametrize(
    "error", [FailsToAdapt.error, NotYetError("too few windows yet"), OSError(), SystemExit()]
)
def test_one_site_that_can_adapt_is_enough(
    error: Exception, fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    site = replace_site(fleet, "plant1", FailsToAdapt)
    assert isinstance(site, FailsToAdapt)
    site.error = error
    executor = Noted()
    trainer = quiet_trainer(max_steps=2, limit_val_batches=0)
    trainer.fit(Federation(make_learner(), local_steps=1, executor=executor), datamodule=fleet)
    assert executor.asked == [
        ("rehearse", 0, "plant1"),
        ("rehearse", 0, "plant2"),
        *(("fit", round_, site) for round_ in (0, 1) for site in ("plant1", "plant2")),
    ]


def test_sites_without_data_yet_are_asked_again(
    fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    class Filling(SiteData):
        def evaluated_machines(self) -> list[MachineWindows]:
            if not seen:
                seen.append(self.name)
                raise NotYetError("too few windows yet")
            return super().evaluated_machines()

    seen: list[str] = []
    replace_site(fleet, "plant1", Filling)
    del fleet.sites["plant2"]
    executor = Noted()
    trainer = quiet_trainer(max_steps=3, limit_val_batches=0)
    trainer.fit(Federation(make_learner(), local_steps=1, executor=executor), datamodule=fleet)
    assert [(verb, round_) for verb, round_, _ in executor.asked] == [
        ("rehearse", 0),
        ("fit", 0),
        ("rehearse", 1),
        ("fit", 1),
        ("fit", 2),
    ]


@pytest.mark.parametrize("kind", [MAML, FedPer])
def test_a_rehearsal_changes_no_number(
    kind: type[Learner], fleet: SimulatedFleet, quiet_trainer: MakeTrainer, tmp_path: Path
) -> None:
    """Nor what sites keep: with it and without it the same parameters, bit by bit."""
    trained = []
    for rehearses in (True, False):
        torch.manual_seed(5)
        learner = kind(MLP(32, 4, hidden=(16,)))
        executor = Noted(rehearses)
        trainer = quiet_trainer(max_steps=2, limit_val_batches=0, default_root_dir=tmp_path / str(rehearses))
        federation = Federation(learner, local_steps=2, executor=executor, cohort=Cohort(count=1))
        trainer.fit(federation, datamodule=fleet)
        trained.append(clone(learner.params))
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])
    kept = [
        sorted(str(path.relative_to(root)) for path in root.rglob("*.pt"))
        for root in (tmp_path / "True", tmp_path / "False")
    ]
    assert kept[0] == kept[1]


class TrainsOnly(LightningDataModule):
    """A data module of a user's own that has nothing to validate on."""

    def __init__(self, site: SiteData) -> None:
        super().__init__()
        self.site = site

    def train_dataloader(self) -> Iterable[Episode]:
        """The site's."""
        return self.site.train_dataloader()


def test_a_site_without_validation_data_has_nothing_to_rehearse(
    fleet: SimulatedFleet, make_learner: MakeLearner, tmp_path: Path
) -> None:
    fleet.setup("fit")
    learner = make_learner()
    work = Work("rehearse", 0, clone(learner.shared), seed=3)
    site = TrainsOnly(fleet.sites["plant1"])
    (outcome,) = SerialExecutor().run(learner, work, {"plant1": site}, SiteMemory(tmp_path))
    assert outcome == SiteUpdate("plant1", 0, {}, 0, seconds=outcome.seconds)
    assert not list(tmp_path.rglob("*"))


def test_one_site_alone_does_not_end_the_run_of_others(
    fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    """plant1, drawn alone, claims that all is lost; the run goes on with whoever is drawn next."""

    class Claiming(SerialExecutor):
        def run(self, learner: Learner, work: Work, sites: Any, memory: SiteMemory) -> Iterator[Any]:
            for site in sites:
                if site == "plant1":
                    yield SiteFailure(site, work.round, "all is lost", permanent=True)
                else:
                    yield SiteUpdate(site, work.round, clone(work.params), 1)

    trainer = quiet_trainer(max_steps=6, limit_val_batches=0)
    federation = Federation(make_learner(), executor=Claiming(), cohort=Cohort(count=1), patience=6)
    trainer.fit(federation, datamodule=fleet)
    assert trainer.global_step == 6
