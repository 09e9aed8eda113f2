"""Objectives against hand-computed numbers, and with padding against the same without."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fml_lightning import (
    MAML,
    MLP,
    Classification,
    Episode,
    Examples,
    FedAvg,
    InnerLoop,
    Loss,
    Objective,
    Reconstruction,
    Regression,
    RemainingUsefulLife,
    UserError,
    personalize,
)
from fml_lightning.objectives.remaining_useful_life import cmapss_score
from fml_lightning.personal.personalization import PersonalModel


def test_cmapss_score_of_an_early_and_a_late_warning() -> None:
    """d = −13: e − 1; d = +10: e − 1; d = 0: 0 (Saxena et al. 2008)."""
    assert cmapss_score(torch.tensor([-13.0, 10.0, 0.0])).tolist() == pytest.approx([math.e - 1, math.e - 1, 0.0])


def test_remaining_useful_life_is_capped_and_in_cycles() -> None:
    """Output 0.8 is 100 cycles; targets 300 → 125 and 90: errors −25 and 10."""
    objective = RemainingUsefulLife(cap=125.0)
    examples = Examples(torch.zeros(1, 2, 3), torch.tensor([[300.0, 90.0]]))
    outputs = torch.tensor([[[0.8], [0.8]]])
    metrics = {name: value.item() for name, value in objective.metrics(outputs, examples).items()}
    assert metrics == pytest.approx(
        {
            "rmse": math.sqrt((25**2 + 10**2) / 2),
            "mae": 17.5,
            "score": math.exp(25 / 13) - 1 + math.e - 1,
            "loss": (0.2**2 + 0.08**2) / 2,
        },
        rel=1e-5,
    )


def test_reconstruction_calls_an_anomaly_what_exceeds_the_threshold() -> None:
    """Support errors 1, 2, 3 (quantile 1 → 3) times 1.5: threshold 4.5; query errors 4, 9, 1 score 8/9, 2, 2/9."""
    objective = Reconstruction(quantile=1.0, margin=1.5)
    support = Examples(torch.tensor([[[1.0], [2**0.5], [3**0.5]]]), torch.zeros(1, 3))
    query = Examples(torch.tensor([[[2.0], [3.0], [1.0]]]), torch.tensor([[0, 1, 1]]))
    threshold = objective.calibrate(torch.zeros(1, 3, 1), support)
    assert threshold.tolist() == pytest.approx([4.5])
    outputs = torch.zeros(1, 3, 1)
    assert objective.predict(outputs, query.x, threshold)[0].tolist() == pytest.approx([8 / 9, 2.0, 2 / 9])
    metrics = {name: value.item() for name, value in objective.metrics(outputs, query, threshold).items()}
    assert metrics["balanced_accuracy"] == pytest.approx(0.75)  # the normal one, and one of two anomalies
    assert metrics["false_alarm_rate"] == 0.0
    assert metrics["auroc"] == pytest.approx(0.5)  # one anomaly scores higher than the normal one, one lower
    normal = Examples(query.x[:, :1], torch.zeros(1, 1))
    alone = objective.metrics(outputs[:, :1], normal, threshold)
    assert set(alone) == {"balanced_accuracy", "false_alarm_rate", "loss"}
    assert alone["balanced_accuracy"].item() == 1.0


@pytest.mark.parametrize(
    ("objective", "y"),
    [
        (Classification(), torch.tensor([[0, 1, 1, 0], [1, 0, 1, 0]])),
        (Regression(scale=3.0), torch.tensor([[1.0, 2.0, 4.0, 0.0], [3.0, 0.0, 1.0, 2.0]])),
        (RemainingUsefulLife(cap=2.0), torch.tensor([[1.0, 2.0, 4.0, 0.0], [3.0, 0.0, 1.0, 2.0]])),
        (Reconstruction(), torch.tensor([[0, 0, 1, 0], [1, 0, 0, 1]])),
    ],
)
def test_metrics_leave_padding_out(objective: Objective, y: Tensor) -> None:
    """Task 0 has three windows, task 1 two, wherever in the row they are."""
    generator = torch.Generator().manual_seed(0)
    width = {Classification: 2, Reconstruction: 3}.get(type(objective), 1)
    x, outputs = (torch.randn(2, 4, w, generator=generator) for w in (3, width))
    mask = torch.tensor([[True, True, True, False], [False, True, True, False]])
    padded = Examples(x, y, mask)
    calibration = objective.calibrate(outputs, padded)
    found = objective.metrics(outputs, padded, calibration)
    for t in range(2):
        own = Examples(x[t][mask[t]][None], y[t][mask[t]][None])
        alone = outputs[t][mask[t]][None]
        expected = objective.metrics(alone, own, objective.calibrate(alone, own))
        for name, value in found.items():
            torch.testing.assert_close(value[t], expected[name][0], rtol=1e-5, atol=1e-6)


def test_any_loss_of_the_users_own_serves(episode: Episode) -> None:
    def hinge(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.relu(1 - outputs[:, 0] * (2 * targets - 1)).mean()

    def counting(outputs: Tensor, targets: Tensor) -> Tensor:  # vmap refuses .item()
        return hinge(outputs, targets) * max(1, int(targets.sum().item()) // 1000)

    nets = [nn.Linear(5, 1).double() for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    first, second = (MAML(net, Loss(loss)) for net, loss in zip(nets, (hinge, counting), strict=True))
    assert torch.equal(first.meta_loss(episode), second.meta_loss(episode))
    metrics = first.evaluate(episode)
    assert set(metrics) == {"loss_before", "loss_after"}
    assert metrics["loss_after"].shape == (3,)


def test_an_autoencoder_adapts_on_normal_windows_and_finds_the_others() -> None:
    """Normal windows lie on a line, anomalies off it; the personal model keeps its threshold."""
    torch.manual_seed(0)
    along = torch.randn(1, 80, 1) @ torch.tensor([[1.0, 2.0, -1.0, 0.5]])
    normal = along + 0.05 * torch.randn(1, 80, 4)
    odd = 2.0 * torch.randn(1, 40, 4)
    query = Examples(torch.cat([normal[:, 40:], odd], 1), torch.cat([torch.zeros(1, 40), torch.ones(1, 40)], 1))
    episode = Episode(Examples(normal[:, :40], torch.zeros(1, 40)), query, ("pump",))
    net = nn.Sequential(nn.Linear(4, 1), nn.Linear(1, 4))
    learner = FedAvg(net, Reconstruction(), InnerLoop(lr=0.05, steps=300))
    metrics = learner.evaluate(episode)
    assert metrics["balanced_accuracy_after"].item() > 0.9
    assert metrics["balanced_accuracy_after"] > metrics["balanced_accuracy_before"]
    result = personalize(learner, episode, ("normal", "anomaly"))
    alarms = result.model.predict(query.x[0]) > 1
    accuracy = (alarms[:40].logical_not().float().mean() + alarms[40:].float().mean()) / 2
    assert accuracy.item() == pytest.approx(result.after, abs=1e-6)


def test_a_personal_model_of_an_autoencoder_loads_with_its_threshold(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = PersonalModel(nn.Linear(2, 2), Reconstruction(), torch.zeros(2), torch.tensor(0.5), ("normal",))
    model.save(tmp_path / "pump.pt")
    again = PersonalModel.load(tmp_path / "pump.pt", nn.Linear(2, 2), Reconstruction())
    x = torch.randn(3, 2)
    assert torch.equal(again.predict(x), model.predict(x))


@pytest.mark.parametrize(
    ("objective", "outputs", "y", "message"),
    [
        (Classification(), (1, 2, 2), torch.zeros(1, 2), r"integer labels \(T, N\), got"),
        (Classification(), (1, 2, 2), torch.tensor([[0, 5]]), r"labels need 6 classes, the network has 2"),
        (Regression(), (1, 2, 3), torch.zeros(1, 2), r"one output per target.*out_features"),
        (Reconstruction(), (1, 2, 5), torch.zeros(1, 2), r"must be an autoencoder"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(
    objective: Objective, outputs: tuple[int, ...], y: Tensor, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        objective.loss(torch.zeros(outputs), Examples(torch.zeros(1, 2, 3), y))


def test_impossible_objectives_are_refused() -> None:
    with pytest.raises(UserError, match="scale > 0"):
        Regression(scale=0.0)
    with pytest.raises(UserError, match="quantile"):
        Reconstruction(quantile=0.0)


def test_regression_learns_under_the_same_inner_loop() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 30, 3)
    slopes = torch.randn(4, 3, 1)
    y = 50 * (x @ slopes)[..., 0]
    episode = Episode(Examples(x[:, :20], y[:, :20]), Examples(x[:, 20:], y[:, 20:]))
    learner = MAML(MLP(3, 1, norm_input=False), Regression(scale=50.0), InnerLoop(lr=0.02, steps=20))
    metrics = learner.evaluate(episode)
    assert (metrics["rmse_after"] < 0.5 * metrics["rmse_before"]).all()
