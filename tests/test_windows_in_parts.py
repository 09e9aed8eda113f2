"""Judging runs the network over windows in parts: the same outputs, and memory that the windows do not fill."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fml_lightning import ANIL, MAML, MLP, Conv1d, Episode, Examples, FedAvg, InnerLoop, Learner, Prototypical
from fml_lightning.adaptation import network

LOOP = InnerLoop(lr=0.1, steps=2)


def episode(tasks: int = 3, queries: int = 50, shape: tuple[int, ...] = (5,)) -> Episode:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tasks, 8 + queries, *shape, generator=generator, dtype=torch.float64)
    y = torch.arange(8 + queries).expand(tasks, -1) % 2
    return Episode(Examples(x[:, :8], y[:, :8]), Examples(x[:, 8:], y[:, 8:]))


def watched(learner: Learner, sizes: list[int]) -> Learner:
    """Notes how many numbers of input go through the network at once."""
    outputs = learner.outputs

    def note(adapted: Any, x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return outputs(adapted, x)

    learner.outputs = note  # type: ignore[method-assign]
    return learner


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: MAML(MLP(5, 2).double(), inner_loop=LOOP), (5,)),
        (lambda: MAML(Conv1d(1, 2, channels=(4,)).double(), inner_loop=LOOP), (16,)),
        (lambda: ANIL(Conv1d(1, 2, channels=(4,)).double(), inner_loop=LOOP), (16,)),
        (lambda: Prototypical(MLP(5, 2).double(), ways=2), (5,)),
        (lambda: FedAvg(MLP(5, 2).double(), adaptation=LOOP, tasks_at_once=2), (5,)),
    ],
)
def test_outputs_in_parts_are_the_outputs(
    make: Callable[[], Learner], shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    given, learner, sizes = episode(shape=shape), make(), []
    adapted = learner.adapt(learner.params, given.support)
    expected = learner.outputs(adapted, given.query.x)
    monkeypatch.setattr(network, "ELEMENTS_PER_PASS", 100)
    outputs, _ = watched(learner, sizes).query_outputs(adapted, given)
    torch.testing.assert_close(outputs, expected, rtol=1e-12, atol=1e-13)
    at_once = learner.tasks_per_pass(learner.adapted_names(learner.params, learner.adaptation)) or 3
    assert len(sizes) > 4
    assert max(sizes) <= 100 * 3 // at_once


class Coupled(nn.Module):
    """A network of one's own that looks at a window's neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x - 0.01 * x.mean(0))
        return out


@pytest.mark.parametrize(
    "make",
    [
        lambda: MAML(Coupled().double()),
        lambda: MAML(nn.Sequential(nn.Linear(5, 2), nn.BatchNorm1d(2)).double(), batch_norm="batch"),
    ],
)
def test_windows_that_depend_on_each_other_stay_together(
    make: Callable[[], Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    given, learner = episode(), make()
    adapted = learner.adapt(learner.params, given.support)
    expected = learner.outputs(adapted, given.query.x)
    monkeypatch.setattr(network, "ELEMENTS_PER_PASS", 100)
    outputs, _ = learner.query_outputs(adapted, given)
    assert torch.equal(outputs, expected)


PROGRAM = """
import resource, torch
from fml_lightning import MAML, Conv1d, Episode, Examples, InnerLoop, personalize
torch.set_num_threads(1)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
learner = MAML(Conv1d(1, 2), inner_loop=InnerLoop(steps=1))
x, y = torch.randn(1, 4000, 1024), torch.arange(4000)[None] % 2
small = Episode(Examples(x[:, :4], y[:, :4]), Examples(x[:, :8], y[:, :8]))
large = Episode(small.support, Examples(x, y))
learner.evaluate(small), personalize(learner, small, ("a", "b"))
before = peak()
learner.evaluate(large), learner.predict_step(large), personalize(learner, large, ("a", "b"))
print(peak() - before)
"""


@pytest.mark.long
def test_judging_many_raw_windows_takes_little_memory() -> None:
    """15.6 MiB of windows: 32 channels of them all are 500 MiB, and several such activations live at once."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 300
