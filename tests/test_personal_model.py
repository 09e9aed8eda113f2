"""Personal models: their numbers are their card's, in every call, for one window as for many, and from a file."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from lightning.pytorch import Trainer
from safetensors.torch import save_file
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
    RemainingUsefulLife,
    UserError,
    personalize,
)
from fml_lightning.adaptation.batch_norm import keep_statistics
from fml_lightning.datamodules.loaders import Batches
from fml_lightning.personal import model_file


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


# Its file -------------------------------------------------------------------------------------------------


def saved(folder: Path) -> tuple[PersonalModel, Path]:
    torch.manual_seed(0)
    model = PersonalModel(
        MLP(5, 2, (4,)),
        Classification(normal=0),
        torch.randn(5),
        torch.tensor(1.0),
        ("normal", "worn"),
        site="north",
        machine="泵/3",
        told={"speed": 25.0},
        card={"verdict": "ship", "confusion": [[1, 0], [0, 1]]},
        normal="normal",
    )
    model.save(folder / "model.safetensors")
    return model, folder / "model.safetensors"


def test_what_is_known_of_a_model_is_in_its_file(tmp_path: Path) -> None:
    model, path = saved(tmp_path)
    again = PersonalModel.load(path)
    for name in ("site", "machine", "told", "card", "normal", "classes", "batch_norm", "preprocessing"):
        assert getattr(again, name) == getattr(model, name)
    assert [each.name for each in tmp_path.iterdir()] == ["model.safetensors"]
    first = path.read_bytes()
    again.save(path)
    assert path.read_bytes() == first


def rewritten(
    path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], object], digest: bool = True
) -> None:
    """The file with other content, as somebody would write it who knows its format."""
    with safetensors.safe_open(path, "pt") as opened:
        told = json.loads(opened.metadata()["fml_lightning"])
        tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    change(told, tensors)
    if digest:
        del told["digest"]
        told["digest"] = model_file._digest(tensors, told)
    save_file(tensors, path, {"fml_lightning": json.dumps(told)})


def nested(depth: int) -> dict[str, Any]:
    """The description of a network in so many containers."""
    description: dict[str, Any] = {"class_path": "torch.nn.Identity", "init_args": {}}
    for _ in range(depth):
        description = {"class_path": "torch.nn.Sequential", "init_args": {"modules": {"0": description}}}
    return description


CHANGES: dict[str, tuple[Callable[[dict[str, Any], dict[str, Tensor]], object], bool, str]] = {
    "a weight": (lambda _, t: t["net.0.bias"].add_(1), False, "was changed after it was written"),
    "a class": (lambda c, _: c.update(classes=["a", "b"]), False, "was changed after it was written"),
    "no digest": (lambda c, _: c.pop("digest"), False, "was changed after it was written"),
    "format 2": (lambda c, _: c.update(format=2), True, "expected format 1, got 2, of another version"),
    "no format": (lambda c, _: c.pop("format"), True, "its description has no format"),
    "more": (lambda c, _: c.update(more=1), True, "unknown field `more`"),
    "another kind": (lambda c, _: c.update(classes=3), True, r"Expected `array`, got `int` - at `\$.classes`"),
    "a stranger": (lambda c, _: c["net"].update(class_path="os.system"), True, "expected a subclass of Module"),
    "an objective": (lambda c, _: c["objective"].update(class_path="subprocess.Popen"), True, "of Objective"),
    "features": (
        lambda c, _: c.update(preprocessing={"features": {"class_path": "os.system"}}),
        True,
        "expected a subclass of Features",
    ),
    "a newer preprocessing": (
        lambda c, _: c.update(preprocessing={"windowing": {"length": 32, "overlap": 3}}),
        True,
        "preprocessing: no setting windowing.overlap in this version",
    ),
    "a newer timing": (lambda c, _: c["timing"].update(more=1), True, "unknown field `more`"),
    "sizes": (
        lambda c, _: c["net"]["init_args"].update(in_features=10**12),
        True,
        "expected 0.(weight|bias) of MLP as",
    ),
    "layers": (
        lambda c, _: c["net"]["init_args"].update(hidden=[2] * 9999),
        True,
        "many more (parameters|layers)",
    ),
    "a lack": (lambda _, t: t.pop("net.0.bias"), True, "the file lacks 0.bias"),
    "no centre": (lambda _, t: t.pop("centre"), True, "expected a tensor centre"),
    "a centre": (lambda _, t: t.update(centre=torch.zeros(5).bool()), True, "expected centre as numbers"),
    "depth": (
        lambda c, _: c.update(net=nested(230)),
        True,
        "the description is too deep: expected at most 100 levels",
    ),
    "besides": (lambda _, t: t.update(other=torch.zeros(1)), True, "the file has besides other"),
    "besides in the net": (lambda _, t: t.update({"net.9.w": torch.zeros(1)}), True, "the file has besides 9.w"),
    "a kind": (lambda _, t: t.update({"net.0.bias": torch.zeros(5).bool()}), True, "the file has torch.bool"),
    "no threshold": (lambda _, t: t.pop("calibration"), True, "not made with the objective Classification"),
    "a policy": (lambda c, _: c.update(batch_norm="often"), True, "expected batch_norm as batch or frozen"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_files_that_do_not_hold_together_are_refused_in_a_sentence(change: str, tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    rewritten(path, lambda *_: None)
    PersonalModel.load(path)
    change_, digest, complaint = CHANGES[change]
    rewritten(path, change_, digest)
    with pytest.raises(UserError, match=complaint) as caught:
        PersonalModel.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_files_that_are_damaged_are_refused_in_a_sentence(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    whole = path.read_bytes()
    for text in ('{"format":NaN}', "[" * 200_000, '{"format":1,"format":1}', "[]", "", "{"):
        save_file({"centre": torch.zeros(1)}, path, {"fml_lightning": text})
        with pytest.raises(UserError, match="is not a personal model"):
            PersonalModel.load(path)
    save_file({"centre": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="it has no description of one"):
        PersonalModel.load(path)
    lengths = [b"\xff" * 8 + whole[8:], (10**9).to_bytes(8, "little") + whole[8:]]
    for content in (b"", whole[:4], whole[:-1], whole[: len(whole) // 2], whole + b"\0", *lengths):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is not a personal model"):
            PersonalModel.load(path)
    with pytest.raises(UserError, match="no file"):
        PersonalModel.load(tmp_path)


class Fixed(nn.Module):
    """A network of a user's that does not keep what it was made with."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(x)
        return output


def test_a_network_that_cannot_be_described_is_asked_for(tmp_path: Path) -> None:
    model = PersonalModel(Fixed(5), Classification(), torch.zeros(5), None, ("a", "b"))
    assert "Fixed: expected the attribute width" in model.undescribed
    model.save(tmp_path / "model.safetensors")
    with pytest.raises(
        UserError, match=r"saved without its net, .*expected the attribute width.*; give `load` the net"
    ):
        PersonalModel.load(tmp_path / "model.safetensors")
    x = torch.randn(3, 5)
    assert torch.equal(PersonalModel.load(tmp_path / "model.safetensors", Fixed(5)).predict(x), model.predict(x))
    with pytest.raises(UserError, match=r"expected layer.weight of Fixed as"):
        PersonalModel.load(tmp_path / "model.safetensors", Fixed(6))


def test_readings_have_the_threshold_at_one_half() -> None:
    """By hand: odds of a fault 2, threshold 1: 1 / (1 + e^-1); of two thirds of the classes faulty: 2/3."""
    x = torch.tensor([[0.0, 2.0], [0.0, 1.0], [float("nan"), 0.0]])
    net = nn.Identity()
    model = PersonalModel(net, Classification(normal=0), torch.zeros(2), torch.tensor(1.0), ("fine", "worn"))
    reading = model.reading(x)
    assert reading.score[:2].tolist() == pytest.approx([0.731059, 0.5], abs=1e-6)
    assert reading.score[2].isnan()
    assert reading.label == ("worn", "worn", "")
    assert torch.equal(reading.outputs[:2], model.predict(x)[:2])
    assert torch.equal(reading.confidence[:2], reading.outputs[:2, 1])
    named = PersonalModel(net, Classification(), torch.zeros(3), None, ("Healthy", "b", "c"))
    assert named.reading(torch.zeros(1, 3)).score.item() == pytest.approx(2 / 3)
    assert named.reading(torch.tensor([[0.0, 0.0, -9e9]]), normal="c").score.item() == 1
    with pytest.raises(UserError, match="expected one of the classes Healthy, b, c, got 'd'"):
        named.reading(torch.zeros(1, 3), normal="d")
    unnamed = PersonalModel(net, Classification(), torch.zeros(2), None, ("a", "b"))
    assert unnamed.reading(x).score.isnan().all()
    life = PersonalModel(net, RemainingUsefulLife(10.0), torch.zeros(1), None, ("life",))
    assert life.reading(torch.tensor([[0.4], [0.6]])).score.isnan().all()
    said = life.reading(torch.tensor([[0.4], [0.6]]), limit=5.0)
    assert (said.score.tolist(), said.label) == ([1.0, 0.0], ("", ""))
    errors = PersonalModel(nn.Linear(1, 1), Reconstruction(), torch.zeros(1), torch.tensor(4.0), ("normal",))
    for parameter in errors.net.parameters():
        nn.init.zeros_(parameter)
    assert errors.reading(torch.tensor([[2.0], [4.0]])).score.tolist() == pytest.approx([0.5, 0.8])
