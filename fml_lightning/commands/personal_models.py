"""Personal models on disk, each with its card; made by the server's host of its own fleet, or at a site."""

from __future__ import annotations

import copy
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fml_lightning.commands.report import FEW_CLASSES, write_report
from fml_lightning.commands.run import run_folder
from fml_lightning.datamodules import Episodes, Fleet, SiteData
from fml_lightning.executors import SiteMemory
from fml_lightning.federation.machine_result import MachineResult
from fml_lightning.learners.learner import Learner
from fml_lightning.names import escaped, file_name
from fml_lightning.personal.personalization import Personalization, personalize


def personalize_machine(
    learner: Learner,
    memory: SiteMemory,
    rounds: int,
    site: SiteData,
    machine: str,
    classes: Sequence[str],
    seed: int,
) -> Personalization:
    """Adapt a trained learner to a machine of a site, from what the site keeps of its own.

    Args:
        learner: with the shared parameters after `rounds` rounds; it stays as it is.
        memory: what sites keep.
        rounds: how many rounds the shared parameters have been through.
        site: where the machine is.
        machine: its name.
        classes: the fleet's.
        seed: from which the machine's episode is drawn.
    """
    learner = copy.deepcopy(learner)
    memory.restore(learner, site.name, rounds)
    episode = site.personal_episode(machine, seed=seed)
    return personalize(
        learner,
        episode,
        site.class_names(machine, tuple(classes)),
        preprocessing=site.preprocessing_of(machine),
        told=site.nameplate_of(machine),
        normal=normal_name(site.episodes, classes),
    )


def normal_name(episodes: Episodes, classes: Sequence[str]) -> str:
    """The name of the class of normal operation, if the data know it and labels tell classes; else empty."""
    normal = episodes.normal
    return classes[normal] if isinstance(normal, int) and not episodes.is_anomaly else ""


def write_models(
    results: Sequence[Personalization],
    learner: Learner,
    fleet: Fleet,
    folder: Path,
    machines: Sequence[str],
    title: str,
    *,
    several: bool,
) -> None:
    """Write each machine's model and card; print the card, or a table of several.

    Args:
        results: one of each machine.
        learner: which the models were adapted from.
        fleet: whose machines they are.
        folder: where `machines/` is made.
        machines: the names of all machines that may be asked for; those of several sites may be the same.
        title: what the chart is called.
        several: whether all machines were asked for.
    """
    counts, unit = Counter(machines), metric_unit(learner, fleet)
    rows, cards = [], []
    for result in results:
        row = MachineResult(result.site, result.machine, result.before, result.after)
        name = result.machine if counts[result.machine] < 2 else f"{result.site}/{result.machine}"
        file = folder / "machines" / f"{file_name(name)}.safetensors"
        card = {
            **asdict(row),
            "metric": learner.objective.metric,
            **({"unit": unit} if unit else {}),
            "shots": result.shots,
            "seconds": result.seconds,
            "model": str(file.relative_to(folder)),
            **({"confusion": result.confusion} if 0 < len(result.confusion) <= FEW_CLASSES else {}),
            **({"warnings": [str(each) for each in result.suspects]} if result.suspects else {}),
        }
        for suspect in result.suspects:
            print(f"fml: warning: {escaped(str(suspect))}", file=sys.stderr)
        run_folder.write_json(file.with_suffix(".json"), card)
        if why := result.model.undescribed:
            what = f"{file} can only be loaded with its network, or objective, given: {why}"
            print(f"fml: warning: {escaped(what)}", file=sys.stderr)
        result.model.save(file)
        rows.append(row)
        cards.append(card)
    if several:
        content: dict[str, Any] = {"machines": cards}
        write_report("personalize", content, rows, folder, learner.objective, unit, title)
        print(f"wrote {len(results)} models and their cards to {folder / 'machines'}")
    else:
        path = run_folder.write_json(folder / "personalize.json", cards[0])
        print(path.read_text(), end="")
        print(f"wrote {path} and {folder / str(cards[0]['model'])}")


def metric_unit(learner: Learner, fleet: Fleet) -> str | None:
    """The unit of the metric that decides, if it has one and the data set tells it."""
    objective = learner.objective
    return fleet.target_unit if objective.metric in objective.in_unit_of_target else None
