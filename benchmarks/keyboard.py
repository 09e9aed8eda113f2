"""The keyboard: the next character of unseen speakers of Shakespeare; FedAvg + fine-tune, MAML, local only.

    python -m benchmarks.keyboard --root ../shared/data --seeds 0 1

Every seed draws its own unseen speakers, networks and rounds. FedAvg trains the network of configs/keyboard.yaml
for 20 rounds; four more are FedAvg's own or MAML's. Then unseen speakers adapt on their first 1,536 characters, at
the rate and the number of steps that trials on training speakers chose (0.1, 10), and their later text is judged.
*Local only* is a network of the speaker's own, trained on the same 1,536 characters by Adam. Seeds and methods may
be measured one by one: benchmarks/results/keyboard.json is filled together. Prints the table.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
from itertools import product
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch
from lightning.pytorch import seed_everything

from benchmarks.report import RESULTS, print_table, quiet_trainer, write
from fml_lightning import MAML, FedAvg, Federation, InnerLoop, Learner, NextToken, NextTokenGRU
from fml_lightning.commands.quiet import quieten
from fml_lightning.datamodules import Episodes, Fleet, Speeches
from fml_lightning.datamodules.text import AS_WRITTEN
from fml_lightning.federation import Cohort
from fml_lightning.types import Episode, Examples

ROOT = Path(__file__).parent.parent
METHODS = ("FedAvg + fine-tune", "MAML", "local only")
ADAPTATION = InnerLoop(lr=0.1, steps=10)
JUDGED = 2048
"""Later characters of a speaker that are judged at most: the first ones."""
LOCAL_STEPS, LOCAL_BATCH = 400, 128
"""How a network of one's own is trained; more steps overfit 1,536 characters."""


def episodes(training_shots: int, queries: int) -> Episodes:
    """Those of the config, but for what training draws."""
    return Episodes(
        **{**vars(AS_WRITTEN), "shots": 1536, "training_shots": training_shots, "queries": queries},
    )


def fleet(root: str, seed: int, drawn: Episodes) -> Fleet:
    """The speakers, some of them unseen."""
    return Speeches(root, minimum=3800, seed=seed, episodes=drawn)


def adam(params: Any) -> torch.optim.Optimizer:
    """The sites' optimizer."""
    return torch.optim.Adam(params, lr=3e-3)


def train(learner: Learner, data: Fleet, rounds: int, local_steps: int) -> None:
    """Rounds of a federation."""
    federation = Federation(learner, local_steps=local_steps, cohort=Cohort(count=4))
    quiet_trainer(rounds).fit(federation, datamodule=data)


def begun(root: str, seed: int, kept: Path) -> Learner:
    """FedAvg after 20 rounds, kept in a folder for the next method."""
    seed_everything(seed, verbose=False)
    learner = FedAvg(NextTokenGRU(), NextToken(), adaptation=ADAPTATION, optimizer=adam)
    path = kept / f"{seed}.pt"
    if path.exists():
        learner.load_state_dict(torch.load(path, weights_only=True))
    else:
        train(learner, fleet(root, seed, episodes(training_shots=1, queries=127)), rounds=20, local_steps=20)
        kept.mkdir(parents=True, exist_ok=True)
        torch.save(learner.state_dict(), path)
    return learner


def trained(method: str, root: str, seed: int, kept: Path) -> Learner:
    """The learner that unseen speakers adapt."""
    if method == "local only":
        seed_everything(seed, verbose=False)
        return FedAvg(NextTokenGRU(), NextToken())
    learner = begun(root, seed, kept)
    seed_everything(seed + 1000, verbose=False)
    if method == "FedAvg + fine-tune":
        train(learner, fleet(root, seed, episodes(training_shots=1, queries=127)), rounds=4, local_steps=20)
        return learner
    inner_loop = InnerLoop(lr=0.1, steps=3)
    learner = MAML(learner.net, NextToken(), inner_loop, ADAPTATION, optimizer=adam)
    train(learner, fleet(root, seed, episodes(training_shots=256, queries=128)), rounds=4, local_steps=4)
    return learner


def own_network(learner: Learner, support: Examples) -> Learner:
    """A network trained on one speaker's support alone."""
    own = copy.deepcopy(learner)
    optimizer = adam(own.net.parameters())
    for _ in range(LOCAL_STEPS):
        rows = torch.randint(support.x.shape[1], (LOCAL_BATCH,))
        optimizer.zero_grad()
        some = Examples(support.x[:, rows], support.y[:, rows])
        torch.autograd.backward(own.objective.loss(own.net(some.x[0])[None], some).sum())
        optimizer.step()
    return own


def measure(method: str, root: str, seed: int, speakers: int, kept: Path) -> dict[str, Any]:
    """The metrics of each of some unseen speakers."""
    learner = trained(method, root, seed, kept)
    data = fleet(root, seed, episodes(1, 127))
    data.setup("test")
    found: dict[str, list[float]] = {}
    for name in sorted(data.unseen)[:: max(1, len(data.unseen) // speakers)][:speakers]:
        episode = data.unseen[name].personal_episode(name, seed)
        query = Examples(episode.query.x[:, :JUDGED], episode.query.y[:, :JUDGED])
        episode = Episode(episode.support, query, episode.machines)
        if method == "local only":
            metrics = learner.evaluate(episode)
            own = own_network(learner, episode.support)
            with torch.no_grad():
                after = own.objective.metrics(own.net(query.x[0])[None], query)
            metrics |= {f"{key}_after": value for key, value in after.items()}
        else:
            metrics = learner.evaluate(episode)
        for key, value in metrics.items():
            found.setdefault(key, []).append(float(value))
    return {"method": method, "seed": seed, **found}


def row(method: str, runs: list[dict[str, Any]]) -> dict[str, str]:
    """One line of the table: means over seeds of the mean and of the worst speaker."""

    def percent(values: list[float]) -> str:
        return f"{100 * fmean(values):.1f} ± {100 * pstdev(values):.1f}"

    return {
        "method": method,
        "seeds": str(len(runs)),
        "accuracy before": percent([fmean(run["accuracy_before"]) for run in runs]),
        "after": percent([fmean(run["accuracy_after"]) for run in runs]),
        "top 3 after": percent([fmean(run["top_3_accuracy_after"]) for run in runs]),
        "perplexity after": f"{fmean(fmean(run['perplexity_after']) for run in runs):.2f}",
        "worst speaker before": percent([min(run["accuracy_before"]) for run in runs]),
        "worst after": percent([min(run["accuracy_after"]) for run in runs]),
    }


def main() -> None:
    """Measure, write the JSON, print the table and who won."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--root", default=os.environ.get("FML_DATA", str(ROOT.parent / "shared" / "data")))
    arguments.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    arguments.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    arguments.add_argument("--speakers", type=int, default=12, help="unseen speakers that are measured")
    arguments.add_argument("--kept", default="runs/keyboard", help="folder of what the first 20 rounds trained")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    quieten()
    path = RESULTS / "keyboard.json"
    for seed, method in product(given.seeds, given.methods):
        run = measure(method, given.root, seed, given.speakers, Path(given.kept))
        known = json.loads(path.read_text())["rows"] if path.exists() else []
        known = [each for each in known if (each["method"], each["seed"]) != (method, seed)]
        write("keyboard", [*known, run], judged=JUDGED, local_steps=LOCAL_STEPS, adaptation=vars(ADAPTATION))
    results = json.loads(path.read_text())["rows"]
    by_method = {name: [run for run in results if run["method"] == name] for name in METHODS}
    by_method = {name: runs for name, runs in by_method.items() if runs}
    print_table([row(name, runs) for name, runs in by_method.items()])
    best = max(by_method, key=lambda name: fmean(fmean(run["accuracy_after"]) for run in by_method[name]))
    print(f"won: {best}")


if __name__ == "__main__":
    main()
