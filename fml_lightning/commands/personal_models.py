"""Personal models on disk, each with its card; made by the server's host of its own fleet, or at a site."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fml_lightning.commands.report import FEW_CLASSES, write_report
from fml_lightning.commands.run import run_folder
from fml_lightning.datamodules import Episodes, Fleet, SiteData
from fml_lightning.errors import UserError
from fml_lightning.executors import SiteMemory
from fml_lightning.federation.machine_result import MachineResult
from fml_lightning.learners.learner import Learner
from fml_lightning.names import escaped, shown
from fml_lightning.personal.card import Checkpoint, summary
from fml_lightning.personal.personal_model import PersonalModel
from fml_lightning.personal.personalization import Personalization, check_normal, personalize
from fml_lightning.personal.registry import MACHINES, Registry, Version, digest

ONLY_IF_BETTER = (
    "let a new model watch only if it is better than the current one, beyond doubt, on the same windows"
)
"""What the switch of that name does."""


class PartlyPersonalizedError(UserError):
    """Some of several machines have got no new model; the text tells why."""

    def __init__(self, text: str, results: Sequence[Personalization]) -> None:
        super().__init__(text)
        self.results = list(results)
        """Of the others."""


def personalize_each(
    machines: Sequence[tuple[SiteData, str]], made: Callable[[SiteData, str], Personalization]
) -> list[Personalization]:
    """Personalize machines one after another: one that cannot be keeps no other one from its model.

    Args:
        machines: each one's site, and its name there.
        made: personalizes one of them.

    Raises:
        PartlyPersonalizedError: some cannot be personalized, such as those with too few windows.
        UserError: none can.
    """
    results: list[Personalization] = []
    failed: dict[str, list[str]] = {}
    for site, name in machines:
        try:
            results.append(made(site, name))
        except UserError as error:
            if len(machines) == 1:
                raise
            why = str(error).removeprefix(f"{name}: ")
            failed.setdefault(why, []).append(f"{shown(site.name)}/{shown(name)}")
    if failed:
        count = sum(map(len, failed.values()))
        why = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in failed.items())
        text = f"{count} of {len(machines)} machines have got no new model; {why}"
        raise PartlyPersonalizedError(text, results) if results else UserError(text)
    return results


def personalize_machine(
    learner: Learner,
    memory: SiteMemory,
    rounds: int,
    site: SiteData,
    machine: str,
    classes: Sequence[str],
    seed: int,
    limit: float | None = None,
    registry: Registry | None = None,
    normal: str = "",
) -> Personalization:
    """Adapt a trained learner to a machine of a site, from what the site keeps of its own.

    Args:
        learner: with the shared parameters; it stays as it is.
        memory: what sites keep.
        rounds: after how many rounds what the site keeps is taken: as many as the shared parameters have been
            through, where it is kept.
        site: where the machine is.
        machine: its name.
        classes: the fleet's.
        seed: from which the machine's episode is drawn.
        limit: where targets are numbers, beyond which of them the machine is sick; None: that of the machine's
            current model, if there is one.
        registry: whose current model of the machine, if there is one, is judged by the same windows; None: none.
        normal: where labels are classes, the one of normal operation; empty: the one that the data say, or else
            the machine's current model.

    Raises:
        UserError: there is no such class.
    """
    learner = copy.deepcopy(learner)
    memory.restore(learner, site.name, rounds)
    episode = site.personal_episode(machine, seed=seed)
    names = site.class_names(machine, tuple(classes))
    check_normal(normal, learner.objective, names)
    current = None if registry is None else registry.known_current(site.name, machine)
    normal = normal or normal_name(site.episodes, classes)
    if (before := _loaded(current)) is not None:  # a new model goes on with what nobody says anew
        normal = normal or (before.normal if before.normal in names else "")
        limit = before.limit if limit is None and learner.objective.takes_limit else limit
    return personalize(
        learner,
        episode,
        names,
        preprocessing=site.preprocessing_of(machine),
        told=site.nameplate_of(machine),
        normal=normal,
        limit=limit,
        timing=site.timing,
        current=current,
    )


def _loaded(version: Version | None) -> PersonalModel | None:
    """A version's model; None if there is none, or it cannot be read."""
    try:
        return None if version is None else version.load()
    except UserError:  # it is told when the model is to be used
        return None


def normal_name(episodes: Episodes, classes: Sequence[str]) -> str:
    """The name of the class of normal operation, if the data know it and labels tell classes; else empty."""
    normal = episodes.normal
    return classes[normal] if isinstance(normal, int) and not episodes.is_anomaly else ""


def write_models(
    personalized: Callable[[], list[Personalization]],
    learner: Learner,
    fleet: Fleet,
    folder: Path,
    checkpoint: Checkpoint,
    title: str,
    *,
    several: bool,
    only_if_better: bool,
) -> None:
    """Keep each machine's model and card in the registry; print the card, or a table of several.

    Args:
        personalized: gives one of each machine, as `personalize_each` does.
        learner: which the models were adapted from.
        fleet: whose machines they are.
        folder: where `machines/` is made.
        checkpoint: which the learner was read from.
        title: what the chart is called.
        several: whether all machines were asked for.
        only_if_better: whether a model may become current only if it is better than the current one.

    Raises:
        UserError: there is not a model of each machine; those that there are have been kept.
    """
    partly = None
    try:
        results = personalized()
    except PartlyPersonalizedError as error:
        results, partly = error.results, error
    registry, unit = Registry(folder / MACHINES), metric_unit(learner, fleet)
    cards, told, kept_back = [], [], []
    for result in results:
        for suspect in result.suspects:
            print(f"fml: warning: {escaped(str(suspect))}", file=sys.stderr)
        card = msgspec.structs.replace(result.card, unit=unit, checkpoint=checkpoint)
        if len(card.confusion) > FEW_CLASSES:
            card = msgspec.structs.replace(card, confusion=())
        version = registry.add(result.model, card, only_if_better=only_if_better)
        if why := result.model.undescribed:
            what = f"{version.model} can only be loaded with its network, or objective, given: {why}"
            print(f"fml: warning: {escaped(what)}", file=sys.stderr)
        card = version.card
        cards.append(card)
        told.append({**card.to_json(), "model": str(version.model.relative_to(folder))})
        if why := _kept_back(registry, version):
            name = f"{shown(card.site)}/{shown(card.machine)} " if several else ""
            kept_back.append(f"{name}{version.name}: {why}; fml rollback takes one with --to")
    if several:
        content: dict[str, Any] = {"machines": told}
        rows = [MachineResult(card.site, card.machine, card.before, card.after) for card in cards]
        write_report("personalize", content, rows, folder, learner.objective, unit, title)
        print("".join(f"{summary(card)}\n" for card in cards if card.verdict != "ship"), end="")
        print(f"wrote {len(results)} models and their cards to {registry.folder}")
    else:
        path = run_folder.write_json(folder / "personalize.json", told[0])
        print(summary(cards[0]))
        print(f"wrote {version.model} and its card ({path})")
    print("".join(f"{escaped(each)}\n" for each in kept_back), end="")
    if partly is not None:
        raise partly


def _kept_back(registry: Registry, version: Version) -> str:
    """Why a version that was added has not become the current one, and which one is; empty where it has."""
    current = registry.known_current(version.site, version.machine)
    if current is not None and current.name == version.name:
        return ""
    stays = "no model watches the machine" if current is None else f"{current.name} stays the current model"
    return f"{stays}, as {registry.why(version)}"


def checkpoint_of(path: Path, rounds: int, run: str) -> Checkpoint:
    """What a card tells of the checkpoint that a model was adapted from."""
    return Checkpoint(path=str(path), sha256=digest(path), rounds=rounds, run=run)


def metric_unit(learner: Learner, fleet: Fleet) -> str | None:
    """The unit of the metric that decides, if it has one and the data set tells it."""
    objective = learner.objective
    return fleet.target_unit if objective.metric in objective.in_unit_of_target else None
