"""Remaining life of C-MAPSS's FD004 from 5 engines that ran to failure: method, mean over seeds.

    python -m benchmarks.cmapss --root ../shared/data

FD001, FD002 and FD003 train; all methods train the network of configs/cmapss.yaml. The fine-tuning rate and number
of steps of each are chosen on a *fold*, in which FD003 plays the unseen fleet; FD004 is then measured once.
`hindsight` is the best cell on FD004. `ridge` is fitted to the 5 engines alone. RMSE in cycles, capped at 125 and
not capped, of the last window of each test engine. Prints the table; writes benchmarks/results/cmapss.json.
"""

from __future__ import annotations

import argparse
import os
from itertools import product
from pathlib import Path
from statistics import fmean, pstdev

import numpy as np
import torch
from lightning.pytorch import Trainer, seed_everything

from benchmarks.report import print_table, write
from fml_lightning import ANIL, MAML, MLP, Episode, FedAvg, Federation, InnerLoop, Learner, RemainingUsefulLife
from fml_lightning.commands.learning import quieten
from fml_lightning.datamodules import CMAPSS, Episodes

ROOT = Path(__file__).parent.parent
METHODS = ("FedAvg", "MAML", "ANIL")
RATES = (0.003, 0.01, 0.03)
STEPS = (0, 1, 3, 5, 10, 20)
CAP = 125.0

Scores = dict[str, tuple[float, float, float]]
"""'rate/steps', or `ridge` → RMSE capped and not capped, and the score."""


def measure(method: str, seed: int, fold: bool, root: str, rounds: int) -> Scores:
    """Train, then adapt to the unseen fleet with every rate and number of steps."""
    seed_everything(seed, verbose=False)
    train, unseen = (("FD001", "FD002"), "FD003") if fold else (("FD001", "FD002", "FD003"), "FD004")
    episodes = Episodes(
        shots=5,
        queries=2,
        tasks=2,
        per="recording",
        of="as they come",
        permute_labels=False,
        centre=False,
        repeats=10,
    )
    fleet = CMAPSS(root, train=train, unseen=(unseen,), age=True, hop=3, episodes=episodes)
    federation = Federation(_learner(method), local_steps=5)
    Trainer(
        max_steps=rounds,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    ).fit(federation, datamodule=fleet)
    federation.eval()  # no dropout while adapting and judging
    torch.manual_seed(seed)
    judged = list(fleet.unseen[unseen].test_dataloader())
    scores: Scores = {"ridge": _mean([_ridge(federation.learner, episode) for episode in judged])}
    for rate in RATES:
        found: dict[int, list[list[float]]] = {steps: [] for steps in STEPS}
        for episode in judged:
            loop = InnerLoop(lr=rate, steps=max(STEPS), parameters=federation.learner.adaptation.parameters)
            path = federation.learner.trajectory(federation.learner.params, episode.support, loop)
            for step, adapted in enumerate(path):
                if step in found:
                    with torch.no_grad():
                        outputs = federation.learner.outputs(adapted, episode.query.x)
                    found[step].append(_scores(federation.learner, outputs, episode))
        scores |= {f"{rate}/{step}": _mean(each) for step, each in found.items()}
    return scores


def _learner(method: str) -> Learner:
    net = MLP(30, 1, hidden=(64,), norm_input=False, dropout=0.2)
    objective, inner = RemainingUsefulLife(CAP), InnerLoop(lr=0.03, steps=3)
    if method == "FedAvg":
        return FedAvg(net, objective, optimizer=_adam)
    return (MAML if method == "MAML" else ANIL)(net, objective, inner, optimizer=_adam)


def _adam(params: object) -> torch.optim.Optimizer:
    return torch.optim.Adam(params, lr=0.005)  # type: ignore[arg-type]


def _ridge(learner: Learner, episode: Episode) -> list[float]:
    """The ridge on each task's own support windows, with a penalty of 1 % of their number."""
    outputs = []
    for task in range(episode.tasks):
        support, query = (side.part(slice(task, task + 1)) for side in (episode.support, episode.query))
        mask = torch.ones(support.x.shape[1]).bool() if support.mask is None else support.mask[0]
        x = np.c_[support.x[0, mask].numpy(), np.ones(int(mask.sum()))]
        y = support.y[0, mask].numpy().clip(max=CAP) / CAP
        weights = np.linalg.solve(x.T @ x + 0.01 * len(x) * np.eye(x.shape[1]), x.T @ y)
        outputs.append(np.c_[query.x[0].numpy(), np.ones(query.x.shape[1])] @ weights)
    return _scores(learner, torch.tensor(np.stack(outputs), dtype=torch.float32), episode)


def _scores(learner: Learner, outputs: torch.Tensor, episode: Episode) -> list[float]:
    metrics = learner.objective.metrics(outputs, episode.query)
    return [float(metrics[name].mean()) for name in ("rmse", "rmse_uncapped", "score")]


def _mean(rows: list[list[float]]) -> tuple[float, float, float]:
    capped, uncapped, score = (fmean(column) for column in zip(*rows, strict=True))
    return capped, uncapped, score


def main() -> None:
    """Measure every cell, print and write the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--root", default=os.environ.get("FML_DATA", str(ROOT.parent / "shared" / "data")))
    arguments.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--rounds", type=int, default=100)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    quieten()
    rows = []
    cells = [f"{rate}/{steps}" for steps, rate in product(STEPS[1:], RATES)]
    for method in given.methods:
        fold = measure(method, 100, True, given.root, given.rounds)
        runs = [measure(method, seed, False, given.root, given.rounds) for seed in range(given.seeds)]
        chosen = {method: min(cells, key=lambda cell: fold[cell][0])}
        chosen[f"{method}, hindsight"] = min(cells, key=lambda cell: fmean(run[cell][0] for run in runs))
        if method == "FedAvg":
            chosen = {"zero-shot": f"{RATES[0]}/0", "ridge on support": "ridge", **chosen}
        for name, cell in chosen.items():
            values = np.array([run[cell] for run in runs])
            rows.append(
                {
                    "method": name,
                    "RMSE": f"{values[:, 0].mean():.2f} ± {pstdev(values[:, 0]):.2f}",
                    "RMSE, not capped": f"{values[:, 1].mean():.2f}",
                    "score": f"{values[:, 2].mean():.0f}",
                    "rate/steps": cell,
                }
            )
        print_table(rows)
    print(write("cmapss", rows, seeds=given.seeds, rounds=given.rounds))


if __name__ == "__main__":
    main()
