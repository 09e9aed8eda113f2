"""Accuracy on unseen patients whose labels have an order of their own: method × fold, mean over seeds.

    python -m benchmarks.patients --root ../shared/data

Three folds: in each, five persons train and three others are unseen. Every patient's wrist shows one window of
each exercise. All methods train the network of configs/patients.yaml; what differs is named, and each adapts by
the same 50 steps: ANIL and MAML at the rate of the config, their rivals at each of three, so that none loses by a
badly chosen one. Prints the table; writes benchmarks/results/patients.json.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from statistics import fmean, pstdev

import torch
from lightning.pytorch import seed_everything

from benchmarks.report import measured, print_table, quiet_trainer, write
from fml_lightning import ANIL, MAML, MLP, FedAvg, Federation, InnerLoop, Learner
from fml_lightning.commands.quiet import quieten
from fml_lightning.datamodules import Episodes, ShoulderWatch

ROOT = Path(__file__).parent.parent
FOLDS = (((1, 2, 3, 4, 5), (8, 9, 10)), ((4, 5, 6, 7, 8), (1, 2, 3)), ((7, 8, 9, 10, 1), (4, 5, 6)))
METHODS = ("ANIL", "MAML", "FedAvg + fine-tune", "local only")
"""`local only` is the untrained network, fine-tuned."""
RATES = (0.1, 0.3, 1.0)
"""Of the rivals' steps."""


def measure(method: str, rate: float, fold: int, seed: int, root: str, rounds: int) -> float:
    """Train on a fold's persons, and judge on the unseen ones after adaptation."""
    seed_everything(seed, verbose=False)
    train, unseen = FOLDS[fold]
    is_meta = method in ("ANIL", "MAML")
    episodes = Episodes(tasks=4, own_order=True, permute_labels=is_meta, centre=False, repeats=10)
    fleet = ShoulderWatch(root, train=train, unseen=unseen, episodes=episodes)
    federation = Federation(_learner(method, rate), local_steps=20)
    trainer = quiet_trainer(rounds if method != "local only" else 0)
    trainer.fit(federation, datamodule=fleet)
    trainer.test(federation, datamodule=fleet, verbose=False)
    return float(trainer.callback_metrics["test/accuracy_after"])


def _learner(method: str, rate: float) -> Learner:
    net = MLP(60, 7, hidden=(64,), norm_input=False)
    inner, adaptation = InnerLoop(lr=0.1, steps=3), InnerLoop(lr=rate, steps=50)
    if method in ("ANIL", "MAML"):
        kind = ANIL if method == "ANIL" else MAML
        return kind(net, inner_loop=inner, adaptation=adaptation, optimizer=_adam)
    return FedAvg(net, adaptation=adaptation, optimizer=_adam)


def _adam(params: object) -> torch.optim.Optimizer:
    return torch.optim.Adam(params, lr=0.003)  # type: ignore[arg-type]


def main() -> None:
    """Measure every cell, print and write the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--root", default=os.environ.get("FML_DATA", str(ROOT.parent / "shared" / "data")))
    arguments.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--rounds", type=int, default=6)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    quieten()
    rows = []
    cases = [(m, rate) for m in given.methods for rate in (RATES if m in METHODS[2:] else RATES[:1])]
    for method, rate in cases:
        with measured() as spent:
            cells = [
                [measure(method, rate, fold, seed, given.root, given.rounds) for fold in range(len(FOLDS))]
                for seed in range(given.seeds)
            ]
        means = [fmean(cell) for cell in cells]
        row = {
            "method": method,
            "rate": rate,
            "accuracy %": f"{100 * fmean(means):.1f} ± {100 * pstdev(means):.1f}",
        }
        folds = {f"fold {i}": f"{100 * fmean(column):.1f}" for i, column in enumerate(zip(*cells, strict=True))}
        rows.append({**row, **folds, "CPU s": round(spent.cpu)})
        print_table(rows[-1:])
    print_table(rows)
    print(write("patients", rows, seeds=given.seeds, rounds=given.rounds))


if __name__ == "__main__":
    main()
