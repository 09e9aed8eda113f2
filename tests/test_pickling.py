"""Learners go to other processes and into files: pickled, copied, with any optimizer that can be."""

from __future__ import annotations

import copy
import functools
import io
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from test_learners import LEARNERS, net_for
from torch import nn

from fml_lightning import MAML, MLP, Episode, Examples, Federation, InnerLoop, Learner, UserError
from fml_lightning.datamodules.loaders import Batches
from fml_lightning.learners.optimizers import Factory


def episode() -> Episode:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(2).repeat(2, 4)
    x = torch.randn(2, 16, 5, generator=generator)
    return Episode(Examples(x[:, :8], y), Examples(x[:, 8:], y))


def slow(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.5)


def halving(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)


def same(a: Learner, b: Learner) -> bool:
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_every_learner_comes_back_from_a_pickle_and_trains_on(
    name: str, quiet_trainer: Callable[..., Trainer]
) -> None:
    """Also after training, when it knows its Trainer."""
    learner = LEARNERS[name](net_for(name))
    data = Batches([episode()])
    quiet_trainer(max_steps=1).fit(learner, data, data)
    content = io.BytesIO()
    torch.save(learner, content)
    content.seek(0)
    for again in (
        pickle.loads(pickle.dumps(learner)),
        copy.deepcopy(learner),
        torch.load(content, weights_only=False),
    ):
        assert same(again, learner)
        assert again.network.net is again.net
        expected = copy.deepcopy(learner)
        for each in (again, expected):
            quiet_trainer(max_steps=2).fit(each, data, data)
        assert same(again, expected)
        assert not same(again, learner)


@pytest.mark.parametrize("optimizer", [slow, functools.partial(torch.optim.SGD, lr=0.5)])
def test_optimizers_of_functions_and_partials_are_kept(optimizer: Any) -> None:
    learner = MAML(MLP(5, 2), optimizer=optimizer, scheduler=halving)
    again = pickle.loads(pickle.dumps(learner)).configure_optimizers()
    assert again["optimizer"].param_groups[0]["lr"] == 0.5
    assert isinstance(again["lr_scheduler"]["scheduler"], torch.optim.lr_scheduler.StepLR)


def test_a_compiled_gradient_is_left_behind() -> None:
    learner = MAML(MLP(5, 2), compile=True)
    assert learner._compiled is not None
    learner._compiled._graphs["shape"] = (lambda: None, [])
    again = pickle.loads(pickle.dumps(learner))
    assert again._compiled._graphs == {}
    assert copy.deepcopy(learner)._compiled is learner._compiled


def test_a_lambda_is_copied_but_not_pickled() -> None:
    learner = MAML(MLP(5, 2), optimizer=lambda params: torch.optim.SGD(params, lr=0.5))
    assert copy.deepcopy(learner).configure_optimizers().param_groups[0]["lr"] == 0.5
    with pytest.raises(
        UserError, match=r"^optimizer: .*cannot be pickled.*functools.partial.*in place of a lambda"
    ):
        pickle.dumps(learner)
    with pytest.raises(UserError, match=r"^scheduler: "):
        pickle.dumps(MAML(MLP(5, 2), scheduler=lambda optimizer: halving(optimizer)))
    with pytest.raises(UserError, match=r"^server_optimizer: "):
        pickle.dumps(Federation(MAML(MLP(5, 2)), server_optimizer=lambda params: slow(params)))


CONFIG = """
model:
  learner:
    class_path: fml_lightning.MAML
    init_args:
      net: {class_path: fml_lightning.MLP, init_args: {in_features: 5, out_features: 2}}
      optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.25, momentum: 0.5}}
      scheduler: {class_path: torch.optim.lr_scheduler.StepLR, init_args: {step_size: 3}}
  server_optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.125}}
"""


class Model(LightningCLI):
    """A command line of a Federation alone."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            Federation,
            run=False,
            args=["--config", str(path)],
            save_config_callback=None,
            trainer_defaults={"logger": False, "enable_checkpointing": False, "accelerator": "cpu"},
            auto_configure_optimizers=False,
            parser_class=LightningArgumentParser,
        )


@pytest.mark.filterwarnings("ignore")
def test_optimizers_parsed_from_yaml_pickle_without_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG)
    federation: Federation = Model(path).model
    content = pickle.dumps(federation)
    assert b"jsonargparse" not in content
    assert b"lightning.pytorch.cli" not in content
    again = pickle.loads(content)
    made = again.learner.configure_optimizers()
    assert {key: made["optimizer"].defaults[key] for key in ("lr", "momentum")} == {"lr": 0.25, "momentum": 0.5}
    assert made["lr_scheduler"]["scheduler"].step_size == 3
    server = again.configure_optimizers()
    assert isinstance(server, torch.optim.Adam)
    assert server.defaults["lr"] == 0.125


def test_a_federation_pickles(tmp_path: Path) -> None:
    federation = Federation(MAML(MLP(5, 2), inner_loop=InnerLoop(clip=1.0)), scheduler=halving)
    again = pickle.loads(pickle.dumps(federation))
    assert again.learner.inner_loop == InnerLoop(clip=1.0)
    assert same(again.learner, federation.learner)


def test_a_factory_of_a_factory_is_the_factory() -> None:
    assert Factory(Factory(slow, "a"), "b").make is slow
