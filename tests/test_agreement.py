"""What server and sites must agree on: learners made alike agree; another setting is named with both values."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fml_lightning import ANIL, MAML, MLP, Classification, Ditto, FedBN, InnerLoop, Learner
from fml_lightning.executors.agreement import agreement, differences, digest

adam = functools.partial(torch.optim.Adam, lr=0.01)


def maml(hidden: tuple[int, ...] = (8,), **options: Any) -> MAML:
    return MAML(MLP(4, 2, hidden=hidden), **options)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (lambda: maml(inner_loop=InnerLoop(lr=0.3)), "learner.adaptation.lr is 0.3 here and 0.1 at the server"),
        (lambda: maml(optimizer=functools.partial(torch.optim.Adam, lr=0.02)), "lr: 0.02"),
        (lambda: maml((9,)), "out_features=9"),
        (lambda: MAML(MLP(4, 2, hidden=(8,), dropout=0.5)), "Dropout"),
        (lambda: maml(objective=Classification(label_smoothing=0.1)), "label_smoothing is 0.1 here and 0.0"),
        (lambda: maml(objective=Classification(class_weights=(1.0, 2.0))), "class_weights"),
        (lambda: maml(personal=["0.*"]), "shared.net.0.weight is missing here"),
        (lambda: ANIL(MLP(4, 2, hidden=(8,))), "learner is fml_lightning.learners.anil.ANIL here"),
        (
            lambda: maml(scheduler=functools.partial(torch.optim.lr_scheduler.StepLR, step_size=3)),
            "learner.scheduler is StepLR",
        ),
        (lambda: maml().double(), "torch.float64"),
    ],
)
def test_another_setting_is_named(other: Callable[[], Learner], difference: str) -> None:
    ours, theirs = agreement(other()), agreement(maml())
    assert difference in differences(theirs, ours)
    assert digest(ours) != digest(theirs)


@pytest.mark.parametrize("kind", [MAML, Ditto, FedBN])
def test_learners_made_alike_agree_whatever_they_have_learned(kind: type[Learner]) -> None:
    batch_norm = {} if kind is FedBN else {"batch_norm": "batch"}

    def make() -> Learner:
        return kind(
            torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)), optimizer=adam, **batch_norm
        )

    one, other = make(), make()
    with torch.no_grad():
        for p in one.parameters():
            p.add_(1.0)
    assert agreement(one) == agreement(other) == agreement(copy.deepcopy(one))
    assert differences(agreement(one), agreement(other)) == ""
    assert not any(" at 0x" in value for value in agreement(one).values())


def test_many_differences_are_counted() -> None:
    said = differences({}, {str(n): "1" for n in range(10)})
    assert said.count(" here and missing at the server") == 3
    assert said.endswith("; 7 more settings differ")
