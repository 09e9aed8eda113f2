"""A fault among normal support windows is noticed at personalization; sound ones are left in peace."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from scipy.stats import f as f_distribution
from torch import nn

from fml_lightning import (
    MAML,
    MLP,
    Classification,
    Consistency,
    Episode,
    Examples,
    FedAvg,
    Learner,
    NormalDistance,
    PersonalModel,
    personalize,
)
from fml_lightning.commands.learning import run
from fml_lightning.datamodules import Episodes, SimulatedFleet
from fml_lightning.datamodules.loaders import EpisodeLoader
from fml_lightning.datamodules.stacked_tasks import stack_tasks, training_episodes
from fml_lightning.datamodules.tasks import Task
from fml_lightning.personal.screening import largest_distance, left_out_distances, screen
from fml_lightning.preprocessing import Windowing


def test_distances_by_hand() -> None:
    """Of 0, 1, −1, 4: from the medians of the others 1, 0, 1, 0: squares 1, 1, 4, 16."""
    found = left_out_distances(np.array([[0.0], [1.0], [-1.0], [4.0]]))
    assert found.tolist() == pytest.approx([1 / 16, 1 / 16, 4 / 16, 16 / 4])
    assert left_out_distances(np.zeros((3, 2))).tolist() == [0.0, 0.0, 0.0]
    many = np.zeros((40, 1))
    many[7], many[8] = 6.0, 2.0
    assert left_out_distances(many)[7] == pytest.approx(9.0)


def test_the_threshold_is_a_quantile_of_the_f_distribution() -> None:
    for features in (1, 2, 5, 128):
        half = max(1.0, features / 2)
        assert largest_distance(features) == pytest.approx(f_distribution.ppf(0.999, half, half))
    assert largest_distance(400) == largest_distance(128)


class Known(nn.Module):
    """A network that knows faults: class 1 where the first feature is above 1."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(5.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.zeros(len(x)), self.scale * (x[:, 0] - 1)], -1)


def normal_support(x: torch.Tensor, centred: bool = False, **more: Any) -> Episode:
    """An episode of one task whose support is called normal."""
    middle = x.mean(0) * centred
    support = Examples((x - middle)[None], torch.zeros(1, len(x), dtype=torch.long))
    query = Examples(support.x, torch.arange(len(x))[None] % 2)
    return Episode(support, query, ("pump",), middle[None], common_labels=True, **more)


def test_the_model_notices_what_the_distance_cannot() -> None:
    """Window 2 is a fault by one feature of many; it is judged centred on the others alone."""
    torch.manual_seed(0)
    x = torch.randn(4, 400)
    x[:, 0] = torch.tensor([10.0, 10.1, 11.6, 9.9])
    learner = FedAvg(Known(), Classification()).eval()
    starts = torch.tensor([[0, 1_000_000, 2_500_000, 3_000_000]])
    (suspect,) = screen(learner, normal_support(x, centred=True, starts=starts), ("normal", "ball"))
    assert (suspect.window, suspect.start, suspect.label, suspect.called) == (2, 2_500_000, "normal", "ball")
    assert suspect.distance < suspect.threshold
    assert str(suspect).startswith(
        "pump: the support window 2.5 s after the first recording began may be no normal one: the model adapted to"
        " the others says ball (not normal: 0.9"
    )
    # Without centring, the model calls all windows faulty: it does not know the machine, and says nothing.
    assert screen(learner, normal_support(x, centred=False), ("normal", "ball")) == ()


def test_the_distance_notices_what_no_model_knows() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 50)
    x[1] += 3.0
    for learner in (FedAvg(MLP(50, 2)), NormalDistance(50), MAML(MLP(50, 2), support_objective=Consistency())):
        (suspect,) = screen(learner.eval(), normal_support(x))
        assert (suspect.window, suspect.start) == (1, None)
        assert "pump: the support window number 2 may be no 0 one: its squared distance" in str(suspect)
    padded = normal_support(torch.cat([x, x[1:2]]))
    mask = torch.tensor([[True] * 5 + [False]])
    padded = replace(padded, support=Examples(padded.support.x, padded.support.y, mask))
    assert [each.window for each in screen(FedAvg(MLP(50, 2)).eval(), padded)] == [1]
    long = torch.randn(100, 50)
    long[41] += 3.0
    assert [each.window for each in screen(FedAvg(MLP(50, 2)).eval(), normal_support(long))] == [41]


@pytest.mark.parametrize("shape", [(1200,), (3, 400)])
def test_sound_windows_of_raw_samples_are_left_in_peace(shape: tuple[int, ...]) -> None:
    """Tones of one frequency whose amplitude varies: thousands of samples, and two degrees of freedom."""
    learner = NormalDistance(3)
    time = np.arange(np.prod(shape)) / 12_000
    for seed in range(20):
        rng = np.random.default_rng(seed)
        tones = rng.normal(size=(4, 1)) * np.sin(2000 * time) + rng.normal(size=(4, 1)) * np.cos(2000 * time)
        assert screen(learner, normal_support(torch.tensor(tones).view(4, *shape))) == ()


def test_support_of_several_classes_of_numbers_or_of_two_windows_is_not_screened() -> None:
    x = torch.randn(4, 50)
    x[1] += 30.0
    learner = FedAvg(MLP(50, 2)).eval()
    episode = normal_support(x)
    assert screen(learner, episode)
    several = Examples(episode.support.x, torch.tensor([[0, 1, 0, 0]]))
    numbers = Examples(episode.support.x, torch.zeros(1, 4))
    for support in (several, numbers, episode.support.map(lambda tensor: tensor[:, :2])):
        assert screen(learner, replace(episode, support=support)) == ()


@pytest.fixture(scope="module")
def trained() -> tuple[Learner, SimulatedFleet]:
    """FedAvg, centred on four normal windows, on twelve simulated machines."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    episodes = Episodes(
        shots=4, of="normal only", normal=0, permute_labels=False, batches=100, queries=3, repeats=2
    )
    fleet = SimulatedFleet(
        sites=3, unseen_sites=2, machines=4, seconds=6.0, windowing=Windowing(8192, 2048), episodes=episodes
    )
    fleet.setup("fit")
    machines = [machine for site in fleet.sites.values() for machine in site.machines]
    torch.manual_seed(0)
    learner = FedAvg(MLP(128, 4, hidden=[64]))
    trainer = Trainer(
        max_epochs=1,
        limit_val_batches=0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = EpisodeLoader(lambda rng: training_episodes(machines, episodes, rng))
    trainer.fit(learner, loader, loader)
    return learner.eval(), fleet


def test_planted_faults_of_simulated_machines_are_noticed_and_sound_windows_are_not(
    trained: tuple[Learner, SimulatedFleet],
) -> None:
    """One fault window among four, of each class at each unseen machine, against sound supports of the same."""
    learner, fleet = trained
    rng = np.random.default_rng(0)
    flagged: dict[int, list[bool]] = {label: [] for label in range(4)}
    for machine in (m for site in fleet.unseen.values() for m in site.machines):
        early = machine.early
        for _ in range(5):
            for label in range(4):
                rows = rng.choice(np.flatnonzero(early.label == 0), 4, replace=False)
                if label:
                    rows[2] = rng.choice(np.flatnonzero(early.label == label))
                support = early.where(rows)
                support = replace(support, label=np.zeros_like(support.label))
                episode = stack_tasks([Task(machine.name, support, machine.late)], centre=True, common_labels=True)
                suspects = personalize(learner, episode, fleet.classes).suspects
                flagged[label].append(any(each.window == 2 for each in suspects) if label else bool(suspects))
                assert all(machine.name in str(each) and "after the first" in str(each) for each in suspects)
    rates = {label: float(np.mean(values)) for label, values in flagged.items()}
    assert rates[0] <= 0.05, rates
    assert rates[3] >= 0.95, rates
    assert rates[2] >= 0.8, rates
    assert rates[1] >= 0.4, rates


CONFIG = {
    "seed_everything": 3,
    "model": {
        "learner": {
            "class_path": "fml_lightning.MAML",
            "init_args": {
                "net": {
                    "class_path": "fml_lightning.MLP",
                    "init_args": {"in_features": 128, "out_features": 4, "hidden": [16]},
                },
                "objective": {
                    "class_path": "fml_lightning.Classification",
                    "init_args": {"metric": "balanced_accuracy", "normal": 0},
                },
                "support_objective": {
                    "class_path": "fml_lightning.LearnedLoss",
                    "init_args": {"outputs": 4, "objective_weight": 1.0},
                },
            },
        },
        "local_steps": 5,
    },
    "data": {
        "class_path": "fml_lightning.datamodules.SimulatedFleet",
        "init_args": {
            "sites": 2,
            "unseen_sites": 1,
            "machines": 2,
            "seconds": 3.0,
            "windowing": {"length": 4096, "hop": 2048},
            "episodes": {
                "shots": 4,
                "of": "normal only",
                "normal": "normal",
                "permute_labels": False,
                "queries": 3,
                "repeats": 2,
            },
        },
    },
    "trainer": {"max_epochs": 2, "enable_progress_bar": False},
}


def test_personalize_from_normal_windows_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The card says before and after, the model knows every class, and a planted fault is a warning."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "normal.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    assert run(["fit", "--config", str(path)]) == 0
    folder = tmp_path / "runs" / "normal" / "1"
    report = json.loads((folder / "fit.json").read_text())
    for name in ("balanced_accuracy", "false_alarm_rate", "found_rate"):
        assert {f"test/{name}_before", f"test/{name}_after"} <= set(report)
    assert "\nworst" in capsys.readouterr().out

    personalized = ["personalize", "--config", str(path), "--machine", "plant3-machine1"]
    assert run(personalized) == 0
    card = json.loads((folder / "personalize.json").read_text())
    assert (card["metric"], card["shots"], "warnings" in card) == ("balanced_accuracy", 4, False)
    rows = np.array(card["confusion"])
    shown = rows.sum(1)
    assert (rows.diagonal() / shown).mean() == pytest.approx(card["after"])
    assert shown.tolist() == [shown[0]] * 4
    assert "warning: plant3" not in capsys.readouterr().err
    model = PersonalModel.load(folder / card["model"])
    said = model.read(torch.randn(200, 128) * 5 + model.centre)
    assert said.shape == (200, 4)
    torch.testing.assert_close(said.sum(1), torch.ones(200))

    _plant(monkeypatch)
    assert run(personalized) == 0
    (warning,) = json.loads((folder / "personalize.json").read_text())["warnings"]
    assert f"fml: warning: {warning}" in capsys.readouterr().err
    assert warning.startswith("plant3-machine1: the support window ")
    assert " s after the first recording began may be no normal one" in warning


def _plant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the second support window of every evaluation be one of an outer race's fault, called normal."""
    from fml_lightning.datamodules import site

    draw: Callable[..., Task] = site.evaluation_task

    def planted(machine: Any, *arguments: Any) -> Task:
        task = draw(machine, *arguments)
        fault = machine.early.where(np.flatnonzero(machine.early.label == 3)[:1])
        support = type(task.support).join([task.support.where(np.array([0, 2, 3])), fault])
        support = replace(support, label=np.zeros_like(support.label)).where(np.array([0, 3, 1, 2]))
        return task._replace(support=support)

    monkeypatch.setattr(site, "evaluation_task", planted)
