"""The federated loop against plain training, hand-made updates, failing sites and interrupted runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader, TensorDataset

from fml_lightning import (
    MAML,
    MLP,
    Cohort,
    FedAvg,
    Federation,
    Learner,
    SerialExecutor,
    SiteFailure,
    SiteMemory,
    SiteUpdate,
    UserError,
    WeightedMean,
    Work,
)
from fml_lightning.commands.run.round_checkpoint import RoundCheckpoint
from fml_lightning.datamodules import SimulatedFleet, SiteData
from fml_lightning.datamodules.loaders import Batches
from fml_lightning.datamodules.machine_windows import MachineWindows
from fml_lightning.errors import NotYetError
from fml_lightning.executors.site_work import seeded
from fml_lightning.params import clone
from fml_lightning.seeds import derive_seed

MakeLearner = Callable[..., MAML]
MakeTrainer = Callable[..., Trainer]


class Scripted:
    """An executor whose sites answer with prepared outcomes; the last site first, as networks may."""

    def __init__(self, answer: Callable[[str, Work], SiteUpdate | SiteFailure]) -> None:
        self.answer = answer

    def run(
        self, learner: Learner, work: Work, sites: Mapping[str, LightningDataModule], memory: SiteMemory
    ) -> Iterator[SiteUpdate | SiteFailure]:
        for site in reversed(list(sites)):
            yield self.answer(site, work)


def constant(value: float, work: Work, site: str, examples: int) -> SiteUpdate:
    return SiteUpdate(site, work.round, {n: torch.full_like(p, value) for n, p in work.params.items()}, examples)


def test_weighted_mean_weighs_by_examples() -> None:
    """(1·1 + 3·5) / (1 + 3) = 4."""
    updates = [SiteUpdate("a", 0, {"w": torch.tensor(1.0)}, 1), SiteUpdate("b", 0, {"w": torch.tensor(5.0)}, 3)]
    assert WeightedMean()(updates)["w"].item() == 4.0


def test_one_site_alone_is_that_site(
    fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    """One round of a federation of one site equals plain local training from the same seed."""
    fleet.setup("fit")
    name, site = next(iter(fleet.sites.items()))
    fleet.sites = {name: site}
    learner = make_learner()
    federation = Federation(learner, local_steps=4)
    seed_everything(5, verbose=False)
    alone = make_learner()
    with seeded(derive_seed(5, "0", name)):
        quiet_trainer(max_steps=4, limit_val_batches=0).fit(alone, datamodule=site)
    seed_everything(5, verbose=False)
    quiet_trainer(max_steps=1, limit_val_batches=0).fit(federation, datamodule=fleet)
    for name_, p in learner.params.items():
        torch.testing.assert_close(p, alone.params[name_], rtol=0, atol=1e-7)


def test_the_server_optimizer_steps_on_the_pseudo_gradient(
    fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    """Sites send +1 (weight 1) and +5 (weight 3): delta 4, so SGD with lr ½ adds 2 in a round, 4 in two."""
    learner = make_learner()
    before = clone(learner.params)
    answers = {"plant1": (1.0, 1), "plant2": (5.0, 3)}
    federation = Federation(
        learner,
        executor=Scripted(lambda site, work: constant(answers[site][0], work, site, answers[site][1])),
        server_optimizer=lambda params: torch.optim.SGD(params, lr=0.5),
    )
    trainer = quiet_trainer(max_steps=2, limit_val_batches=0)
    trainer.fit(federation, datamodule=fleet)
    assert trainer.global_step == 2
    for name, p in learner.params.items():
        torch.testing.assert_close(p, before[name] + 4.0, rtol=0, atol=1e-5)


def test_any_torch_optimizer_serves(
    fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    """Adam's first step moves every parameter by lr, whatever the size of the delta."""
    learner = make_learner()
    before = clone(learner.params)
    federation = Federation(
        learner,
        executor=Scripted(lambda site, work: constant(3.0, work, site, 1)),
        server_optimizer=lambda params: torch.optim.Adam(params, lr=0.01),
    )
    quiet_trainer(max_steps=1, limit_val_batches=0).fit(federation, datamodule=fleet)
    for name, p in learner.params.items():
        torch.testing.assert_close(p, before[name] + 0.01, rtol=0, atol=1e-6)


def test_a_failing_site_sits_out_and_the_others_go_on(
    fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    learner = make_learner()
    before = clone(learner.params)

    def answer(site: str, work: Work) -> SiteUpdate | SiteFailure:
        if site == "plant1":
            return SiteFailure(site, work.round, "the cable is cut")
        return constant(2.0, work, site, 7)

    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    trainer.fit(Federation(learner, executor=Scripted(answer)), datamodule=fleet)
    assert trainer.callback_metrics["round/sites"] == 1
    assert trainer.callback_metrics["round/failures"] == 1
    assert "plant1 sat round 0 out: the cable is cut" in caplog.text
    for name, p in learner.params.items():
        torch.testing.assert_close(p, before[name] + 2.0, rtol=0, atol=1e-6)


def test_the_same_reason_is_told_once_until_the_site_is_back(
    fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    """A reason that differs in its numbers alone is the same one."""
    reasons = {0: "has 1 of 3 windows", 1: "has 2 of 3 windows", 2: "asleep", 4: "asleep"}

    def answer(site: str, work: Work) -> SiteUpdate | SiteFailure:
        if site == "plant1" and work.round in reasons:
            return SiteFailure(site, work.round, reasons[work.round])
        return constant(1.0, work, site, 1)

    trainer = quiet_trainer(max_steps=6, limit_val_batches=0)
    trainer.fit(Federation(make_learner(), executor=Scripted(answer)), datamodule=fleet)
    assert [record.message for record in caplog.records if "sat round" in record.message] == [
        "plant1 sat round 0 out: has 1 of 3 windows",
        "plant1 sat round 2 out: asleep",
        "plant1 sat round 4 out: asleep",
    ]


def test_a_site_with_too_few_windows_yet_is_not_hopeless(
    fleet: SimulatedFleet, make_learner: MakeLearner, tmp_path: Path
) -> None:
    class Young(SiteData):
        def training_machines(self) -> list[MachineWindows]:
            raise NotYetError("one window, and three are needed")

    learner = make_learner()
    work = Work("fit", 0, clone(learner.shared), seed=3, local_steps=2)
    for kind, permanent in ((Young, False), (SiteData, True)):
        site = kind("plant1", [], fleet.preprocessing, fleet.episodes)
        (outcome,) = SerialExecutor().run(learner, work, {"plant1": site}, SiteMemory(tmp_path))
        assert isinstance(outcome, SiteFailure)
        assert outcome.permanent == permanent


def test_a_round_below_quorum_changes_nothing_but_counts(
    fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    learner = make_learner()
    before = clone(learner.params)

    def answer(site: str, work: Work) -> SiteUpdate | SiteFailure:
        return constant(1.0, work, site, 1) if site == "plant1" else SiteFailure(site, work.round, "asleep")

    federation = Federation(learner, executor=Scripted(answer), quorum=2, patience=5)
    trainer = quiet_trainer(max_steps=3, limit_val_batches=0)
    trainer.fit(federation, datamodule=fleet)
    assert trainer.global_step == 3
    assert all(torch.equal(p, before[name]) for name, p in learner.params.items())


def test_too_many_abandoned_rounds_end_the_run_with_the_reason(
    fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    federation = Federation(
        make_learner(), executor=Scripted(lambda site, work: SiteFailure(site, work.round, "asleep")), patience=2
    )
    with pytest.raises(UserError, match=r"2 rounds in a row missed the quorum of 1.*plant1 said: asleep"):
        quiet_trainer(max_steps=9, limit_val_batches=0).fit(federation, datamodule=fleet)


def test_a_nan_loss_ends_the_run_with_one_clear_error(
    fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    learner = make_learner(optimizer=lambda params: torch.optim.SGD(params, lr=1e30))
    with pytest.raises(
        UserError, match=r"every site failed in round .*meta_loss is (nan|inf).*lower the step sizes"
    ):
        quiet_trainer(max_steps=9, limit_val_batches=0).fit(Federation(learner), datamodule=fleet)


def test_a_non_finite_update_is_not_aggregated(
    fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    """One local step whose update overflows: the loss was finite, the update is not."""
    learner = make_learner(optimizer=lambda params: torch.optim.SGD(params, lr=float("inf")))
    before = clone(learner.params)
    federation = Federation(learner, local_steps=1, patience=3)
    quiet_trainer(max_steps=2, limit_val_batches=0).fit(federation, datamodule=fleet)
    assert all(torch.equal(p, before[name]) for name, p in learner.params.items())


NONSENSE = {
    "a NaN": lambda u: replace(u, delta={n: p * float("nan") for n, p in u.delta.items()}),
    "no parameters": lambda u: replace(u, delta={}),
    "another shape": lambda u: replace(u, delta={n: p[None] for n, p in u.delta.items()}),
    "another round": lambda u: replace(u, round=u.round + 1),
    "no windows": lambda u: replace(u, examples=0),
    "a stranger": lambda u: replace(u, site="plant9"),
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_from_a_site_is_its_failure(
    kind: str, fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    """plant1 sends nonsense; plant2's +2 is all that counts."""
    learner = make_learner()
    before = clone(learner.params)

    def answer(site: str, work: Work) -> SiteUpdate | SiteFailure:
        update = constant(2.0, work, site, 7)
        return NONSENSE[kind](update) if site == "plant1" else update

    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    trainer.fit(Federation(learner, executor=Scripted(answer)), datamodule=fleet)
    answers = 0 if kind == "a stranger" else 1  # whose own answer never comes
    assert trainer.callback_metrics["round/failures"] == 2 - answers
    for name, p in learner.params.items():
        torch.testing.assert_close(p, before[name] + 2.0, rtol=0, atol=1e-6)


def test_sites_leave_the_template_and_the_global_generator_alone(
    fleet: SimulatedFleet, make_learner: MakeLearner, tmp_path: Path
) -> None:
    fleet.setup("fit")
    learner = make_learner()
    learner.examples_seen = 1000  # a warm start
    before, state = clone(learner.params), torch.get_rng_state()
    work, memory = Work("fit", 0, clone(learner.shared), seed=3, local_steps=2), SiteMemory(tmp_path)
    first = list(SerialExecutor().run(learner, work, fleet.sites, memory))
    again = list(SerialExecutor().run(learner, work, dict(reversed(fleet.sites.items())), memory))[::-1]
    broken = {"plant1": SiteData("plant1", [], fleet.preprocessing, fleet.episodes)}
    assert isinstance(next(iter(SerialExecutor().run(learner, work, broken, memory))), SiteFailure)
    assert torch.equal(torch.get_rng_state(), state)  # also after a failure
    assert all(torch.equal(p, before[name]) for name, p in learner.params.items())
    for a, b in zip(first, again, strict=True):  # the order of sites changes no number
        assert isinstance(a, SiteUpdate)
        assert isinstance(b, SiteUpdate)
        assert a.examples == sum(len(machine.early.label) for machine in fleet.sites[a.site].machines)
        assert a.examples_seen == 2 * 3 * 4 * (1 + 3)  # steps x tasks x classes x (shots + queries)
        assert all(torch.equal(a.delta[name], b.delta[name]) for name in a.delta)


def test_validation_reports_mean_and_worst_site_and_every_machine(
    fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    federation = Federation(make_learner())
    trainer = quiet_trainer()
    trainer.validate(federation, datamodule=fleet, verbose=False)
    metrics = trainer.callback_metrics
    by_site: dict[str, list[float]] = {}
    for result in federation.results:
        by_site.setdefault(result.site, []).append(result.after)
    means = [sum(values) / len(values) for values in by_site.values()]
    assert [r.machine for r in federation.results] == [f"plant{i}-machine{j}" for i in (1, 2) for j in (1, 2)]
    assert metrics["val/accuracy_after"].item() == pytest.approx(sum(means) / 2, abs=1e-6)
    assert metrics["val/accuracy_after_worst_site"].item() == pytest.approx(min(means), abs=1e-6)
    trainer.test(federation, datamodule=fleet, verbose=False)
    assert {r.site for r in federation.results} == {"plant3"}


class Cut(Callback):
    """Notes the rounds of validations, and raises before a given round."""

    def __init__(self, before_round: int | None = None) -> None:
        self.before_round = before_round
        self.validated: list[int] = []

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.before_round:
            raise InterruptedError

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        self.validated.append(trainer.global_step)


@pytest.mark.parametrize("name", ["press/dataloader_idx_0", "a/b", "\ud83d", "泵 3%", "$x$\n"])
def test_a_machine_of_any_name_is_measured(
    name: str, fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    fleet.setup("fit")
    site = fleet.sites["plant1"]
    site.__dict__["machines"] = [replace(machine, name=name) for machine in site.machines[:1]]
    federation = Federation(make_learner())
    quiet_trainer().validate(federation, Batches([{"plant1": site}]), verbose=False)
    assert [result.machine for result in federation.results] == [name]


def train(fleet: SimulatedFleet, learner: Learner, folder: Path, cut: Cut, **until: int) -> None:
    """Go on from the last checkpoint in `folder`, if any, with a stateful server optimizer and partial cohorts."""
    seed_everything(11, verbose=False)
    federation = Federation(
        learner,
        local_steps=2,
        cohort=Cohort(count=1),
        server_optimizer=lambda params: torch.optim.Adam(params, lr=0.01),
    )
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[cut, RoundCheckpoint(folder)],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=2,
        **{"max_epochs": -1, **until},
    )
    last = folder / "last.ckpt"
    trainer.fit(federation, datamodule=fleet, ckpt_path=last if last.exists() else None, weights_only=True)
    assert trainer.global_step == trainer.current_epoch == 6


@pytest.mark.parametrize("until", [{"max_steps": 6}, {"max_epochs": 6}])
def test_the_same_seed_gives_the_same_bits_however_often_a_run_is_interrupted(
    until: dict[str, int], fleet: SimulatedFleet, make_learner: MakeLearner, tmp_path: Path
) -> None:
    whole, again, resumed = make_learner(), make_learner(), make_learner()
    uninterrupted = Cut()
    train(fleet, whole, tmp_path / "whole", uninterrupted, **until)
    train(fleet, again, tmp_path / "again", Cut(), **until)
    assert uninterrupted.validated == [2, 4, 6]
    validated = []
    for cut in (Cut(1), Cut(3), Cut(4), Cut()):
        with contextlib.suppress(InterruptedError):
            train(fleet, resumed if cut.before_round is None else make_learner(), tmp_path / "cut", cut, **until)
        validated += cut.validated
    assert validated == uninterrupted.validated
    for name, p in whole.params.items():
        assert torch.equal(p, again.params[name])
        assert torch.equal(p, resumed.params[name])


def test_supervised_ignores_the_split_into_support_and_query(site: SiteData) -> None:
    learner = FedAvg(MLP(16, 2))
    torch.manual_seed(0)
    episode = next(iter(site.train_dataloader()))
    x = torch.cat([episode.support.x, episode.query.x], 1).flatten(0, 1)
    y = torch.cat([episode.support.y, episode.query.y], 1).flatten()
    expected = torch.nn.functional.cross_entropy(learner.net(x), y)
    torch.testing.assert_close(learner.meta_loss(episode), expected)


@pytest.mark.parametrize(
    ("cohort", "size"),
    [(Cohort(), 5), (Cohort(fraction=0.4), 2), (Cohort(fraction=0.01), 1), (Cohort(count=3), 3)],
)
def test_cohorts_have_the_asked_size_and_differ_between_rounds(cohort: Cohort, size: int) -> None:
    sites = [f"plant{i}" for i in range(5)]
    draws = [cohort.draw(sites, seed) for seed in range(20)]
    assert all(len(set(draw)) == size and draw == sorted(draw) and set(draw) <= set(sites) for draw in draws)
    assert draws == [cohort.draw(sites[::-1], seed) for seed in range(20)]
    assert size == 5 or len({tuple(draw) for draw in draws}) > 1


def test_impossible_cohorts_are_refused() -> None:
    with pytest.raises(UserError, match="expected at least 3 sites, got 2"):
        Cohort(count=3).draw(["a", "b"], 0)
    with pytest.raises(UserError, match="0 < fraction <= 1"):
        Cohort(fraction=0.0)
    with pytest.raises(UserError, match="local_steps"):
        Federation(FedAvg(MLP(2, 2)), local_steps=0)


BARE: dict[str, Callable[[Any], Any]] = {
    "a dict": lambda sites: dict(sites),
    "a list": lambda sites: [dict(sites)],
    "a list of sites": lambda sites: list(sites.values()),
    "a list of lists": lambda sites: [[dict(sites)]],
}


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
@pytest.mark.parametrize("wrapping", BARE)
@pytest.mark.parametrize("verb", ["fit", "validate", "test"])
def test_sites_without_a_dataloader_around_them_are_refused_in_a_sentence(
    verb: str, wrapping: str, fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    fleet.setup("fit")
    trainer = quiet_trainer(max_steps=1)
    with pytest.raises(UserError, match=r"got a bare (dict|list), which Lightning takes for several.*Batches"):
        getattr(trainer, verb)(Federation(make_learner()), BARE[wrapping](fleet.sites))


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
@pytest.mark.parametrize(
    ("batch", "got"),
    [
        (lambda fleet: [fleet.sites], "got list"),
        (lambda fleet: list(fleet.sites.values()), "got list"),
        (lambda fleet: next(iter(fleet.sites["plant1"].train_dataloader())), "got Episode; episodes and"),
        (lambda _: (torch.zeros(4, 3), torch.zeros(4)), "got tuple; episodes and"),
        (lambda _: {"plant1": torch.zeros(3)}, "got a mapping of str to Tensor"),
        (
            lambda fleet: {"plant1": fleet.sites["plant1"].train_dataloader()},
            "got a mapping of str to EpisodeLoader",
        ),
        (lambda fleet: {1: fleet.sites["plant1"]}, "got a mapping of int to SiteData"),
        (lambda _: {}, "got a mapping without a site"),
        (lambda _: 3, "got int; episodes and"),
    ],
)
@pytest.mark.parametrize("verb", ["fit", "validate"])
def test_batches_that_are_no_sites_are_refused_in_a_sentence(
    verb: str,
    batch: Callable[[SimulatedFleet], Any],
    got: str,
    fleet: SimulatedFleet,
    make_learner: MakeLearner,
    quiet_trainer: MakeTrainer,
) -> None:
    fleet.setup("fit")
    loader = Batches([batch(fleet)])
    with pytest.raises(UserError, match=f"each site's name to its LightningDataModule, as a Fleet yields, {got}"):
        getattr(quiet_trainer(max_steps=1, limit_val_batches=1), verb)(Federation(make_learner()), loader)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
def test_an_ordinary_loader_is_refused_in_a_sentence(
    make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    loader = DataLoader(TensorDataset(torch.zeros(4, 3), torch.zeros(4)))
    with pytest.raises(UserError, match=r"as a Fleet yields, got list; episodes and \(x, y\) pairs"):
        quiet_trainer(max_steps=1, limit_val_batches=0).fit(Federation(make_learner()), loader)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"server_optimizer": lambda _: None}, "server_optimizer to make a torch.optim.Optimizer, got NoneType"),
        ({"server_optimizer": torch.optim.LBFGS}, "LBFGS evaluates the loss several times in a step"),
        ({"scheduler": lambda _: 3}, "scheduler to make a torch.optim.lr_scheduler.LRScheduler, got int"),
    ],
)
def test_a_server_optimizer_that_is_none_is_refused_in_a_sentence(
    options: dict[str, Any],
    expected: str,
    fleet: SimulatedFleet,
    make_learner: MakeLearner,
    quiet_trainer: MakeTrainer,
) -> None:
    with pytest.raises(UserError, match=expected):
        quiet_trainer(max_steps=1, limit_val_batches=0).fit(
            Federation(make_learner(), **options), datamodule=fleet
        )


def test_an_optimizer_in_place_of_what_makes_one_is_refused() -> None:
    learner = FedAvg(MLP(2, 2))
    optimizer: Any = torch.optim.SGD(learner.parameters(), lr=1.0)
    with pytest.raises(UserError, match=r"expected server_optimizer to be a function that makes one.*got SGD"):
        Federation(learner, server_optimizer=optimizer)
    with pytest.raises(UserError, match=r"expected scheduler to be a function that makes one.*got str"):
        Federation(learner, scheduler="cosine")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="expected parameters to share"):
        Federation(FedAvg(MLP(2, 2), personal=["*"])).configure_optimizers()


def test_every_sites_curves_are_logged_beside_the_mean(
    fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    """Scripted losses 1 and 3; the mean is 2."""

    def answer(site: str, work: Work) -> SiteUpdate | SiteFailure:
        loss = {"plant1": 1.0, "plant2": 3.0}[site]
        if work.verb == "validate":
            measured = {"val/accuracy_before": 0.0, "val/accuracy_after": loss / 4, "val/accuracy_after/m/1": 1.0}
            return SiteUpdate(site, work.round, {}, 0, {**measured, "val/accuracy_before/m/1": 0.5})
        return replace(constant(0.0, work, site, 1), metrics={"train/meta_loss": loss})

    def logged(**options: Any) -> dict[str, float]:
        trainer = quiet_trainer(max_epochs=1)
        trainer.fit(Federation(make_learner(), executor=Scripted(answer), **options), datamodule=fleet)
        return {name: float(value) for name, value in trainer.callback_metrics.items()}

    metrics = logged()
    assert metrics["train/meta_loss"] == 2.0
    assert {name: value for name, value in metrics.items() if name.startswith("site/")} == {
        "site/plant1/train/meta_loss": 1.0,
        "site/plant2/train/meta_loss": 3.0,
        "site/plant1/val/accuracy_before": 0.0,
        "site/plant2/val/accuracy_before": 0.0,
        "site/plant1/val/accuracy_after": 0.25,
        "site/plant2/val/accuracy_after": 0.75,
    }
    assert not [name for name in logged(log_sites=False) if name.startswith("site/")]


def test_curves_of_more_than_20_sites_are_logged_on_request(
    fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    fleet.setup("fit")
    site = fleet.sites["plant1"]
    fleet.sites = {f"p{i}": site for i in range(21)}

    def answer(name: str, work: Work) -> SiteUpdate | SiteFailure:
        return replace(constant(0.0, work, name, 1), metrics={"train/meta_loss": 1.0})

    for log_sites, count in ((None, 0), (True, 21)):
        trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
        federation = Federation(make_learner(), executor=Scripted(answer), log_sites=log_sites)
        trainer.fit(federation, datamodule=fleet)
        assert len([name for name in trainer.callback_metrics if name.startswith("site/")]) == count
