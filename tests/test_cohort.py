"""Who takes part in a round, and spare sites that are asked so that the slowest need not be waited for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer, seed_everything

from fml_lightning import (
    MAML,
    MLP,
    Cohort,
    Federation,
    FedPer,
    Learner,
    SerialExecutor,
    SiteFailure,
    SiteMemory,
    SiteUpdate,
    UserError,
    Work,
)
from fml_lightning.datamodules import SimulatedFleet
from fml_lightning.federation.outcomes import Limits, sort_outcomes
from fml_lightning.params import clone

MakeLearner = Callable[..., MAML]
MakeTrainer = Callable[..., Trainer]
SITES = ["d", "a", "c", "b", "e"]


@pytest.fixture
def plants(fleet: SimulatedFleet) -> SimulatedFleet:
    """Four sites."""
    return SimulatedFleet(
        sites=4,
        unseen_sites=0,
        seconds=1.5,
        windowing=fleet.preprocessing.windowing,
        features=fleet.preprocessing.features,
        episodes=fleet.episodes,
    )


class AtOnce(SerialExecutor):
    """All sites work before the first one's answer is there, as sites on hosts of their own do.

    Args:
        slow: what comes last.
    """

    def __init__(self, *slow: str) -> None:
        super().__init__()
        self.slow = slow
        self.answered: list[tuple[int, str]] = []
        self.closed: list[int] = []

    def run(
        self, learner: Learner, work: Work, sites: Mapping[str, LightningDataModule], memory: SiteMemory
    ) -> Iterator[SiteUpdate | SiteFailure]:
        """Yield the slow ones' last."""
        outcomes = list(super().run(learner, work, sites, memory))
        try:
            for outcome in sorted(outcomes, key=lambda outcome: outcome.site in self.slow):
                if work.verb == "fit":
                    self.answered.append((work.round, outcome.site))
                yield outcome
        except GeneratorExit:
            self.closed.append(work.round)
            raise


def test_spare_sites_change_nothing_of_who_is_needed() -> None:
    for seed in range(50):
        for size in (1, 3, 5):
            needed = Cohort(count=size).draw(SITES, seed)
            for spare in (1, 2):
                drawn = Cohort(count=size, spare=spare).draw(SITES, seed)
                assert drawn[:size] == needed
                assert len(set(drawn)) == len(drawn) == min(size + spare, 5)
    spares = {Cohort(fraction=0.4, spare=1).draw(SITES, seed)[2] for seed in range(50)}
    assert spares == set(SITES)  # each has its turn


@pytest.mark.parametrize("arguments", [{"spare": 1}, {"count": 2, "spare": -1}, {"fraction": 1.0, "spare": 2}])
def test_impossible_cohorts_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(UserError, match="expected spare of at least 0, and 0 where all sites are needed"):
        Cohort(**arguments)


def test_a_quorum_that_no_cohort_can_reach_is_refused_before_the_first_round(
    fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    federation = Federation(make_learner(), cohort=Cohort(count=1, spare=1), quorum=2)
    with pytest.raises(UserError, match="expected a quorum of 1 to 1, the size of a cohort, got 2"):
        quiet_trainer(max_steps=1, limit_val_batches=0).fit(federation, datamodule=fleet)


def test_spare_sites_that_are_not_needed_are_not_asked_one_by_one(
    plants: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    """And so the bits are those of a run without them."""
    trained = []
    for spare in (0, 2):
        learner = make_learner()
        seed_everything(5, verbose=False)
        trainer = quiet_trainer(max_steps=3, limit_val_batches=0)
        trainer.fit(Federation(learner, local_steps=1, cohort=Cohort(count=2, spare=spare)), datamodule=plants)
        trained.append(clone(learner.params))
        assert trainer.callback_metrics["round/sites"] == 2
        assert trainer.callback_metrics["round/failures"] == 0
    assert trainer.callback_metrics["round/not_needed"] == 2
    assert all(torch.equal(p, trained[1][name]) for name, p in trained[0].items())


def test_a_round_is_closed_when_enough_have_replied(
    plants: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    """plant1 and plant2 are slow: the mean is that of the others, whose late answers are no failures."""
    executor, learner = AtOnce("plant1", "plant2"), make_learner()
    before = clone(learner.shared)
    seed_everything(5, verbose=False)
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    federation = Federation(learner, local_steps=1, executor=executor, cohort=Cohort(count=2, spare=2))
    trainer.fit(federation, datamodule=plants)
    assert executor.answered == [(0, "plant3"), (0, "plant4")]
    assert executor.closed == [0]
    metrics = trainer.callback_metrics
    assert [metrics[f"round/{what}"] for what in ("sites", "failures", "not_needed")] == [2, 0, 2]
    assert "sat round" not in caplog.text
    work = Work("fit", 0, before, 5, local_steps=1)
    expected = SerialExecutor().run(
        learner, work, {name: plants.sites[name] for name in ("plant3", "plant4")}, SiteMemory(Path("none"))
    )
    three, four = [outcome for outcome in expected if isinstance(outcome, SiteUpdate)]
    assert three.examples == four.examples
    for name, p in learner.shared.items():
        torch.testing.assert_close(
            p.detach(), before[name] + (three.delta[name] + four.delta[name]) / 2, rtol=0, atol=1e-6
        )


def test_only_an_update_that_holds_counts_as_one() -> None:
    """Of two that are needed, one is nonsense and one comes twice; the fifth answer is not waited for."""
    params = {"w": torch.zeros(1)}
    work = Work("fit", 0, params, 0)
    good = {site: SiteUpdate(site, 0, {"w": torch.ones(1)}, 1) for site in SITES}
    came: list[str] = []

    def outcomes() -> Iterator[SiteUpdate | SiteFailure]:
        for outcome in (
            SiteUpdate("a", 0, {"w": torch.full((1,), float("nan"))}, 1),
            good["b"],
            good["b"],
            good["c"],
            good["d"],
            good["e"],
        ):
            came.append(outcome.site)
            yield outcome

    updates, failures = sort_outcomes(outcomes(), work, SITES, "accuracy", Limits(), enough=2)
    assert [update.site for update in updates] == ["c", "d"]
    assert [(failure.site, failure.reason) for failure in failures] == [
        ("a", "delta of w: expected finite numbers, got NaN or infinity; lower the step sizes"),
        ("b", "expected one answer, got 2"),
    ]
    assert came == ["a", "b", "b", "c", "d"]
    _, failures = sort_outcomes([good["a"]], work, SITES, "accuracy", Limits(), enough=2)
    assert [failure.reason for failure in failures] == ["it did not answer"] * 4


def test_a_spare_site_takes_the_place_of_one_that_fails(
    plants: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    class Broken(SerialExecutor):
        def run(
            self, learner: Learner, work: Work, sites: Mapping[str, LightningDataModule], memory: SiteMemory
        ) -> Iterator[SiteUpdate | SiteFailure]:
            for number, (site, data) in enumerate(sites.items()):
                if work.verb == "fit" and number == 0:
                    yield SiteFailure(site, work.round, "the line is down")
                else:
                    yield from super().run(learner, work, {site: data}, memory)

    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    federation = Federation(make_learner(), local_steps=1, executor=Broken(), cohort=Cohort(count=2, spare=2))
    trainer.fit(federation, datamodule=plants)
    metrics = trainer.callback_metrics
    assert [metrics[f"round/{what}"] for what in ("sites", "failures", "not_needed")] == [2, 1, 1]


def test_a_site_that_was_not_needed_keeps_what_is_its_own_and_takes_part_later(
    plants: SimulatedFleet, quiet_trainer: MakeTrainer, tmp_path: Path
) -> None:
    """plant4 trains in every round, is heard in none, and goes on from its own state when the others are gone."""
    torch.manual_seed(5)
    executor = AtOnce("plant4")
    federation = Federation(
        FedPer(MLP(32, 4, hidden=(8,))), local_steps=1, executor=executor, cohort=Cohort(count=3, spare=1)
    )
    trainer = quiet_trainer(max_steps=2, limit_val_batches=0, default_root_dir=tmp_path)
    trainer.fit(federation, datamodule=plants)
    assert executor.closed == [0, 1]
    assert federation.stateful_sites == {"plant1", "plant2", "plant3"}
    assert [path.name for path in sorted((tmp_path / "personal/plant4").glob("*.pt"))] == ["0.pt", "1.pt"]
    learner = FedPer(MLP(32, 4, hidden=(8,)))
    federation.memory.restore(learner, "plant4", 2)
    state = torch.load(tmp_path / "personal/plant4/1.pt", weights_only=True)
    assert all(torch.equal(learner.state_dict()[name], p) for name, p in state.items())

    executor.slow = ("plant1",)
    trainer.fit_loop.epoch_loop.max_steps = 3
    trainer.fit_loop.max_epochs = -1
    trainer.fit(federation, datamodule=plants)
    assert (2, "plant4") in executor.answered
    assert federation.stateful_sites == {"plant1", "plant2", "plant3", "plant4"}


def test_a_run_may_go_back_to_before_a_sites_first_round(tmp_path: Path) -> None:
    """A site that first trained in round 5 had nothing in round 3, nor in round 5 itself."""
    learner = FedPer(MLP(32, 4, hidden=(8,)))
    SiteMemory(tmp_path).keep(learner, "plant4", 5)
    fresh = FedPer(MLP(32, 4, hidden=(8,)))
    before = {name: p.clone() for name, p in fresh.state_dict().items()}
    for round_ in (3, 5):
        SiteMemory(tmp_path).restore(fresh, "plant4", round_)
        assert all(torch.equal(p, before[name]) for name, p in fresh.state_dict().items())
    with pytest.raises(UserError, match="its personal state is of round 5, which cannot be taken back to round 3"):
        SiteMemory(tmp_path, expected=frozenset({"plant4"})).restore(fresh, "plant4", 3)
    SiteMemory(tmp_path).restore(fresh, "plant4", 6)
    state = learner.state_dict()
    assert all(torch.equal(fresh.state_dict()[name], state[name]) for name in learner.personal)
