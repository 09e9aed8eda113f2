"""A round waits for sites that cannot answer yet: only these are asked again, and no number depends on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer, seed_everything

from fml_lightning import (
    MAML,
    MLP,
    Cohort,
    FedAvg,
    Federation,
    FedPer,
    Learner,
    NotYetError,
    SerialExecutor,
    SiteFailure,
    SiteMemory,
    SiteUpdate,
    UserError,
    Work,
)
from fml_lightning.datamodules import SimulatedFleet, SiteData
from fml_lightning.datamodules.machine_windows import MachineWindows
from fml_lightning.federation import waiting
from fml_lightning.params import clone

MakeLearner = Callable[..., MAML]
MakeTrainer = Callable[..., Trainer]
Answer = Callable[[str, Work], SiteUpdate | SiteFailure]


class Scripted:
    """An executor whose sites answer as told; of a rehearsal, that they can."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[tuple[str, int, list[str]]] = []
        self.works: list[Work] = []

    def run(
        self, learner: Learner, work: Work, sites: Mapping[str, LightningDataModule], memory: SiteMemory
    ) -> Iterator[SiteUpdate | SiteFailure]:
        """Note who is asked for what."""
        if work.verb == "rehearse":
            return iter([SiteUpdate(site, work.round, {}, 0) for site in sites])
        self.asked.append((work.verb, work.round, list(sites)))
        self.works.append(work)
        return iter([self.answer(site, work) for site in sites])


class Clock:
    """Time that passes while somebody sleeps, and does not else."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        """Seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of whoever waits."""
    clock = Clock()
    monkeypatch.setattr(waiting, "time", clock)
    return clock


def add(value: float, site: str, work: Work, examples: int = 1) -> SiteUpdate:
    return SiteUpdate(site, work.round, {n: torch.full_like(p, value) for n, p in work.params.items()}, examples)


def not_yet(site: str, work: Work, reason: str = "it is not connected") -> SiteFailure:
    return SiteFailure(site, work.round, reason, not_yet=True)


def test_only_those_that_could_not_answer_are_asked_again(
    fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer, clock: Clock
) -> None:
    """plant1 sends +1 (weight 1), plant2 +5 (weight 3) when it is asked for the third time: 4."""

    def answer(site: str, work: Work) -> SiteUpdate | SiteFailure:
        if site == "plant1":
            return add(1.0, site, work)
        return add(5.0, site, work, 3) if len(executor.asked) == 3 else not_yet(site, work)

    executor, learner = Scripted(answer), make_learner()
    before = clone(learner.params)
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    trainer.fit(Federation(learner, executor=executor, quorum=2), datamodule=fleet)
    assert executor.asked == [("fit", 0, ["plant1", "plant2"]), ("fit", 0, ["plant2"]), ("fit", 0, ["plant2"])]
    assert all(work is executor.works[0] for work in executor.works)
    assert (trainer.callback_metrics["round/sites"], trainer.callback_metrics["round/failures"]) == (2, 0)
    assert clock.pauses == [0.2, 0.2]
    for name, p in learner.params.items():
        torch.testing.assert_close(p, before[name] + 4.0, rtol=0, atol=1e-6)


def test_a_round_that_has_its_quorum_waits_for_nobody(
    fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer, clock: Clock
) -> None:
    """A site that is off for a night holds nobody up."""
    executor = Scripted(lambda site, work: add(1.0, site, work) if site == "plant1" else not_yet(site, work))
    trainer = quiet_trainer(max_steps=9, limit_val_batches=0)
    trainer.fit(Federation(make_learner(), executor=executor), datamodule=fleet)
    assert trainer.global_step == len(executor.asked) == 9
    assert not clock.pauses


def test_a_late_joiner_takes_part_in_the_next_round(
    fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    took_part = []

    def answer(site: str, work: Work) -> SiteUpdate | SiteFailure:
        if site == "plant2" and work.round == 0:
            return not_yet(site, work)
        took_part.append((work.round, site))
        return add(1.0, site, work)

    federation = Federation(make_learner(), executor=Scripted(answer))
    quiet_trainer(max_steps=2, limit_val_batches=0).fit(federation, datamodule=fleet)
    assert took_part == [(0, "plant1"), (1, "plant1"), (1, "plant2")]


@pytest.mark.parametrize("max_wait", [0.0, 0.5, 3600.0])
def test_time_over_ends_the_run_with_what_every_site_lacks(
    max_wait: float,
    fleet: SimulatedFleet,
    make_learner: MakeLearner,
    quiet_trainer: MakeTrainer,
    clock: Clock,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def answer(site: str, work: Work) -> SiteUpdate | SiteFailure:
        return not_yet(site, work) if site == "plant1" else SiteFailure(site, 0, "plant2: mend it", permanent=True)

    executor = Scripted(answer)
    federation = Federation(make_learner(), executor=executor, max_wait=max_wait)
    expected = (
        rf"round 0: 0 of 1 sites \(quorum\) could work after {max_wait:g} s \(max_wait\);"
        r" plant1: it is not connected; plant2: mend it"
    )
    with pytest.raises(NotYetError, match=expected):
        quiet_trainer(max_steps=9, limit_val_batches=0).fit(federation, datamodule=fleet)
    assert sum(clock.pauses) == pytest.approx(max_wait)
    assert executor.asked[1:] == [("fit", 0, ["plant1"])] * len(clock.pauses)
    # Pauses grow by a tenth of the time waited: log(50) / log(1.1) = 42 lie between 0.2 s and 10 s.
    assert len(clock.pauses) <= 2 / 0.2 + 1 + 42 + 1 + (3600 - 100) / 10 + 1
    assert all(0.2 <= pause <= 10.0 for pause in clock.pauses[:-1])
    assert ("plant1: it is not connected" in capsys.readouterr().err) == (max_wait > 0)


def test_sites_that_were_not_drawn_may_go_on_for_those_that_are_off(
    fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer, clock: Clock
) -> None:
    """One site of two in each round, and plant1 is off: a round that draws it is abandoned after `max_wait`."""
    executor = Scripted(lambda site, work: add(1.0, site, work) if site == "plant2" else not_yet(site, work))
    federation = Federation(make_learner(), executor=executor, cohort=Cohort(count=1), patience=100, max_wait=0.4)
    trainer = quiet_trainer(max_steps=12, limit_val_batches=0)
    trainer.fit(federation, datamodule=fleet)
    drawn = [sites for _, _, sites in executor.asked]
    off = drawn.count(["plant1"])
    assert (trainer.global_step, drawn.count(["plant2"]) + off // 3) == (12, 12)
    assert sum(clock.pauses) == pytest.approx(0.4 * off / 3)
    federation = Federation(
        make_learner(),
        executor=Scripted(not_yet),
        cohort=Cohort(count=1),
        patience=2,
        max_wait=0.4,
    )
    with pytest.raises(
        NotYetError, match=r"^2 rounds in a row missed the quorum of 1 .*after 0.4 s.*not connected"
    ):
        quiet_trainer(max_steps=12, limit_val_batches=0).fit(federation, datamodule=fleet)


def test_a_site_that_failed_for_another_reason_gets_another_round(
    fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer, clock: Clock
) -> None:
    """plant1's line breaks in round 0, plant2 is off: after `max_wait` plant1 is asked anew, and is back."""

    def answer(site: str, work: Work) -> SiteUpdate | SiteFailure:
        if site == "plant2":
            return not_yet(site, work)
        return SiteFailure(site, work.round, "it did not answer") if work.round == 0 else add(1.0, site, work)

    executor = Scripted(answer)
    trainer = quiet_trainer(max_steps=2, limit_val_batches=0)
    trainer.fit(Federation(make_learner(), executor=executor, max_wait=0.2), datamodule=fleet)
    assert [(round_, sites) for _, round_, sites in executor.asked] == [
        (0, ["plant1", "plant2"]),
        (0, ["plant2"]),
        (1, ["plant1", "plant2"]),
    ]
    assert trainer.callback_metrics["round/sites"] == 1


class Filling(SiteData):
    """A site whose windows come when it has been asked in vain twice, for training and for evaluation each."""

    def training_machines(self) -> list[MachineWindows]:
        """Those that there are by now."""
        self._look("training")
        return super().training_machines()

    def evaluated_machines(self) -> list[MachineWindows]:
        """Those that there are by now."""
        self._look("evaluated")
        return super().evaluated_machines()

    def _look(self, what: str) -> None:
        looks: dict[str, int] = self.__dict__.setdefault("looks", {})
        looks[what] = looks.get(what, 0) + 1
        if looks[what] <= 2:
            raise NotYetError(f"{self.name}: too few windows yet")


def make_filling(fleet: SimulatedFleet, *names: str) -> None:
    fleet.setup("fit")
    for sites in (fleet.sites, fleet.unseen):
        for name in set(names) & set(sites):
            old = sites[name]
            sites[name] = Filling(name, old.recordings, old.preprocessing, old.episodes)


@pytest.mark.parametrize("kind", [MAML, FedPer])
def test_no_number_depends_on_the_wait(
    kind: type[Learner], fleet: SimulatedFleet, quiet_trainer: MakeTrainer, tmp_path: Path, clock: Clock
) -> None:
    """Nor what sites keep: the same bits as of sites that had their windows from the start."""
    trained, kept = [], []
    for late in ((), ("plant1", "plant2")):
        data = SimulatedFleet(
            sites=2,
            unseen_sites=1,
            machines=2,
            seconds=1.5,
            windowing=fleet.preprocessing.windowing,
            features=fleet.preprocessing.features,
            episodes=fleet.episodes,
        )
        make_filling(data, *late)
        torch.manual_seed(5)
        federation = Federation(kind(MLP(32, 4, hidden=(16,))), local_steps=2, quorum=2)
        seed_everything(3, verbose=False)
        folder = tmp_path / str(len(trained))
        quiet_trainer(max_steps=2, limit_val_batches=0, default_root_dir=folder).fit(federation, datamodule=data)
        trained.append(clone(federation.learner.shared))
        kept.append(
            {
                path.relative_to(folder): torch.load(path, weights_only=True)
                for path in sorted(folder.rglob("personal/*/*.pt"))
            }
        )
    assert len(clock.pauses) == 2
    assert all(torch.equal(p, trained[1][name]) for name, p in trained[0].items())
    assert kept[0].keys() == kept[1].keys()
    assert bool(kept[0]) == (kind is FedPer)
    for path, state in kept[0].items():
        assert all(torch.equal(p, kept[1][path][name]) for name, p in state.items())


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_a_measurement_waits_for_one_site(
    verb: str, fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer, clock: Clock
) -> None:
    make_filling(fleet, "plant1", "plant2", "plant3")
    trainer = quiet_trainer()
    measure = getattr(trainer, verb)
    with pytest.raises(NotYetError, match=rf"^{verb}: no site could be measured after 0 s .*too few windows yet"):
        measure(Federation(make_learner(), max_wait=0), datamodule=fleet, verbose=False)
    federation = Federation(make_learner())
    measure(federation, datamodule=fleet, verbose=False)
    assert clock.pauses == [0.2]
    assert {result.site for result in federation.results} == (
        {"plant1", "plant2"} if verb == "validate" else {"plant3"}
    )


def test_a_training_goes_on_when_a_measurement_waited_in_vain(
    fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer, clock: Clock
) -> None:
    executor = Scripted(lambda site, work: add(1, site, work) if work.verb == "fit" else not_yet(site, work))
    trainer = quiet_trainer(max_steps=2)
    trainer.fit(Federation(make_learner(), executor=executor, max_wait=0.2), datamodule=fleet)
    assert trainer.global_step == 2
    assert trainer.callback_metrics["val/sites"] == 0
    assert clock.pauses == [0.2] * 2


def test_what_several_sites_claim_does_not_end_the_run_of_one_that_trains(
    quiet_trainer: MakeTrainer, make_learner: MakeLearner, fleet: SimulatedFleet
) -> None:
    """Two of three sites of another learner, drawn together, once the third has trained."""
    data = SimulatedFleet(
        sites=3,
        unseen_sites=0,
        seconds=1.5,
        windowing=fleet.preprocessing.windowing,
        features=fleet.preprocessing.features,
        episodes=fleet.episodes,
    )

    def answer(site: str, work: Work) -> SiteUpdate | SiteFailure:
        if site == "plant1":
            return add(1.0, site, work)
        return SiteFailure(site, work.round, "it has another learner", permanent=True)

    executor = Scripted(answer)
    trainer = quiet_trainer(max_steps=12, limit_val_batches=0)
    seed_everything(1, verbose=False)
    federation = Federation(make_learner(), executor=executor, cohort=Cohort(count=2), patience=12)
    trainer.fit(federation, datamodule=data)
    drawn = [sites for _, _, sites in executor.asked]
    assert "plant1" in drawn[0]
    assert ["plant2", "plant3"] in drawn
    assert trainer.global_step == 12
    with pytest.raises(UserError, match=r"every site failed in round 0; plant1 said: it has another learner"):
        quiet_trainer(max_steps=12, limit_val_batches=0).fit(
            Federation(
                make_learner(),
                executor=Scripted(lambda s, w: SiteFailure(s, w.round, "it has another learner", permanent=True)),
            ),
            datamodule=data,
        )


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"max_wait": -1.0}, "max_wait >= 0 seconds, got -1.0"),
        ({"max_wait": float("nan")}, "max_wait >= 0 seconds, got nan"),
    ],
)
def test_impossible_waits_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        Federation(FedAvg(MLP(32, 4)), **options)


def test_many_sites_are_told_in_one_line() -> None:
    failures = [SiteFailure(f"plant{i}", 0, "it is not connected", not_yet=True) for i in range(7)]
    assert waiting.reasons(failures).endswith("; plant4: it is not connected; and 2 more")
    assert waiting.reasons([]) == "there is no site"


def test_the_serial_executor_says_not_yet_and_keeps_nothing(fleet: SimulatedFleet, tmp_path: Path) -> None:
    make_filling(fleet, "plant1")
    learner = FedPer(MLP(32, 4, hidden=(8,)))
    work = Work("fit", 0, clone(learner.shared), seed=3, local_steps=1)
    (outcome,) = SerialExecutor().run(learner, work, {"plant1": fleet.sites["plant1"]}, SiteMemory(tmp_path))
    assert isinstance(outcome, SiteFailure)
    assert outcome.not_yet
    assert not list(tmp_path.rglob("*"))
