"""What users of ordinary loaders and networks run into is one sentence that says what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from fml_lightning import (
    MAML,
    MLP,
    Episode,
    Examples,
    FedAvg,
    InnerLoop,
    Learner,
    Prototypical,
    Reptile,
    UserError,
)
from fml_lightning.datamodules.loaders import Batches

MakeTrainer = Callable[..., Trainer]


def episode(tasks: int = 2, dtype: torch.dtype = torch.float32, classes: tuple[int, ...] = (0, 1)) -> Episode:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tasks, 12, 5, generator=generator).to(dtype)
    y = torch.tensor(classes).repeat(12)[:12].expand(tasks, -1)
    return Episode(Examples(x[:, :6], y[:, :6]), Examples(x[:, 6:], y[:, 6:]))


class Episodes(Dataset[Episode]):
    """Episodes as a map-style dataset."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Episode:
        return episode(1)


class Stream(IterableDataset[Episode]):
    """Episodes as an iterable dataset."""

    def __iter__(self) -> Iterator[Episode]:
        return iter([episode(1)] * 4)


x, y = torch.randn(8, 5), torch.arange(8) % 2

OTHER_BATCHES: dict[str, tuple[Any, str]] = {
    "(x, y) of an ordinary loader": (
        DataLoader(TensorDataset(x, y), batch_size=4),
        r"MAML: expected an Episode from the dataloader, got a list of \(Tensor \(4, 5\), Tensor \(4,\)\);"
        r".*batch_size=None",
    ),
    "a tuple": (Batches([(x, y)]), r"got a tuple of \(Tensor \(8, 5\), Tensor \(8,\)\)"),
    "a dict": (Batches([{"x": x, "y": y}]), r"got a dict of x: Tensor \(8, 5\), y: Tensor \(8,\)"),
    "a tensor": (Batches([x]), r"got a Tensor \(8, 5\)"),
    "a list of episodes": (
        DataLoader(Episodes(), batch_size=2, collate_fn=list),
        r"got a list of \(Episode, Episode\); an Episode is a batch of stacked tasks already.*batch_size=None",
    ),
    "collated episodes": (
        DataLoader(Episodes(), batch_size=2),
        "expected batch_size=None, got a batch of 2 Episode",
    ),
    "a default DataLoader": (DataLoader(Stream()), "expected batch_size=None, got a batch of 1 Episode"),
}


@pytest.mark.parametrize("case", OTHER_BATCHES)
def test_batches_that_are_no_episodes_are_named_by_every_verb(case: str, quiet_trainer: MakeTrainer) -> None:
    loader, message = OTHER_BATCHES[case]
    learner = MAML(MLP(5, 2))
    trainer = quiet_trainer(max_epochs=1)
    for verb in (
        lambda: trainer.fit(learner, loader, loader),
        lambda: trainer.validate(learner, loader, verbose=False),
        lambda: trainer.test(learner, loader, verbose=False),
        lambda: trainer.predict(learner, loader),
    ):
        with pytest.raises(UserError, match=message):
            verb()


def test_a_list_or_dict_of_training_loaders_is_named_and_several_may_validate(quiet_trainer: MakeTrainer) -> None:
    loader: DataLoader[Episode] = DataLoader(Episodes(), batch_size=None)
    learner = MAML(MLP(5, 2))
    for several in ([loader, loader], {"a": loader}):
        with pytest.raises(UserError, match="one dataloader to train on, not a list or dict of them"):
            quiet_trainer(max_epochs=1).fit(learner, several, loader)
    trainer = quiet_trainer()
    trainer.validate(learner, [loader, loader], verbose=False)
    assert "val/accuracy_after/dataloader_idx_1" in trainer.callback_metrics


def test_an_episode_is_printed_without_its_data() -> None:
    """Errors of others, such as Lightning's, print what they were given."""
    assert repr(episode()).startswith("Episode(support=Examples(x (2, 6, 5), y (2, 6)), query=")


def test_a_loader_of_episodes_without_batches_works_with_workers_too(quiet_trainer: MakeTrainer) -> None:
    loader: DataLoader[Episode] = DataLoader(Episodes(), batch_size=None)
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(MAML(MLP(5, 2)), loader, loader)
    assert trainer.global_step == 4


@pytest.mark.parametrize("call", ["adapt", "evaluate", "query_outputs", "check", "predict_step"])
@pytest.mark.parametrize("make", [FedAvg, lambda net: Prototypical(net, ways=2)])
def test_public_calls_name_what_came(make: Callable[[nn.Module], Learner], call: str) -> None:
    learner = make(MLP(5, 2))
    arguments: dict[str, tuple[Any, ...]] = {
        "adapt": (learner.params, (x, y)),
        "query_outputs": (learner.params, x),
    }
    with pytest.raises(UserError, match=f"{type(learner).__name__}: expected"):
        getattr(learner, call)(*arguments.get(call, ((x, y),)))


class Returning(nn.Module):
    """A network that returns what is asked of it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 2)
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        out = self.layer(x)
        kinds = {"tuple": (out, out), "dict": {"logits": out}, "sum": out.sum(), "turned": out.T, "None": None}
        return kinds[self.kind]


@pytest.mark.parametrize("make", [MAML, FedAvg, Reptile, lambda net: Prototypical(net, ways=2)])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "tuple",
            "Returning: expected a network that returns one tensor.*it returned a tuple of Tensor, Tensor; wrap",
        ),
        ("dict", "it returned a dict of logits; wrap it in a module"),
        ("None", "it returned a NoneType; wrap"),
        ("sum", r"expected a row of output for each of 12 windows, \(N, ...\), got \(\) for windows \(12, 5\)"),
        ("turned", r"expected a row of output for each of 12 windows, \(N, ...\), got \(2, 12\)"),
    ],
)
def test_outputs_that_are_no_tensor_of_windows_are_named(
    make: Callable[[nn.Module], Learner], kind: str, message: str
) -> None:
    learner = make(Returning(kind))
    with pytest.raises(UserError, match=message):
        learner.training_step(episode(), 0)
    with pytest.raises(UserError, match=message.replace("12", "6")):
        learner.evaluate(episode())


def test_windows_that_do_not_fit_the_network_are_named() -> None:
    cases = [
        (MAML(nn.Linear(7, 2)), episode(), r"Linear: cannot take windows of shape \(5,\), torch.float32 \(mat1"),
        (
            MAML(nn.Linear(5, 2)),
            episode(dtype=torch.float64),
            "parameters are torch.float32, the windows torch.float64",
        ),
        (MAML(nn.Linear(5, 2).double()), episode(), "parameters are torch.float64, the windows torch.float32"),
        (MAML(nn.Linear(5, 2).to("meta")), episode(), "the network is on meta, the windows are on cpu"),
    ]
    for learner, given, message in cases:
        with pytest.raises(UserError, match=message):
            learner.training_step(given, 0)
        with pytest.raises(UserError, match=message):
            learner.adapt(learner.params, given.support)


def test_a_single_window_under_batch_statistics_is_named() -> None:
    learner = MAML(nn.Sequential(nn.Linear(5, 2), nn.BatchNorm1d(2)), batch_norm="batch")
    alone = Examples(torch.randn(2, 1, 5), torch.zeros(2, 1, dtype=torch.int64))
    with pytest.raises(UserError, match="Expected more than 1 value per channel"):
        learner.adapt(learner.params, alone)


def test_tokens_are_windows_too() -> None:
    net = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 2))
    tokens = torch.randint(7, (2, 12, 3))
    labels = torch.arange(2).repeat(2, 6)
    given = Episode(Examples(tokens[:, :6], labels[:, :6]), Examples(tokens[:, 6:], labels[:, 6:]))
    learner = MAML(net)
    learner.check(given)
    learner.meta_gradient(given)
    assert learner.evaluate(given)["accuracy_after"].shape == (2,)


windows, labels = torch.zeros(2, 3, 5), torch.zeros(2, 3, dtype=torch.int64)

BAD: dict[str, tuple[Callable[[], object], str]] = {
    "numpy windows": (
        lambda: Examples(np.zeros((2, 3, 5)), labels),  # type: ignore[arg-type]
        r"Examples: expected x as one tensor, got a ndarray; convert it with torch.as_tensor",
    ),
    "listed targets": (lambda: Examples(windows, [[0, 1]]), "expected y as one tensor, got a list"),  # type: ignore[arg-type]
    "two inputs": (
        lambda: Examples((windows, windows), labels),  # type: ignore[arg-type]
        "expected x as one tensor, got a tuple; lay a window's inputs side by side",
    ),
    "named inputs": (lambda: Examples({"x": windows}, labels), "got a dict; lay"),  # type: ignore[arg-type]
    "no windows": (lambda: Examples(None, labels), "expected x as one tensor, got a NoneType"),  # type: ignore[arg-type]
    "a mask of numbers": (lambda: Examples(windows, labels, labels), "expected a mask of bool, got torch.int64"),
    "one task": (lambda: Examples(windows[0], labels[0]), r"needs a leading axis: x\[None\] and y\[None\]"),
    "sets that are pairs": (
        lambda: Episode((windows, labels), (windows, labels)),  # type: ignore[arg-type]
        "Episode: expected support as Examples, got a tuple; make them with Examples",
    ),
    "two precisions": (
        lambda: Episode(Examples(windows, labels), Examples(windows.double(), labels)),
        "support and query of one dtype, got torch.float32 and torch.float64",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_examples_and_episodes_of_other_things_are_named(case: str) -> None:
    make, message = BAD[case]
    with pytest.raises(UserError, match=message):
        make()


# Classes that support lacks -------------------------------------------------------------------------------


def lopsided() -> Episode:
    """A task whose query set has a class that its support set lacks."""
    whole = episode(1)
    return Episode(Examples(whole.support.x, torch.zeros_like(whole.support.y)), whole.query, ("pump",))


@pytest.mark.parametrize(
    "make",
    [
        lambda net: FedAvg(net, adaptation=InnerLoop(steps=0)),
        FedAvg,
        Reptile,
        lambda net: MAML(net, adaptation=InnerLoop(steps=0)),
    ],
)
def test_labels_with_a_meaning_of_their_own_need_no_support(make: Callable[[nn.Module], Learner]) -> None:
    learner = make(MLP(5, 2))
    assert learner.evaluate(lopsided())["accuracy_before"].shape == (1,)
    if not isinstance(learner, MAML):
        learner.check(lopsided())
        learner.meta_gradient(lopsided())


@pytest.mark.parametrize("make", [MAML, lambda net: Prototypical(net, ways=2)])
def test_learners_that_read_labels_from_support_refuse(make: Callable[[nn.Module], Learner]) -> None:
    learner = make(MLP(5, 2))
    for refuse in (lambda: learner.evaluate(lopsided()), lambda: learner.check(lopsided())):
        with pytest.raises(UserError, match=r"class 1 is in the query set but absent|each of the 2 classes"):
            refuse()
    still = MAML(MLP(5, 2), inner_loop=InnerLoop(steps=0), adaptation=InnerLoop(steps=1))
    still.check(lopsided())
    with pytest.raises(UserError, match="absent from the support set"):
        still.evaluate(lopsided())


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
@pytest.mark.parametrize("wrap", [lambda e: e, lambda e: [e, e], lambda e: {"a": e}, lambda e: (e,)])
def test_episodes_without_a_dataloader_are_named(
    wrap: Callable[[Episode], Any], quiet_trainer: Callable[..., Trainer]
) -> None:
    episode = lopsided()
    learner = MAML(MLP(5, 2))
    for verb in ("fit", "validate", "test"):
        with pytest.raises(UserError, match=r"MAML: expected a dataloader of episodes, got .*batch_size=None"):
            getattr(quiet_trainer(max_steps=1), verb)(learner, wrap(episode))


def test_layers_without_a_shape_yet_are_named() -> None:
    with pytest.raises(UserError, match=r"0.weight, 0.bias have no shape yet; run the network once"):
        MAML(nn.Sequential(nn.LazyLinear(3), nn.ReLU(), nn.Linear(3, 2)))
