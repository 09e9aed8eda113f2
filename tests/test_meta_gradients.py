"""Each learner's meta-gradient against finite differences, closed forms, `higher`, or a plain loop."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import higher
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from fml_lightning import (
    ANIL,
    FOMAML,
    IMAML,
    MAML,
    MLP,
    Classification,
    Ditto,
    Episode,
    Examples,
    FedAvg,
    FedProx,
    FedRep,
    InnerLoop,
    Learner,
    Loss,
    MAMLPlusPlus,
    MetaSGD,
    NearestPrototype,
    PerFedAvg,
    PersonalModel,
    PFedMe,
    Prototypical,
    Reptile,
    UserError,
)
from fml_lightning.datamodules.loaders import Batches
from fml_lightning.params import clone
from fml_lightning.types import Params

Slopes = dict[str, Tensor]


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def layer_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 2)).double()


def group_norm() -> nn.Module:
    convolution = [nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 4, 3), nn.GroupNorm(2, 4), nn.Tanh()]
    return nn.Sequential(*convolution, nn.Flatten(), nn.Linear(12, 2)).double()


def batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2)).double()


def recurrent() -> nn.Module:
    class Last(nn.Module):
        def forward(self, states: tuple[Tensor, Any]) -> Tensor:
            return states[0][:, -1]

    layers = [nn.Unflatten(1, (5, 1)), nn.GRU(1, 4, batch_first=True), Last(), nn.Linear(4, 2)]
    return nn.Sequential(*layers).double()


NETS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "no norm": (plain, {}),
    "LayerNorm": (layer_norm, {}),
    "GroupNorm, conv": (group_norm, {}),
    "BatchNorm, batch": (batch_norm, {"batch_norm": "batch"}),
    "BatchNorm, frozen": (batch_norm, {"batch_norm": "frozen"}),
    "GRU": (recurrent, {}),
}

THREE = InnerLoop(lr=0.3, steps=3)
LEARNERS: dict[str, Callable[..., Learner]] = {
    "MAML": lambda net, **o: MAML(net, inner_loop=THREE, **o),
    "MAML, proximal": lambda net, **o: MAML(net, inner_loop=InnerLoop(lr=0.3, steps=3, proximal=0.7), **o),
    "MAML, adam": lambda net, **o: MAML(net, inner_loop=InnerLoop(lr=0.01, steps=3, optimizer="adam"), **o),
    "MAML, rate per tensor": lambda net, **o: MAML(net, inner_loop=THREE, learned_rates="tensor", **o),
    "MAML, before too": lambda net, **o: MAML(net, inner_loop=THREE, before_weight=0.3, **o),
    "ANIL": lambda net, **o: ANIL(net, inner_loop=THREE, **o),
    "MetaSGD": lambda net, **o: MetaSGD(net, inner_loop=InnerLoop(lr=0.3, steps=2), **o),
    "MAMLPlusPlus": lambda net, **o: MAMLPlusPlus(net, inner_loop=THREE, **o),
}


def directional(learner: Learner, value: Callable[[Learner], float], grads: Slopes) -> tuple[float, float]:
    """The grad in a random direction: as given, and by central differences of `value`.

    With h = 1e-6 in float64 the differences are good to about 1e-9; a tolerance of 1e-6 leaves room.
    """
    generator = torch.Generator().manual_seed(5)
    ways = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in learner.trained.items()}

    def at(h: float) -> float:
        moved = copy.deepcopy(learner)
        with torch.no_grad():
            for name, p in moved.trained.items():
                p.add_(ways[name], alpha=h)
        return value(moved)

    given = sum((grads[name] * way).sum().item() for name, way in ways.items())
    return given, (at(1e-6) - at(-1e-6)) / 2e-6


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("kind", LEARNERS)
def test_meta_gradient_against_finite_differences(kind: str, net: str, episode: Episode) -> None:
    torch.manual_seed(3)
    make, options = NETS[net]
    learner = LEARNERS[kind](make(), **options).double()
    _, grads = learner.meta_gradient(episode)
    given, numeric = directional(learner, lambda moved: moved.meta_loss(episode).item(), grads)
    assert abs(given) > 1e-4
    assert given == pytest.approx(numeric, rel=1e-6)


@pytest.mark.parametrize("net", ["no norm", "LayerNorm", "GroupNorm, conv", "BatchNorm, batch"])
def test_prototypical_gradient_against_finite_differences(net: str, episode: Episode) -> None:
    torch.manual_seed(3)
    make, options = NETS[net]
    learner = Prototypical(make(), ways=2, **options)
    _, grads = learner.meta_gradient(episode)
    given, numeric = directional(learner, lambda moved: moved.meta_loss(episode).item(), grads)
    assert given == pytest.approx(numeric, rel=1e-6)


@pytest.mark.parametrize("norm", [plain, layer_norm, group_norm])
@pytest.mark.parametrize("steps", [1, 5])
def test_maml_equals_higher(norm: Callable[[], nn.Module], steps: int, episode: Episode) -> None:
    """To 1e-10 in float64: the same mathematics in another order of additions."""
    torch.manual_seed(3)
    net = norm()
    _, grads = MAML(net, inner_loop=InnerLoop(lr=0.3, steps=steps)).meta_gradient(episode)
    peer = copy.deepcopy(net)
    optimizer = torch.optim.SGD(peer.parameters(), lr=0.3)
    for t in range(episode.tasks):
        with higher.innerloop_ctx(peer, optimizer, copy_initial_weights=False) as (functional, inner):
            for _ in range(steps):
                inner.step(F.cross_entropy(functional(episode.support.x[t]), episode.support.y[t]))
            (F.cross_entropy(functional(episode.query.x[t]), episode.query.y[t]) / episode.tasks).backward()
    for name, p in peer.named_parameters():
        torch.testing.assert_close(grads[f"net.{name}"], p.grad, rtol=1e-10, atol=1e-12)


def test_first_order_is_the_query_gradient_at_the_adapted_parameters(episode: Episode) -> None:
    torch.manual_seed(3)
    learner = FOMAML(layer_norm(), inner_loop=THREE)
    _, grads = learner.meta_gradient(episode)
    adapted = {n: p.requires_grad_() for n, p in learner.adapt(learner.params, episode.support).items()}
    loss = learner.objective.loss(learner.outputs(adapted, episode.query.x), episode.query).mean()
    at_adapted = dict(zip(adapted, torch.autograd.grad(loss, list(adapted.values())), strict=True))
    for name in learner.params:
        torch.testing.assert_close(grads[f"net.{name}"], at_adapted[name].sum(0), rtol=1e-12, atol=1e-14)


def test_meta_sgd_rate_gradient_in_closed_form(episode: Episode) -> None:
    """One step: ∂L/∂α = −∇L_S(θ) ⊙ ∇L_Q(θ'), task by task (Li et al. 2017)."""
    torch.manual_seed(3)
    learner = MetaSGD(plain(), inner_loop=InnerLoop(lr=0.3, steps=1)).double()
    assert learner.rates is not None
    _, grads = learner.meta_gradient(episode)
    expected = {name: torch.zeros_like(p) for name, p in learner.params.items()}
    for t in range(3):
        net = copy.deepcopy(learner.net)
        params = list(net.parameters())
        inner = torch.autograd.grad(F.cross_entropy(net(episode.support.x[t]), episode.support.y[t]), params)
        with torch.no_grad():
            for p, g in zip(params, inner, strict=True):
                p.sub_(g, alpha=0.3)
        outer = torch.autograd.grad(F.cross_entropy(net(episode.query.x[t]), episode.query.y[t]), params)
        for name, a, b in zip(expected, inner, outer, strict=True):
            expected[name] -= a * b / 3
    for i, name in enumerate(learner.rates.names):
        torch.testing.assert_close(grads[f"rates.values.{i}"], expected[name], rtol=1e-10, atol=1e-13)


def test_implicit_gradient_against_differences_of_the_proximal_optimum(episode: Episode) -> None:
    """400 steps reach the proximal optimum to rounding, and as many CG steps as parameters are exact."""
    torch.manual_seed(3)
    inner = InnerLoop(lr=0.1, steps=400, proximal=4.0)
    learner = IMAML(plain(), inner_loop=inner, cg_steps=66)
    _, grads = learner.meta_gradient(episode)
    through = MAML(plain(), inner_loop=inner)

    def value(moved: Learner) -> float:
        through.net.load_state_dict(moved.net.state_dict())
        return through.meta_loss(episode).item()

    given, numeric = directional(learner, value, grads)
    assert given == pytest.approx(numeric, rel=1e-6)


def test_implicit_gradient_of_what_does_not_adapt(episode: Episode) -> None:
    """The body moves the head's proximal optimum: differences of the optimum see it too."""
    torch.manual_seed(3)
    inner = InnerLoop(lr=0.1, steps=400, proximal=4.0, parameters=("2.*",))
    learner = IMAML(plain(), inner_loop=inner, cg_steps=18)
    _, grads = learner.meta_gradient(episode)
    through = MAML(plain(), inner_loop=inner)

    def value(moved: Learner) -> float:
        through.net.load_state_dict(moved.net.state_dict())
        return through.meta_loss(episode).item()

    given, numeric = directional(learner, value, grads)
    assert given == pytest.approx(numeric, rel=1e-6)


class Constant(nn.Module):
    """A network that ignores its input: outputs w."""

    def __init__(self, w: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([w], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.w.expand(len(x), 1)


def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    """f(w) = ½(w − a)², whose gradient is w − a and Hessian 1."""
    return (outputs[:, 0] - targets).pow(2).mean() / 2


def quadratic(a: float, b: float, c: float | None = None) -> Episode:
    """One task whose support pulls to a and whose query windows pull to b, the second half to c."""
    y = torch.tensor([[b, b if c is None else c]], dtype=torch.float64)
    return Episode(
        Examples(torch.zeros(1, 2, 1), torch.full((1, 2), a, dtype=torch.float64)),
        Examples(torch.zeros(1, 2, 1), y),
    )


def test_imaml_in_closed_form() -> None:
    """φ = (a + λw)/(1 + λ) = 1 for a = 0, λ = 1, w = 2; gradient (1 + 1/λ)⁻¹(φ − b) = ½·(1 − 5) = −2."""
    learner = IMAML(Constant(2.0), Loss(half_square), InnerLoop(lr=0.5, steps=60, proximal=1.0))
    loss, grads = learner.meta_gradient(quadratic(0.0, 5.0))
    assert loss.item() == pytest.approx(8.0)
    assert grads["net.w"].item() == pytest.approx(-2.0)


def test_pfedme_in_closed_form() -> None:
    """θ̃ = (a + λw)/(1 + λ) = 3 for a = 0, λ = 3, w = 4; gradient λ(w − θ̃) = 3."""
    learner = PFedMe(Constant(4.0), Loss(half_square), InnerLoop(lr=0.2, steps=200, proximal=3.0))
    _, grads = learner.meta_gradient(quadratic(0.0, 0.0))
    assert grads["net.w"].item() == pytest.approx(3.0)


@pytest.mark.parametrize(("variant", "gradient"), [("first_order", 0.5), ("hessian_free", 0.25)])
def test_per_fedavg_in_closed_form(variant: Any, gradient: float) -> None:
    """w = 1 pulled to 0, α = ½: g = w/2 = ½; the Hessian is 1, so hessian-free gives g − α·g = ¼ whatever δ."""
    learner = PerFedAvg(Constant(1.0), Loss(half_square), InnerLoop(lr=0.5, steps=1), variant=variant, delta=0.1)
    _, grads = learner.meta_gradient(quadratic(0.0, 0.0))
    assert grads["net.w"].item() == pytest.approx(gradient)


def test_hessian_free_against_the_exact_hessian_product(episode: Episode) -> None:
    """The central difference errs by O(δ²): 1e-4 in length leaves 1e-6 of the gradient's own."""
    torch.manual_seed(3)
    learner = PerFedAvg(plain(), inner_loop=InnerLoop(lr=0.3, steps=1), delta=1e-4)
    _, grads = learner.meta_gradient(episode)
    expected = {name: torch.zeros_like(p) for name, p in learner.params.items()}
    params = list(learner.net.parameters())
    for t in range(3):
        moved = copy.deepcopy(learner.net)
        inner = torch.autograd.grad(
            F.cross_entropy(moved(episode.support.x[t]), episode.support.y[t]), list(moved.parameters())
        )
        with torch.no_grad():
            for p, g in zip(moved.parameters(), inner, strict=True):
                p.sub_(g, alpha=0.3)
        x, y = episode.query.x[t], episode.query.y[t]
        g = torch.autograd.grad(F.cross_entropy(moved(x[::2]), y[::2]), list(moved.parameters()))
        grad = torch.autograd.grad(F.cross_entropy(learner.net(x[1::2]), y[1::2]), params, create_graph=True)
        product = torch.autograd.grad(sum((s * v).sum() for s, v in zip(grad, g, strict=True)), params)
        for name, v, hv in zip(expected, g, product, strict=True):
            expected[name] += (v - 0.3 * hv) / 3
    for name, e in expected.items():
        torch.testing.assert_close(grads[f"net.{name}"], e, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_reptile_moves_towards_what_torch_optim_reaches(optimizer: Any, episode: Episode) -> None:
    """To 1e-6: the order of additions differs, and Adam divides by small roots."""
    torch.manual_seed(3)
    inner = InnerLoop(lr=0.02, steps=5, optimizer=optimizer)
    learner = Reptile(plain(), inner_loop=inner)
    loss, grads = learner.meta_gradient(episode)
    pooled = episode.pooled()
    found, losses = [], []
    for t in range(3):
        net = copy.deepcopy(learner.net)
        tuner: torch.optim.Optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
        if optimizer == "adam":
            tuner = torch.optim.Adam(net.parameters(), lr=0.02, betas=(0.0, 0.999))
        for _ in range(5):
            tuner.zero_grad()
            F.cross_entropy(net(pooled.x[t]), pooled.y[t]).backward()
            tuner.step()
        found.append(dict(net.named_parameters()))
        losses.append(F.cross_entropy(net(pooled.x[t]), pooled.y[t]).item())
    assert loss.item() == pytest.approx(sum(losses) / 3)
    for name, p in learner.params.items():
        expected = p - sum(f[name] for f in found) / 3
        torch.testing.assert_close(grads[f"net.{name}"], expected, rtol=1e-6, atol=1e-8)


def test_fedprox_pulls_back_to_what_was_received(episode: Episode) -> None:
    torch.manual_seed(3)
    learner, free = FedProx(plain(), proximal=0.5), FedAvg(plain())
    free.net.load_state_dict(learner.net.state_dict())
    learner.on_train_start()
    with torch.no_grad():
        for p in [*learner.net.parameters(), *free.net.parameters()]:
            p.add_(0.1)
    _, pulled = learner.meta_gradient(episode)
    _, grads = free.meta_gradient(episode)
    for name, grad in grads.items():
        torch.testing.assert_close(pulled[name], grad + 0.5 * 0.1, rtol=1e-10, atol=1e-12)


def test_ditto_in_closed_form() -> None:
    """w = w₀ = 2 pulled to 0: ∇F(w) = 2; v = 3: ∇F(v) + λ(v − w₀) = 3 + 4·1 = 7."""
    learner = Ditto(Constant(2.0), Loss(half_square), proximal=4.0)
    learner.on_train_start()
    with torch.no_grad():
        next(learner.own.parameters()).fill_(3.0)
    _, grads = learner.meta_gradient(quadratic(0.0, 0.0))
    assert {name: grad.item() for name, grad in grads.items()} == {"net.w": 2.0, "own.w": 7.0}
    assert set(learner.shared) == {"net.w"}
    assert learner.params["w"].item() == 3.0


class Moved(Callback):
    """Notes which of the network's parameters moved in each training step."""

    def __init__(self) -> None:
        self.names: list[set[str]] = []
        self.before: Params = {}

    def on_train_batch_start(self, trainer: Trainer, learner: Any, *_: Any) -> None:
        self.before = clone(learner.params)

    def on_train_batch_end(self, trainer: Trainer, learner: Any, *_: Any) -> None:
        self.names.append({n for n, p in learner.params.items() if not torch.equal(p, self.before[n])})


def test_fedrep_trains_head_and_body_in_turns(episode: Episode, quiet_trainer: Callable[..., Trainer]) -> None:
    learner = FedRep(plain(), head_steps=1, body_steps=2, optimizer=lambda params: torch.optim.SGD(params, lr=0.1))
    assert learner.personal == {"net.2.weight", "net.2.bias"}
    moved = Moved()
    trainer = quiet_trainer(max_steps=4, limit_val_batches=0, callbacks=[moved], log_every_n_steps=1)
    trainer.fit(learner, Batches([episode] * 4), Batches([episode]))
    head, body = {"2.weight", "2.bias"}, {"0.weight", "0.bias"}
    assert moved.names == [head, body, body, head]


def test_prototypes_are_means_and_the_nearest_wins(tmp_path: Path) -> None:
    """Embeddings as they are: prototypes (1, 0) and (0, 3); the query (1, 1) has distances 1 and 5."""
    learner = Prototypical(nn.Linear(2, 2, bias=False), ways=2)
    with torch.no_grad():
        learner.net.weight.copy_(torch.eye(2))  # type: ignore[union-attr,operator]
    support = Examples(torch.tensor([[[0.0, 0.0], [2.0, 0.0], [0.0, 3.0]]]), torch.tensor([[0, 0, 1]]))
    adapted = learner.adapt(learner.params, support)
    assert adapted["prototypes"].tolist() == [[[1.0, 0.0], [0.0, 3.0]]]
    assert learner.outputs(adapted, torch.tensor([[[1.0, 1.0]]])).tolist() == [[[-1.0, -5.0]]]
    net = learner.personal_net({name: p[0] for name, p in adapted.items()})
    assert net(torch.tensor([[1.0, 1.0]])).tolist() == [[-1.0, -5.0]]
    PersonalModel(net, Classification(), torch.zeros(2), None, ("a", "b")).save(tmp_path / "pump.safetensors")
    again = PersonalModel.load(
        tmp_path / "pump.safetensors", NearestPrototype(nn.Linear(2, 2, bias=False), torch.zeros(2, 2))
    )
    assert again(torch.tensor([[1.0, 1.0]])).tolist() == [[-1.0, -5.0]]


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("make", [*LEARNERS, "Reptile", "PerFedAvg", "IMAML"])
def test_chunks_of_tasks_change_nothing(make: str, size: int, episode: Episode) -> None:
    """To 1e-10 in float64: only the order of additions differs."""
    more: dict[str, Callable[..., Learner]] = {
        "Reptile": lambda net, **o: Reptile(net, inner_loop=THREE, **o),
        "PerFedAvg": lambda net, **o: PerFedAvg(net, **o),
        "IMAML": lambda net, **o: IMAML(net, inner_loop=InnerLoop(lr=0.1, steps=9, proximal=2.0), **o),
    }
    torch.manual_seed(3)
    net = group_norm()
    learners = [(LEARNERS | more)[make](net, tasks_at_once=n).double() for n in (3, size)]
    (loss, grads), (loss_in_chunks, slopes_in_chunks) = (learner.meta_gradient(episode) for learner in learners)
    torch.testing.assert_close(loss, loss_in_chunks, rtol=1e-10, atol=0)
    for name, grad in grads.items():
        torch.testing.assert_close(slopes_in_chunks[name], grad, rtol=1e-10, atol=1e-12)
    whole, chunked = (learner.adapt(learner.params, episode.support) for learner in learners)
    for name, p in whole.items():
        torch.testing.assert_close(chunked[name], p, rtol=1e-10, atol=1e-12)


def ragged(episode: Episode) -> Episode:
    """Task 0 has one window less in its support set and two less in its query set, replaced by rubbish."""

    def pad(examples: Examples, lacking: int) -> Examples:
        mask = torch.ones(examples.y.shape, dtype=torch.bool)
        mask[0, -lacking:] = False
        x, y = examples.x.clone(), examples.y.clone()
        x[0, -lacking:], y[0, -lacking:] = 1e3, 0
        return Examples(x, y, mask)

    return Episode(pad(episode.support, 1), pad(episode.query, 2), episode.machines)


@pytest.mark.parametrize("make", [*LEARNERS, "Reptile", "Prototypical"])
def test_padding_of_ragged_tasks_changes_nothing(make: str, episode: Episode) -> None:
    """Against each task alone, unpadded; to 1e-10 in float64."""
    more: dict[str, Callable[..., Learner]] = {
        "Reptile": lambda net: Reptile(net, inner_loop=THREE),
        "Prototypical": lambda net: Prototypical(net, ways=2),
    }
    torch.manual_seed(3)
    learner = (LEARNERS | more)[make](layer_norm()).double()
    loss, grads = learner.meta_gradient(ragged(episode))
    parts = []
    for t, part in enumerate(episode.chunks(1)):
        lacking = t == 0
        support = part.support.map(lambda tensor, cut=4 - lacking: tensor[:, :cut])  # type: ignore[misc]
        query = part.query.map(lambda tensor, cut=6 - 2 * lacking: tensor[:, :cut])  # type: ignore[misc]
        parts.append(learner.meta_gradient(Episode(support, query)))
    torch.testing.assert_close(loss, sum(part[0] for part in parts) / 3, rtol=1e-10, atol=0)
    for name, grad in grads.items():
        expected = sum(part[1][name] for part in parts) / 3
        torch.testing.assert_close(grad, expected, rtol=1e-10, atol=1e-12)


def test_the_loss_before_adaptation_has_its_weight(episode: Episode) -> None:
    after = MAML(layer_norm(), inner_loop=THREE)
    both = MAML(copy.deepcopy(after.net), inner_loop=THREE, before_weight=0.3)
    query = episode.query
    before = F.cross_entropy(after.net(query.x.flatten(0, 1)), query.y.flatten())
    expected = 0.7 * after.meta_loss(episode) + 0.3 * before
    torch.testing.assert_close(both.meta_loss(episode), expected, rtol=1e-12, atol=0)
    unmoved = MAML(copy.deepcopy(after.net), inner_loop=InnerLoop(steps=0), before_weight=0.3)
    torch.testing.assert_close(unmoved.meta_loss(episode), before, rtol=1e-12, atol=0)
    with pytest.raises(UserError, match=r"MAML: expected before_weight in \[0, 1\), got 1.0"):
        MAML(plain(), before_weight=1.0)


def test_annealing_goes_from_first_to_second_order_and_from_all_steps_to_the_last(episode: Episode) -> None:
    learner = MAML(MLP(5, 2).double(), inner_loop=THREE, multi_step_until=10, second_order_from=5)
    assert learner.step_weights() == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert learner.current_inner_loop.first_order
    learner.round = 5
    assert learner.step_weights() == pytest.approx([1 / 6, 1 / 6, 2 / 3])
    assert learner.current_inner_loop == THREE
    learner.round = 10
    assert learner.step_weights() == [0.0, 0.0, 1.0]
    path = list(learner.trajectory(learner.params, episode.support, THREE))
    last = learner.objective.loss(learner.outputs(path[-1], episode.query.x), episode.query).mean()
    assert learner.meta_loss(episode).item() == pytest.approx(last.item(), rel=1e-12)
