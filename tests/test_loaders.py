"""Dataloaders of episodes: what several processes that train together draw, and what they evaluate."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from fml_lightning import Episode
from fml_lightning.datamodules import FewShot, Fleet, Omniglot, SimulatedFleet, SiteData
from fml_lightning.datamodules.loaders import Chain, EpisodeLoader, OneBatch, common_generator, own_generator
from fml_lightning.datamodules.tasks import Task


class Notes(LightningModule):
    """Writes down the support sets that its process is given in training and validation, and validation's metric.

    Args:
        folder: where to; one file per rank.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.layer = nn.Linear(16, 1)
        self.seen: dict[str, list[Tensor]] = {"train": [], "val": []}

    def training_step(self, batch: Episode, batch_idx: int) -> Tensor:
        self.seen["train"].append(batch.support.x)
        return self.layer(batch.support.x).square().mean()  # type: ignore[no-any-return]

    def validation_step(self, batch: Episode, batch_idx: int) -> None:
        self.seen["val"].append(batch.support.x)
        self.log("val/mean", batch.query.x.mean(), batch_size=batch.tasks, on_epoch=True)

    def on_fit_end(self) -> None:
        notes = {**self.seen, "metric": [self.trainer.callback_metrics["val/mean"]]}
        torch.save(notes, self.folder / f"rank{self.global_rank}.pt")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.long
def test_ranks_of_a_plain_trainer_train_on_different_episodes_and_evaluate_the_same(
    site: SiteData, quiet_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    notes: list[dict[str, list[Tensor]]] = []
    for processes, options in ((1, {}), (2, {"strategy": "ddp_spawn"})):
        folder = tmp_path / str(processes)
        folder.mkdir()
        module = Notes(folder)
        seed_everything(3, verbose=False)
        trainer = quiet_trainer(devices=processes, max_epochs=2, limit_train_batches=3, **options)
        trainer.fit(module, datamodule=site)
        notes += [torch.load(folder / f"rank{rank}.pt") for rank in range(processes)]
    alone, first, second = notes
    assert len(alone["train"]) == len(second["train"]) == 6
    assert all(torch.equal(a, b) for a, b in zip(alone["train"], first["train"], strict=True))
    drawn = [x.numpy().tobytes() for note in (first, second) for x in note["train"]]
    assert len(set(drawn)) == 12
    for rank in (first, second):
        for key in ("val", "metric"):
            assert all(torch.equal(a, b) for a, b in zip(alone[key], rank[key], strict=True))


class Wrapped(IterableDataset[Episode]):
    """An episode loader for torch's DataLoader, whose workers draw."""

    def __init__(self, loader: EpisodeLoader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Episode]:
        return iter(self.loader)


def draw(rank: int, processes: int, folder: Path, loaders: dict[str, Any]) -> None:
    """What each loader gives in one of several processes, seeded alike."""
    if processes > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=processes
        )
    drawn = {}
    for name, loader in loaders.items():
        torch.manual_seed(7)
        drawn[name] = [episode.support.x for episode in loader]
    torch.save(drawn, folder / f"{processes}-{rank}.pt")
    if processes > 1:
        torch.distributed.destroy_process_group()


@pytest.mark.long
def test_every_training_loader_differs_between_ranks_and_every_other_does_not(
    site: SiteData, fleet: SimulatedFleet, tmp_path: Path
) -> None:
    omniglot = Omniglot("", FewShot(ways=2, queries=2, tasks=2), batches=3, test_batches=2)
    examples = torch.arange(60, dtype=torch.float32)[:, None], np.repeat(np.arange(6), 10)
    omniglot.train = omniglot.validation = omniglot.evaluation = examples
    fleet.setup("fit")
    training = {
        "site": site.train_dataloader(),
        "omniglot": omniglot.train_dataloader(),
        "workers": DataLoader(Wrapped(omniglot.train_dataloader()), batch_size=None, num_workers=1),
    }
    others = {
        "site val": site.val_dataloader(),
        "site predict": site.predict_dataloader(),
        "fleet predict": fleet.predict_dataloader(),
        "omniglot val": omniglot.val_dataloader(),
        "omniglot test": omniglot.test_dataloader(),
    }
    loaders = training | others
    draw(0, 1, tmp_path, loaders)
    torch.multiprocessing.spawn(draw, (2, tmp_path, loaders), 2)
    alone, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    assert len({x.numpy().tobytes() for rank in (first, second) for x in rank["workers"]}) == 2 * 3
    for name in loaders:
        assert all(torch.equal(a, b) for a, b in zip(alone[name], first[name], strict=True)), name
        same = [torch.equal(a, b) for a, b in zip(alone[name], second[name], strict=True)]
        assert same == [name in others] * len(same), name


def test_one_process_seeds_its_generator_with_torchs_next_number(site: SiteData) -> None:
    """So that a seed gives the numbers that it always gave."""
    for make in (own_generator, common_generator):
        torch.manual_seed(11)
        expected = np.random.default_rng(int(torch.randint(2**62, ()))).integers(2**62)
        torch.manual_seed(11)
        assert make().integers(2**62) == expected


def test_batches_are_made_when_they_are_iterated() -> None:
    made: list[int] = []

    def make() -> int:
        made.append(len(made))
        return made[-1]

    loader = OneBatch(make)
    assert (len(loader), made) == (1, [])
    assert [*loader, *loader] == [0, 1]
    assert list(Chain([loader, [7, 8]])) == [2, 7, 8]


def test_a_fleet_draws_the_episodes_of_one_machine_after_the_other(
    fleet: SimulatedFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All query windows of one machine are at hand, never those of all."""
    fleet.setup("test")
    drawn: list[str] = []
    stacked = SiteData._stacked

    def noted(self: SiteData, task: Task) -> Episode:
        drawn.append(task.machine)
        return stacked(self, task)

    monkeypatch.setattr(SiteData, "_stacked", noted)
    episodes = iter(fleet.predict_dataloader())
    assert drawn == []
    assert next(episodes).machines == ("plant3-machine1",)
    assert drawn == ["plant3-machine1"]
    assert next(episodes).machines == ("plant3-machine2",)


def test_data_and_loaders_pickle(site: SiteData, fleet: Fleet) -> None:
    fleet.setup("fit")
    (sites,) = pickle.loads(pickle.dumps(fleet)).train_dataloader()
    assert list(sites) == ["plant1", "plant2"]
    torch.manual_seed(0)
    expected = next(iter(site.train_dataloader()))
    torch.manual_seed(0)
    episode = next(iter(pickle.loads(pickle.dumps(site.train_dataloader()))))
    assert torch.equal(episode.support.x, expected.support.x)
