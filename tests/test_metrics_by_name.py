"""Metrics that a user adds by name, against torchmetrics' functions and by hand, and which metric decides."""

from __future__ import annotations

import copy
import math
import pickle
from functools import partial

import pytest
import torch
import torchmetrics
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import (
    BinaryAUROC,
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
)
from torchmetrics.functional.classification import binary_auroc, multiclass_auroc, multiclass_f1_score
from torchmetrics.regression import MeanAbsolutePercentageError, R2Score
from torchmetrics.text import Perplexity

from fml_lightning import Classification, Examples, Loss, Objective, Reconstruction, Regression, UserError

MASK = torch.tensor([[True] * 9 + [False], [False] * 2 + [True] * 8])


def ragged(classes: int) -> tuple[Tensor, Examples]:
    """Logits and labels of two tasks, of nine and of eight windows, in which every class occurs."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(10).remainder(classes).repeat(2, 1)
    logits = torch.randn(2, 10, classes, generator=generator) + F.one_hot(labels)
    return logits, Examples(torch.zeros(2, 10, 1), labels, MASK)


def test_metrics_of_several_classes_are_those_of_torchmetrics_for_each_task_without_its_padding() -> None:
    logits, examples = ragged(3)
    objective = Classification(
        metrics=[
            MulticlassF1Score(num_classes=3),
            torchmetrics.AUROC(task="multiclass", num_classes=3),
            Perplexity(),
        ]
    )
    found = objective.metrics(logits, examples)
    assert list(found) == ["accuracy", "balanced_accuracy", "f1_score", "auroc", "perplexity", "loss"]
    for t in range(2):
        own_logits, labels = logits[t][MASK[t]], examples.y[t][MASK[t]]
        assert found["f1_score"][t] == multiclass_f1_score(own_logits, labels, num_classes=3)
        torch.testing.assert_close(
            found["auroc"][t], multiclass_auroc(own_logits.softmax(1), labels, num_classes=3)
        )
        assert found["perplexity"][t].item() == pytest.approx(
            math.exp(F.cross_entropy(own_logits, labels)), rel=1e-5
        )


def test_logits_in_the_unit_interval_are_not_taken_for_probabilities() -> None:
    """torchmetrics guesses by the range; softmax of (0.9, 0.1) is p = 0.69, so four right of five err by 0.11."""
    logits = torch.tensor([[[0.9, 0.1]] * 5])
    examples = Examples(torch.zeros(1, 5, 1), torch.tensor([[0, 0, 0, 0, 1]]))
    error = torchmetrics.CalibrationError(task="multiclass", num_classes=2, n_bins=1)
    found = Classification(metrics=[error]).metrics(logits, examples)["calibration_error"]
    assert found.item() == pytest.approx(0.8 - 1 / (1 + math.exp(-0.8)), abs=1e-6)


def test_metrics_of_two_classes_take_the_probability_of_class_1() -> None:
    logits, examples = ragged(2)
    found = Classification(metrics={"area": BinaryAUROC(), "again": binary_auroc}).metrics(logits, examples)
    for t in range(2):
        chances = logits[t][MASK[t]].softmax(1)[:, 1]
        assert found["area"][t] == found["again"][t] == binary_auroc(chances, examples.y[t][MASK[t]])
    logits, examples = ragged(3)
    with pytest.raises(UserError, match="BinaryAUROC needs a network of 2 outputs, got 3"):
        Classification(metrics=[BinaryAUROC()]).metrics(logits, examples)


def test_top_k_accuracy_is_asked_for_by_name() -> None:
    """The right class is second in both windows."""
    logits = torch.tensor([[[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]]])
    examples = Examples(torch.zeros(1, 2, 1), torch.tensor([[1, 1]]))
    top2 = MulticlassAccuracy(num_classes=3, top_k=2, average="micro")
    found = Classification(metrics={"top2": top2}).metrics(logits, examples)
    assert (found["accuracy"].item(), found["top2"].item()) == (0.0, 1.0)


def test_metrics_of_a_regression_are_in_the_unit_of_the_target() -> None:
    """Scale 10: predictions 10 and 4 for targets 8 and 5: percentage errors 25 and 20 %; R² = 1 − 5/4.5."""
    examples = Examples(torch.zeros(1, 2, 1), torch.tensor([[8.0, 5.0]]))
    objective = Regression(scale=10.0, metrics=[MeanAbsolutePercentageError(), R2Score()], metric="r2_score")
    found = objective.metrics(torch.tensor([[[1.0], [0.4]]]), examples)
    assert found["mean_absolute_percentage_error"].item() == pytest.approx(0.225)
    assert found["r2_score"].item() == pytest.approx(1 - 5 / 4.5, abs=1e-6)
    assert (objective.metric, objective.higher_is_better) == ("r2_score", True)


def test_several_targets_per_window_stay_apart() -> None:
    """R² of each target, averaged: the first is met, the second missed by 1 twice (R² = 1 − 2/2)."""
    y = torch.tensor([[[1.0, 4.0], [3.0, 6.0]]])
    found = Regression(metrics=[R2Score()]).metrics(
        torch.tensor([[[1.0, 5.0], [3.0, 5.0]]]), Examples(torch.zeros(1, 2, 1), y)
    )
    assert found["r2_score"].item() == pytest.approx(0.5)


def test_anomaly_scores_and_losses_of_ones_own_have_metrics_by_name_too() -> None:
    x = torch.tensor([[[2.0], [3.0], [1.0]]])
    examples = Examples(x, torch.tensor([[0, 1, 1]]))
    objective = Reconstruction(
        metrics=[torchmetrics.AveragePrecision(task="binary"), torchmetrics.F1Score("binary")]
    )
    found = objective.metrics(torch.zeros(1, 3, 1), examples, torch.tensor([4.5]))
    assert found["average_precision"].item() == pytest.approx((1 + 2 / 3) / 2)  # the anomalies come 1st and 3rd
    assert found["f1_score"].item() == pytest.approx(2 / 3)  # one of two anomalies, no false alarm
    own = Loss(F.mse_loss, metrics=[torchmetrics.MeanAbsoluteError()], metric="mean_absolute_error")
    assert own.metrics(x, Examples(x, x - 2))["mean_absolute_error"].item() == 2.0
    assert own.higher_is_better is False


def test_the_metric_that_decides_brings_its_direction() -> None:
    assert Classification(metric="balanced_accuracy").higher_is_better is True
    assert Classification(metric="loss").higher_is_better is False
    assert Classification(metrics=[Perplexity()], metric="perplexity").higher_is_better is False
    assert Classification(metrics=[MulticlassF1Score(3)], metric="f1_score").higher_is_better is True
    with pytest.raises(UserError, match="metric to be one of accuracy, balanced_accuracy, loss, got 'acuracy'"):
        Classification(metric="acuracy")

    def bias(predicted: Tensor, targets: Tensor) -> Tensor:
        return (predicted - targets).mean()

    with pytest.raises(UserError, match="nothing says whether more or less of 'bias' is better"):
        Regression(metrics=[bias], metric="bias")
    bias.higher_is_better = False  # type: ignore[attr-defined]
    assert Regression(metrics=[bias], metric="bias").higher_is_better is False


def test_an_undefined_metric_is_left_out_but_not_where_it_decides() -> None:
    """Task 1 has constant predictions and targets: the ratio of their variances is 0/0."""

    def explained(predicted: Tensor, targets: Tensor) -> Tensor:
        return predicted.var() / targets.var()

    explained.higher_is_better = True  # type: ignore[attr-defined]
    examples = Examples(torch.zeros(2, 2, 1), torch.tensor([[1.0, 2.0], [3.0, 3.0]]))
    outputs = torch.zeros(2, 2, 1)
    assert list(Regression(metrics=[explained]).metrics(outputs, examples)) == ["rmse", "mae", "loss"]
    with pytest.raises(UserError, match="'explained' is undefined for task 1's query set"):
        Regression(metrics=[explained], metric="explained").metrics(outputs, examples)
    normal = Examples(torch.ones(1, 2, 1), torch.zeros(1, 2, dtype=torch.long))
    with pytest.raises(UserError, match="'auroc' is undefined for task 0"):
        Reconstruction(metric="auroc").metrics(torch.zeros(1, 2, 1), normal, torch.ones(1))


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ([MulticlassF1Score(3), MulticlassF1Score(3)], "'f1_score' of a metric is taken"),
        ([MulticlassAccuracy(3)], "'accuracy' of a metric is taken"),
        ([lambda p, y: p.sum()], "'<lambda>' of a metric is taken, or no word"),
        ({"a/b": MulticlassF1Score(3)}, "'a/b' of a metric"),
        (["f1"], "expected metrics of torchmetrics or functions, got 'f1'"),
        ([MulticlassF1Score], "'f1_score' needs arguments: .*num_classes"),
    ],
)
def test_metrics_that_cannot_be_are_refused(metrics: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Classification(metrics=metrics)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (MulticlassF1Score(5), r"'f1_score' failed on predictions \(9, 3\) and targets \(9,\).*number of classes"),
        (MulticlassConfusionMatrix(3), r"'confusion_matrix' to give one number per task, got \(3, 3\)"),
        (MulticlassF1Score(3, average=None), r"one number per task, got \(3,\)"),
        (torchmetrics.functional.auroc, r"'auroc' failed on .*TypeError: .*task"),
    ],
)
def test_a_metric_that_fails_says_so_in_one_sentence(metric: torchmetrics.Metric, message: str) -> None:
    logits, examples = ragged(3)
    with pytest.raises(UserError, match=message):
        Classification(metrics=[metric]).metrics(logits, examples)


@pytest.mark.parametrize(
    "objective",
    [
        Classification(class_weights=[1, 2, 3], metrics=[MulticlassAUROC(3), Perplexity()], metric="perplexity"),
        Classification(metrics={"f1": partial(multiclass_f1_score, num_classes=3)}),
    ],
)
def test_objectives_with_metrics_are_copied_and_pickled(objective: Objective) -> None:
    logits, examples = ragged(3)
    expected = objective.metrics(logits, examples)
    for again in (copy.deepcopy(objective), pickle.loads(pickle.dumps(objective))):
        found = again.metrics(logits, examples)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)
        assert (again.metric, again.higher_is_better) == (objective.metric, objective.higher_is_better)
