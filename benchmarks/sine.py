"""The sine benchmark of MAML: regress a sine of unknown amplitude and phase from ten points.

    python -m benchmarks.sine --steps 15000

Finn et al. 2017 (https://arxiv.org/abs/1703.03400), section 5.1: amplitude in [0.1, 5], phase in [0, π], x in
[−5, 5]; a perceptron 1-40-40-1 with ReLU; α = 0.01, one inner step, 25 tasks, Adam 1e-3, K = 10. Trains centrally,
under a plain `lightning.Trainer`; tests on 600 tasks after 1, 5 and 10 steps. Prints the table; writes
benchmarks/results/sine.json.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import nn
from torch.nn import functional as F

from benchmarks.report import measured, print_table, write
from fml_lightning import FOMAML, MAML, Episode, Examples, InnerLoop, MetaLearner, MetaSGD, Reptile
from fml_lightning.commands.quiet import quieten
from fml_lightning.objectives import Loss

POINTS = 10
GOAL = {1: 0.42, 5: 0.18, 10: 0.15}


class Sines:
    """Episodes of `tasks` sines, `steps` of them."""

    def __init__(self, tasks: int, steps: int, queries: int = POINTS) -> None:
        self.tasks = tasks
        self.steps = steps
        self.queries = queries

    def __iter__(self) -> Iterator[Episode]:
        for _ in range(self.steps):
            yield self.draw()

    def __len__(self) -> int:
        return self.steps

    def draw(self) -> Episode:
        """One episode from torch's global generator."""
        amplitude = torch.rand(self.tasks, 1, 1) * 4.9 + 0.1
        phase = torch.rand(self.tasks, 1, 1) * math.pi
        x = torch.rand(self.tasks, POINTS + self.queries, 1) * 10 - 5
        y = amplitude * torch.sin(x - phase)
        return Episode(Examples(x[:, :POINTS], y[:, :POINTS]), Examples(x[:, POINTS:], y[:, POINTS:]))


def net() -> nn.Module:
    """The paper's perceptron, weights drawn with σ = 1/√fan_in, biases 0."""
    layers = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=1 / math.sqrt(layer.in_features))
            nn.init.zeros_(layer.bias)
    return layers


def learner(method: str) -> MetaLearner:
    """A learner of the table."""
    objective, inner_loop = Loss(F.mse_loss), InnerLoop(lr=0.01, steps=1)
    if method == "MetaSGD":
        return MetaSGD(net(), objective, inner_loop)
    if method == "Reptile":
        return Reptile(net(), objective, InnerLoop(lr=0.02, steps=5))
    kind = FOMAML if method == "FOMAML" else MAML
    return kind(net(), objective, inner_loop)


def test(trained: MetaLearner) -> dict[int, float]:
    """Mean squared error over 600 tasks after 1, 5 and 10 inner steps, on 100 query points each."""
    torch.manual_seed(12345)
    episode = Sines(600, 1, queries=100).draw()
    steps = InnerLoop(lr=trained.inner_loop.lr, steps=max(GOAL))
    path = list(trained.trajectory(trained.params, episode.support, steps))
    with torch.no_grad():
        losses = [trained.objective.loss(trained.outputs(p, episode.query.x), episode.query) for p in path]
    return {k: float(losses[k].mean()) for k in GOAL}


def main() -> None:
    """Train every method, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=15_000, help="meta-steps")
    parser.add_argument("--methods", nargs="+", default=["MAML", "FOMAML", "MetaSGD", "Reptile"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    quieten()
    torch.set_num_threads(1)
    rows = []
    for method in options.methods:
        seed_everything(options.seed, verbose=False)
        trained = learner(method)
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            callbacks=[TQDMProgressBar(refresh_rate=500)],
        )
        with measured() as spent:
            trainer.fit(trained, Sines(25, options.steps), Sines(25, 1))
        errors = test(trained)
        found = {f"mse_{k}": round(e, 4) if e < 100 else "diverges" for k, e in errors.items()}
        rows.append(
            {"method": method, "trained_for": trained.inner_loop.steps, **found, "cpu_s": round(spent.cpu)}
        )
        print_table(rows[-1:])
    goal = {"method": "goal for MAML", "trained_for": 1, **{f"mse_{k}": e for k, e in GOAL.items()}, "cpu_s": ""}
    print_table([*rows, goal])
    write("sine", rows, steps=options.steps, seed=options.seed)


if __name__ == "__main__":
    main()
