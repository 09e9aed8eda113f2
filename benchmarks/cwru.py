"""Accuracy on CWRU's unseen machines: protocol × method × shots, mean ± std over seeds.

    python -m benchmarks.cwru --root ../shared/data --jobs 2

Every method trains the network of the protocol's config with the same rounds, local steps and windows per step.
The fine-tuning rate and number of steps of each are chosen on a *fold* of the training sites, in which a part of
them plays the unseen one; the unseen sites are then measured once. `hindsight` is the best cell of the whole grid
on the unseen sites: what no honest choice can beat. Prints the table; writes benchmarks/results/cwru.json, which
several calls with some of --trainings and --methods fill together.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, NamedTuple

import torch
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Trainer, seed_everything
from tqdm import tqdm

from fml_lightning import Federation, InnerLoop
from fml_lightning.commands.quiet import quieten
from fml_lightning.datamodules import Fleet
from fml_lightning.executors.site_work import MEASUREMENT, seeded
from fml_lightning.seeds import derive_seed

ROOT = Path(__file__).parent.parent
RATES = (0.03, 0.1, 0.3, 1.0)
STEPS = (0, 1, 2, 3, 5, 10, 20, 50, 100)

SUPERVISED = {"model.learner": "fml_lightning.FedAvg", "data.episodes.permute_labels": "false"}
UNTRAINED = "untrained + fine-tune"
METHODS: dict[str, dict[str, str]] = {
    UNTRAINED: {},
    "FedAvg + fine-tune": {**SUPERVISED, "data.episodes.centre": "false"},
    "FedAvg + fine-tune, centred": SUPERVISED,
    "MAML": {"data.episodes.centre": "false"},
    "MAML, centred": {},
}
"""Overrides of the protocol's config; the last is the config as it ships, the first the same without training."""

FOLDS: dict[str, dict[str, str]] = {
    "cwru_unseen_machine": {"data.unseen.end": "drive", "data.unseen.diameters": "[14]"},
    "cwru_unseen_size": {"data.train.diameters": "[7]", "data.unseen.diameters": "[21]"},
    "cwru_unseen_load": {"data.train.loads": "[0,1,2]", "data.unseen.loads": "[2]"},
}
"""Per training, which part of the training sites plays the unseen one while rates and steps are chosen."""

PROTOCOLS = {
    "cwru_unseen_machine": ["cwru_unseen_machine", "cwru_unseen_machine_other_loads"],
    "cwru_unseen_size": ["cwru_unseen_size"],
    "cwru_unseen_load": ["cwru_unseen_load"],
}
"""Per training, the protocols that measure it: those two differ only in where support and query come from."""


class Cell(NamedTuple):
    """One training run."""

    training: str
    method: str
    shots: int
    seed: int
    fold: bool


Grid = dict[str, list[float]]
"""'rate/steps' → accuracy of each unseen site."""


def measure(cell: Cell, root: str) -> dict[str, Grid]:
    """Train one cell; then, per protocol, adapt to the unseen sites with every rate and number of steps."""
    torch.set_num_threads(1)
    quieten()
    config = _config(cell, cell.training, root)
    seed_everything(cell.seed, verbose=False)
    built = _parser().instantiate_classes(config)
    federation = built.model
    assert isinstance(federation, Federation)
    if cell.method != UNTRAINED:
        _train(federation, built.data, config.trainer)
    return {
        protocol: _grid(federation, _parser().instantiate_classes(_config(cell, protocol, root)).data, cell.seed)
        for protocol in PROTOCOLS[cell.training]
    }


def _train(federation: Federation, fleet: Fleet, trainer: dict[str, Any]) -> None:
    Trainer(
        **{**trainer, "check_val_every_n_epoch": None, "limit_val_batches": 0},
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(federation, datamodule=fleet)


def _grid(federation: Federation, fleet: Fleet, seed: int) -> Grid:
    fleet.setup("test")
    grid: Grid = {f"{rate}/{steps}": [] for rate, steps in product(RATES, STEPS)}
    for rate, site in product(RATES, fleet.unseen.values()):
        with seeded(derive_seed(seed, MEASUREMENT, site.name)):
            hits = _accuracy_by_steps(federation, rate, list(site.test_dataloader()))
        for steps, accuracy in hits.items():
            grid[f"{rate}/{steps}"].append(accuracy)
    return grid


def _accuracy_by_steps(federation: Federation, rate: float, episodes: list[Any]) -> dict[int, float]:
    learner, inner_loop = federation.learner, InnerLoop(lr=rate, steps=max(STEPS))
    found: dict[int, list[float]] = {steps: [] for steps in STEPS}
    for episode in episodes:
        for k, adapted in enumerate(learner.trajectory(learner.params, episode.support, inner_loop)):
            if k in found:
                with torch.no_grad():
                    outputs = learner.outputs(adapted, episode.query.x)
                found[k] += learner.objective.metrics(outputs, episode.query)["accuracy"].tolist()
    return {steps: fmean(values) for steps, values in found.items()}


def _parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--seed_everything", type=int)
    parser.add_argument("--trainer", type=dict)
    parser.add_class_arguments(Federation, "model")
    parser.add_subclass_arguments(Fleet, "data")
    return parser


def _config(cell: Cell, protocol: str, root: str) -> Namespace:
    overrides = {"data.root": root, "data.episodes.shots": str(cell.shots), **METHODS[cell.method]}
    if cell.fold:
        overrides |= FOLDS[cell.training]
    arguments = [f"--{key}={value}" for key, value in overrides.items()]
    config = _parser().parse_args([f"--config={ROOT / 'configs' / protocol}.yaml", *arguments])
    assert isinstance(config, Namespace)
    return config


def choose(folds: list[Grid], steps: tuple[int, ...]) -> str:
    """The 'rate/steps' with the best mean accuracy; of equals, the fewest steps, then the lowest rate."""
    keys = [f"{rate}/{k}" for k, rate in product(steps, RATES)]
    return max(keys, key=lambda key: fmean(fmean(grid[key]) for grid in folds))


def summarize(grids: list[Grid], folds: list[Grid]) -> dict[str, Any]:
    """Mean ± std over seeds at the chosen settings, and the worst site's mean."""
    chosen = {
        "before": f"{RATES[0]}/0",
        "3 steps": choose(folds, (3,)),
        "tuned": choose(folds, STEPS[1:]),
        "hindsight": choose(grids, STEPS[1:]),
    }
    return {
        name: {
            "seeds": len(grids),
            "setting": key,
            "mean": fmean(fmean(grid[key]) for grid in grids),
            "std": pstdev(fmean(grid[key]) for grid in grids),
            "worst_site": fmean(min(grid[key]) for grid in grids),
        }
        for name, key in chosen.items()
    }


def markdown(summary: dict[str, Any]) -> str:
    """The table of configs/README.md."""
    lines = [
        "| protocol | method | shots | after 3 steps | tuned steps | worst site | hindsight | rate/steps tuned |",
        "|---|---|---|---|---|---|---|---|",
    ]
    order = [f"{p}|{m}|{k}" for ps in PROTOCOLS.values() for p in ps for k in (1, 5) for m in METHODS]
    for key in order:
        if key not in summary:
            continue
        cell = summary[key]
        protocol, method, shots = key.split("|")
        if method == "FedAvg + fine-tune" and shots == "1":
            before = cell["before"]
            lines.append(
                f"| {protocol} | no adaptation | – | – | {_percent(before)} | {before['worst_site']:.1%} | – | – |"
            )
        lines.append(
            f"| {protocol} | {method} | {shots} | {_percent(cell['3 steps'])} | {_percent(cell['tuned'])}"
            f" | {cell['tuned']['worst_site']:.1%} | {_percent(cell['hindsight'])} | {cell['tuned']['setting']} |"
        )
    return "\n".join(lines)


def _percent(cell: dict[str, Any]) -> str:
    return f"{100 * cell['mean']:.2f} ± {100 * cell['std']:.2f}"


def main() -> None:
    """Run all cells, write the JSON and the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--root", default=os.environ.get("FML_DATA", str(ROOT.parent / "shared" / "data")))
    arguments.add_argument("--trainings", nargs="+", default=list(FOLDS), choices=list(FOLDS))
    arguments.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--jobs", type=int, default=2)
    given = arguments.parse_args()

    cells = [
        Cell(training, method, shots, seed, fold)
        for training, method, shots in product(given.trainings, given.methods, (1, 5))
        for seed, fold in [(100, True), (101, True), *((seed, False) for seed in range(given.seeds))]
    ]
    began = time.perf_counter()
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
        results = list(tqdm(pool.map(measure, cells, [given.root] * len(cells)), total=len(cells), unit="run"))
    summary = {}
    for training, method, shots in product(given.trainings, given.methods, (1, 5)):
        own = [(c, r) for c, r in zip(cells, results, strict=True) if c[:3] == (training, method, shots)]
        for protocol in PROTOCOLS[training]:
            summary[f"{protocol}|{method}|{shots}"] = summarize(
                [result[protocol] for cell, result in own if not cell.fold],
                [result[protocol] for cell, result in own if cell.fold],
            )
    path = ROOT / "benchmarks" / "results" / "cwru.json"
    path.parent.mkdir(exist_ok=True)
    known = json.loads(path.read_text())["summary"] if path.exists() else {}
    summary = {**known, **summary}
    path.write_text(json.dumps({"summary": summary}, indent=1) + "\n")
    print(markdown(summary))
    print(f"{(time.perf_counter() - began) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
