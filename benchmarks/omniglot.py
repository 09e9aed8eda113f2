"""Omniglot few-shot classification, centrally, under a plain `lightning.Trainer`.

    python -m benchmarks.omniglot --root ../shared/data/omniglot                 # CPU-sized: minutes
    python -m benchmarks.omniglot --root ../shared/data/omniglot --full          # 60,000 meta-steps: for a GPU

MAML and its relatives on Conv4 (Vinyals et al. 2016), batch statistics (transductive, as Finn et al. 2017), one
inner step in training, three in the test. CPU-sized: 32 filters, few tasks and queries, as the table says.
Train on nine tenths of the background characters with turned copies as classes of their own; test on 600 tasks of
the evaluation set. Prints the table; writes benchmarks/results/omniglot.json, which several calls fill together.
"""

from __future__ import annotations

import argparse
import json

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import nn

from benchmarks.report import RESULTS, measured, print_table, write
from fml_lightning import ANIL, FOMAML, MAML, Conv4, InnerLoop, Learner, Prototypical
from fml_lightning.commands.quiet import quieten
from fml_lightning.datamodules import FewShot, Omniglot

PUBLISHED = {("MAML", 5, 1): 98.7, ("MAML", 5, 5): 99.9, ("MAML", 20, 1): 95.8, ("MAML", 20, 5): 98.9}
"""Accuracy in % of Finn et al. 2017, table 1: all 1,200 training characters, 60,000 meta-steps."""


def learner(method: str, ways: int, channels: int) -> Learner:
    """A learner of the table."""
    net = Conv4(1, ways, channels=channels, norm="batch")
    if method == "Prototypical":
        return Prototypical(nn.Sequential(*list(net)[:-1]), ways)  # the embedding is what the last layer sees
    inner_loop = InnerLoop(lr=0.4 if ways == 5 else 0.1, steps=1)
    kinds: dict[str, type[MAML]] = {"MAML": MAML, "FOMAML": FOMAML, "ANIL": ANIL}
    return kinds[method](net, inner_loop=inner_loop, adaptation=InnerLoop(lr=inner_loop.lr, steps=3))


def main() -> None:
    """Train and test, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--full", action="store_true", help="64 filters, 32 tasks, 15 queries, 60,000 meta-steps")
    parser.add_argument("--methods", nargs="+", default=["MAML"])
    parser.add_argument("--settings", nargs="+", default=["5x1", "5x5", "20x1"], help="WAYSxSHOTS")
    parser.add_argument("--steps", type=int, help="meta-steps; 1,500 unless --full")
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--precision", default="32-true", help="as in lightning.Trainer, such as bf16-mixed")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    quieten()
    channels, tasks, queries, steps = (64, 32, 15, 60_000) if options.full else (32, 8, 5, 1_500)
    steps = options.steps or steps
    path = RESULTS / "omniglot.json"
    kept = json.loads(path.read_text())["rows"] if path.is_file() else []
    for setting in options.settings:
        ways, shots = (int(part) for part in setting.split("x"))
        for method in options.methods:
            seed_everything(options.seed, verbose=False)
            data = Omniglot(options.root, FewShot(ways, shots, queries, tasks), steps, test_batches=600 // tasks)
            trained = learner(method, ways, channels)
            trainer = Trainer(
                accelerator=options.accelerator,
                precision=options.precision,
                devices=1,
                max_epochs=1,
                limit_val_batches=0,
                logger=False,
                enable_checkpointing=False,
                enable_model_summary=False,
                callbacks=[TQDMProgressBar(refresh_rate=100)],
            )
            with measured() as spent:
                trainer.fit(trained, data)
            (metrics,) = trainer.test(trained, data, verbose=False)
            device = torch.cuda.get_device_name() if trained.device.type == "cuda" else "CPU"
            row = {
                "method": method,
                "ways": ways,
                "shots": shots,
                "accuracy_%": round(100 * metrics["test/accuracy_after"], 2),
                "published_%": PUBLISHED.get((method, ways, shots), ""),
                "meta_steps": steps,
                "tasks": tasks,
                "queries": queries,
                "filters": channels,
                "precision": options.precision,
                "hardware": f"{device}, {torch.get_num_threads()} threads",
                "minutes": round(spent.wall / 60, 1),
            }
            same = ("method", "ways", "shots", "meta_steps", "filters", "hardware")
            kept = [k for k in kept if any(k[key] != row[key] for key in same)] + [row]
            write("omniglot", kept, seed=options.seed)
    print_table(kept)


if __name__ == "__main__":
    main()
