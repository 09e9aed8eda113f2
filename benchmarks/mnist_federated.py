"""Personalized federated learning on MNIST, two digits per client.

    python -m benchmarks.mnist_federated --root ../shared/data/mnist_dir01

The split of pFedMe (Dinh et al. 2020, https://arxiv.org/abs/2006.08848): 20 clients of two digits each and of
very different size, three quarters of each for training; five more clients of the same kind are new, never trained
with. 800 rounds of 5 clients, 20 local steps, batches of 20, pixels standardized. The logistic model (784-10) for
all but FedRep, which needs a body and a head: 784-100-10.

Known clients take one more round's local steps on their own data (as in pFedMe's protocol, where personal
models are measured after local training), then adapt to their whole training set; new ones adapt to 20 images.
Both are measured on their own test set and averaged over images; `before` is the shared model as it is.
`new_3_steps` is after three steps at the best rate for three, `new_tuned` after the best number of steps, both
chosen on the known clients, with 20 images of support there too. Prints the table; writes
benchmarks/results/mnist_federated.json, which several calls with some of --methods fill together.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import nn

from benchmarks.mnist_clients import NEW, Client, Clients, split
from benchmarks.pfedme_reference import pfedme
from benchmarks.report import RESULTS, measured, print_table, write
from fml_lightning import (
    MAML,
    Cohort,
    Ditto,
    FedAvg,
    Federation,
    FedRep,
    InnerLoop,
    Learner,
    MetaSGD,
    PerFedAvg,
    PFedMe,
    SiteFailure,
    SiteMemory,
    Work,
)
from fml_lightning.commands.progress import RoundProgress
from fml_lightning.commands.quiet import quieten
from fml_lightning.params import clone

SHOTS, LOCAL_STEPS, BATCH = 10, 20, 20
STEPS = 3
GRID_LR, GRID_STEPS = (0.01, 0.03, 0.1, 0.3, 1.0), (1, 3, 10, 30, 100)
PUBLISHED = {"pFedMe": (94.54, "pFedMe paper, known clients"), "MAML": (93.0, "FedMeta paper, new clients")}
PUBLISHED |= {"Meta-SGD": (96.4, "FedMeta paper, new clients"), "FedAvg": (84.3, "FedMeta paper, new clients")}


def sgd(lr: float) -> Callable[..., torch.optim.Optimizer]:
    """SGD without its parameters."""
    return lambda params: torch.optim.SGD(params, lr=lr)


def logistic() -> nn.Module:
    """The logistic model."""
    return nn.Linear(784, 10)


def perceptron() -> nn.Module:
    """One hidden layer."""
    return nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))


@dataclass(frozen=True)
class Method:
    """A row of the table: how to train, how many images of support and query a local step has, server step β."""

    learner: Callable[[], Learner]
    support: int = BATCH // 2
    query: int = BATCH // 2
    balanced: bool = False
    server_lr: float = 1.0


INNER = InnerLoop(lr=0.03, steps=STEPS)
ONE = InnerLoop(lr=0.03, steps=1)
METHODS = {
    "FedAvg": Method(lambda: FedAvg(logistic(), adaptation=INNER, optimizer=sgd(0.005))),
    "Per-FedAvg (FO)": Method(
        lambda: PerFedAvg(logistic(), None, ONE, INNER, variant="first_order", optimizer=sgd(0.005)),
        BATCH,
        2 * BATCH,
    ),
    "Per-FedAvg (HF)": Method(
        lambda: PerFedAvg(logistic(), None, ONE, INNER, variant="hessian_free", optimizer=sgd(0.005)),
        BATCH,
        2 * BATCH,
    ),
    "pFedMe": Method(
        lambda: PFedMe(
            logistic(),
            None,
            InnerLoop(lr=0.03, steps=5, proximal=15.0),
            InnerLoop(lr=0.03, steps=100, proximal=15.0),
            optimizer=sgd(0.005),
        ),
        server_lr=1.0,
    ),
    "Ditto": Method(lambda: Ditto(logistic(), adaptation=INNER, proximal=0.1, optimizer=sgd(0.005))),
    "FedRep (784-100-10)": Method(
        lambda: FedRep(perceptron(), adaptation=INNER, head_steps=10, body_steps=10, optimizer=sgd(0.01))
    ),
    "FedAvg (784-100-10)": Method(lambda: FedAvg(perceptron(), adaptation=INNER, optimizer=sgd(0.01))),
    "MAML": Method(
        lambda: MAML(logistic(), None, InnerLoop(lr=0.3, steps=STEPS), optimizer=sgd(0.005)), BATCH, BATCH, True
    ),
    "Meta-SGD": Method(lambda: MetaSGD(logistic(), None, INNER, optimizer=sgd(0.005)), BATCH, BATCH, True),
}

REFERENCE = "pFedMe (authors' steps)"
"""Their algorithm without this package."""
ROWS = [*METHODS, REFERENCE]


def accuracies(
    learner: Learner, clients: Sequence[Client], loops: Sequence[InnerLoop], shots: int | None, draws: int = 5
) -> list[list[float]]:
    """Per client and inner loop: test accuracy after adapting, in %; the mean over some draws of support."""
    table = []
    for client in clients:
        rows = []
        for seed in range(draws if shots else 1):
            episode = client.judging(shots, seed)
            found = [learner.trajectory(learner.params, episode.support, loop) for loop in loops]
            ends = [list(path)[-1] for path in found]
            with torch.no_grad():
                outputs = [learner.outputs(end, episode.query.x) for end in ends]
                metrics = [learner.objective.metrics(output, episode.query) for output in outputs]
            rows.append([100 * float(m["accuracy"]) for m in metrics])
        table.append(np.mean(rows, 0).tolist())
    return table


def averaged(table: list[list[float]], clients: Sequence[Client]) -> list[float]:
    """The mean over all clients' test images, per inner loop."""
    means: list[float] = np.average(table, axis=0, weights=[len(c.test.y) for c in clients]).tolist()
    return means


def locally_trained(federation: Federation, site: str, client: Client, folder: str, seed: int) -> Learner:
    """The learner at a known site after one more round's local steps there."""
    memory, round_ = SiteMemory.below(folder), int(federation.rounds)
    work = Work("fit", round_, clone(federation.learner.shared), seed, LOCAL_STEPS)
    (update,) = federation.executor.run(federation.learner, work, {site: client}, memory)
    if isinstance(update, SiteFailure):
        raise RuntimeError(update.reason)
    own = copy.deepcopy(federation.learner)
    memory.restore(own, site, round_ + 1)
    with torch.no_grad():
        for name, p in own.shared.items():
            p.add_(update.delta[name])
    return own.eval()


def row_of(
    name: str, method: Method, known: dict[str, Client], new: list[Client], rounds: int, seed: int
) -> dict[str, Any]:
    """Train one method, choose its fine-tuning on the known clients, measure."""
    seed_everything(seed, verbose=False)
    learner = method.learner()
    federation = Federation(
        learner, local_steps=LOCAL_STEPS, cohort=Cohort(count=5), server_optimizer=sgd(method.server_lr)
    )
    with tempfile.TemporaryDirectory() as folder, measured() as spent:
        trainer = Trainer(
            accelerator="cpu",
            max_steps=rounds,
            max_epochs=-1,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=[RoundProgress()],
        )
        trainer.fit(federation, Clients(known))
        sites = [locally_trained(federation, site, client, folder, seed) for site, client in known.items()]
    proximal = learner.adaptation.proximal
    grid = [
        replace(learner.adaptation, lr=lr, steps=steps)
        for steps in GRID_STEPS
        for lr in GRID_LR
        if lr * proximal < 1
    ]
    if learner.rates is not None:
        grid = [replace(learner.adaptation, steps=steps) for steps in GRID_STEPS]
    clients = list(known.values())
    on_known = averaged(accuracies(learner, clients, grid, SHOTS, draws=1), clients)
    chosen = grid[int(np.argmax(on_known))]
    zero = replace(learner.adaptation, steps=0)
    before = averaged(accuracies(learner, clients, [zero], None), clients)
    personal = [accuracies(own, [c], [learner.adaptation], None)[0] for own, c in zip(sites, clients, strict=True)]
    three = [loop for loop in grid if loop.steps == STEPS]
    fixed = three[int(np.argmax([on_known[grid.index(loop)] for loop in three]))]
    at_new = accuracies(learner, new, [zero, fixed, chosen], SHOTS)
    means = averaged(at_new, new)
    tuning = f"{chosen.steps} steps" + ("" if learner.rates else f" of {chosen.lr:g}")
    return {
        "method": name,
        "known_before": round(before[0], 2),
        "known_personal": round(averaged(personal, clients)[0], 2),
        "known_worst": round(min(row[0] for row in personal), 2),
        "new_before": round(means[0], 2),
        "new_3_steps": round(means[1], 2),
        "new_tuned": round(means[2], 2),
        "new_worst": round(min(row[2] for row in at_new), 2),
        "tuned_to": tuning,
        "published": " ".join(str(part) for part in PUBLISHED.get(name, ())),
        "minutes": round(spent.wall / 60, 1),
    }


def main() -> None:
    """Train every method, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=ROWS, choices=ROWS)
    parser.add_argument("--rounds", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    quieten()
    torch.set_num_threads(1)
    parts = split(options.root, options.seed)
    path = RESULTS / "mnist_federated.json"
    for name in options.methods:
        if name == REFERENCE:
            before, personal = pfedme(parts[NEW:], options.rounds, options.seed)
            row = {"method": name, "known_before": round(before, 2), "known_personal": round(personal, 2)}
        else:
            method = METHODS[name]
            clients = [Client(*part, method.support, method.query, method.balanced) for part in parts]
            known = {f"client{i:02}": client for i, client in enumerate(clients[NEW:])}
            row = row_of(name, method, known, clients[:NEW], options.rounds, options.seed)
        rows = json.loads(path.read_text())["rows"] if path.is_file() else []
        rows = sorted([r for r in rows if r["method"] != name] + [row], key=lambda r: ROWS.index(r["method"]))
        print_table([row])
        write("mnist_federated", rows, seed=options.seed, rounds=options.rounds)
    print_table(rows)


if __name__ == "__main__":
    main()
