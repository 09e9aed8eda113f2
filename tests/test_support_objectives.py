"""What an inner loop minimizes in place of the objective: by hand, by finite differences, in a federation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from fml_lightning import (
    ANIL,
    FOMAML,
    MAML,
    MLP,
    Classification,
    Consistency,
    Episode,
    Examples,
    FeatureReconstruction,
    FedAvg,
    Federation,
    InnerLoop,
    LearnedLoss,
    Learner,
    MAMLPlusPlus,
    MetaSGD,
    Reptile,
    SupportObjective,
    UserError,
    adapt,
    personalize,
)
from fml_lightning.datamodules import Episodes, SimulatedFleet
from fml_lightning.objectives.support_objective import perceptron
from fml_lightning.params import clone

OBJECTIVES: dict[str, Callable[[], SupportObjective]] = {
    "consistency": lambda: Consistency(noise=0.3),
    "consistency, dropped features": lambda: Consistency(noise=0.0, drop=0.5, objective_weight=0.5),
    "reconstruction": lambda: FeatureReconstruction(2, 5, hidden=[4]),
    "learned loss": lambda: filled(LearnedLoss(2, hidden=[6])),
    "learned loss that sees the window": lambda: filled(LearnedLoss(2, 5, hidden=[6], objective_weight=1.0)),
    "learned linear loss": lambda: filled(LearnedLoss(2, hidden=[])),
}


def filled(loss: LearnedLoss) -> LearnedLoss:
    """A learned loss that has moved away from 0."""
    with torch.no_grad():
        for p in loss.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    return loss


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2))


@pytest.fixture
def normal_only(episode: Episode) -> Episode:
    """The tasks of `episode` with support of class 0 alone."""
    support = Examples(episode.support.x, torch.zeros_like(episode.support.y))
    return replace(episode, support=support, common_labels=True)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("kind", [MAML, ANIL, MetaSGD, MAMLPlusPlus])
def test_meta_gradient_against_finite_differences(kind: type[MAML], name: str, normal_only: Episode) -> None:
    """Of the network's parameters, of the learned rates, and of what the support objective learns."""
    torch.manual_seed(3)
    loop = InnerLoop(lr=0.3, steps=2)
    learner = kind(net(), inner_loop=loop, support_objective=OBJECTIVES[name]()).double().eval()
    _, grads = learner.meta_gradient(normal_only)
    assert set(grads) == set(learner.trained)
    generator = torch.Generator().manual_seed(5)
    for part in {name.split(".")[0] for name in grads}:
        ways = {n: torch.randn(p.shape, generator=generator).to(p) for n, p in learner.trained.items()}
        ways = {n: way for n, way in ways.items() if n.split(".")[0] == part}

        def at(h: float, ways: dict[str, Tensor] = ways) -> float:
            moved = copy.deepcopy(learner)
            with torch.no_grad():
                for n, way in ways.items():
                    moved.trained[n].add_(way, alpha=h)
            return moved.meta_loss(normal_only).item()

        given = sum((grads[n] * way).sum().item() for n, way in ways.items())
        assert given == pytest.approx((at(1e-6) - at(-1e-6)) / 2e-6, rel=1e-5, abs=1e-8), part
        assert abs(given) > 1e-7, part


def test_the_loss_of_one_weight_by_hand() -> None:
    """f(x) = w·x, w = 1, α = ½, two windows x = 1 and 3, by a loss ℓ(o) = v·o: w' = w − α·v·mean(x) = 1 − v."""
    line = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(line.weight)
    loss = LearnedLoss(1, hidden=[]).double()
    nn.init.constant_(next(loss.parameters()), 0.25)
    learner = MAML(line, inner_loop=InnerLoop(lr=0.5, steps=1), support_objective=loss)
    support = Examples(torch.tensor([[[1.0], [3.0]]], dtype=torch.float64), torch.zeros(1, 2, dtype=torch.int64))
    assert learner.adapt(learner.params, support)["weight"].item() == pytest.approx(1 - 0.25)


def test_consistency_and_reconstruction_by_hand() -> None:
    outputs = torch.tensor([[[1.0, 0.0], [2.0, 2.0], [0.0, 0.0], [2.0, 0.0]]])  # two windows, then their copies
    support = Examples(torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.int64))
    assert Consistency().loss(outputs, support).item() == pytest.approx((1 / 2 + 4 / 2) / 2)
    masked = Examples(support.x, support.y, torch.tensor([[True, False]]))
    assert Consistency().loss(outputs, masked).item() == pytest.approx(1 / 2)
    decoder = FeatureReconstruction(2, 3, hidden=[])
    for p in decoder.parameters():
        nn.init.constant_(p, 1.0)  # every feature is decoded as o₁ + o₂ + 1: 2 and 5
    assert decoder.loss(outputs[:, :2], support).item() == pytest.approx((4 + 25) / 2)


def test_a_learned_loss_starts_as_no_step_or_as_the_objective_alone(normal_only: Episode) -> None:
    torch.manual_seed(0)
    model = net().double()
    idle = MAML(model, support_objective=LearnedLoss(2, 5)).double()
    adapted = idle.adapt(idle.params, normal_only.support)
    assert all(torch.equal(adapted[n], p.expand_as(adapted[n])) for n, p in idle.params.items())
    with_labels = MAML(model, support_objective=LearnedLoss(2, 5, objective_weight=1.0)).double()
    expected = MAML(model).adapt(dict(model.named_parameters()), normal_only.support)
    adapted = with_labels.adapt(with_labels.params, normal_only.support)
    for name, p in expected.items():
        torch.testing.assert_close(adapted[name], p)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_adaptation_is_a_function_of_the_task_alone(name: str, normal_only: Episode) -> None:
    """However often, whatever the generators, the learner's mode, and the tasks that are stacked beside it."""
    torch.manual_seed(0)
    learner = MAML(net(), support_objective=OBJECTIVES[name]()).double()
    before = clone(learner.params)
    together = learner.adapt(learner.params, normal_only.support)
    torch.manual_seed(1)
    again = learner.eval().adapt(learner.params, normal_only.support)
    for t in range(3):
        alone = learner.adapt(learner.params, normal_only.support.part(slice(t, t + 1)))
        for n, p in alone.items():
            torch.testing.assert_close(p[0], together[n][t])
            assert torch.equal(together[n], again[n])
            assert torch.equal(before[n], learner.params[n])


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_chunks_of_tasks_change_nothing(name: str, size: int, normal_only: Episode) -> None:
    torch.manual_seed(0)
    model, own = net().double(), OBJECTIVES[name]().double()
    whole = MAML(model, support_objective=own).eval()
    parts = MAML(model, support_objective=own, tasks_at_once=size).eval()
    (loss, grads), (other, others) = whole.meta_gradient(normal_only), parts.meta_gradient(normal_only)
    torch.testing.assert_close(loss, other)
    for n, grad in grads.items():
        torch.testing.assert_close(grad, others[n])


def test_consistency_draws_anew_in_training_and_the_same_in_evaluation() -> None:
    x = torch.zeros(2, 3, 4)
    objective = Consistency(noise=1.0)
    torch.manual_seed(0)
    first, second = objective.views(x), objective.views(x)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    objective.eval()
    assert torch.equal(objective.views(x), objective.views(x))
    assert torch.equal(objective.views(x)[0], objective.views(x[:1])[0])
    drops = Consistency(noise=0.0, drop=0.5)
    kept = drops.views(torch.ones(1, 500, 10)).mean().item()
    assert kept == pytest.approx(0.5, abs=0.03)


def test_in_evaluation_consistency_drops_features_whatever_their_noise() -> None:
    """The noise of the features that are kept is as normal as that of all: mean 0, deviation 1."""
    objective = Consistency(noise=1.0, drop=0.5).eval()
    noisy = Consistency(noise=1.0).eval().views(torch.zeros(1, 500, 100))
    kept = objective.views(torch.zeros(1, 500, 100)) != 0
    for noise in (noisy[kept], noisy[~kept]):
        assert noise.mean().item() == pytest.approx(0.0, abs=0.02)
        assert noise.std().item() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("learner", [FedAvg, Reptile])
def test_other_learners_train_as_before_and_adapt_by_the_support_objective(
    learner: Callable[..., Learner], normal_only: Episode
) -> None:
    torch.manual_seed(0)
    model = net().double()
    objective = Consistency(noise=0.5)
    with_it, without = learner(model, support_objective=objective), learner(model)
    (loss, grads), (other, others) = with_it.meta_gradient(normal_only), without.meta_gradient(normal_only)
    assert torch.equal(loss, other)
    assert all(torch.equal(grads[n], others[n]) for n in grads)
    support = normal_only.support
    views = objective.eval().views(support.x)
    expected = adapt(
        lambda p, x: with_it.outputs(p, views),
        objective.loss,
        with_it.params,
        support,
        with_it.adaptation,
        create_graph=False,
    )
    adapted = with_it.adapt(with_it.params, support)
    assert all(torch.equal(adapted[n], p) for n, p in expected.items())


def test_normal_support_is_refused_only_where_labels_differ_between_tasks(normal_only: Episode) -> None:
    learner = MAML(net().double())
    learner.check(normal_only)
    learner.evaluate(normal_only)
    with pytest.raises(UserError, match="class 1 is in the query set but absent from the support set"):
        learner.check(replace(normal_only, common_labels=False))
    MAML(net().double(), support_objective=Consistency()).check(replace(normal_only, common_labels=False))
    reads = MAML(net().double(), support_objective=Consistency(objective_weight=1.0))
    with pytest.raises(UserError, match="absent from the support set"):
        reads.check(replace(normal_only, common_labels=False))
    assert all(part.common_labels for part in normal_only.chunks(1))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Consistency(noise=0.0), "one of them above 0"),
        (lambda: Consistency(drop=1.0), r"drop in \[0, 1\)"),
        (lambda: Consistency(objective_weight=-1.0), "objective_weight of at least 0, got -1"),
        (lambda: LearnedLoss(0), "outputs and hidden of at least 1"),
        (lambda: FeatureReconstruction(2, 5, drop=-0.1), r"drop in \[0, 1\), got"),
        (lambda: FedAvg(net(), support_objective=LearnedLoss(2)), "FedAvg: LearnedLoss has parameters"),
        (lambda: Reptile(net(), support_objective=FeatureReconstruction(2, 5)), "this learner does not train"),
        (lambda: FOMAML(net(), support_objective=LearnedLoss(2)), "first_order: false"),
        (lambda: MAML(net(), second_order_from=5, support_objective=LearnedLoss(2)), "second_order_from: 0"),
        (lambda: MAML(net(), inner_loop=InnerLoop(steps=0), support_objective=LearnedLoss(2)), "at least 1"),
    ],
)
def test_what_cannot_be_trained_is_refused(make: Callable[[], object], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        make()


@pytest.mark.parametrize("objective", [LearnedLoss(2, 4), LearnedLoss(3), FeatureReconstruction(2, 4)])
def test_sizes_that_do_not_fit_are_named(objective: SupportObjective, normal_only: Episode) -> None:
    learner = MAML(net().double(), support_objective=objective.double())
    with pytest.raises(UserError, match=r"expected \d outputs and \d features of a window, got 2 and 5"):
        learner.adapt(learner.params, normal_only.support)


def test_a_perceptron_is_smooth() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    (slope,) = torch.autograd.grad(perceptron(2, [4], 1)(x).sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad((slope**2).sum(), x)
    assert curvature.abs().sum() > 0


@pytest.mark.parametrize("objective", [Consistency(), LearnedLoss(4, objective_weight=1.0), None])
def test_a_federation_learns_from_normal_support_alone(
    objective: SupportObjective | None, quiet_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    """What is learned of the loss is sent and averaged; the personal model knows every class."""
    episodes = Episodes(
        shots=4, of="normal only", normal="normal", permute_labels=False, tasks=2, queries=2, repeats=2
    )
    fleet = SimulatedFleet(sites=2, unseen_sites=1, machines=1, seconds=2.0, episodes=episodes)
    torch.manual_seed(0)
    learner = MAML(MLP(128, 4, hidden=[16]), support_objective=copy.deepcopy(objective))
    start = clone(learner.shared)
    federation = Federation(learner, local_steps=3)
    quiet_trainer(max_epochs=2).fit(federation, fleet)
    after = federation.learner.shared
    learns = isinstance(objective, LearnedLoss)
    assert {name.split(".")[0] for name in after} == {"net"} | ({"support_objective"} if learns else set())
    assert all(not torch.equal(p, start[name]) for name, p in after.items() if "weight" in name)
    episode = next(iter(fleet.predict_dataloader()))
    assert episode.common_labels
    assert episode.support.y.unique().tolist() == [0]
    result = personalize(federation.learner, episode, fleet.classes)
    assert result.model.predict(episode.query.x[0]).shape == (episode.query.x.shape[1], 4)
    assert isinstance(result.model.objective, Classification)
