"""A site's work neither sees what the server's Trainer switches on around it, nor changes it for others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from fml_lightning import MAML, Episode, Federation, SerialExecutor, SiteMemory, SiteUpdate, Work
from fml_lightning.datamodules import SimulatedFleet, SiteData
from fml_lightning.executors.isolation import SETTINGS, isolated
from fml_lightning.params import clone

MakeLearner = Callable[..., MAML]
MakeTrainer = Callable[..., Trainer]


@contextmanager
def double_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SURROUNDINGS = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference mode": torch.inference_mode,
    "default dtype": double_by_default,
}


@pytest.mark.parametrize("around", SURROUNDINGS)
@pytest.mark.parametrize("verb", ["fit", "validate"])
def test_a_site_gives_the_same_numbers_whatever_is_on_around_it(
    verb: str, around: str, fleet: SimulatedFleet, make_learner: MakeLearner, tmp_path: Path
) -> None:
    fleet.setup("fit")
    site, learner = fleet.sites["plant1"], make_learner()
    assert site.machines
    work = Work(verb, 0, clone(learner.shared), seed=3, local_steps=2)  # type: ignore[arg-type]

    def update(number: int) -> SiteUpdate:
        (outcome,) = SerialExecutor().run(learner, work, {"plant1": site}, SiteMemory(tmp_path / str(number)))
        assert isinstance(outcome, SiteUpdate)
        return outcome

    alone = update(0)
    with SURROUNDINGS[around]():
        surrounded = update(1)
    assert surrounded.metrics == alone.metrics
    assert all(torch.equal(alone.delta[name], surrounded.delta[name]) for name in alone.delta)


def test_a_federation_in_bf16_mixed_trains_sites_at_their_own_precision(
    fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    trained = []
    for precision in ("32-true", "bf16-mixed"):
        torch.manual_seed(5)
        learner = make_learner()
        torch.manual_seed(5)
        trainer = quiet_trainer(max_steps=2, limit_val_batches=0, precision=precision)
        trainer.fit(Federation(learner, local_steps=2), datamodule=fleet)
        trained.append(learner.params)
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


def test_a_sites_own_precision_still_holds(
    fleet: SimulatedFleet, make_learner: MakeLearner, tmp_path: Path
) -> None:
    fleet.setup("fit")
    learner = make_learner()
    work = Work("fit", 0, clone(learner.shared), seed=3, local_steps=2)
    deltas = []
    for precision in ("32-true", "bf16-mixed"):
        executor = SerialExecutor(precision=precision)  # type: ignore[arg-type]
        (update,) = executor.run(learner, work, {"plant1": fleet.sites["plant1"]}, SiteMemory(tmp_path))
        assert isinstance(update, SiteUpdate)
        deltas.append(update.delta)
    assert any(not torch.equal(deltas[0][name], deltas[1][name]) for name in deltas[0])


def test_what_a_site_sets_does_not_reach_the_next(
    fleet: SimulatedFleet, make_learner: MakeLearner, tmp_path: Path
) -> None:
    class Setting(SiteData):
        def train_dataloader(self) -> Iterable[Episode]:
            torch.set_default_dtype(torch.float64)
            torch.set_num_threads(2)
            torch.use_deterministic_algorithms(True)
            torch.set_grad_enabled(False)
            return super().train_dataloader()

    fleet.setup("fit")
    before = [get() for get, _ in SETTINGS]
    site, learner = fleet.sites["plant1"], make_learner()
    setting = Setting("plant1", site.recordings, site.preprocessing, site.episodes)
    work = Work("fit", 0, clone(learner.shared), seed=3, local_steps=1)
    list(SerialExecutor().run(learner, work, {"plant1": setting}, SiteMemory(tmp_path)))
    assert [get() for get, _ in SETTINGS] == before
    assert torch.is_grad_enabled()


def test_new_tensors_at_a_site_are_as_exact_as_its_parameters() -> None:
    for dtype, expected in ((torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.float64,) * 2):
        with isolated({"w": torch.zeros(1, dtype=dtype)}):
            assert torch.zeros(1).dtype == expected
