"""Fault classes of real machines that have shown no fault: from four normal windows, and what others have taught.

    python -m benchmarks.no_labels --root ../shared/data --judge chosen
    python -m benchmarks.no_labels --root ../shared/data --judge tests

Every method trains the network of a config, with the same rounds, local steps and windows per step. Settings are
chosen by `--judge chosen` alone: the drive end's machines with faults of 7 and 21 mil, when none of them trains.
`--judge tests` adds the fan end, another bearing and another sensor, the drive end's faults of 14 mil, and MFPT,
another rig with inner and outer race faults. Where a config trains on real machines, these train as it says, and
no bearing of theirs is judged. MFPT's normal recordings are used where the root has them; else `stand_in` says
what takes their place, and the row says so.

Of each method, before and after it adapts: balanced accuracy over normal, ball, inner and outer, mean ± std over
seeds, the worst machine, the share of each class that is found, and of each class what it is taken for. Normal or
not: a window is an alarm whose probability of a fault is above the `QUANTILE` of the training machines' normal
windows, each machine adapted as the real one is. Prints the table; writes benchmarks/results/no_labels.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml  # type: ignore[import-untyped]
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import seed_everything
from numpy.typing import NDArray

from benchmarks.report import RESULTS, quiet_trainer
from fml_lightning import Federation
from fml_lightning.commands.quiet import quieten
from fml_lightning.connectors.plant.simulated_machine import CLASSES, SAMPLE_RATE
from fml_lightning.datamodules import Fleet, Selection
from fml_lightning.datamodules.data_folder import file_below
from fml_lightning.datamodules.machine_windows import MachineWindows
from fml_lightning.datamodules.mfpt import BASELINES, FILES
from fml_lightning.datamodules.site import SiteData
from fml_lightning.errors import UserError
from fml_lightning.params import stack
from fml_lightning.types import Episode, Examples

ROOT = Path(__file__).parent.parent
QUANTILE = 0.995
"""Of the training machines' normal windows, the share that is no alarm."""
NO_BASELINE = "MFPT without a normal window"
"""The protocol of MFPT where the root has no normal recordings of it; see `stand_in`."""
Settings = dict[str, Any]


def supervised(settings: Settings) -> None:
    """FedAvg with the same network: pooled windows of all classes, no inner loop while training."""
    own = settings["model"]["learner"]
    own["class_path"] = "fml_lightning.FedAvg"
    own["init_args"]["adaptation"] = own["init_args"].pop("inner_loop")
    del own["init_args"]["before_weight"]


def centred(settings: Settings, centre: bool) -> None:
    """Whether the mean of the normal support windows is subtracted."""
    settings["data"]["init_args"]["episodes"]["centre"] = centre


def rule(settings: Settings) -> None:
    """The hand rule; it reads features as they are."""
    data = settings["data"]["init_args"]
    data["standardize"] = None
    settings["model"]["learner"] = {
        "class_path": "fml_lightning.FaultLineRule",
        "init_args": {"features": data["features"]},
    }
    settings["trainer"]["max_steps"] = 1
    settings["model"]["local_steps"] = 1
    centred(settings, False)


def settings_of(method: str, config: str, root: str, tests: bool) -> Settings:
    """The config with this method's learner, judged on real machines.

    Raises:
        UserError: the config trains on all that is to be judged of an end.
    """
    settings: Settings = yaml.safe_load((ROOT / "configs" / f"{config}.yaml").read_text())
    fleets = settings["data"]["init_args"]["fleets"]
    real = [fleets.pop(name) for name in list(fleets) if fleets[name]["class_path"].endswith("CWRU")]
    trained = set().union(*(training_bearings(fleet["init_args"]) for fleet in real))
    judged_ends = {"drive": ([0, 1, 2, 3], [7, 14, 21] if tests else [7, 21])}
    if tests:
        judged_ends["fan"] = ([0, 2], [7, 14, 21])
    for end in sorted({*judged_ends, *(own for own, _, _ in trained)}):
        loads, diameters = judged_ends.get(end, ([], []))
        own = [(load, mil) for of, load, mil in sorted(trained) if of == end]
        # A bearing is the same at every load.
        left = [mil for mil in diameters if mil not in {mil for _, mil in own}]
        if not left:
            raise UserError(
                f"--config {config}: trains on all bearings of the {end} end that --judge"
                f" {'tests' if tests else 'chosen'} would judge; give --judge tests, or a config that does not"
            )
        unseen = {"end": end, "loads": loads, "diameters": left}
        train = {
            "end": end,
            "loads": sorted({load for load, _ in own}),
            "diameters": sorted({mil for _, mil in own}),
        }
        fleets[end] = {
            "class_path": "fml_lightning.datamodules.CWRU",
            "init_args": {
                "root": root,
                "classes": "normal and faults",
                "train": train if own else unseen,
                "unseen": unseen,
            },
        }
    if tests:
        # All at one rate: MFPT's are brought to that of the others.
        settings["data"]["init_args"]["sample_rate"] = SAMPLE_RATE
        fleets["mfpt"] = {
            "class_path": "fml_lightning.datamodules.MFPT",
            "init_args": {
                "root": root,
                "unseen": list(FILES),
                "classes": "normal and faults" if has_baseline(root) else "faults",
            },
        }
    if method == "hand rule":
        rule(settings)
    if method.startswith("FedAvg"):
        supervised(settings)
    if method != "hand rule":
        centred(settings, method.endswith("centred"))
    return settings


def training_bearings(fleet: Settings) -> set[tuple[str, int, int]]:
    """End, load and diameter of what a CWRU fleet of a config trains on, by its `init_args`."""
    train, unseen = (Selection(**fleet.get(key, {})).bearings() for key in ("train", "unseen"))
    return train - unseen


def has_baseline(root: str) -> bool:
    """Whether the root has MFPT's normal recordings of machines held out."""
    try:
        return all(file_below("MFPT", root, "mfpt", name).is_file() for name in BASELINES[True])
    except UserError:
        return False


METHODS = ("hand rule", "untrained, centred", "FedAvg", "FedAvg, centred", "MAML", "MAML, centred")


def built(settings: Settings) -> Namespace:
    """Federation and fleet as the config says."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--seed_everything", type=int)
    parser.add_argument("--trainer", type=dict)
    parser.add_class_arguments(Federation, "model")
    parser.add_subclass_arguments(Fleet, "data")
    made = parser.instantiate(parser.parse_object(settings))
    assert isinstance(made, Namespace)
    return made


def probabilities(federation: Federation, episode: Episode, adapt: bool) -> NDArray[np.float32]:
    """Of each class for each query window, (T, N, C)."""
    learner = federation.learner
    params = learner.adapt(learner.params, episode.support) if adapt else stack(learner.params, episode.tasks)
    with torch.no_grad():
        found: NDArray[np.float32] = learner.outputs(params, episode.query.x).softmax(-1).numpy()
    return found


def counted(examples: Examples) -> NDArray[np.bool_]:
    """Which windows are no padding, (T, N)."""
    mask = examples.mask
    return np.ones(examples.y.shape, bool) if mask is None else mask.numpy()


def part_of(machine: str) -> str:
    """Which of the protocols judges a machine."""
    if machine.startswith("fan"):
        return "fan end"
    if machine.startswith("load-"):
        return "MFPT"
    return "14 mil" if "-14mil" in machine else "7 and 21 mil (chosen on)"


def stand_in(machine: MachineWindows, training: Sequence[Episode]) -> Episode:
    """What judges a machine that nobody has recorded normal: all its windows, after others' normal ones.

    The model adapts to the normal windows of each training machine in turn; the machine's windows are centred on
    the mean of all of these. So it is told nothing of the machine itself, and its own gain and noise stay in.
    """
    support = Examples(
        *(
            torch.cat([side[:1] for side in sides])
            for sides in zip(*((episode.support.x, episode.support.y) for episode in training), strict=True)
        )
    )
    x = torch.from_numpy(np.concatenate([machine.early.x, machine.late.x]))
    y = torch.from_numpy(np.concatenate([machine.early.label, machine.late.label]))
    centres = [episode.centre for episode in training if episode.centre is not None]
    if centres:
        x = x - torch.cat(centres).mean(0)
    query = Examples(*(each.expand(support.tasks, *each.shape) for each in (x, y)))
    return Episode(support, query, machines=(machine.name,) * support.tasks, common_labels=True)


def judging_episodes(site: SiteData, normal: int, training: Sequence[Episode]) -> Iterator[Episode]:
    """The test episodes of a site, or their `stand_in` where nobody has recorded its machines normal."""
    if any(recording.label == normal for recording in site.recordings):
        yield from site.test_dataloader()
    else:
        yield from (stand_in(machine, training) for machine in site.machines)


def normal_scores(federation: Federation, episodes: Iterable[Episode], adapt: bool) -> NDArray[np.float32]:
    """Probability of a fault of all normal query windows of these episodes."""
    found = []
    for episode in episodes:
        normal = counted(episode.query) & (episode.query.y.numpy() == 0)
        found.append(1 - probabilities(federation, episode, adapt)[..., 0][normal])
    return np.concatenate(found)


def judged(federation: Federation, fleet: Fleet, adapt: bool) -> dict[str, dict[str, Any]]:
    """What comes of each machine's episodes, by protocol."""
    torch.manual_seed(0)
    training = [episode for site in fleet.sites.values() for episode in site.val_dataloader()]
    threshold = float(np.quantile(normal_scores(federation, training, adapt), QUANTILE))
    confusion: dict[str, dict[str, NDArray[np.float64]]] = defaultdict(dict)
    alarms: dict[str, dict[str, NDArray[np.float64]]] = defaultdict(dict)
    for site in fleet.unseen.values():
        for episode in judging_episodes(site, CLASSES.index("normal"), training):
            machine = episode.machines[0]
            asked = counted(episode.query)
            chances = probabilities(federation, episode, adapt)[asked]
            labels = episode.query.y.numpy()[asked]
            counts, over = np.zeros((4, 4)), np.zeros((4, 2))
            np.add.at(counts, (labels, chances.argmax(-1)), 1)
            np.add.at(over, (labels, (1 - chances[..., 0] > threshold).astype(int)), 1)
            part = part_of(machine)
            if part == "MFPT" and not counts[0].sum():
                part = NO_BASELINE
            confusion[part][machine] = confusion[part].get(machine, 0) + counts
            alarms[part][machine] = alarms[part].get(machine, 0) + over
    return {part: summary(confusion[part], alarms[part]) for part in confusion}


def summary(confusion: dict[str, NDArray[np.float64]], alarms: dict[str, NDArray[np.float64]]) -> dict[str, Any]:
    """Of the machines of one protocol; shares in percent."""
    shares = {machine: shares_of(counts) for machine, counts in confusion.items()}
    balanced = {machine: float(np.nanmean(share.diagonal())) for machine, share in shares.items()}
    over = np.mean([shares_of(counts)[:, 1] for counts in alarms.values()], axis=0)
    return {
        "balanced": float(np.mean([*balanced.values()])),
        "worst": min(balanced.values()),
        "machines": balanced,
        "confusion": np.mean([*shares.values()], axis=0),
        "false_alarms": float(over[0]),
        "faults_found": float(np.nanmean(over[1:])),
    }


def shares_of(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each class's shares, percent, of what it was taken for; NaN of a class that nobody showed."""
    totals = counts.sum(1, keepdims=True)
    shares: NDArray[np.float64] = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    return 100 * shares


def rounded(number: float, digits: int | None = None) -> float | None:
    """A number as JSON has it: None where there is none."""
    return None if math.isnan(number) else float(number) if digits is None else round(float(number), digits)


def measure(method: str, config: str, seed: int, root: str, tests: bool) -> dict[str, Any]:
    """Train one seed of a method, and judge it before and after it adapts."""
    seed_everything(seed, verbose=False)
    settings = settings_of(method, config, root, tests)
    made = built(settings)
    rounds = int(settings["trainer"]["max_steps"])
    made.data.setup("fit")
    if not method.startswith("untrained"):
        quiet_trainer(rounds).fit(made.model, datamodule=made.data)
    made.model.learner.eval()
    return {when: judged(made.model, made.data, when == "after") for when in ("before", "after")}


def over_seeds(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, and how the balanced accuracy spreads."""
    found: dict[str, Any] = {}
    for when, part in [(when, part) for when, parts in runs[0].items() for part in parts]:
        own = [run[when][part] for run in runs]
        found.setdefault(part, {})[when] = {
            "balanced": float(np.mean([run["balanced"] for run in own])),
            "std": float(np.std([run["balanced"] for run in own])),
            **{
                key: rounded(np.mean([run[key] for run in own]))
                for key in ("worst", "false_alarms", "faults_found")
            },
            "confusion": [
                [rounded(share, 1) for share in row] for row in np.mean([run["confusion"] for run in own], axis=0)
            ],
            "machines": {m: float(np.mean([run["machines"][m] for run in own])) for m in own[0]["machines"]},
        }
    return found


def markdown(results: dict[str, Any]) -> str:
    """The table: a row for each protocol and method, after adaptation."""
    lines = [
        "| judged | method | before | after | worst machine | normal, ball, inner, outer found | false alarms"
        " | faults found |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method, parts in results.items():
        for part, cells in parts.items():
            after = cells["after"]
            recalls = ", ".join(shown(row[k], 0) for k, row in enumerate(after["confusion"]))
            lines.append(
                f"| {part} | {method} | {cells['before']['balanced']:.1f} |"
                f" {after['balanced']:.1f} ± {after['std']:.1f} | {after['worst']:.1f} | {recalls} |"
                f" {shown(after['false_alarms'], 1)} | {after['faults_found']:.1f} |"
            )
    return "\n".join([lines[0], lines[1], *sorted(lines[2:])])


def shown(number: float | None, digits: int) -> str:
    """A cell of the table; a dash where nobody showed the class."""
    return "–" if number is None else f"{number:.{digits}f}"


def main() -> None:
    """Run all methods, write the JSON and the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--root", default=os.environ.get("FML_DATA", str(ROOT.parent / "shared" / "data")))
    arguments.add_argument("--config", default="no_labels", help="of configs/, without .yaml")
    arguments.add_argument("--judge", default="chosen", choices=("chosen", "tests"))
    arguments.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    arguments.add_argument("--seeds", type=int, default=5)
    given = arguments.parse_args()

    torch.set_num_threads(1)
    quieten()
    began = time.perf_counter()
    path = RESULTS / "no_labels.json"
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    results = {}
    for method in given.methods:
        runs = [
            measure(method, given.config, seed, given.root, given.judge == "tests") for seed in range(given.seeds)
        ]
        results[method] = over_seeds(runs)
        for part, cells in results[method].items():
            after = cells["after"]
            print(
                f"{method} | {part} | {after['balanced']:.1f} ± {after['std']:.1f} | worst {after['worst']:.1f}",
                flush=True,
            )
        known.setdefault(f"{given.config}|{given.judge}", {})[method] = {"seeds": given.seeds, **results[method]}
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(known, indent=1) + "\n")
    print(markdown(results))
    print(f"classes: {', '.join(CLASSES)}; {(time.perf_counter() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
