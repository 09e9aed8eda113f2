"""The inner loop against closed forms, finite differences and a plain loop over tasks."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from fml_lightning import MAML, MLP, Conv1d, FedAvg, InnerLoop, UserError, adapt, stacked, trajectory
from fml_lightning.adaptation.stacking import chained, looped
from fml_lightning.params import select, stack
from fml_lightning.types import Episode, Examples, Params, StackedForward


def quadratic(params: Params, x: Tensor) -> Tensor:
    """A network that ignores its input: outputs w."""
    return params["w"].expand(x.shape[0])


def half_square(outputs: Tensor, examples: Examples) -> Tensor:
    return (outputs**2 / 2).mean(1)


@pytest.mark.parametrize(("first_order", "gradient"), [(False, 0.25), (True, 0.5)])
def test_meta_gradient_on_a_quadratic(first_order: bool, gradient: float) -> None:
    """w' = w − αw = w/2; d(½w'²)/dw = w'·(1 − α) = ¼, and w' = ½ without the second derivative."""
    w = torch.tensor(1.0, requires_grad=True)
    support = Examples(torch.zeros(1, 1, 1), torch.zeros(1, 1))
    adapted = adapt(
        stacked(quadratic), half_square, {"w": w}, support, InnerLoop(lr=0.5, steps=1, first_order=first_order)
    )
    half_square(adapted["w"][:, None], support).sum().backward()
    assert w.grad is not None
    assert w.grad.item() == pytest.approx(gradient, abs=1e-7)


def test_two_steps_on_a_quadratic() -> None:
    """Each step halves w: after K steps w/2^K, whose square's meta-gradient is w/4^K."""
    w = torch.tensor(1.0, requires_grad=True)
    support = Examples(torch.zeros(2, 1, 1), torch.zeros(2, 1))
    path = list(trajectory(stacked(quadratic), half_square, {"w": w}, support, InnerLoop(lr=0.5, steps=2)))
    assert [p["w"].tolist() for p in path] == [[1.0, 1.0], [0.5, 0.5], [0.25, 0.25]]
    half_square(path[-1]["w"][:, None], support).mean().backward()
    assert w.grad is not None
    assert w.grad.item() == pytest.approx(1 / 16)


def test_zero_steps_are_the_identity(episode: Episode) -> None:
    learner = MAML(MLP(5, 2).double(), inner_loop=InnerLoop(steps=0))
    adapted = learner.adapt(learner.params, episode.support)
    for name, p in learner.params.items():
        assert torch.equal(adapted[name], p.expand(3, *p.shape))


@pytest.mark.parametrize("own", [["*"], ["1.*"], ["0.weight", "5.bias"]])
def test_a_chain_of_layers_equals_a_loop_over_tasks(own: list[str]) -> None:
    """Layer by layer, outputs and gradients, whichever parameters each task has of its own."""
    net = nn.Sequential(
        nn.Linear(5, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 4, bias=False), nn.Tanh(), nn.Linear(4, 2)
    )
    net = nn.Sequential(*net, nn.LayerNorm(2, bias=False)).double()
    loop = looped(lambda params, x: torch.func.functional_call(net, params, (x,)))
    refused: StackedForward = lambda *_: pytest.fail("not seen as a chain")  # noqa: E731
    params = dict(net.named_parameters())
    x = torch.randn(3, 6, 5, dtype=torch.float64)
    stacked_params = stack(params, 3)
    for name in select(params, own, "own"):
        stacked_params[name] = stacked_params[name] + torch.randn(3, *params[name].shape, dtype=torch.float64)
    results = []
    for forward in (chained(net, refused), loop):
        output = forward(stacked_params, x)
        results.append(
            [output, *torch.autograd.grad(output.sin().sum(), list(params.values()), retain_graph=True)]
        )
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-13)


def test_what_is_no_chain_or_watched_by_hooks_is_left_alone() -> None:
    otherwise = looped(lambda params, x: x)
    assert chained(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), otherwise) is otherwise
    hooked = nn.Sequential(nn.Linear(2, 2))
    hooked[0].register_forward_hook(lambda *_: None)
    assert chained(hooked, otherwise) is otherwise


def smooth_mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 2)).double()


def smooth_conv() -> nn.Module:
    layers = [
        nn.Unflatten(1, (1, 5)),
        nn.Conv1d(1, 4, 3),
        nn.GroupNorm(2, 4),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(12, 2),
    ]
    return nn.Sequential(*layers).double()


def batch_norm_mlp() -> nn.Module:
    norm = nn.BatchNorm1d(8, track_running_stats=False)
    return nn.Sequential(nn.Linear(5, 8), norm, nn.Tanh(), nn.Linear(8, 2)).double()


@pytest.mark.parametrize("make_net", [smooth_mlp, smooth_conv, batch_norm_mlp])
@pytest.mark.parametrize("steps", [1, 3])
def test_meta_gradient_against_finite_differences(make_net: type, steps: int, episode: Episode) -> None:
    """Central differences with h = 1e-6 in float64 are good to about 1e-9; 1e-6 relative leaves room."""
    torch.manual_seed(3)
    net = make_net()
    learner = MAML(net, inner_loop=InnerLoop(lr=0.3, steps=steps))
    learner.meta_loss(episode).backward()
    direction = [torch.randn_like(p) for p in net.parameters()]
    exact = sum(
        (p.grad * d).sum().item() for p, d in zip(net.parameters(), direction, strict=True) if p.grad is not None
    )

    def loss_at(h: float) -> float:
        moved = copy.deepcopy(learner)
        with torch.no_grad():
            for p, d in zip(moved.net.parameters(), direction, strict=True):
                p.add_(d, alpha=h)
        return moved.meta_loss(episode).item()

    numeric = (loss_at(1e-6) - loss_at(-1e-6)) / 2e-6
    assert exact == pytest.approx(numeric, rel=1e-6)


def test_first_order_meta_gradient_is_the_query_gradient_at_the_adapted_parameters(episode: Episode) -> None:
    torch.manual_seed(3)
    learner = MAML(smooth_mlp(), inner_loop=InnerLoop(lr=0.3, steps=3, first_order=True))
    learner.meta_loss(episode).backward()
    adapted = {n: p.requires_grad_() for n, p in learner.adapt(learner.params, episode.support).items()}
    loss = learner.objective.loss(learner.outputs(adapted, episode.query.x), episode.query).mean()
    at_adapted = dict(zip(adapted, torch.autograd.grad(loss, list(adapted.values())), strict=True))
    for name, p in learner.params.items():
        torch.testing.assert_close(p.grad, at_adapted[name].sum(0), rtol=1e-12, atol=1e-14)


def test_stacked_tasks_equal_a_plain_loop_over_tasks(episode: Episode) -> None:
    """Equal to 1e-12 in float64: only the order of additions differs."""
    torch.manual_seed(3)
    learner = MAML(MLP(5, 2).double(), inner_loop=InnerLoop(lr=0.3, steps=4))
    adapted = learner.adapt(learner.params, episode.support)
    for task in range(3):
        net = copy.deepcopy(learner.net)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
        for _ in range(4):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(episode.support.x[task]), episode.support.y[task]).backward()
            optimizer.step()
        for name, p in net.named_parameters():
            torch.testing.assert_close(adapted[name][task], p.detach(), rtol=1e-12, atol=1e-12)


def test_adaptation_lowers_the_support_loss_step_by_step(episode: Episode) -> None:
    learner = FedAvg(smooth_mlp(), adaptation=InnerLoop(lr=0.05, steps=5))
    losses = [
        learner.objective.loss(learner.outputs(p, episode.support.x), episode.support).mean().item()
        for p in learner.trajectory(learner.params, episode.support, learner.adaptation)
    ]
    assert all(after < before for before, after in pairwise(losses))


def test_adaptation_works_in_inference_mode(episode: Episode) -> None:
    learner = MAML(smooth_mlp())
    expected = learner.adapt(learner.params, episode.support)
    with torch.inference_mode():
        adapted = learner.adapt(learner.params, Examples(episode.support.x * 1.0, episode.support.y))
    assert torch.equal(adapted["0.weight"], expected["0.weight"])


def test_conv1d_adapts_on_raw_windows() -> None:
    episode = Episode(
        Examples(torch.randn(2, 4, 256), torch.tensor([[0, 1, 0, 1]] * 2)),
        Examples(torch.randn(2, 6, 256), torch.tensor([[0, 1] * 3] * 2)),
        ("a", "b"),
        torch.zeros(2, 256),
    )
    learner = MAML(Conv1d(1, 2, channels=(4, 8)))
    learner.meta_loss(episode).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in learner.params.values())
    with pytest.raises(UserError, match=r"at least 16 samples.*RawWindows"):
        learner.net(torch.zeros(3, 1, 8))


@pytest.mark.parametrize("options", [{"lr": 0.0}, {"lr": -1.0}, {"lr": float("nan")}, {"steps": -1}])
def test_inner_loop_refuses_what_cannot_work(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match="lr > 0, steps >= 0"):
        InnerLoop(**options)  # type: ignore[arg-type]


def test_running_statistics_are_refused() -> None:
    with pytest.raises(UserError, match=r"layer '1' \(BatchNorm1d\) keeps running statistics.*GroupNorm"):
        MAML(nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8)))


def test_frozen_parameters_neither_adapt_nor_learn(episode: Episode) -> None:
    learner = MAML(smooth_mlp(), inner_loop=InnerLoop(lr=0.3, steps=2))
    for p in learner.net[0].parameters():
        p.requires_grad_(False)
    adapted = learner.adapt(learner.params, episode.support)
    assert torch.equal(adapted["0.weight"], learner.params["0.weight"].expand(3, 8, 5))
    assert not torch.equal(adapted["3.weight"], learner.params["3.weight"].expand(3, 2, 8))
    learner.meta_loss(episode).backward()
    assert learner.params["0.weight"].grad is None
    assert learner.params["3.weight"].grad is not None
    for p in learner.net.parameters():
        p.requires_grad_(False)
    with pytest.raises(UserError, match="nothing can adapt; unfreeze some"):
        learner.adapt(learner.params, episode.support)
