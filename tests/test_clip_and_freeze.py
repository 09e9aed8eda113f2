"""Clipping in both loops, and freezing: against torch's own, finite differences, and numbers by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from test_meta_gradients import Constant, directional, half_square, quadratic
from torch import Tensor, nn
from torch.nn import functional as F

from fml_lightning import (
    ANIL,
    MAML,
    MLP,
    Ditto,
    Episode,
    FedAvg,
    FedPer,
    FedRep,
    InnerLoop,
    Learner,
    Loss,
    MetaSGD,
    PerFedAvg,
    Prototypical,
    Reptile,
    SerialExecutor,
    SiteMemory,
    SiteUpdate,
    UserError,
    Work,
)
from fml_lightning.adaptation.inner_loop import clipped
from fml_lightning.datamodules import SimulatedFleet
from fml_lightning.datamodules.loaders import Batches
from fml_lightning.params import clone, norm

MakeTrainer = Callable[..., Trainer]


def smooth() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 2)).double()


# In the inner loop ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("proximal", [0.0, 0.5])
@pytest.mark.parametrize("clip", [0.1, 0.8, 100.0])
def test_inner_clipping_equals_torchs_on_each_task(clip: float, proximal: float, episode: Episode) -> None:
    """Three steps: 0.1 clips every task, 0.8 some of them, 100 none."""
    torch.manual_seed(3)
    learner = MAML(smooth(), inner_loop=InnerLoop(lr=0.3, steps=3, clip=clip, proximal=proximal))
    adapted = learner.adapt(learner.params, episode.support)
    for t in range(3):
        net = copy.deepcopy(learner.net)
        start = [p.detach().clone() for p in net.parameters()]
        optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
        for _ in range(3):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(episode.support.x[t]), episode.support.y[t])
            pull = sum(((p - s) ** 2).sum() for p, s in zip(net.parameters(), start, strict=True))
            (loss + proximal / 2 * pull).backward()
            nn.utils.clip_grad_norm_(net.parameters(), clip)
            optimizer.step()
        for name, p in net.named_parameters():
            torch.testing.assert_close(adapted[name][t], p.detach(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("kind", [MAML, MetaSGD, ANIL])
def test_the_meta_gradient_through_clipping_against_finite_differences(
    kind: Callable[..., MAML], steps: int, episode: Episode
) -> None:
    torch.manual_seed(3)
    learner = kind(smooth(), inner_loop=InnerLoop(lr=0.3, steps=steps, clip=0.2)).double()
    free = kind(copy.deepcopy(learner.net), inner_loop=InnerLoop(lr=0.3, steps=steps)).double()
    _, grads = learner.meta_gradient(episode)
    assert learner.meta_loss(episode) != free.meta_loss(episode)
    given, numeric = directional(learner, lambda moved: moved.meta_loss(episode).item(), grads)
    assert given == pytest.approx(numeric, rel=1e-6)


def test_inner_clipping_in_closed_form() -> None:
    """w = 3 pulled to 0: the gradient 3 is cut to 1, so w' = 3 − ½; the cut gradient is constant: dw'/dw = 1."""
    learner = MAML(Constant(3.0), Loss(half_square), InnerLoop(lr=0.5, steps=1, clip=1.0))
    _, grads = learner.meta_gradient(quadratic(0.0, 0.0))
    assert grads["net.w"].item() == pytest.approx(2.5, abs=1e-6)


def test_a_gradient_of_zero_is_clipped_to_zero_with_a_derivative() -> None:
    grads = {"w": torch.zeros(2, 3, requires_grad=True)}
    cut = clipped(grads, 1.0)["w"]
    (slope,) = torch.autograd.grad(cut.sum(), grads["w"])
    assert torch.equal(cut, torch.zeros(2, 3))
    assert torch.equal(slope, torch.ones(2, 3))


def test_stacked_tasks_are_clipped_each_for_itself(episode: Episode) -> None:
    torch.manual_seed(3)
    loop = InnerLoop(lr=0.3, steps=3, clip=0.3)
    net = smooth()
    stacked, looped = (Reptile(net, inner_loop=loop, tasks_at_once=n) for n in (None, 1))
    for name, grad in stacked.meta_gradient(episode)[1].items():
        torch.testing.assert_close(grad, looped.meta_gradient(episode)[1][name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("clip", [0.0, -1.0, float("nan")])
def test_impossible_clips_are_refused(clip: float) -> None:
    with pytest.raises(UserError, match="clip > 0"):
        InnerLoop(clip=clip)
    with pytest.raises(UserError, match="clip > 0"):
        FedAvg(MLP(5, 2), clip=clip)
    with pytest.raises(UserError, match="one plain sgd step"):
        PerFedAvg(MLP(5, 2), inner_loop=InnerLoop(steps=1, clip=1.0))


# In the outer loop ----------------------------------------------------------------------------------------


class Steps(Callback):
    """Notes how far the parameters moved in every step."""

    def __init__(self) -> None:
        self.moved: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        assert isinstance(module, Learner)
        self.before = clone(module.trained)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        assert isinstance(module, Learner)
        self.moved.append(norm({n: p - self.before[n] for n, p in module.trained.items()}).item())


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize(("options", "length"), [({}, 0.01), ({"gradient_clip_val": 0.005}, 0.005)])
def test_a_step_of_the_optimizer_is_clipped_under_a_plain_trainer(
    options: dict[str, Any], length: float, accumulated: int, episode: Episode, quiet_trainer: MakeTrainer
) -> None:
    """SGD with lr 1 moves as far as the gradient is long: to `clip`, or to less if the Trainer says so."""
    torch.manual_seed(3)
    learner = MAML(smooth(), optimizer=partial(torch.optim.SGD, lr=1.0), clip=0.01)
    watch, data = Steps(), Batches([episode] * 4)
    trainer = quiet_trainer(
        max_epochs=1, accumulate_grad_batches=accumulated, callbacks=[watch], limit_val_batches=0, **options
    )
    trainer.fit(learner, data, data)
    moved = [step for step in watch.moved if step]
    assert len(moved) == 4 // accumulated
    assert moved == pytest.approx([length] * len(moved), rel=1e-3)


def test_small_gradients_are_left_alone_and_values_clipped_too(
    episode: Episode, quiet_trainer: MakeTrainer
) -> None:
    learners = []
    for clip, options in (
        (None, {}),
        (1e6, {}),
        (1e6, {"gradient_clip_val": 1e6, "gradient_clip_algorithm": "value"}),
    ):
        torch.manual_seed(3)
        learners.append(MAML(smooth(), clip=clip))
        data = Batches([episode] * 2)
        quiet_trainer(max_epochs=1, limit_val_batches=0, **options).fit(learners[-1], data, data)
    for name, p in learners[0].trained.items():
        assert all(torch.equal(p, other.trained[name]) for other in learners[1:])


@pytest.mark.parametrize("make", [MAML, FedAvg, FedPer, Ditto])
def test_a_site_clips_its_steps(make: Callable[..., Learner], fleet: SimulatedFleet, tmp_path: Path) -> None:
    """Two steps of SGD with lr 1 move at most twice `clip`; unclipped they go further."""
    fleet.setup("fit")
    lengths = []
    for clip in (0.01, None):
        torch.manual_seed(1)
        learner = make(MLP(32, 4, hidden=(8,)), optimizer=partial(torch.optim.SGD, lr=1.0), clip=clip)
        work = Work("fit", 0, clone(learner.shared), seed=5, local_steps=2)
        for update in SerialExecutor().run(learner, work, fleet.sites, SiteMemory(tmp_path / str(clip))):
            assert isinstance(update, SiteUpdate), update.reason
            lengths.append(norm(update.delta).item())
    assert max(lengths[:2]) <= 0.02 * 1.0001
    assert min(lengths[2:]) > 0.02


# Freezing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [MAML, MetaSGD, FedAvg, Reptile, Ditto, PerFedAvg, lambda net, **o: Prototypical(net, ways=2, **o)]
)
def test_frozen_parameters_neither_adapt_nor_train(
    make: Callable[..., Learner], episode: Episode, quiet_trainer: MakeTrainer
) -> None:
    torch.manual_seed(3)
    learner = make(smooth(), freeze=["0.*"])
    before = clone(learner.params)
    assert not {"net.0.weight", "net.0.bias"} & (set(learner.trained) | set(learner.shared))
    adapted = learner.adapt(learner.params, episode.support)
    for name in ("0.weight", "0.bias"):
        assert torch.equal(adapted[name], before[name].expand_as(adapted[name]))
    data = Batches([episode] * 2)
    quiet_trainer(max_epochs=2, limit_val_batches=0).fit(learner, data, data)
    after = learner.params
    moved = {name for name, p in before.items() if not torch.equal(p, after[name])}
    assert moved == set(before) - {"0.weight", "0.bias", "prototypes"}


def test_a_site_neither_sends_nor_moves_what_is_frozen(fleet: SimulatedFleet, tmp_path: Path) -> None:
    fleet.setup("fit")
    learner = FedAvg(MLP(32, 4, hidden=(8,)), freeze=["0.*", "1.*"])
    work = Work("fit", 0, clone(learner.shared), seed=5, local_steps=2)
    for update in SerialExecutor().run(learner, work, fleet.sites, SiteMemory(tmp_path)):
        assert isinstance(update, SiteUpdate)
        assert set(update.delta) == {f"net.{n}" for n in learner.params if n[0] not in "01"}


def test_freezing_all_or_what_a_method_needs_is_refused() -> None:
    with pytest.raises(UserError, match="freeze: 'tail' matches none"):
        FedAvg(MLP(5, 2), freeze=["tail"])
    for make in (FedAvg, MAML, lambda net, **o: Prototypical(net, ways=2, **o)):
        with pytest.raises(UserError, match="nothing can adapt; unfreeze some"):
            make(MLP(5, 2), freeze=["*"])
    for make in (ANIL, FedPer, FedRep):
        with pytest.raises(UserError, match="nothing can adapt; unfreeze some"):
            make(MLP(5, 2, hidden=(8,), norm_input=False), freeze=["3.*"])


def test_a_frozen_body_under_anil_trains_the_head_alone(episode: Episode) -> None:
    learner = ANIL(smooth(), freeze=["0.*", "1.*"])
    _, grads = learner.meta_gradient(episode)
    assert set(grads) == {"net.3.weight", "net.3.bias"}
    given: Tensor = grads["net.3.weight"]
    assert given.abs().sum() > 0
