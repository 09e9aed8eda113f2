"""What each method reaches on the configs of the small data sets: config × method, mean over seeds.

    python -m benchmarks.data_sets --root ../shared/data --configs heart mfpt uci_fan skab

Every method trains the config's network on the config's data for its rounds, and is judged on the unseen machines
by the same support and query sets. *As shipped* is the config's own learner. FedAvg, and the network without
training, are fine-tuned by each cell of a grid of rates and steps, and shown at the best cell of the unseen
machines: so these two are flattered. Ridge, nearest centroid and PCA see the support set alone, and no network.
Prints the table; writes benchmarks/results/data_sets.json, where the rows of other configs stay.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch
from jsonargparse import get_loader
from lightning.pytorch import seed_everything
from lightning.pytorch.cli import LightningArgumentParser
from torch import Tensor

from benchmarks.report import RESULTS, measured, print_table, quiet_trainer, write
from fml_lightning import Federation, InnerLoop, Learner, Objective, Prototypical, Reconstruction, UserError
from fml_lightning.commands.parsing.learning_parser import import_public_names
from fml_lightning.commands.quiet import quieten
from fml_lightning.datamodules import Fleet
from fml_lightning.types import Episode, Examples

ROOT = Path(__file__).parent.parent
CONFIGS = ("heart", "mfpt", "uci_fan", "skab")
RATES, STEPS = (0.03, 0.1, 0.3, 1.0), (3, 50)
"""The grid of fine-tuning."""
EMBEDDING = 32
"""Numbers that a prototypical network sees of a window."""
COMPONENTS = 2
"""Of the PCA."""
METRICS = ("balanced_accuracy", "accuracy", "f1", "auroc")
"""Shown where the objective has them."""

Judge = Callable[[Episode], Mapping[str, Tensor]]
"""The metrics of an episode's tasks, name → (T,)."""
Found = dict[str, dict[str, list[float]]]
"""Metric → machine → its tasks."""


def built(config: Mapping[str, Any], root: str, learner: Mapping[str, Any]) -> tuple[Fleet, Federation]:
    """The fleet and the federation of a config, with a learner."""
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(Federation, "model")
    parser.add_lightning_class_args(Fleet, "data", subclass_mode=True)
    data = {**config["data"], "init_args": {**config["data"]["init_args"], "root": root}}
    model = {**config["model"], "learner": learner}
    if learner["class_path"].endswith("FedAvg"):
        episodes = {**data["init_args"]["episodes"], "permute_labels": False}
        data["init_args"]["episodes"] = episodes
    made = parser.instantiate(parser.parse_object({"model": model, "data": data}))
    return made.data, made.model


def trained(config: Mapping[str, Any], root: str, seed: int, learner: Mapping[str, Any], rounds: int) -> Any:
    """The fleet, and the learner after some rounds."""
    seed_everything(seed, verbose=False)
    fleet, federation = built(config, root, learner)
    quiet_trainer(rounds).fit(federation, datamodule=fleet)
    return fleet, federation.learner


def judged(fleet: Fleet, seed: int, judge: Judge) -> Found:
    """What a judge says of every task of the unseen machines; the tasks follow from the seed."""
    seed_everything(seed, verbose=False)
    fleet.setup("test")
    found: Found = {}
    for site in fleet.unseen.values():
        for episode in site.test_dataloader():
            for name, values in judge(episode).items():
                for machine, value in zip(episode.machines, values.tolist(), strict=True):
                    found.setdefault(name, {}).setdefault(machine, []).append(value)
    return found


def of_support(predict: Callable[[Tensor, Tensor, Tensor], Tensor], objective: Objective) -> Judge:
    """The judge of a classifier: (support x (S, F), its labels (S,), query x (N, F)) → scores (N, C)."""

    def judge(episode: Episode) -> Mapping[str, Tensor]:
        support, query = episode.support, episode.query
        outputs = [
            predict(x.flatten(1), y, q.flatten(1)) for x, y, q in zip(support.x, support.y, query.x, strict=True)
        ]
        return {f"{name}_after": value for name, value in objective.metrics(torch.stack(outputs), query).items()}

    return judge


def ridge(x: Tensor, y: Tensor, query: Tensor) -> Tensor:
    """Least squares on ±1 of each class, with a penalty of a tenth of the features' mean square per window."""
    middle = x.mean(0)
    gram = (x - middle) @ (x - middle).T
    penalty = 0.1 * gram.diagonal().mean() * torch.eye(len(x))
    targets = 2.0 * torch.nn.functional.one_hot(y) - 1
    weights = torch.linalg.solve(gram + penalty, targets - targets.mean(0))
    scores: Tensor = (query - middle) @ (x - middle).T @ weights
    return scores


def centroids(x: Tensor, y: Tensor, query: Tensor) -> Tensor:
    """Minus the distance to the mean of each class."""
    means = torch.stack([x[y == label].mean(0) for label in range(int(y.max()) + 1)])
    return -torch.cdist(query, means)


def pca(objective: Reconstruction) -> Judge:
    """The judge by the Q statistic: what components of the support, in its deviations, do not explain."""
    raw = Reconstruction(objective.quantile, objective.margin, objective.added.added)

    def judge(episode: Episode) -> Mapping[str, Tensor]:
        middle = episode.support.x.mean(1, keepdim=True)
        deviation = episode.support.x.std(1, keepdim=True)
        deviation = torch.where(deviation > 0, deviation, 1.0)
        support, query = (
            Examples((side.x - middle) / deviation, side.y) for side in (episode.support, episode.query)
        )
        components = torch.linalg.svd(support.x, full_matrices=False).Vh[:, :COMPONENTS]  # (T, k, F)
        outputs = [side.x @ components.mT @ components for side in (support, query)]
        threshold = raw.calibrate(outputs[0], support)
        return {f"{name}_after": value for name, value in raw.metrics(outputs[1], query, threshold).items()}

    return judge


def cells(learner: Learner) -> Iterator[tuple[str, Judge]]:
    """The learner with each cell of the grid of fine-tuning."""
    for rate, steps in product(RATES, STEPS):
        yield f"{rate}/{steps}", partial(fine_tuned, learner, InnerLoop(lr=rate, steps=steps))


def converged(fleet: Fleet, seed: int, learner: Learner) -> Iterator[tuple[str, Found]]:
    """What is found with each cell of the grid, but for those whose steps are too large for some machine."""
    for cell, judge in cells(learner):
        try:
            yield cell, judged(fleet, seed, judge)
        except UserError as error:
            if "diverged" not in str(error):
                raise


def fine_tuned(learner: Learner, adaptation: InnerLoop, episode: Episode) -> Mapping[str, Tensor]:
    """The metrics of a learner that adapts in this way."""
    learner.adaptation = adaptation
    return learner.evaluate(episode)


def measure(config: Mapping[str, Any], root: str, seed: int) -> dict[str, dict[str, Found]]:
    """Method → cell of fine-tuning, or nothing → what is found on the unseen machines."""
    shipped = config["model"]["learner"]
    init = {key: shipped["init_args"][key] for key in ("net", "objective") if key in shipped["init_args"]}
    fedavg = {"class_path": "fml_lightning.FedAvg", "init_args": init}
    rounds = config["trainer"]["max_steps"]
    fleet, learner = trained(config, root, seed, shipped, rounds)
    found = {"as shipped": {"": judged(fleet, seed, learner.evaluate)}}
    for name, many in (("FedAvg", rounds), ("untrained", 0)):
        fleet, learner = trained(config, root, seed, fedavg, many)
        found[name] = dict(converged(fleet, seed, learner))
    objective = learner.objective
    if isinstance(objective, Reconstruction):
        found["PCA of the support"] = {"": judged(fleet, seed, pca(objective))}
        found["always an alarm"] = {"": judged(fleet, seed, lambda episode: always(objective, episode))}
        return found
    net = {**init["net"], "init_args": {**init["net"]["init_args"], "out_features": EMBEDDING}}
    embedding = {**init, "net": net, "ways": len(fleet.classes)}
    prototypical = {"class_path": "fml_lightning.Prototypical", "init_args": embedding}
    data, learner = trained(config, root, seed, prototypical, rounds)
    assert isinstance(learner, Prototypical)
    found["Prototypical"] = {"": judged(data, seed, learner.evaluate)}
    found["ridge on support"] = {"": judged(fleet, seed, of_support(ridge, objective))}
    found["nearest centroid of support"] = {"": judged(fleet, seed, of_support(centroids, objective))}
    return found


def always(objective: Reconstruction, episode: Episode) -> Mapping[str, Tensor]:
    """What is said of a judge to whom every window is an anomaly."""
    query = episode.query
    far = Examples(torch.ones_like(query.x), query.y)
    calibration = torch.full((episode.tasks,), 1e-6)
    plain = Reconstruction(metrics=objective.added.added)
    metrics = plain.metrics(torch.zeros_like(far.x), far, calibration)
    return {f"{name}_after": value for name, value in metrics.items()}


def rows(name: str, seeds: list[dict[str, dict[str, Found]]]) -> Iterator[dict[str, str]]:
    """A config's lines of the table: each method at its best cell, by the first of `METRICS`."""
    for method, first in seeds[0].items():
        by_cell = {
            cell: [run[method][cell] for run in seeds]
            for cell in first
            if all(cell in run[method] for run in seeds)
        }
        best = max(by_cell, key=lambda cell: fmean(_mean(run, f"{METRICS[0]}_after") for run in by_cell[cell]))
        row = {"config": name, "method": method, "rate/steps": best}
        for metric, moment in product(METRICS, ("before", "after")):
            key = f"{metric}_{moment}"
            if all(key in run for run in by_cell[best]):
                means = [100 * _mean(run, key) for run in by_cell[best]]
                row[f"{metric} {moment}"] = f"{fmean(means):.1f} ± {pstdev(means):.1f}"
        worst = [min(map(fmean, run[f"{METRICS[0]}_after"].values())) for run in by_cell[best]]
        yield {**row, "worst machine": f"{100 * fmean(worst):.1f}"}


def _mean(found: Found, key: str) -> float:
    """The mean over machines."""
    return fmean(map(fmean, found[key].values()))


def main() -> None:
    """Measure every config, print and write the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--root", default=os.environ.get("FML_DATA", str(ROOT.parent / "shared" / "data")))
    arguments.add_argument("--configs", nargs="+", default=list(CONFIGS), choices=CONFIGS)
    arguments.add_argument("--seeds", type=int, default=3)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    quieten()
    import_public_names()
    path = RESULTS / "data_sets.json"
    for name in given.configs:
        config = get_loader("yaml")((ROOT / "configs" / f"{name}.yaml").read_text())
        with measured() as spent:
            found = list(rows(name, [measure(config, given.root, seed) for seed in range(given.seeds)]))
        print_table(found)
        print(f"{name}: {spent.cpu:.0f} s of CPU", flush=True)
        known = json.loads(path.read_text())["rows"] if path.exists() else []
        write("data_sets", [*(row for row in known if row["config"] != name), *found], seeds=given.seeds)


if __name__ == "__main__":
    main()
