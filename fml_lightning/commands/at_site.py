"""`fml personalize --site` and `fml predict --site`: at a site, with its own data, from what it has fetched."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from fml_lightning.commands.fetch import newest
from fml_lightning.commands.model_maker import remember_site
from fml_lightning.commands.parsing.arguments import Parser
from fml_lightning.commands.personal_models import (
    ONLY_IF_BETTER,
    checkpoint_of,
    personalize_each,
    personalize_machine,
    write_models,
)
from fml_lightning.commands.report import chart_title, prediction_table, write_predictions
from fml_lightning.commands.site_config import OpenSite, open_site
from fml_lightning.errors import UserError
from fml_lightning.executors import SiteMemory
from fml_lightning.executors.release import Release
from fml_lightning.executors.site_process import STATE
from fml_lightning.names import escaped, file_name, find_machine, shown
from fml_lightning.personal.card import Checkpoint
from fml_lightning.personal.registry import MACHINES, Registry

VERBS = {
    "personalize": "Adapt what was fetched to a machine of this site, and write its own model and card.",
    "predict": "Adapt what was fetched to every machine of this site, and predict its later windows.",
}


def run(verb: str, arguments: Sequence[str]) -> None:
    """Do one of `VERBS` at the site that `--site` names."""
    options = Parser(prog=f"fml {verb}", description=VERBS[verb])
    options.add_argument("--site", type=str, required=True, help="the site's configuration, as of fml site")
    options.add_argument(
        "--ckpt_path", type=str | None, default=None, help="what fml fetch wrote; the newest unless set"
    )
    if verb == "personalize":
        options.add_argument("--machine", type=str, required=True, help="the machine's name, or all")
        options.add_argument(
            "--limit",
            type=float | None,
            default=None,
            help="where targets are numbers: beyond it a machine is sick; that of its current model unless set",
        )
        options.add_argument(
            "--normal",
            type=str,
            default="",
            help="where labels are classes: the one of normal operation; what the data say, or its current model,"
            " unless set",
        )
        options.add_argument("--only_if_better", action="store_true", help=ONLY_IF_BETTER)
    options.add_argument(
        "--data.since", type=str | None, default=None, help="leave out earlier windows, and labels said before it"
    )
    parsed = options.parse_args(list(arguments))
    site = open_site(parsed.site, parsed.data.since)
    path = Path(parsed.ckpt_path) if parsed.ckpt_path else newest(site.folder)
    release = _read(path)
    release.put_into(site.learner)
    if release.statistics is not None:
        site.data.standardize_by(release.statistics)
    memory = SiteMemory.below(site.folder / STATE / file_name(release.run))
    rounds = _rounds_of_its_own(site, release, memory)
    if verb == "personalize":
        remember_site(site.folder, parsed.site, site.fleet)
        made_from = checkpoint_of(path, release.rounds, release.run)
        limit, normal, only_if_better = parsed.limit, parsed.normal, parsed.only_if_better
        _personalize(site, release, memory, rounds, parsed.machine, limit, normal, made_from, only_if_better)
    else:
        _predict(site, memory, rounds)


def _personalize(
    site: OpenSite,
    release: Release,
    memory: SiteMemory,
    rounds: int,
    machine: str,
    limit: float | None,
    normal: str,
    made_from: Checkpoint,
    only_if_better: bool,
) -> None:
    names = site.data.machine_names
    known = [(site.name, name) for name in names]
    wanted = names if machine == "all" else [find_machine(known, machine, f"one at {shown(site.name)}")[1]]
    classes = site.fleet.classes
    registry = Registry(site.folder / MACHINES)
    title = chart_title(site.name, site.fleet.episodes, len(classes))
    write_models(
        lambda: personalize_each(
            [(site.data, name) for name in wanted],
            lambda data, name: personalize_machine(
                site.learner, memory, rounds, data, name, classes, release.seed, limit, registry, normal
            ),
        ),
        site.learner,
        site.fleet,
        site.folder,
        made_from,
        title,
        several=machine == "all",
        only_if_better=only_if_better,
    )


def _predict(site: OpenSite, memory: SiteMemory, rounds: int) -> None:
    memory.restore(site.learner, site.name, rounds)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    predictions: Any = trainer.predict(site.learner, site.data.predict_dataloader())
    classes = site.fleet.classes
    frame = prediction_table(predictions, classes, lambda _, machine: site.data.class_names(machine, classes))
    write_predictions(frame, site.folder, site.fleet.target_unit)


def _read(path: Path) -> Release:
    try:
        return Release.read(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"--ckpt_path: no file {path}; fetch one with fml fetch") from None
    except UserError as error:
        raise UserError(f"--ckpt_path: {path} is not what fml fetch writes ({error}); fetch it again") from error


def _rounds_of_its_own(site: OpenSite, release: Release, memory: SiteMemory) -> int:
    """After how many rounds what the site keeps of its own is taken; says so, where it is not as many as released.

    While a run goes on, a site keeps what is personal of its last rounds; the release is of an earlier one.
    """
    if not site.learner.personal:
        return release.rounds
    rounds, what = memory.nearest(site.name, release.rounds), None
    if not (memory.folder / file_name(site.name)).is_dir():
        what = f"{site.name} has not trained in run {release.run}: what is personal is as it began"
    elif rounds != release.rounds:
        what = (
            f"run {release.run} was released after {release.rounds} rounds, of which {site.name} no longer keeps"
            f" what is personal: that after {rounds} rounds is taken; fetch a newer release (fml fetch) once"
            " there is one"
        )
    if what is not None:
        print(f"fml: warning: {escaped(what)}", file=sys.stderr)
    return rounds
