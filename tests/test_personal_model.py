"""Personal models: their numbers are their card's, in every call, for one window as for many, and from a file."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from fml_lightning import (
    MAML,
    MLP,
    Classification,
    Conv4,
    Episode,
    Examples,
    FedAvg,
    FedBN,
    InnerLoop,
    Learner,
    NearestPrototype,
    PersonalModel,
    Prototypical,
    Reconstruction,
    UserError,
    personalize,
)
from fml_lightning.adaptation.batch_norm import keep_statistics
from fml_lightning.datamodules.loaders import Batches


def task(seed: int = 0, shape: tuple[int, ...] = (5,), classes: int = 2) -> Episode:
    """One task of 8 support and 24 query windows, whose centre is not 0."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(32)[None] % classes
    x = torch.randn(1, 32, *shape, generator=generator) + y.view(1, 32, *[1] * len(shape))
    centre = torch.randn(1, *shape, generator=generator)
    x = (x + centre[:, None]) - centre[:, None]
    return Episode(Examples(x[:, :8], y[:, :8]), Examples(x[:, 8:], y[:, 8:]), ("pump",), centre)


def dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 32), nn.Dropout(0.5), nn.Tanh(), nn.Linear(32, 2))


def normed(track: bool = True) -> nn.Module:
    norm = nn.BatchNorm1d(8, track_running_stats=track)
    return nn.Sequential(nn.Linear(5, 8), norm, nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 2))


def instance_normed() -> nn.Module:
    norm = nn.InstanceNorm1d(3, affine=True, track_running_stats=True)
    return nn.Sequential(norm, nn.Flatten(), nn.Linear(24, 2))


def used() -> nn.Module:
    """A network whose running statistics are somebody's."""
    net = normed()
    net(torch.randn(64, 5) * 2 + 1)
    return net


LOOP = InnerLoop(lr=0.1, steps=3)
KINDS: dict[str, tuple[Callable[[], Learner], Callable[[], nn.Module], tuple[int, ...]]] = {
    "dropout": (lambda: MAML(dropping(), inner_loop=LOOP), dropping, (5,)),
    "BatchNorm, batch": (lambda: MAML(normed(), inner_loop=LOOP, batch_norm="batch"), normed, (5,)),
    "BatchNorm, batch, of its own": (lambda: MAML(normed(False), inner_loop=LOOP), lambda: normed(False), (5,)),
    "BatchNorm, frozen": (lambda: MAML(used(), inner_loop=LOOP, batch_norm="frozen"), normed, (5,)),
    "FedBN": (lambda: FedBN(used(), adaptation=LOOP), normed, (5,)),
    "InstanceNorm, batch": (
        lambda: MAML(instance_normed(), inner_loop=LOOP, batch_norm="batch"),
        instance_normed,
        (3, 8),
    ),
    "InstanceNorm, frozen": (
        lambda: MAML(instance_normed(), inner_loop=LOOP, batch_norm="frozen"),
        instance_normed,
        (3, 8),
    ),
    "prototypes": (
        lambda: Prototypical(normed(), ways=2, batch_norm="batch"),
        lambda: NearestPrototype(normed(), torch.zeros(2, 2)),
        (5,),
    ),
    "Conv4": (
        lambda: MAML(Conv4(1, 2, channels=4, size=16, norm="batch"), inner_loop=LOOP),
        lambda: Conv4(1, 2, channels=4, size=16, norm="batch"),
        (1, 16, 16),
    ),
    "MLP": (lambda: FedAvg(MLP(5, 2, hidden=(8,)), adaptation=LOOP), lambda: MLP(5, 2, hidden=(8,)), (5,)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_personal_models_numbers_are_its_cards(kind: str, tmp_path: Path) -> None:
    """Before saving and after loading, in training mode or not, call after call, and window by window."""
    torch.manual_seed(1)
    make, fresh, shape = KINDS[kind]
    episode = task(shape=shape)
    learner = make().train()
    result = personalize(learner, episode, ("good", "bad"))
    result.model.save(str(tmp_path / "pump.safetensors"))
    loaded = PersonalModel.load(str(tmp_path / "pump.safetensors"))
    given = PersonalModel.load(tmp_path / "pump.safetensors", fresh())
    assert not any(module.training for module in loaded.modules())
    assert episode.centre is not None
    raw = episode.query.x[0] + episode.centre[0]
    expected = result.model.predict(raw)
    assert not result.model.undescribed
    right = (expected.argmax(1) == episode.query.y[0]).double().mean().item()
    assert right == pytest.approx(result.after)
    for model in (result.model, loaded, loaded.train(), loaded, given):
        assert torch.equal(model.predict(raw), expected)
        one_by_one = torch.cat([model.predict(window[None]) for window in raw])
        torch.testing.assert_close(one_by_one, expected, rtol=1e-4, atol=1e-6)
        model.net.train()  # not even so
    assert learner.training


def test_before_is_the_shared_initialization_read_as_a_personal_model() -> None:
    """BatchNorm by batch statistics: the query set is normalized with the support set's, here by hand."""
    torch.manual_seed(1)
    episode = task()
    learner = MAML(normed(), inner_loop=LOOP, batch_norm="batch")
    result = personalize(learner, episode, ("good", "bad"))
    net: Any = learner.net
    hidden = net[0](episode.support.x[0])
    query = net[0](episode.query.x[0])
    scaled = (query - hidden.mean(0)) / (hidden.var(0, correction=0) + net[1].eps).sqrt()
    outputs = net[4](torch.tanh(scaled * net[1].weight + net[1].bias))
    right = (outputs.argmax(1) == episode.query.y[0]).double().mean().item()
    assert result.before == pytest.approx(right)


def test_kept_statistics_change_nothing_on_the_set_they_are_of() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4, track_running_stats=False), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)
    )
    net.append(nn.BatchNorm1d(2, track_running_stats=False)).eval()
    x = torch.randn(6, 1, 5)
    before = net(x)
    keep_statistics(net, x)
    torch.testing.assert_close(net(x), before)
    torch.testing.assert_close(net(x[:1]), before[:1])
    twice = nn.BatchNorm1d(5, track_running_stats=False)
    with pytest.raises(UserError, match="layer '0' normalizes twice in a pass"):
        keep_statistics(nn.Sequential(twice, twice).eval(), torch.randn(6, 5))


def test_an_autoencoders_card_is_its_models_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 40, 4)
    query = Examples(torch.cat([x[:, 20:], 3 * torch.randn(1, 20, 4)], 1), torch.arange(40)[None] // 20)
    episode = Episode(Examples(x[:, :20], torch.zeros(1, 20)), query, ("pump",))

    def net() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2), nn.Dropout(0.2), nn.Linear(2, 4))

    learner = FedAvg(net(), Reconstruction(), InnerLoop(lr=0.05, steps=20), batch_norm="batch")
    result = personalize(learner, episode, ("normal", "anomaly"))
    result.model.save(tmp_path / "pump.safetensors")
    loaded = PersonalModel.load(tmp_path / "pump.safetensors", net(), Reconstruction())
    alarms = torch.cat([loaded.predict(window[None]) for window in query.x[0]]) > 1
    recall = (alarms[:20].logical_not().double().mean() + alarms[20:].double().mean()) / 2
    assert recall.item() == pytest.approx(result.after)
    assert torch.equal(
        PersonalModel.load(tmp_path / "pump.safetensors").predict(query.x[0]), loaded.predict(query.x[0])
    )
    with pytest.raises(UserError, match="not made with the objective Classification"):
        PersonalModel.load(tmp_path / "pump.safetensors", objective=Classification())


def test_a_file_keeps_its_precision_and_leaves_the_given_network_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    paths, nets = [], []
    for name in ("a", "b"):
        nets.append(nn.Linear(5, 2).double())
        paths.append(tmp_path / f"{name}.safetensors")
        PersonalModel(nets[-1], FedAvg(MLP(5, 2)).objective, torch.zeros(5).double(), None, ("x", "y")).save(
            paths[-1]
        )
    template = nn.Linear(5, 2)
    given = copy.deepcopy(template)
    first, _second = (PersonalModel.load(path, template) for path in paths)
    x = torch.randn(3, 5, dtype=torch.float64)
    assert torch.equal(first(x), nets[0](x))
    assert torch.equal(template.weight, given.weight)


def test_files_that_are_no_personal_models_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        PersonalModel.load(str(tmp_path / "none.safetensors"), MLP(5, 2))
    (tmp_path / "text.safetensors").write_text("hello")
    torch.save({"state": {}, "classes": []}, tmp_path / "old.pt")
    for name, why in (
        ("text.safetensors", "is not a personal model"),
        ("old.pt", "by torch.save, .* make it again"),
    ):
        with pytest.raises(UserError, match=why):
            PersonalModel.load(tmp_path / name, MLP(5, 2))
    both = Examples(torch.zeros(2, 3, 5), torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(UserError, match="expected an episode of one task, got 2"):
        personalize(MAML(MLP(5, 2)), Episode(both, both), ("x", "y"))


# The mode of a learner ------------------------------------------------------------------------------------


def test_adapting_and_judging_after_fit_run_without_dropout(quiet_trainer: Callable[..., Trainer]) -> None:
    learner = MAML(dropping(), inner_loop=LOOP)
    quiet_trainer(max_epochs=1).fit(learner, Batches([task(1), task(2)]), Batches([task(3)]))
    learner.train()
    learner.net[2].eval()  # type: ignore[index,union-attr]
    episode = task()
    modes = [module.training for module in learner.modules()]
    adapted = learner.adapt(learner.params, episode.support)
    outputs, _ = learner.query_outputs(adapted, episode)
    metrics, prediction = learner.evaluate(episode), learner.predict_step(episode)
    assert [module.training for module in learner.modules()] == modes
    learner.eval()
    quiet = learner.adapt(learner.params, episode.support)
    assert all(torch.equal(adapted[name], p) for name, p in quiet.items())
    assert torch.equal(outputs, learner.outputs(quiet, episode.query.x))
    assert all(torch.equal(metrics[name], value) for name, value in learner.evaluate(episode).items())
    assert torch.equal(prediction.outputs, learner.predict_step(episode).outputs)


def test_training_drops_out_in_both_loops() -> None:
    learner, seen = MAML(dropping(), inner_loop=LOOP), []

    class Watched(nn.Dropout):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(self.training)
            return super().forward(x)

    learner.net[1] = Watched(0.5)  # type: ignore[index,operator]
    learner.meta_gradient(task())
    assert len(seen) == LOOP.steps + 1
    assert all(seen)
    losses = {learner.meta_loss(task()).item() for _ in range(3)}
    assert len(losses) == 3


def test_a_fedbn_machine_adapts_with_constant_statistics() -> None:
    learner = FedBN(used(), adaptation=LOOP).train()
    kept = {name: buffer.clone() for name, buffer in learner.named_buffers()}
    learner.evaluate(task())
    assert all(torch.equal(buffer, kept[name]) for name, buffer in learner.named_buffers())
