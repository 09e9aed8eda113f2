"""Aggregators: what a site's update weighs, and aggregators that do not do what they should."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer

from fml_lightning import (
    MAML,
    Episode,
    Federation,
    SerialExecutor,
    SiteMemory,
    SiteUpdate,
    UserError,
    WeightedMean,
    Work,
)
from fml_lightning.datamodules import Episodes, SimulatedFleet, SiteData
from fml_lightning.datamodules.machine_windows import MachineWindows
from fml_lightning.datamodules.windows import Windows
from fml_lightning.federation.aggregators import aggregate
from fml_lightning.params import clone

MakeLearner = Callable[..., MAML]
MakeTrainer = Callable[..., Trainer]


def update(site: str, value: float, examples: int, seen: int | None = None) -> SiteUpdate:
    return SiteUpdate(site, 0, {"w": torch.tensor([value])}, examples, examples_seen=seen)


def test_a_site_weighs_by_the_windows_that_it_has() -> None:
    """(20·1 + 2000·5) / 2020 = 10020/2020; by those it drew, which are as many at both sites, (1 + 5) / 2 = 3."""
    updates = [update("a", 1.0, 20, 96), update("b", 5.0, 2000, 96)]
    assert WeightedMean()(updates)["w"].item() == pytest.approx(10020 / 2020)
    assert WeightedMean(weight_by="examples_seen")(updates)["w"].item() == 3.0
    assert WeightedMean(weight_by="examples_seen")([update("a", 1.0, 1), update("b", 5.0, 3)])["w"].item() == 4.0
    with pytest.raises(UserError, match="expected weight_by of examples or examples_seen, got 'windows'"):
        WeightedMean(weight_by="windows")  # type: ignore[arg-type]


def machine(name: str, per_class: int, features: int = 32) -> MachineWindows:
    rng = np.random.default_rng(per_class)
    windows = Windows.join(
        [
            Windows.of(
                [rng.normal(size=(per_class, features)).astype(np.float32)], k, "any", np.arange(per_class), 1.0
            )
            for k in range(4)
        ]
    )
    return MachineWindows(name, windows, windows)


class Sized(SiteData):
    """A site of one machine with so many windows of each of four classes."""

    per_class = 0

    def training_machines(self) -> list[MachineWindows]:
        """The machine."""
        return [machine(f"{self.name}-pump", self.per_class)]


def test_a_site_of_20_and_one_of_2000_windows_say_so(
    fleet: SimulatedFleet, make_learner: MakeLearner, tmp_path: Path
) -> None:
    """They draw alike, 1 step of 3 tasks of 4 classes of 1 + 3 windows, but have 20 and 2,000."""
    learner = make_learner()
    sites: dict[str, LightningDataModule] = {}
    for name, per_class in (("small", 5), ("large", 500)):
        sites[name] = site = Sized(name, [], fleet.preprocessing, fleet.episodes)
        site.per_class = per_class
    work = Work("fit", 0, clone(learner.shared), seed=3, local_steps=1)
    updates = list(SerialExecutor().run(learner, work, sites, SiteMemory(tmp_path)))
    assert all(isinstance(u, SiteUpdate) for u in updates)
    assert [u.examples for u in updates] == [20, 2000]  # type: ignore[union-attr]
    assert [u.examples_seen for u in updates] == [48, 48]  # type: ignore[union-attr]


def test_only_windows_that_training_draws_from_count(site: SiteData) -> None:
    """Of anomaly detection those of the normal class: half of the early windows."""
    early = sum(len(machine.early.label) for machine in site.machines)
    assert site.num_examples == early
    site.episodes = Episodes(shots=2, normal=0)
    assert site.num_examples == early // 2


class Own(LightningDataModule):
    """A data module of a user's own, which does not say how much it has."""

    def __init__(self, site: SiteData) -> None:
        super().__init__()
        self.site = site

    def train_dataloader(self) -> Iterable[Episode]:
        """The site's."""
        return self.site.train_dataloader()


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
def test_a_data_module_that_does_not_say_counts_with_what_it_drew(
    fleet: SimulatedFleet, make_learner: MakeLearner, tmp_path: Path
) -> None:
    fleet.setup("fit")
    learner, own = make_learner(), Own(fleet.sites["plant1"])
    work = Work("fit", 0, clone(learner.shared), seed=3, local_steps=2)
    (first,) = SerialExecutor().run(learner, work, {"plant1": own}, SiteMemory(tmp_path))
    own.num_examples = 5  # type: ignore[attr-defined]
    (second,) = SerialExecutor().run(learner, work, {"plant1": own}, SiteMemory(tmp_path))
    assert isinstance(first, SiteUpdate)
    assert isinstance(second, SiteUpdate)
    assert (first.examples, first.examples_seen) == (96, 96)
    assert (second.examples, second.examples_seen) == (5, 96)


WRONG: dict[str, tuple[Any, str]] = {
    "None": (None, "expected a tensor for each shared parameter, got NoneType"),
    "forgets": ({"b": torch.zeros(2)}, "it lacks w"),
    "adds": ({"w": torch.zeros(1), "b": torch.zeros(2), "c": torch.zeros(1)}, "it adds c"),
    "shape": ({"w": torch.zeros(2), "b": torch.zeros(2)}, r"of shape \(1,\) for w, got torch.float32 of \(2,\)"),
    "type": ({"w": [0.0], "b": torch.zeros(2)}, r"for w, got list"),
    "integers": ({"w": torch.zeros(1, dtype=torch.int64), "b": torch.zeros(2)}, "got torch.int64"),
    "complex": ({"w": torch.zeros(1) * 1j, "b": torch.zeros(2)}, "got torch.complex64"),
    "NaN": ({"w": torch.zeros(1), "b": torch.full((2,), float("nan"))}, "expected finite numbers for b"),
    "too large": (
        {"w": torch.full((1,), 1e300, dtype=torch.float64), "b": torch.zeros(2)},
        "finite numbers for w",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_an_aggregator_that_returns_something_else_is_refused_in_a_sentence(kind: str) -> None:
    shared = {"w": torch.zeros(1), "b": torch.zeros(2)}
    result, expected = WRONG[kind]

    def median(updates: Sequence[SiteUpdate]) -> Any:
        return result

    with pytest.raises(UserError, match=f"aggregator median: .*{expected}"):
        aggregate(median, [], shared)


def test_an_aggregator_may_be_exact_and_keep_a_graph() -> None:
    """Float64 with a graph becomes the parameter's float32 without one."""
    exact = torch.full((1,), 0.5, dtype=torch.float64, requires_grad=True)
    delta = aggregate(lambda _: {"w": exact}, [], {"w": torch.zeros(1)})
    assert delta["w"].dtype == torch.float32
    assert not delta["w"].requires_grad


def test_an_aggregator_that_raises_ends_the_run_with_a_sentence(
    fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    def median(updates: Sequence[SiteUpdate]) -> Any:
        return {}["w"]

    federation = Federation(make_learner(), local_steps=1, aggregator=median)
    with pytest.raises(UserError, match="aggregator median: it raised KeyError: 'w'"):
        quiet_trainer(max_steps=1, limit_val_batches=0).fit(federation, datamodule=fleet)
