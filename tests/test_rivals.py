"""The rivals without an inner loop, the hand rule on fault lines and the normal distance: against numpy."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from torch import nn

from fml_lightning import (
    Episode,
    Examples,
    FaultLineRule,
    Federation,
    NormalDistance,
    PersonalModel,
    UserError,
    personalize,
)
from fml_lightning.datamodules import Episodes, SimulatedFleet
from fml_lightning.learners.fault_line_rule import LINES, FaultLineScores
from fml_lightning.learners.normal_distance import NormalState, whitening
from fml_lightning.params import clone
from fml_lightning.preprocessing.fault_lines import FaultLines
from fml_lightning.preprocessing.features import Column, Features

COLUMNS = (
    *("bpfo_500_2000", "2bpfo_500_2000", "bpfi_500_2000", "bpfi-x_500_2000", "bpfi+2x_500_2000"),
    *("2bsf_500_2000", "bsf_500_2000", "2bsf-ftf_500_2000", "2bsf-2ftf_500_2000", "ftf_500_2000"),
    "median_500_2000",
)


class Lines(Features):
    """The columns of `COLUMNS`, of whatever windows."""

    def columns(self, length: int, sample_rate: float) -> list[Column]:
        return [Column(name, "1") for name in COLUMNS]

    def __call__(
        self, windows: NDArray[np.float32], sample_rate: float, told: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        return np.ascontiguousarray(np.log(np.abs(windows[:, : len(COLUMNS)]) + 1e-3))


def test_which_columns_speak_for_which_fault() -> None:
    net = FaultLineScores(COLUMNS, ("normal", "ball", "inner", "outer"), LINES, 4.0, 0.25)
    spoken = {
        name: [c.split("_")[0] for c, own in zip(COLUMNS, members, strict=True) if own]
        for name, members in zip(("normal", "ball", "inner", "outer"), net.members.tolist(), strict=True)
    }
    assert spoken == {
        "normal": [],
        "ball": ["2bsf", "bsf", "2bsf-ftf"],
        "inner": ["bpfi", "bpfi-x"],
        "outer": ["bpfo", "2bpfo"],
    }


def test_every_line_of_fault_lines_is_known() -> None:
    """Of each of three bands: four harmonics and two sidebands of ball and inner race, four harmonics of outer."""
    rule = FaultLineRule(FaultLines(bearing="6205", speed=29.0))
    assert rule.net.members.sum(1).tolist() == [0, 18, 18, 12]
    columns = [column.name for column in FaultLines().columns(8192, 12_000.0)]
    spoken = rule.net.members.any(0).tolist()
    silent = {name.split("_")[0] for name, own in zip(columns, spoken, strict=True) if not own}
    assert silent == {
        *("bpfi-2x", "bpfi+2x", "2bpfi-x", "2bpfi+x", "2bsf-2ftf", "2bsf+2ftf", "ftf", "2ftf", "x", "2x", "3x"),
        *("median", "kurtosis", "variance"),
    }


def by_hand(support: NDArray[np.float64], query: NDArray[np.float64]) -> list[int]:
    """The rule of the trial: scores against mean and deviation, the largest of a class's columns, threshold 4."""
    scores = (query - support.mean(0)) / (support.std(0) + 0.25)
    of = [scores[:, [5, 6, 7]].max(1), scores[:, [2, 3]].max(1), scores[:, [0, 1]].max(1)]
    likeliest = np.stack(of, 1)
    label = likeliest.argmax(1) + 1
    label[likeliest.max(1) < 4.0] = 0
    return label.tolist()


def test_the_rule_says_what_the_hand_rule_says() -> None:
    """Of two tasks, one padded; windows of a fault among the support are not looked at."""
    rng = np.random.default_rng(0)
    support, query = rng.normal(size=(2, 5, 11)), rng.normal(scale=2.0, size=(2, 200, 11))
    labels = torch.tensor([[0, 0, 0, 0, 2], [0, 0, 0, 0, 0]])
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    rule = FaultLineRule(Lines()).double()
    adapted = rule.adapt(rule.params, Examples(torch.from_numpy(support), labels, mask))
    outputs = rule.outputs(adapted, torch.from_numpy(query))
    expected = [by_hand(support[0, :4], query[0]), by_hand(support[1, :3], query[1])]
    assert outputs.argmax(-1).tolist() == expected
    assert set(expected[0]) == {0, 1, 2, 3}


def test_classes_may_be_fewer_and_in_another_order() -> None:
    rule = FaultLineRule(Lines(), classes=("outer", "normal", "race"), lines={**LINES, "race": ["bpfi_*"]})
    x = torch.zeros(1, 1, 11)
    adapted = rule.adapt(rule.params, Examples(x, torch.tensor([[1]])))
    shown = torch.eye(11)[None] * 3
    assert rule.outputs(adapted, shown).argmax(-1)[0].tolist() == [0, 0, 2, *[1] * 8]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: FaultLineRule(Lines(), classes=("ball", "inner")), "classes with normal"),
        (lambda: FaultLineRule(Lines(), classes=("normal", "cage")), "speak for the class 'cage'"),
        (lambda: FaultLineRule(Lines(), lines={"ball": ["spin*"]}), r"matches spin\*"),
        (lambda: FaultLineRule(Lines(), spread=-1.0), "spread of at least 0"),
        (lambda: NormalDistance(0), "features of at least 1"),
        (lambda: NormalDistance(3, prior=0.0), "prior > 0"),
        (lambda: NormalDistance(3, ridge=0.0), r"ridge in \(0, 1\]"),
    ],
)
def test_impossible_rivals_are_refused(make: Callable[[], object], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        make()


@pytest.mark.parametrize("rival", [FaultLineRule(Lines()), NormalDistance(11)])
def test_support_without_normal_windows_is_refused(rival: FaultLineRule | NormalDistance) -> None:
    with pytest.raises(UserError, match="expected windows of the normal class 0, task 1 has none"):
        rival.adapt(rival.params, Examples(torch.zeros(2, 2, 11), torch.tensor([[0, 0], [1, 2]])))
    with pytest.raises(UserError, match="expected 11 features of a window"):
        rival.adapt(rival.params, Examples(torch.zeros(1, 1, 4), torch.tensor([[0]])))


def test_the_error_is_the_mahalanobis_distance() -> None:
    """Against numpy's inverse: mean of the support, covariance shrunk to the training machines'."""
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(6, 6))
    covariance = basis @ basis.T
    support, query = rng.normal(size=(1, 4, 6)), rng.normal(size=(1, 9, 6))
    learner = NormalDistance(6, prior=2.0, ridge=0.2).double()
    with torch.no_grad():
        learner.net.covariance.copy_(torch.from_numpy(covariance))
    adapted = learner.adapt(
        learner.params, Examples(torch.from_numpy(support), torch.zeros(1, 4, dtype=torch.long))
    )
    shrunk = (3 * np.cov(support[0].T) + 12 * covariance) / 15
    shrunk = 0.8 * shrunk + 0.2 * np.trace(shrunk) / 6 * np.eye(6)
    away = query[0] - support[0].mean(0)
    expected = np.einsum("nf,fg,ng->n", away, np.linalg.inv(shrunk), away) / 6
    x = torch.from_numpy(query)
    errors = ((learner.outputs(adapted, x) - x) ** 2).mean(-1)[0]
    np.testing.assert_allclose(errors.detach().numpy(), expected, rtol=1e-9)


def test_training_follows_the_covariance_within_machines() -> None:
    """Machines far apart and faults beside: Σ becomes the covariance of the normal windows about each own mean."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 400, 2)) * [1.0, 3.0] + 50.0 * rng.normal(size=(3, 1, 2))
    x[:, 300:] += 20.0
    labels = torch.zeros(3, 400, dtype=torch.long)
    labels[:, 300:] = 1
    windows = Examples(torch.from_numpy(x), labels)
    learner = NormalDistance(2).double()
    _, grads = learner.meta_gradient(Episode(windows, windows))
    found = learner.net.covariance.detach() - grads["net.covariance"]
    pooled = sum(np.cov(own[:300].T, bias=True) for own in x) / 3 * 1800 / 1797
    np.testing.assert_allclose(found.numpy(), pooled, rtol=1e-9)
    assert set(grads) == set(learner.trained)


def test_few_windows_of_many_features_raise_no_alarm_at_every_other() -> None:
    """Four support windows of 90 features span three directions; others are not far for lying outside these."""
    rng = np.random.default_rng(0)
    learner = NormalDistance(90)
    x = torch.from_numpy(rng.normal(size=(20, 54, 90)).astype(np.float32))
    y = torch.zeros(20, 54, dtype=torch.long)
    faulty = x[:, 4:].clone()
    faulty[..., :9] += 6.0
    query = Examples(torch.cat([x[:, 4:], faulty], 1), torch.cat([y[:, 4:], y[:, 4:] + 1], 1))
    metrics = learner.evaluate(Episode(Examples(x[:, :4], y[:, :4]), query))
    assert metrics["false_alarm_rate_after"].mean() <= 0.05
    assert metrics["balanced_accuracy_after"].mean() >= 0.95


def test_windows_that_are_all_alike_whiten_to_something_finite() -> None:
    assert whitening(torch.zeros(1, 2, 2), 0.1).isfinite().all()


@pytest.mark.parametrize("rival", [FaultLineRule(Lines()), NormalDistance(11)])
def test_rivals_come_back_from_a_pickle(rival: FaultLineRule | NormalDistance) -> None:
    again = pickle.loads(pickle.dumps(rival))
    support = Examples(torch.randn(1, 4, 11), torch.zeros(1, 4, dtype=torch.long))
    expected = rival.adapt(rival.params, support)
    assert all(torch.equal(p, expected[n]) for n, p in again.adapt(again.params, support).items())
    assert torch.equal(again.outputs(expected, support.x), rival.outputs(expected, support.x))


def test_rivals_run_in_a_federation_and_are_personalized(
    quiet_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    """The rule stays as it is; the distance takes the sites' mean covariance. Both models work alone."""
    episodes = Episodes(
        shots=4, of="normal only", normal="normal", permute_labels=False, tasks=2, queries=3, repeats=2
    )
    fleet = SimulatedFleet(sites=2, unseen_sites=1, machines=2, seconds=2.0, features=Lines(), episodes=episodes)
    for learner, net in (
        (FaultLineRule(Lines()), FaultLineScores(COLUMNS, fleet.classes or (), LINES, 4.0, 0.25)),
        (NormalDistance(11), NormalState(11)),
    ):
        start = clone(learner.shared)
        federation = Federation(learner, local_steps=2)
        trainer = quiet_trainer(max_epochs=2)
        trainer.fit(federation, fleet)
        trainer.test(federation, fleet, verbose=False)
        after = federation.learner.shared
        moved = any(not torch.equal(after[name], p) for name, p in start.items())
        assert moved == isinstance(learner, NormalDistance)
        episode = next(iter(fleet.predict_dataloader()))
        result = personalize(federation.learner, episode, fleet.classes)
        x = episode.query.x[0] + episode.centre[0]  # type: ignore[index]
        path = tmp_path / f"{type(learner).__name__}.safetensors"
        result.model.save(path)
        assert isinstance(net, nn.Module)
        again = PersonalModel.load(path)
        assert torch.equal(again.predict(x), result.model.predict(x))
        assert result.after == pytest.approx(
            float(federation.learner.evaluate(episode)[f"{learner.objective.metric}_after"]), abs=1e-6
        )
