"""Losses of a user's own: classes and functions, in Python and in YAML."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from torch.nn import functional as F

from fml_lightning import MAML, Examples, InnerLoop, Loss, Objective, UserError


def unannotated(outputs, targets, power=2):  # type: ignore[no-untyped-def]  # as most people write it
    return ((outputs - targets) ** power).mean()


def flat(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss that vmap refuses: it looks at a value."""
    return F.mse_loss(outputs, targets) * (1 if targets.sum().item() < 1e9 else 0)


def examples_of(outputs: Tensor, mask: Tensor | None = None) -> Examples:
    return Examples(torch.zeros(*outputs.shape[:2], 1), torch.zeros_like(outputs), mask)


OUTPUTS = torch.tensor([[[2.0], [0.0]], [[0.2], [0.4]]])
"""Two tasks of two windows; against 0 the mean squares are 2 and 0.1, Huber's (δ = ½) 0.4375 and 0.05."""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"class_path": "torch.nn.HuberLoss", "init_args": {"delta": 0.5}}, [0.4375, 0.05]),
        ({"class_path": "torch.nn.MSELoss"}, [2.0, 0.1]),
        ("torch.nn.MSELoss", [2.0, 0.1]),
        ("torch.nn.functional.mse_loss", [2.0, 0.1]),
        (f"{__name__}.flat", [2.0, 0.1]),
        (f"{__name__}.unannotated", [2.0, 0.1]),
    ],
)
def test_yaml_names_a_loss_class_or_a_function(given: Any, expected: list[float]) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Objective, "objective")
    config = parser.parse_object({"objective": {"class_path": "fml_lightning.Loss", "init_args": {"loss": given}}})
    parser.dump(config)  # a run keeps its configuration
    objective = parser.instantiate_classes(config).objective
    for again in (objective, copy.deepcopy(objective), pickle.loads(pickle.dumps(objective))):
        assert again.loss(OUTPUTS, examples_of(OUTPUTS)).tolist() == pytest.approx(expected)


def test_yaml_names_metrics_and_weights() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Objective, "objective")
    f1 = {"class_path": "torchmetrics.classification.MulticlassF1Score", "init_args": {"num_classes": 3}}
    top2 = {
        "class_path": "torchmetrics.Accuracy",
        "init_args": {"task": "multiclass", "num_classes": 3, "top_k": 2, "average": "micro"},
    }
    labels = torch.tensor([[0, 1, 2, 0]])
    for metrics, name in (([f1], "f1_score"), ({"f1": f1, "top2": top2}, "top2")):
        options = {"class_weights": [1, 2, 5], "label_smoothing": 0.1, "metrics": metrics, "metric": name}
        config = parser.parse_object(
            {"objective": {"class_path": "fml_lightning.Classification", "init_args": options}}
        )
        parser.dump(config)
        objective = parser.instantiate_classes(config).objective
        assert (objective.metric, objective.higher_is_better) == (name, True)
        found = objective.metrics(F.one_hot(labels, 3).float(), Examples(torch.zeros(1, 4, 1), labels))
        assert found[name].item() == 1.0


@pytest.mark.parametrize("loss", [nn.HuberLoss, nn.HuberLoss(), F.huber_loss, flat])
def test_a_loss_leaves_padding_out(loss: Any) -> None:
    outputs = torch.tensor([[[2.0], [9.0]], [[0.5], [0.5]]])
    padded = examples_of(outputs, torch.tensor([[True, False], [True, True]]))
    found = Loss(loss).loss(outputs, padded)
    alone = [
        Loss(loss).loss(outputs[t : t + 1, :n], examples_of(outputs[t : t + 1, :n])) for t, n in ((0, 1), (1, 2))
    ]
    assert torch.equal(found, torch.cat(alone))


def test_weights_of_a_loss_follow_the_outputs_to_their_device() -> None:
    loss = nn.CrossEntropyLoss(torch.tensor([1.0, 2.0]))
    outputs = torch.zeros(2, 3, 2, device="meta")
    examples = Examples(torch.zeros(2, 3, 1, device="meta"), torch.zeros(2, 3, dtype=torch.long, device="meta"))
    assert Loss(loss).loss(outputs, examples).device.type == "meta"
    weight = loss.weight
    assert isinstance(weight, Tensor)
    assert weight.device.type == "meta"


def test_a_loss_with_weights_meta_learns_as_a_function_does() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.tensor([1.0, 4.0])

    def weighted(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, weight)

    x, y = torch.randn(3, 8, 4, generator=generator), torch.tensor([[0, 1] * 4] * 3)
    net = nn.Linear(4, 2)
    losses = [
        MAML(copy.deepcopy(net), Loss(loss), InnerLoop(steps=1)).objective.loss(net(x), Examples(x, y))
        for loss in (weighted, nn.CrossEntropyLoss(weight))
    ]
    torch.testing.assert_close(losses[0], losses[1])


def test_a_log_probability_of_minus_infinity_is_judged() -> None:
    outputs = torch.tensor([[[0.0, -float("inf")]]])
    found = Loss(nn.NLLLoss()).metrics(outputs, Examples(torch.zeros(1, 1, 1), torch.tensor([[0]])))
    assert found["loss"].item() == 0.0


def none(outputs: Tensor, targets: Tensor) -> Any:
    return None


def through_numpy(outputs: Tensor, targets: Tensor) -> Tensor:
    return torch.tensor(float(((outputs.detach().numpy() - targets.numpy()) ** 2).mean()))


@pytest.mark.parametrize(
    ("loss", "y", "message"),
    [
        (
            F.mse_loss,
            torch.zeros(2, 3, 5),
            r"mse_loss refuses outputs \(3, 2\) and targets torch.float32 \(3, 5\)",
        ),
        (nn.CrossEntropyLoss(), torch.full((2, 3), 7), r"CrossEntropyLoss refuses .*IndexError: Target 7"),
        (nn.MSELoss(reduction="none"), torch.zeros(2, 3, 2), r"a scalar tensor, got a tensor \(3, 2\)"),
        (none, torch.zeros(2, 3), r"expected none to give a scalar tensor, got NoneType"),
        (through_numpy, torch.zeros(2, 3, 2), r"through_numpy cannot be differentiated"),
    ],
)
def test_a_loss_that_cannot_be_taken_says_so(loss: Any, y: Tensor, message: str) -> None:
    outputs = torch.zeros(2, 3, 2, requires_grad=True)
    for tasks in (1, 2):
        with pytest.raises(UserError, match=message):
            Loss(loss).loss(outputs[:tasks], Examples(torch.zeros(tasks, 3, 1), y[:tasks]))


@pytest.mark.parametrize("loss", [F.mse_loss, nn.L1Loss(), nn.HuberLoss()])
def test_a_column_of_outputs_is_not_broadcast_over_a_row_of_targets(loss: Any) -> None:
    """(3, 1) against (3,) would be the mean over all 9 pairs, silently."""
    for tasks in (1, 2):
        with pytest.raises(UserError, match="incorrect results due to broadcasting"):
            Loss(loss).loss(torch.zeros(tasks, 3, 1), Examples(torch.zeros(tasks, 3, 1), torch.zeros(tasks, 3)))


def test_a_loss_with_parameters_of_its_own_is_refused() -> None:
    with pytest.raises(UserError, match="Linear has parameters of its own, which no learner trains"):
        Loss(nn.Linear(1, 1))
    Loss(nn.Linear(1, 1).requires_grad_(False))


def test_memory_that_runs_out_is_no_fault_of_the_loss() -> None:
    def hungry(outputs: Tensor, targets: Tensor) -> Tensor:
        raise torch.cuda.OutOfMemoryError("no")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        Loss(hungry).loss(OUTPUTS, examples_of(OUTPUTS))
