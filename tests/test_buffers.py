"""Buffers: constants of the network, or personal statistics of a site; changing one unasked is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor, nn

from fml_lightning import (
    MAML,
    MLP,
    Ditto,
    Episode,
    Examples,
    FedAvg,
    FedBN,
    Federation,
    FedPer,
    Learner,
    Prototypical,
    Reptile,
    UserError,
    personalize,
)
from fml_lightning.adaptation.first_pass import first_pass
from fml_lightning.datamodules import SimulatedFleet
from fml_lightning.datamodules.loaders import Batches

MakeTrainer = Callable[..., Trainer]


class Centred(nn.Module):
    """Subtracts a running mean of its own; `how` says in which way the mean is kept."""

    def __init__(self, width: int, how: str) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        if self.training or self.how == "always":
            now = 0.9 * self.mean + 0.1 * x.detach().mean(0)
            if self.how == "assigned":
                self.mean = now
            elif self.how == "by data":
                self.mean.data.copy_(now)
            else:
                self.mean.copy_(now)
        return x - self.mean


def net(how: str, features: int = 5, classes: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, 8), Centred(8, how), nn.ReLU(), nn.Linear(8, classes))


def episode(tasks: int = 3) -> Episode:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(2).repeat(tasks, 4)
    x = torch.randn(tasks, 16, 5, generator=generator)
    return Episode(Examples(x[:, :8], y), Examples(x[:, 8:], y), tuple("abcdef"[:tasks]))


WAYS = ["in place", "assigned", "by data", "always"]
LEARNERS: dict[str, Callable[..., Learner]] = {
    "MAML": MAML,
    "Reptile": Reptile,
    "FedAvg": FedAvg,
    "FedPer": FedPer,
    "Ditto": Ditto,
    "Prototypical": lambda net: Prototypical(net, ways=2),
}


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("name", LEARNERS)
def test_a_layer_that_changes_a_buffer_is_refused_by_name_before_training(
    name: str, how: str, quiet_trainer: MakeTrainer
) -> None:
    learner = LEARNERS[name](net(how))
    before = copy.deepcopy(learner.net.state_dict())
    with pytest.raises(
        UserError, match=r"layer '1' \(Centred\) changes its buffer 'mean' in .*personal: \[1.mean\]"
    ):
        quiet_trainer(max_epochs=1).fit(learner, Batches([episode()]), Batches([episode()]))
    assert all(torch.equal(value, before[key]) for key, value in learner.net.state_dict().items())
    copy.deepcopy(learner)  # nothing of a vmap is left in it


def test_no_advice_is_given_that_would_be_refused() -> None:
    """A buffer that is not in the network's state cannot be kept at a site either."""
    passing = net("in place")
    passing[1].register_buffer("mean", torch.zeros(8), persistent=False)
    with pytest.raises(UserError, match="changes its buffer 'mean' in training") as caught:
        FedAvg(passing).check(episode())
    assert "personal" not in str(caught.value)


def test_it_is_refused_in_a_federation_in_its_first_round(
    fleet: SimulatedFleet, quiet_trainer: MakeTrainer, tmp_path: Path
) -> None:
    trainer = quiet_trainer(max_steps=5, default_root_dir=tmp_path, limit_val_batches=0)
    with pytest.raises(UserError, match=r"round 0; .*layer '1' \(Centred\) changes its buffer 'mean' in training"):
        trainer.fit(Federation(MAML(net("in place", 32, 4)), local_steps=2), datamodule=fleet)


def test_what_changes_also_in_evaluation_is_refused_even_where_it_is_personal() -> None:
    learner = FedAvg(net("always"), personal=["1.mean"])
    for refuse in (
        lambda: learner.evaluate(episode()),
        lambda: learner.adapt(learner.params, episode().support),
        lambda: personalize(learner, episode(1), ("x", "y")),
        lambda: learner.training_step(episode(), 0),
    ):
        with pytest.raises(UserError, match="changes its buffer 'mean' in evaluation"):
            refuse()


@pytest.mark.parametrize("how", ["in place", "assigned"])
def test_personal_statistics_of_any_layer_stay_at_their_site_and_resume(
    how: str, fleet: SimulatedFleet, quiet_trainer: MakeTrainer, tmp_path: Path
) -> None:
    def train(folder: str, until: int, ckpt: Path | None = None) -> Learner:
        seed_everything(4, verbose=False)
        learner = FedAvg(net(how, 32, 4), personal=["1.mean"])
        trainer = quiet_trainer(max_steps=until, default_root_dir=tmp_path / folder, limit_val_batches=0)
        trainer.fit(Federation(learner, local_steps=2), datamodule=fleet, ckpt_path=ckpt, weights_only=True)
        trainer.save_checkpoint(tmp_path / folder / "last.ckpt")
        return learner

    whole = train("whole", 4)
    train("cut", 2)
    resumed = train("cut", 4, tmp_path / "cut" / "last.ckpt")
    assert all(torch.equal(p, resumed.shared[name]) for name, p in whole.shared.items())
    assert not whole.net[1].mean.any()  # type: ignore[index,union-attr,operator]
    means = [
        torch.load(tmp_path / folder / "personal" / site / "3.pt", weights_only=True)["net.1.mean"]
        for site in ("plant1", "plant2")
        for folder in ("whole", "cut")
    ]
    assert torch.equal(means[0], means[1])
    assert torch.equal(means[2], means[3])
    assert not torch.equal(means[0], means[2])


def test_fedbn_keeps_more_than_batch_norm_at_a_site_if_asked(quiet_trainer: MakeTrainer) -> None:
    layers = nn.Sequential(*net("in place"))
    layers.insert(1, nn.BatchNorm1d(8))
    with pytest.raises(UserError, match="changes its buffer 'mean'"):
        FedBN(copy.deepcopy(layers)).training_step(episode(), 0)
    learner = FedBN(layers, personal=["2.mean"])
    quiet_trainer(max_epochs=1).fit(learner, Batches([episode()]), Batches([episode()]))
    assert layers[2].mean.any()
    with pytest.raises(UserError, match="keeps running statistics"):
        FedAvg(nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8)), personal=["1.running_mean"])
    FedAvg(nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8)), personal=["1.*"])


def test_constant_buffers_come_with_the_network_and_go_into_the_personal_model(quiet_trainer: MakeTrainer) -> None:
    class Scaled(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Linear(5, 2))
            self.register_buffer("scale", torch.tensor(3.0))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = super().forward(self.scale * x)
            return out

    learner = MAML(Scaled())
    quiet_trainer(max_epochs=1).fit(learner, Batches([episode()]), Batches([episode()]))
    result = personalize(learner, episode(1), ("x", "y"))
    assert result.model.state_dict()["net.scale"] == 3.0


def test_spectral_norm_is_refused_with_its_layer(quiet_trainer: MakeTrainer) -> None:
    layer: Any = nn.utils.parametrizations.spectral_norm(nn.Linear(5, 8))
    with pytest.raises(
        UserError, match=r"layer '0.parametrizations.weight.0' .* changes its buffer '_u' in training"
    ):
        MAML(nn.Sequential(layer, nn.Linear(8, 2))).training_step(episode(), 0)


def test_a_first_pass_leaves_everything_as_it_was() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(*net("assigned"), nn.Dropout(0.5))
    kept, state = copy.deepcopy(layers.state_dict()), torch.get_rng_state()
    assert first_pass(layers, torch.randn(4, 5, generator=torch.Generator())) == ["1.mean"]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, kept[name]) for name, value in layers.state_dict().items())
    assert first_pass(MLP(5, 2), torch.randn(4, 5)) == []


def test_each_kind_of_windows_is_tried_once() -> None:
    calls = []
    layers = nn.Sequential(MLP(5, 2), nn.Identity())
    layers[1].register_forward_pre_hook(lambda *_: calls.append(1))
    learner = FedAvg(layers)
    for _ in range(3):
        learner.check(episode())
    assert len(calls) == 2  # in evaluation and in training
