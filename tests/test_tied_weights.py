"""Tied weights: one tensor under several names is one thing, to every setting and at every site."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from fml_lightning import (
    ANIL,
    MAML,
    MLP,
    Ditto,
    Episode,
    Examples,
    FedAvg,
    Federation,
    FedPer,
    FedRep,
    InnerLoop,
    Learner,
    MetaSGD,
    Prototypical,
    SerialExecutor,
    SiteMemory,
    SiteUpdate,
    UserError,
    Work,
    personalize,
)
from fml_lightning.adaptation.stacking import chained, looped
from fml_lightning.adaptation.tied_weights import tied_names
from fml_lightning.datamodules import SimulatedFleet
from fml_lightning.params import clone, stack


class Tied(nn.Module):
    """Reads and decodes by one weight: its decoder is tied to its embedding."""

    def __init__(self, features: int = 5, classes: int = 5) -> None:
        super().__init__()
        self.embedding = nn.Linear(features, features, bias=False)
        self.middle = nn.Linear(features, features)
        self.decoder = nn.Linear(features, features)
        self.decoder.weight = self.embedding.weight
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.decoder(torch.tanh(self.middle(self.embedding(x))))
        return out[:, : self.classes]


BOTH = ("embedding.weight", "decoder.weight")


@pytest.mark.parametrize(
    "make",
    [
        lambda net: FedAvg(net, personal=["decoder.*"]),
        lambda net: FedAvg(net, personal=["embedding.*"]),
        lambda net: FedAvg(net, freeze=["decoder.*"]),
        lambda net: FedAvg(net, freeze=["embedding.weight"]),
        lambda net: MAML(net, inner_loop=InnerLoop(parameters=("decoder.*",))),
        lambda net: MetaSGD(net, inner_loop=InnerLoop(parameters=("embedding.*",))),
        lambda net: FedAvg(net, adaptation=InnerLoop(parameters=("decoder.*",))),
        ANIL,
        FedPer,
        FedRep,
        lambda net: FedPer(net, head=("decoder.*",)),
    ],
)
def test_one_name_of_a_tied_tensor_without_the_other_is_refused(make: Callable[[nn.Module], Learner]) -> None:
    with pytest.raises(UserError, match="tied") as raised:
        make(Tied())
    assert all(name in str(raised.value) for name in BOTH)


def test_patterns_of_all_names_select_the_tensor() -> None:
    learner = FedAvg(Tied(), personal=["embedding.*", "decoder.*"])
    assert learner.personal == {"net.embedding.weight", "net.decoder.weight", "net.decoder.bias"}
    assert set(learner.shared) == {"net.middle.weight", "net.middle.bias"}
    assert set(FedAvg(Tied(), freeze=BOTH).trained) == {"net.middle.weight", "net.middle.bias", "net.decoder.bias"}
    adapting = MAML(Tied(), inner_loop=InnerLoop(parameters=("decoder.weight", "embedding.weight")))
    assert adapting.adapted_names(adapting.params, adapting.inner_loop) == ["embedding.weight"]
    assert FedAvg(Tied(), personal=["*"]).shared == {}


@pytest.mark.parametrize("make", [lambda net: FedPer(net, head=(*BOTH, "decoder.bias")), Ditto])
def test_nothing_personal_leaves_a_site_under_any_name(
    make: Callable[[nn.Module], Learner],
    fleet: SimulatedFleet,
    quiet_trainer: Callable[..., Trainer],
    tmp_path: Path,
) -> None:
    fleet.setup("fit")
    learner = make(Tied(32, 4))
    private = {name for name in learner.state_dict() if name in learner.personal}
    work = Work("fit", 0, clone(learner.shared), seed=3, local_steps=2)
    assert not private & set(work.params)
    for update in SerialExecutor().run(learner, work, fleet.sites, SiteMemory(tmp_path / "alone")):
        assert isinstance(update, SiteUpdate)
        assert set(update.delta) == set(learner.shared)
        assert not private & set(update.delta)
    state = clone(learner.state_dict())
    trainer = quiet_trainer(max_steps=2, limit_val_batches=0, default_root_dir=tmp_path)
    trainer.fit(Federation(learner, local_steps=2), datamodule=fleet)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert private
    for name in private:  # what the server has of them is what it began with
        assert torch.equal(kept[f"learner.{name}"], state[name])
    at_site = torch.load(tmp_path / "personal" / "plant1" / "1.pt", weights_only=True)
    assert set(at_site) == learner.personal
    changed = [name for name in private if not torch.equal(at_site[name], state[name])]
    assert changed


def five_classes() -> Episode:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(3, 20, 5, generator=generator, dtype=torch.float64)
    y = torch.arange(5).repeat(3, 4)
    return Episode(Examples(x[:, :10], y[:, :10]), Examples(x[:, 10:], y[:, 10:]), ("a", "b", "c"))


@pytest.mark.parametrize("tasks_at_once", [None, 1])
def test_the_meta_gradient_of_a_tied_net_against_finite_differences(tasks_at_once: int | None) -> None:
    torch.manual_seed(3)
    episode = five_classes()
    learner = MAML(Tied().double(), inner_loop=InnerLoop(lr=0.3, steps=2), tasks_at_once=tasks_at_once)
    _, grads = learner.meta_gradient(episode)
    assert "net.decoder.weight" not in grads
    ways = {name: torch.randn_like(p) for name, p in learner.trained.items()}

    def at(h: float) -> float:
        moved = copy.deepcopy(learner)
        assert moved.net.decoder.weight is moved.net.embedding.weight  # type: ignore[union-attr]
        with torch.no_grad():
            for name, p in moved.trained.items():
                p.add_(ways[name], alpha=h)
        return moved.meta_loss(episode).item()

    given = sum((grads[name] * way).sum().item() for name, way in ways.items())
    assert given == pytest.approx((at(1e-6) - at(-1e-6)) / 2e-6, rel=1e-6)


def test_a_tied_net_adapts_as_torch_optim_would_train_it() -> None:
    torch.manual_seed(3)
    episode = five_classes()
    learner = MAML(Tied().double(), inner_loop=InnerLoop(lr=0.3, steps=3))
    adapted = learner.adapt(learner.params, episode.support)
    for t in range(3):
        net = copy.deepcopy(learner.net)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(net(episode.support.x[t]), episode.support.y[t]).backward()
            optimizer.step()
        own = learner.personal_net({name: p[t] for name, p in adapted.items()})
        assert own.decoder.weight is own.embedding.weight
        torch.testing.assert_close(own(episode.query.x[t]), net(episode.query.x[t]), rtol=1e-10, atol=1e-12)


def chain(kind: str) -> nn.Sequential:
    first, act, last = nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 2)
    if kind == "a layer twice":
        return nn.Sequential(first, act, first, act, last).double()
    net = nn.Sequential(first, act, nn.Linear(5, 5), nn.LayerNorm(5), act, last, nn.LayerNorm(2))
    if kind == "a weight twice":
        net[2].weight = first.weight
    return net.double()


@pytest.mark.parametrize("kind", ["a layer twice", "a weight twice", "an activation twice"])
def test_a_chain_with_something_twice_equals_a_loop_over_tasks(kind: str) -> None:
    """`named_children` leaves out a layer that comes again, and `named_parameters` a tied weight."""
    torch.manual_seed(3)
    net = chain(kind)
    learner = MAML(net)
    refused: Any = lambda *_: pytest.fail("not seen as a chain")  # noqa: E731
    fast = chained(net, refused, learner.network._first_names)
    params = {name: p.detach() + 0.1 * torch.randn(3, *p.shape).double() for name, p in learner.params.items()}
    x = torch.randn(3, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(fast(params, x), looped(learner.forward)(params, x), rtol=1e-12, atol=1e-13)
    same = learner.outputs(stack(learner.params, 3), x)
    torch.testing.assert_close(same, torch.stack([net(part) for part in x]), rtol=1e-12, atol=1e-13)


def test_parameters_that_share_memory_without_being_one_are_refused() -> None:
    class ByData(Tied):
        def __init__(self) -> None:
            super().__init__()
            self.decoder.weight = nn.Parameter(self.embedding.weight.data)

    class InABuffer(Tied):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("row", self.middle.weight.detach()[1])

    for make, other in ((ByData, "decoder.weight"), (InABuffer, "row")):
        with pytest.raises(UserError, match=f"{other}.*tied by their memory"):
            FedAvg(make())


def test_views_of_one_buffer_are_one_thing() -> None:
    class Buffers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 2)
            self.register_buffer("table", torch.zeros(4, 4))
            self.register_buffer("row", self.table[0])
            self.register_buffer("apart", torch.zeros(4))
            halves = torch.zeros(8)
            self.register_buffer("left", halves[:4])
            self.register_buffer("right", halves[4:])

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layer(x)
            return out

    assert tied_names(Buffers()) == {"table": ("table", "row")}
    with pytest.raises(UserError, match=r"'row' matches .* 'table' does not, but they are tied"):
        FedAvg(Buffers(), personal=["row"])
    assert FedAvg(Buffers(), personal=["row", "table"]).personal == {"net.row", "net.table"}


def test_a_tied_personal_model_keeps_its_numbers(tmp_path: Path) -> None:
    torch.manual_seed(3)
    (episode, *_) = five_classes().chunks(1)
    for learner in (MAML(Tied().double()), Prototypical(Tied().double(), ways=5)):
        result = personalize(learner, episode, tuple("abcde"))
        x = episode.query.x[0]
        accuracy = (result.model.predict(x).argmax(1) == episode.query.y[0]).double().mean().item()
        assert accuracy == pytest.approx(result.after)


def test_untied_networks_know_of_no_ties() -> None:
    assert tied_names(MLP(5, 2)) == {}
    assert MAML(MLP(5, 2)).network.tied == {}
