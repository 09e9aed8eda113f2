"""Objectives against hand-computed numbers, and with padding against the same without."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import BinaryAUROC, MulticlassAccuracy

from fml_lightning import (
    MAML,
    MLP,
    Classification,
    Episode,
    Examples,
    FedAvg,
    Federation,
    InnerLoop,
    Loss,
    Objective,
    Reconstruction,
    Regression,
    RemainingUsefulLife,
    UserError,
    personalize,
)
from fml_lightning.datamodules import SimulatedFleet
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
            "rmse_uncapped": math.sqrt((200**2 + 10**2) / 2),
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
    model.save(tmp_path / "pump.safetensors")
    again = PersonalModel.load(tmp_path / "pump.safetensors", nn.Linear(2, 2), Reconstruction())
    x = torch.randn(3, 2)
    assert torch.equal(again.predict(x), model.predict(x))


@pytest.mark.parametrize(
    ("objective", "outputs", "y", "message"),
    [
        (Classification(), (1, 2, 2), torch.zeros(1, 2), r"integer labels \(T, N\), got.*float32.*use Regression"),
        (Classification(), (1, 2, 2), torch.zeros(1, 2).bool(), r"got.*torch.bool.*class numbers as int64"),
        (Classification(), (1, 2, 2), torch.eye(2)[None], r"number of its class: y.argmax\(-1\)"),
        (Classification(), (1, 2, 2), torch.eye(2)[None].long(), r"number of its class: y.argmax\(-1\)"),
        (Classification(), (1, 2, 2), torch.zeros(1, 2, 1).long(), r"without an axis: y.squeeze\(-1\)"),
        (Classification(), (1, 2, 2), torch.zeros(1, 2, 1), r"use Regression"),
        (Classification(), (1, 2, 1), torch.zeros(1, 2).long(), r"at least 2 classes.*out_features to 2"),
        (Classification(), (1, 2), torch.zeros(1, 2).long(), r"one output per class, in the last axis"),
        (Classification(), (1, 2, 4, 7), torch.zeros(1, 2, 7).long(), r"one output per class, in the last axis"),
        (Classification(), (1, 2, 7), torch.zeros(1, 2, 7).long(), r"\(T, N, L, C\) and \(T, N, L\) for tokens"),
        (Classification([1, 2, 3]), (1, 2, 2), torch.zeros(1, 2).long(), r"class_weights.*got 3 for 2 outputs"),
        (Regression(), (1, 2, 1), torch.zeros(1, 2).long(), r"Regression: .*class numbers .*use Classification"),
        (Regression(), (1, 2, 1), torch.zeros(1, 2).bool(), r"class numbers .*use Classification"),
        (RemainingUsefulLife(), (1, 2, 1), torch.zeros(1, 2).int(), r"RemainingUsefulLife: .*class numbers"),
        (Classification(), (1, 2, 2), torch.tensor([[0, 5]]), r"labels need 6 classes, the network has 2"),
        (Regression(), (1, 2, 3), torch.zeros(1, 2), r"one output per target.*out_features"),
        (Reconstruction(), (1, 2, 5), torch.zeros(1, 2), r"must be an autoencoder"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(
    objective: Objective, outputs: tuple[int, ...], y: Tensor, message: str
) -> None:
    examples = Examples(torch.zeros(1, 2, 3), y)
    with pytest.raises(UserError, match=message):
        objective.loss(torch.zeros(outputs), examples)
    with pytest.raises(UserError, match=message):
        objective.metrics(torch.zeros(outputs), examples, torch.ones(1))


@pytest.mark.parametrize("objective", [Classification(), Regression(), Reconstruction(), Loss(F.mse_loss)])
def test_outputs_that_are_no_tensor_are_refused(objective: Objective) -> None:
    outputs: Any = (torch.zeros(1, 2, 3), torch.zeros(1, 2, 3))
    examples, message = (
        Examples(torch.zeros(1, 2, 3), torch.zeros(1, 2)),
        "expected the network to give one tensor",
    )
    with pytest.raises(UserError, match=message):
        objective.loss(outputs, examples)
    with pytest.raises(UserError, match=message):
        objective.metrics(outputs, examples, torch.ones(1))


@pytest.mark.parametrize(
    ("objective", "y"),
    [
        (Classification(), torch.zeros(2, 3).long()),
        (Regression(), torch.zeros(2, 3, 2)),
        (Reconstruction(), torch.zeros(2, 3)),
        (Loss(F.mse_loss), torch.zeros(2, 3, 2)),
    ],
)
def test_outputs_that_are_not_finite_are_not_judged(objective: Objective, y: Tensor) -> None:
    outputs = torch.zeros(2, 3, 2)
    outputs[1, 2, 0] = float("nan")
    with pytest.raises(UserError, match="output for task 1, window 2 is NaN or infinite"):
        objective.metrics(outputs, Examples(torch.zeros(2, 3, 2), y), torch.ones(2))
    if not isinstance(objective, Loss):
        padded = Examples(torch.zeros(2, 3, 2), y, torch.tensor([[True] * 3, [True, True, False]]))
        assert all(value.isfinite().all() for value in objective.metrics(outputs, padded, torch.ones(2)).values())


def test_a_class_that_logits_rule_out_is_finite_enough() -> None:
    logits = torch.tensor([[[0.0, -float("inf")]]])
    found = Classification().metrics(logits, Examples(torch.zeros(1, 1, 1), torch.tensor([[0]])))
    assert found["accuracy"].item() == 1.0


def test_targets_of_numbers_do_not_pass_for_anomalies() -> None:
    examples = Examples(torch.zeros(1, 2, 1), torch.tensor([[0.5, 80.0]]))
    with pytest.raises(UserError, match=r"Reconstruction: expected labels .*use Regression"):
        Reconstruction().metrics(torch.ones(1, 2, 1), examples, torch.ones(1))


def test_impossible_objectives_are_refused() -> None:
    with pytest.raises(UserError, match="scale > 0"):
        Regression(scale=0.0)
    with pytest.raises(UserError, match="quantile"):
        Reconstruction(quantile=0.0)
    with pytest.raises(UserError, match="class_weights greater than 0"):
        Classification(class_weights=[1.0, 0.0])
    with pytest.raises(UserError, match=r"label_smoothing in \[0, 1\)"):
        Classification(label_smoothing=1.0)


def test_balanced_accuracy_of_a_network_that_always_says_normal() -> None:
    """95 normal windows right, 5 faulty ones wrong: 0.95, and (1 + 0)/2; without faulty windows 1 in both."""
    logits = torch.tensor([3.0, 0.0, 1.0]).expand(2, 100, 3)
    labels = torch.tensor([[0] * 95 + [2] * 5, [0] * 100])
    metrics = Classification().metrics(logits, Examples(torch.zeros(2, 100, 1), labels))
    assert metrics["accuracy"].tolist() == pytest.approx([0.95, 1.0])
    assert metrics["balanced_accuracy"].tolist() == pytest.approx([0.5, 1.0])


def test_balanced_accuracy_counts_no_class_that_is_only_predicted() -> None:
    """Recalls 1/2, 1 and, of a class without windows, none; the padded window is class 1 and would be wrong."""
    predicted = torch.tensor([[0, 2, 1, 0]])
    examples = Examples(
        torch.zeros(1, 4, 1), torch.tensor([[0, 0, 1, 1]]), torch.tensor([[True, True, True, False]])
    )
    metrics = Classification().metrics(F.one_hot(predicted, 3).float(), examples)
    assert metrics["balanced_accuracy"].item() == pytest.approx(0.75)
    assert metrics["accuracy"].item() == pytest.approx(2 / 3)


def test_a_learner_reports_balanced_accuracy(episode: Episode) -> None:
    learner = MAML(nn.Linear(5, 3).double(), inner_loop=InnerLoop(steps=1))
    assert {"balanced_accuracy_before", "balanced_accuracy_after"} <= set(learner.evaluate(episode))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, [1.0, 5.0, 0.5]])
@pytest.mark.parametrize("shape", [(7,), (7, 4)])
def test_the_loss_of_a_task_is_that_of_torch(
    shape: tuple[int, ...], weights: list[float] | None, smoothing: float, dtype: torch.dtype
) -> None:
    """One task and several, windows and tokens, with padding and labels to ignore."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, *shape, 3, generator=generator, dtype=dtype)
    labels = torch.randint(3, (3, *shape), generator=generator)
    labels[0, 1] = labels[2, 4] = -100
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[1, 5:] = mask[2, 0] = False
    objective = Classification(weights, smoothing, ignore_index=-100)
    weight = None if weights is None else torch.tensor(weights, dtype=dtype)

    def torchs(t: int, own: Tensor) -> Tensor:
        flat = logits[t][own].flatten(0, -2), labels[t][own].flatten()
        return F.cross_entropy(*flat, weight=weight, label_smoothing=smoothing)

    for own in (mask, torch.ones_like(mask)):
        losses = objective.loss(logits, Examples(torch.zeros(3, 7, 1), labels, own))
        torch.testing.assert_close(losses, torch.stack([torchs(t, own[t]) for t in range(3)]))
        alone = Examples(torch.zeros(1, 7, 1), labels[:1], own[:1])
        torch.testing.assert_close(objective.loss(logits[:1], alone), losses[:1])


def test_weights_and_smoothing_meta_learn_as_torchs_own_loss_does(episode: Episode) -> None:
    """Second order, through `torch.nn.CrossEntropyLoss` under vmap."""
    nets = [nn.Linear(5, 3).double() for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    weights = [1.0, 5.0, 2.0]
    torchs = nn.CrossEntropyLoss(torch.tensor(weights, dtype=torch.float64), label_smoothing=0.1)
    objectives: list[Objective] = [Classification(weights, label_smoothing=0.1), Loss(torchs)]
    inner_loop = InnerLoop(lr=0.3, steps=2)
    ours, theirs = (
        MAML(net, objective, inner_loop).meta_gradient(episode)
        for net, objective in zip(nets, objectives, strict=True)
    )
    torch.testing.assert_close(ours[0], theirs[0])
    for name, grad in ours[1].items():
        torch.testing.assert_close(grad, theirs[1][name])


def test_weights_under_autocast_are_not_rounded() -> None:
    examples = Examples(torch.zeros(1, 2, 1), torch.tensor([[0, 1]]))
    logits = torch.tensor([[[1.0, -1.0], [0.5, 0.25]]], dtype=torch.bfloat16)
    expected = Classification([1.001, 3.0]).loss(logits.float(), examples)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(Classification([1.001, 3.0]).loss(logits, examples), expected)


def test_tokens_are_classified_one_by_one() -> None:
    """Accuracy over 6 tokens: 4 right; recalls 3/3 and 1/3; a window's tokens leave with its padding."""
    labels = torch.tensor([[[0, 1, 1], [0, 0, 1], [1, 1, 1]]])
    predicted = torch.tensor([[[0, 0, 1], [0, 0, 0], [0, 0, 0]]])
    examples = Examples(torch.zeros(1, 3, 3), labels, torch.tensor([[True, True, False]]))
    metrics = Classification().metrics(10.0 * F.one_hot(predicted, 2), examples)
    assert metrics["accuracy"].item() == pytest.approx(4 / 6)
    assert metrics["balanced_accuracy"].item() == pytest.approx((1 + 1 / 3) / 2)
    assert metrics["loss"].item() == pytest.approx((2 * 10) / 6, abs=1e-3)


def test_a_tagger_of_tokens_meta_learns_and_is_judged_on_new_tokens() -> None:
    """The support set shows token classes 0 and 1, the query set also 2: a vocabulary is no reason to refuse."""
    tokens = torch.randint(6, (2, 3, 5), generator=torch.Generator().manual_seed(0))
    episode = Episode(Examples(tokens.float(), tokens % 2), Examples(tokens.float(), tokens % 3))

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(6, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(self.embedding(x.long()))
            return logits

    learner = MAML(Tagger(), inner_loop=InnerLoop(lr=0.1, steps=1))
    learner.check(episode)
    assert torch.isfinite(learner.meta_gradient(episode)[0])
    assert learner.evaluate(episode)["accuracy_after"].shape == (2,)
    assert learner.predict_step(episode).outputs.shape == (2, 3, 5, 3)


def test_masked_windows_may_have_any_label() -> None:
    logits = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    alone = Examples(torch.zeros(1, 1, 1), torch.tensor([[0]]))
    for label in (-1, -100, 7):
        padded = Examples(torch.zeros(1, 2, 1), torch.tensor([[0, label]]), torch.tensor([[True, False]]))
        for objective in (Classification(), Classification([1.0, 3.0], 0.1)):
            found, expected = objective.metrics(logits, padded), objective.metrics(logits[:, :1], alone)
            assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_targets_of_numbers_are_not_taken_for_classes_that_support_lacks(episode: Episode) -> None:
    """MAML asks `check` first, which would find that 0.25 is no class of the support set."""
    numbers = Episode(*(Examples(e.x, torch.rand(e.y.shape)) for e in (episode.support, episode.query)))
    learner = MAML(nn.Linear(5, 2).double())
    for refuse in (lambda: learner.training_step(numbers, 0), lambda: learner.evaluate(numbers)):
        with pytest.raises(UserError, match="class numbers as int64, or use Regression"):
            refuse()


def test_query_classes_that_support_lacks_are_named() -> None:
    support = Examples(
        torch.zeros(2, 2, 1), torch.tensor([[0, 1], [0, 2]]), torch.tensor([[True] * 2, [True, False]])
    )
    query = Examples(torch.zeros(2, 2, 1), torch.tensor([[1, 0], [0, 2]]))
    with pytest.raises(UserError, match=r"^press: class 2 is in the query set but absent from the support set"):
        Classification().check(Episode(support, query, ("pump", "press")))
    padded = Examples(query.x, query.y, torch.tensor([[True, True], [True, False]]))
    Classification().check(Episode(support, padded))
    Classification(ignore_index=2).check(Episode(support, query))


@pytest.mark.parametrize("objective", [Regression(), RemainingUsefulLife()])
def test_class_numbers_train_no_remaining_life(
    objective: Objective, fleet: SimulatedFleet, quiet_trainer: Callable[..., Trainer]
) -> None:
    """Refused in the first step of plain and federated training, and before adaptation is judged."""
    learner = FedAvg(MLP(32, 1, hidden=(4,)), objective)
    message = f"{type(objective).__name__}: expected targets that are numbers"
    with pytest.raises(UserError, match=message):
        quiet_trainer(max_steps=1).fit(Federation(learner), datamodule=fleet)
    site = fleet.sites["plant1"]
    with pytest.raises(UserError, match=f"^{message}"):
        quiet_trainer(max_steps=1).fit(learner, datamodule=site)
    learner.adaptation = InnerLoop(steps=0)
    with pytest.raises(UserError, match=f"^{message}"):
        quiet_trainer().validate(learner, datamodule=site, verbose=False)


def test_the_metric_that_decides_is_what_a_federation_reports(
    fleet: SimulatedFleet, quiet_trainer: Callable[..., Trainer]
) -> None:
    objective = Classification(metrics=[BinaryAUROC()], metric="auroc")
    with pytest.raises(UserError, match="BinaryAUROC needs a network of 2 outputs, got 4"):
        quiet_trainer().validate(Federation(FedAvg(MLP(32, 4, hidden=(4,)), objective)), datamodule=fleet)
    objective = Classification(metrics={"top2": MulticlassAccuracy(4, top_k=2)}, metric="top2")
    federation = Federation(FedAvg(MLP(32, 4, hidden=(4,)), objective))
    trainer = quiet_trainer()
    trainer.validate(federation, datamodule=fleet, verbose=False)
    assert trainer.callback_metrics["val/top2_after"] >= trainer.callback_metrics["val/accuracy_after"]
    mean = sum(result.after for result in federation.results) / len(federation.results)
    assert trainer.callback_metrics["val/top2_after"].item() == pytest.approx(mean)


def test_regression_learns_under_the_same_inner_loop() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 30, 3)
    slopes = torch.randn(4, 3, 1)
    y = 50 * (x @ slopes)[..., 0]
    episode = Episode(Examples(x[:, :20], y[:, :20]), Examples(x[:, 20:], y[:, 20:]))
    learner = MAML(MLP(3, 1, norm_input=False), Regression(scale=50.0), InnerLoop(lr=0.02, steps=20))
    metrics = learner.evaluate(episode)
    assert (metrics["rmse_after"] < 0.5 * metrics["rmse_before"]).all()


def test_false_alarms_and_found_faults_at_a_threshold_of_the_support_set() -> None:
    """The log-odds of outputs (n, f) are f − n. The largest of support is 1, so an alarm exceeds 1 + 2."""
    objective = Classification(normal=0, margin=2.0)
    adapted_to = objective.calibrate(
        torch.tensor([[[9.0, 0.0]]]), Examples(torch.zeros(1, 1, 1), torch.tensor([[0]]))
    )
    assert adapted_to is not None
    assert adapted_to.tolist() == [2.0]
    support = Examples(torch.zeros(1, 3, 1), torch.tensor([[0, 0, 1]]))
    threshold = objective.calibrate(torch.tensor([[[0.0, -1.0], [0.0, 1.0], [0.0, 9.0]]]), support)
    assert threshold is not None
    assert threshold.tolist() == pytest.approx([3.0])
    odds = torch.tensor([2.9, 3.1, 0.0, 1.0, 2.9, 3.1, 50.0])
    outputs = torch.stack([torch.zeros(7), odds], -1)[None]
    query = Examples(torch.zeros(1, 7, 1), torch.tensor([[0, 0, 0, 0, 1, 1, 1]]))
    metrics = objective.metrics(outputs, query, threshold)
    assert metrics["false_alarm_rate"].item() == pytest.approx(1 / 4)
    assert metrics["found_rate"].item() == pytest.approx(2 / 3)
    masked = Examples(query.x, query.y, torch.tensor([[True, False, True, True, False, True, True]]))
    assert objective.metrics(outputs, masked, threshold)["false_alarm_rate"].item() == 0.0
    assert objective.metrics(outputs, masked, threshold)["found_rate"].item() == 1.0
    only_normal = Examples(query.x[:, :4], query.y[:, :4])
    metrics = objective.metrics(outputs[:, :4], only_normal, threshold)
    assert "found_rate" not in metrics
    assert metrics["false_alarm_rate"].item() == pytest.approx(1 / 4)


def test_all_faults_together_speak_against_normal() -> None:
    """Of p = (.2, .3, .5): odds of a fault .8 / .2; of another class as normal .7 / .3."""
    said = torch.tensor([[[0.2, 0.3, 0.5]]]).log() + 3.0
    support = Examples(torch.zeros(1, 1, 1), torch.tensor([[1]]))
    threshold = Classification(normal=1, margin=0.0).calibrate(said, support)
    assert threshold is not None
    assert threshold.item() == pytest.approx(math.log(0.7 / 0.3), rel=1e-5)


def test_normal_or_not_is_reported_only_where_a_class_is_normal(episode: Episode) -> None:
    torch.manual_seed(0)
    net = nn.Linear(5, 2).double()
    plain, both = MAML(net).evaluate(episode), MAML(net, Classification(normal=0)).evaluate(episode)
    assert set(both) - set(plain) == {
        f"{name}_{moment}" for name in ("false_alarm_rate", "found_rate") for moment in ("before", "after")
    }
    assert all(torch.equal(both[name], value) for name, value in plain.items())
    learner = MAML(net, Classification(normal=0, metric="false_alarm_rate"))
    result = personalize(learner, next(episode.chunks(1)), ("good", "bad"))
    assert result.after == pytest.approx(learner.evaluate(episode)["false_alarm_rate_after"][0].item())
    assert not learner.objective.higher_is_better
    with pytest.raises(UserError, match="found_rate"):
        Classification(metric="found_rate")
    with pytest.raises(UserError, match="expected normal as the number of a class, got -1"):
        Classification(normal=-1)
    with pytest.raises(UserError, match="expected normal below the network's 2 outputs, got 2"):
        Classification(normal=2).calibrate(
            torch.zeros(1, 1, 2), Examples(torch.zeros(1, 1, 1), torch.tensor([[2]]))
        )
    with pytest.raises(UserError, match="expected windows of the normal class 3"):
        MAML(net, Classification(normal=3)).evaluate(episode)
    with pytest.raises(UserError, match="expected the threshold"):
        Classification(normal=0).metrics(torch.zeros(1, 1, 2), Examples(torch.zeros(1, 1, 1), torch.tensor([[0]])))
