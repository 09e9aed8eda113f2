"""Descriptions: networks and objectives as JSON, and the same again; what does not tell how it was made."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from fml_lightning import (
    MLP,
    Classification,
    Conv1d,
    Conv4,
    Loss,
    NearestPrototype,
    NextToken,
    NextTokenGRU,
    Objective,
    Reconstruction,
    Regression,
    RemainingUsefulLife,
    UserError,
)
from fml_lightning.commands.parsing.learning_parser import note_arguments
from fml_lightning.learners.fault_line_rule import LINES, FaultLineScores
from fml_lightning.learners.normal_distance import NormalState
from fml_lightning.personal.descriptions import NETWORKS, OBJECTIVES
from fml_lightning.personal.restored import differences, restored


class Forgetful(nn.Module):
    """A network of a user's, which does not keep what it was made with."""

    def __init__(self, width: int, activation: type[nn.Module] = nn.Tanh, depth: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(*[nn.Linear(width, width) for _ in range(depth)], activation())

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.body(x)
        return output


class Scaled(nn.Module):
    """One that keeps it, with a constant outside its state."""

    def __init__(self, net: nn.Module, gain: float = 2.0) -> None:
        super().__init__()
        self.net = net
        self.gain = gain
        self.taper = torch.hann_window(5)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.net(x * self.taper) * self.gain
        return output


class Own(Objective):
    """An objective of a user's, which does not keep what it was made with."""

    metric, higher_is_better = "error", False

    def __init__(self, power: int) -> None:
        self.p = power

    def loss(self, outputs: Tensor, examples: Any) -> Tensor:
        return outputs.flatten(1).mean(1) ** self.p

    def metrics(self, outputs: Tensor, examples: Any, calibration: Tensor | None = None) -> dict[str, Tensor]:
        return {"error": self.loss(outputs, examples)}


LAYER = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", norm_first=True, batch_first=True)
NETWORKS_OF_ALL_KINDS: dict[str, nn.Module] = {
    "MLP": MLP(5, 2, (8, 4), dropout=0.1),
    "MLP without norm": MLP(5, 2, (), norm_input=False),
    "Conv4": Conv4(1, 2, channels=4, size=16, norm="batch"),
    "Conv1d": Conv1d(2, 3, channels=(4, 8), kernel=5),
    "NextTokenGRU": NextTokenGRU(9, 3, 4),
    "prototypes": NearestPrototype(MLP(5, 4), torch.randn(2, 4)),
    "normal distance": NormalState(4),
    "fault lines": FaultLineScores(["1bpfo_x", "1bpfi_x", "1bsf_x"], ["outer", "normal"], LINES, 4.0, 0.25),
    "user's": Scaled(nn.Sequential(nn.Linear(5, 2, bias=False), nn.ReLU())),
    "a layer": nn.Linear(2, 3),
    "a norm": nn.BatchNorm1d(3, affine=False),
    "containers": nn.ModuleDict({"a": nn.ModuleList([nn.PReLU(), nn.Identity()]), "b": nn.Sequential()}),
    "layers": nn.Sequential(
        nn.Conv2d(3, 4, 3, padding="same", groups=1, bias=False),
        nn.ConvTranspose1d(2, 3, 3, stride=2, output_padding=1),
        nn.LayerNorm((3, 4), bias=False),
        nn.GroupNorm(1, 3, affine=False),
        nn.InstanceNorm1d(3, affine=True, track_running_stats=True),
        nn.GRU(3, 4, 2, batch_first=True, dropout=0.1, bidirectional=True),
        nn.LSTM(3, 4, proj_size=2),
        nn.RNN(3, 4, nonlinearity="relu", bias=False),
        nn.Embedding(3, 4, padding_idx=0),
        nn.MultiheadAttention(8, 2, add_bias_kv=True, kdim=3, vdim=4, batch_first=True),
        LAYER,
        nn.TransformerEncoder(LAYER, 2, nn.LayerNorm(8), enable_nested_tensor=False),
        nn.Upsample(scale_factor=2),
        nn.Softmax(-1),
        nn.MaxPool1d(3, padding=1),
        nn.AdaptiveAvgPool1d(1),
        nn.GELU(approximate="tanh"),
        nn.Unflatten(1, (2, 3)),
    ),
}


@pytest.mark.parametrize("name", NETWORKS_OF_ALL_KINDS)
def test_a_network_made_of_its_description_is_the_same(name: str) -> None:
    net = NETWORKS_OF_ALL_KINDS[name].eval()
    description = json.loads(json.dumps(NETWORKS.describe(net)))
    before = torch.random.get_rng_state()
    again = restored(description, net.state_dict())
    assert torch.equal(before, torch.random.get_rng_state())
    assert differences(net, again) == ""
    assert str(again).replace("[", "(").replace("]", ")") == str(net).replace("[", "(").replace("]", ")")
    assert all(torch.equal(again.state_dict()[key], value) for key, value in net.state_dict().items())
    assert NETWORKS.describe(again) == description


@pytest.mark.parametrize(
    "objective",
    [
        Classification([1.0, 2.0], 0.1, -100, metric="loss", normal=1, margin=2.0),
        Reconstruction(0.9, 2.0),
        Regression(2.0, cap=9.0),
        RemainingUsefulLife(100.0, metric="score"),
        NextToken(unknown=None),
        Loss(nn.HuberLoss(delta=0.5)),
        Loss(nn.functional.mse_loss),
    ],
)
def test_an_objective_made_of_its_description_is_the_same(objective: Objective) -> None:
    description = json.loads(json.dumps(OBJECTIVES.describe(objective)))
    again = OBJECTIVES.made(description)
    assert type(again) is type(objective)
    assert {k: v for k, v in vars(again).items() if isinstance(v, int | float | str | tuple | None)} == {
        k: v for k, v in vars(objective).items() if isinstance(v, int | float | str | tuple | None)
    }


def test_added_metrics_only_judge_and_are_left_out() -> None:
    def closeness(predicted: Tensor, targets: Tensor) -> Tensor:
        return -(predicted - targets).abs().mean()

    closeness.higher_is_better = True  # type: ignore[attr-defined]
    described = OBJECTIVES.describe(Regression(3.0, metrics=[closeness], metric="closeness"))
    assert described["init_args"] == {"scale": 3.0, "cap": None}


def test_what_yaml_makes_remembers_its_arguments() -> None:
    parser = ArgumentParser(exit_on_error=False)
    note_arguments(parser)
    parser.add_subclass_arguments(nn.Module, "net")
    parser.add_subclass_arguments(Objective, "objective")
    layers = [
        {
            "class_path": f"{__name__}.Forgetful",
            "init_args": {"width": 4, "activation": "torch.nn.ReLU", "depth": 2},
        },
    ]
    parsed = parser.parse_object(
        {
            "net": {"class_path": f"{__name__}.Scaled", "init_args": {"net": layers[0], "gain": 0.5}},
            "objective": {"class_path": f"{__name__}.Own", "init_args": {"power": 3}},
        }
    )
    made = parser.instantiate_classes(parsed)
    described = json.loads(json.dumps(NETWORKS.describe(made.net)))
    inner = {"width": 4, "activation": {"import_path": "torch.nn.ReLU"}, "depth": 2}
    assert described["init_args"]["net"]["init_args"] == inner
    assert differences(made.net, restored(described, made.net.state_dict())) == ""
    assert OBJECTIVES.made(OBJECTIVES.describe(made.objective)).p == 3  # type: ignore[attr-defined]


def test_what_does_not_tell_how_it_was_made_is_refused() -> None:
    with pytest.raises(UserError, match=r"Forgetful: expected the attribute width, .* keep it, as in self.width"):
        NETWORKS.describe(nn.Sequential(Forgetful(3)))
    with pytest.raises(UserError, match="Own: expected the attribute power"):
        OBJECTIVES.describe(Own(2))

    class Local(nn.Linear):
        pass

    with pytest.raises(UserError, match="Local: expected a class at the top of a module"):
        NETWORKS.describe(Local(1, 1))
    changed = Scaled(nn.Linear(5, 2))
    changed.net.bias = None  # type: ignore[assignment]
    assert differences(changed, Scaled(nn.Linear(5, 2))) == ""  # the state tells it
    changed.taper *= 2
    assert differences(changed, Scaled(nn.Linear(5, 2))) == "taper of the layer '' (Scaled)"
    assert (
        differences(nn.Sequential(nn.Dropout(0.1)), nn.Sequential(nn.Dropout(0.2)))
        == "p of the layer '0' (Dropout)"
    )
    assert "ReLU in place of Tanh" in differences(nn.Sequential(nn.Tanh()), nn.Sequential(nn.ReLU()))


@pytest.mark.parametrize(
    ("path", "arguments", "complaint"),
    [
        (
            "os.system",
            {"command": "true"},
            "expected a subclass of Module, which Python's own library has none of",
        ),
        ("subprocess.Popen", {"args": ["true"]}, "expected a subclass of Module"),
        ("antigravity.fly", {}, "which Python's own library has none of"),
        ("torch.hub.load", {"repo_or_dir": "a/b", "model": "c"}, "expected a subclass of Module"),
        ("torch.Tensor", {}, "expected a subclass of Module"),
        ("torchmetrics.MeanMetric", {}, "expected a network, got a metric"),
        ("nowhere.Net", {}, "it cannot be imported"),
        ("torch.nn.Nowhere", {}, "it cannot be imported"),
        ("torch.nn.Linear", {"in_features": 3}, "TypeError: .*out_features"),
        ("torch.nn.Linear", {"in_features": 3, "out_features": -1}, "RuntimeError"),
        ("torch.nn.Linear", {"in_features": 10**12, "out_features": 2}, "expected (weight|bias) of Linear as"),
        ("torch.nn.Linear", {"in_features": 3, "out_features": 2, "device": "cpu"}, ""),
        ("torch.nn.GRU", {"input_size": 3, "hidden_size": 2, "num_layers": 10**9}, "many more parameters"),
        ("torch.nn.Sequential", {"modules": [1]}, "expected modules by name"),
        ("torch.nn.Sequential", {"modules": {"a": 1}}, "TypeError"),
        ("torch.nn.Sequential", {"modules": {"a": {"class_path": "os.system"}}}, "expected a subclass of Module"),
        (
            "torch.nn.TransformerEncoderLayer",
            {"d_model": 8, "nhead": 2, "activation": {"import_path": "os.system"}},
            "expected a subclass",
        ),
        ("Linear", {}, "expected class_path and init_args"),
    ],
)
def test_descriptions_of_strangers_are_refused_in_a_sentence(path: str, arguments: Any, complaint: str) -> None:
    state = nn.Linear(3, 2).state_dict()
    description = {"class_path": path, "init_args": arguments}
    if not complaint:
        assert restored(description, state).get_parameter("weight").device.type == "cpu"
        return
    with pytest.raises(UserError, match=complaint) as caught:
        restored(description, state)
    assert "\n" not in str(caught.value)
