"""Remaining life of C-MAPSS's FD004 from 5 engines that ran to failure: method, mean over seeds.

    python -m benchmarks.cmapss --root ../shared/data

FD001, FD002 and FD003 train; all methods train the network of configs/cmapss.yaml, equally long on equally many
engines. The fine-tuning rate and number of steps of each (and the ridge's penalty) are chosen on *folds* of the
training fleets, by the mean over FD001 and FD003 in turn as the unseen one: all that happens to FD001 happens in
fleets that train, and FD003 fails in a way that no other knows. (FD002 is no fold: without it no fleet flies at
its altitudes.) `hindsight` is the best cell on FD004; `ridge` is fitted to the 5 engines alone.

RMSE in cycles, capped at 125 and not capped, and the score, of the last window of each test engine. Prints the
table; writes benchmarks/results/cmapss.json, with the RMSE of every cell. `--methods` measures some anew and keeps
the others' rows.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import numpy as np
import torch
from lightning.pytorch import seed_everything

from benchmarks.report import RESULTS, print_table, quiet_trainer, write
from fml_lightning import ANIL, MAML, MLP, Episode, FedAvg, Federation, InnerLoop, Learner, RemainingUsefulLife
from fml_lightning.commands.quiet import quieten
from fml_lightning.datamodules import CMAPSS, Episodes

ROOT = Path(__file__).parent.parent
METHODS = ("FedAvg", "MAML", "ANIL", "ridge")
TRAIN = ("FD001", "FD002", "FD003")
UNSEEN = "FD004"
FOLDS = ("FD001", "FD003")
SERVER_RATE = 0.01
"""Of the server's Adam, which falls along a cosine to 0 over the rounds."""
RATES = (0.003, 0.01, 0.03, 0.1)
STEPS = (0, 1, 3, 5, 10, 20)
PENALTIES = (0.001, 0.01, 0.1, 1.0)
"""Of the ridge, as a share of the number of windows."""
CAP = 125.0
OBJECTIVE = RemainingUsefulLife(CAP)
AGE = 2
"""Features of a window that tell the engine's age: the last ones."""

Scores = dict[str, tuple[float, float, float]]
"""'rate/steps', or the ridge's penalty and inputs → RMSE capped and not capped, and the score."""


def measure(method: str, unseen: str, seed: int, root: str, rounds: int) -> Scores:
    """Train, then adapt to the unseen fleet with every rate and number of steps."""
    seed_everything(seed, verbose=False)
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
    train = tuple(name for name in TRAIN if name != unseen)
    fleet = CMAPSS(root, train=train, unseen=(unseen,), history=True, age=True, hop=5, episodes=episodes)
    if method == "ridge":
        return _ridges(_judged(fleet, unseen, seed))
    federation = Federation(
        _learner(method),
        local_steps=1,
        server_optimizer=partial(torch.optim.Adam, lr=SERVER_RATE),
        scheduler=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=rounds),
    )
    quiet_trainer(rounds).fit(federation, datamodule=fleet)
    federation.eval()  # no dropout while adapting and judging
    judged = _judged(fleet, unseen, seed)
    scores: Scores = {}
    for rate in RATES:
        found: dict[int, list[list[float]]] = {steps: [] for steps in STEPS}
        for episode in judged:
            loop = InnerLoop(lr=rate, steps=max(STEPS), parameters=federation.learner.adaptation.parameters)
            path = federation.learner.trajectory(federation.learner.params, episode.support, loop)
            for step, adapted in enumerate(path):
                if step in found:
                    with torch.no_grad():
                        outputs = federation.learner.outputs(adapted, episode.query.x)
                    found[step].append(_scores(outputs, episode))
        scores |= {f"{rate}/{step}": _mean(each) for step, each in found.items()}
    return scores


def _judged(fleet: CMAPSS, unseen: str, seed: int) -> list[Episode]:
    """The support sets that a seed draws, alike for every method, and the test engines."""
    fleet.setup("test")
    torch.manual_seed(seed)
    return list(fleet.unseen[unseen].test_dataloader())


def _learner(method: str) -> Learner:
    net = MLP(58, 1, hidden=(64,), norm_input=False)
    inner = InnerLoop(lr=0.03, steps=3)
    if method == "FedAvg":
        return FedAvg(net, OBJECTIVE, optimizer=_as_it_is)
    return (MAML if method == "MAML" else ANIL)(net, OBJECTIVE, inner, optimizer=_as_it_is)


def _as_it_is(params: object) -> torch.optim.Optimizer:
    """One step of size 1 sends a site's gradient as it is: the server's Adam descends as on pooled data."""
    return torch.optim.SGD(params, lr=1.0)  # type: ignore[arg-type]


def _ridges(judged: Sequence[Episode]) -> Scores:
    """The ridge with every penalty, with and without age among its inputs."""
    return {
        f"{penalty}, {'age' if age else 'no age'}": _mean([_ridge(episode, penalty, age) for episode in judged])
        for penalty, age in product(PENALTIES, (True, False))
    }


def _ridge(episode: Episode, penalty: float, age: bool) -> list[float]:
    """The ridge on each task's own support windows, about their mean."""
    outputs = []
    for task in range(episode.tasks):
        support, query = (side.part(slice(task, task + 1)) for side in (episode.support, episode.query))
        mask = torch.ones(support.x.shape[1]).bool() if support.mask is None else support.mask[0]
        inputs = slice(None, None if age else -AGE)
        x, judged = support.x[0, mask, inputs].numpy(), query.x[0, :, inputs].numpy()
        y = support.y[0, mask].numpy().clip(max=CAP) / CAP
        centred = x - x.mean(0)
        weights = np.linalg.solve(centred.T @ centred + penalty * len(x) * np.eye(x.shape[1]), centred.T @ y)
        outputs.append((judged - x.mean(0)) @ weights + y.mean())
    return _scores(torch.tensor(np.stack(outputs), dtype=torch.float32), episode)


def _scores(outputs: torch.Tensor, episode: Episode) -> list[float]:
    metrics = OBJECTIVE.metrics(outputs, episode.query)
    return [float(metrics[name].mean()) for name in ("rmse", "rmse_uncapped", "score")]


def _mean(rows: list[list[float]]) -> tuple[float, float, float]:
    capped, uncapped, score = (fmean(column) for column in zip(*rows, strict=True))
    return capped, uncapped, score


def _kept(rounds: int, methods: Sequence[str]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows and cells of other methods than these, of an earlier run with as many rounds."""
    path = RESULTS / "cmapss.json"
    before = json.loads(path.read_text()) if path.is_file() else {"settings": {}}
    if before["settings"].get("rounds") != rounds:
        return [], {}
    cells = {method: found for method, found in before["settings"]["cells"].items() if method not in methods}
    return [row for row in before["rows"] if row["trained"] in cells], cells


def main() -> None:
    """Measure every cell, print and write the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--root", default=os.environ.get("FML_DATA", str(ROOT.parent / "shared" / "data")))
    arguments.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--rounds", type=int, default=1000)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    quieten()
    rows, cells = _kept(given.rounds, given.methods)
    for method in given.methods:
        folds = [measure(method, name, 100, given.root, given.rounds) for name in FOLDS]
        fold = {cell: fmean(each[cell][0] for each in folds) for cell in folds[0]}
        runs = [measure(method, UNSEEN, seed, given.root, given.rounds) for seed in range(given.seeds)]
        cells[method] = {cell: round(fmean(run[cell][0] for run in runs), 2) for cell in fold}
        tried = [cell for cell in fold if not cell.endswith("/0")]
        chosen = {
            f"{method} + fine-tune" if method == "FedAvg" else method: min(tried, key=fold.__getitem__),
            f"{method}, hindsight": min(tried, key=cells[method].__getitem__),
        }
        if method != "ridge":
            chosen = {f"{method}, zero-shot": f"{RATES[0]}/0", **chosen}
        for name, cell in chosen.items():
            values = np.array([run[cell] for run in runs])
            rows.append(
                {
                    "method": name,
                    "trained": method,
                    "RMSE": f"{values[:, 0].mean():.2f}"
                    + (f" ± {pstdev(values[:, 0]):.2f}" if given.seeds > 1 else ""),
                    "RMSE, not capped": f"{values[:, 1].mean():.2f}",
                    "score": f"{values[:, 2].mean():.0f}",
                    "setting": cell,
                    "RMSE on the folds": f"{fold[cell]:.2f}",
                    "seeds": given.seeds,
                }
            )
        print_table(rows)
    print(write("cmapss", rows, rounds=given.rounds, cells=cells))


if __name__ == "__main__":
    main()
