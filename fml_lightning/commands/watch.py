"""`fml watch`: say which machines are sick, for ever."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fml_lightning.commands.process import (
    PortOrFree,
    log_to_stderr,
    parser,
    settings_of,
    settle,
    stopped_by_signal,
)
from fml_lightning.connectors.mqtt.connection import Connection
from fml_lightning.connectors.spool.folder import has_topics
from fml_lightning.datamodules.spool.live_spool import LiveSpool
from fml_lightning.errors import UserError
from fml_lightning.folder_lock import FolderLock
from fml_lightning.live.duration import told_duration

if TYPE_CHECKING:
    from fml_lightning.live.messages import Topics

RUNNING = ("another fml watch is watching here", "end it first")
TIMING = {
    "max_lateness": "how long after its own time a reading may be received",
    "max_age": "how long a value of an input holds",
    "within": "how far single numbers of one row may be apart",
}
"""What of `StreamTiming` a watch may be told otherwise, and what that is."""
FLUSH = 30.0
"""Seconds that `--once` waits for the broker to take what is published."""


def run(arguments: Sequence[str]) -> int:
    """Watch until a signal ends it, or, with `--once`, score what is there; returns 0."""
    settings = _settings(arguments)
    run_folder = Path(settings["run"])
    if not run_folder.is_dir():
        raise UserError(f"{run_folder}: expected the folder of a run, such as runs/live/1, or of a site")
    import torch

    from fml_lightning.commands.model_maker import ModelMaker
    from fml_lightning.live.alarm import AlarmRule
    from fml_lightning.live.drift import DriftRule
    from fml_lightning.live.publisher import HealthPublisher
    from fml_lightning.live.repersonalizer import Repersonalizer
    from fml_lightning.live.rules import Rules
    from fml_lightning.live.scoring import RegistryModels
    from fml_lightning.live.table import Table
    from fml_lightning.live.watcher import Settings, Watcher
    from fml_lightning.personal.registry import MACHINES, Registry

    torch.set_num_threads(1)
    alarm, drift = settings["alarm"], settings["drift"]
    maker = ModelMaker.of(run_folder)
    rules = Rules(
        alarm=AlarmRule(
            raise_at=alarm["raise"],
            clear_at=alarm["clear"],
            mean=alarm["mean"],
            on_delay=alarm["on_delay"],
            off_delay=alarm["off_delay"],
            latch=alarm["latch"],
        ),
        drift=DriftRule(baseline=drift["baseline"], confirm=drift["confirm"]),
        repersonalize=settings["repersonalize"],
        command=maker.command,
        takes_since=maker.takes_since,
    )
    registry = Registry(run_folder / MACHINES)
    topics = _topics(settings)
    folder = run_folder / "watch"
    is_auto = settings["repersonalize"] == "auto" and not settings["once"]
    command = maker.process() if is_auto else []
    folder.mkdir(exist_ok=True)
    log_to_stderr()
    settle()
    stop = threading.Event()
    with stopped_by_signal(stop.set), ExitStack() as stack:
        stack.enter_context(FolderLock(folder, RUNNING))
        spools = _opened(settings["spools"], stack, settings["once"])
        watcher = Watcher(
            folder,
            spools,
            RegistryModels(registry),
            Settings(
                rules=rules,
                stale=alarm["stale"],
                **{
                    name: settings[name]
                    for name in ("channel", "normal", "limit", "aliases", "nameplates", *TIMING)
                },
            ),
            topics,
            stack.enter_context(Repersonalizer(folder, registry, command, directory=maker.directory))
            if command
            else None,
        )
        publisher = None
        if topics is not None and watcher.outbox is not None:
            publisher = publishing = stack.enter_context(
                HealthPublisher(
                    settings["connection"],
                    watcher.outbox,
                    topics,
                    watcher.views,
                    5 * alarm["stale"],
                    lambda: watcher.problem is None,
                )
            )
            watcher.publishing = lambda: publishing.problem
        if settings["http"] is not None:
            from fml_lightning.live.page import Page

            page = stack.enter_context(
                Page(
                    watcher,
                    settings["http_host"],
                    settings["http"],
                    _token(settings["http_token_file"]),
                    names=settings["http_names"],
                    raise_at=alarm["raise"],
                    clear_at=alarm["clear"],
                )
            )
            print(f"the page is at {page.url}", flush=True)
        if settings["once"]:
            watcher.end_with_newest()
        recorders = [spool for spool in settings["spools"].values() if not isinstance(spool, str)]
        with Table(only_end=settings["once"]) as table:
            while not stop.is_set():
                for recorder in recorders:
                    recorder.check()
                has_come = watcher.look(stop)
                table.show(watcher, watcher.problems())
                if settings["once"] and not has_come:
                    break
        watcher.keep()
        if settings["once"] and (unscored := watcher.unscored()):
            raise UserError("; ".join(unscored))
        if settings["once"] and publisher is not None and not publisher.flush(FLUSH, stop):
            raise UserError(publisher.problem or f"the broker has not taken all that is published in {FLUSH:g} s")
    return 0


def _settings(arguments: Sequence[str]) -> dict[str, Any]:
    """The settings of the command line and of `--config`."""
    options = parser("watch")
    options.add_argument("run", type=str, help="folder of the run, or of the site, whose personal models watch")
    options.add_argument(
        "--spools",
        type=dict[str, str | LiveSpool],
        help="of each site, by the name under which its messages come, the folder of its spool, or an `MQTT` that"
        " records into one",
    )
    options.add_argument("--alarm.raise", type=float, default=0.8, help="mean score that raises an alarm")
    options.add_argument("--alarm.clear", type=float, default=0.3, help="mean score below which it may be cleared")
    options.add_argument("--alarm.mean", type=str | float, default="1s", help="how long scores are averaged over")
    options.add_argument(
        "--alarm.on_delay", type=str | float, default="5s", help="how long it must last to be raised"
    )
    options.add_argument(
        "--alarm.off_delay", type=str | float, default="60s", help="how long it must be over to clear"
    )
    options.add_argument(
        "--alarm.stale", type=str | float, default="60s", help="how long a machine may send nothing"
    )
    options.add_argument("--alarm.latch", type=bool, default=False, help="keep alarms until they are acknowledged")
    options.add_argument("--drift.baseline", type=str | float, default="20min", help="of a model's first data")
    options.add_argument(
        "--drift.confirm", type=int, default=3, help="blocks of a minute in a row that must be out"
    )
    options.add_argument(
        "--repersonalize",
        type=Literal["never", "ask", "auto"],
        default="ask",
        help="of a machine that drifts: ask: say how to make a new model; auto: make one of labels that were said"
        " since it drifts, which watches only if it is better than the current one",
    )
    options.add_argument(
        "--connection",
        type=Connection | None,
        default=None,
        help="the broker to publish to; where publish says what, one on this machine unless you say otherwise",
    )
    options.add_argument(
        "--publish.topic",
        type=str | None,
        default=None,
        help="of a machine; fml/{site}/{machine}/health by default",
    )
    options.add_argument(
        "--publish.status", type=str, default="fml/watch/status", help="online, not scoring, or offline"
    )
    options.add_argument("--publish.home_assistant", type=bool, default=False, help="let Home Assistant find them")
    options.add_argument("--channel", type=str, default="vibration", help="where a model names none")
    options.add_argument(
        "--normal", type=str, default="", help="class of normal operation, where no model says it"
    )
    options.add_argument(
        "--limit",
        type=float | None,
        default=None,
        help="where models estimate a number and have no limit of their own: beyond it is sick",
    )
    options.add_argument(
        "--aliases",
        type=dict[str, str],
        default={},
        help="new names of machines by old ones, MACHINE or SITE/MACHINE, as of the fleet that the models are of",
    )
    for name, what in TIMING.items():
        options.add_argument(
            f"--{name}", type=str | float | None, default=None, help=f"{what}; as the model was trained unless set"
        )
    options.add_argument(
        "--nameplates",
        type=dict[str, dict[str, Any]],
        default={},
        help="speed (Hz) and bearing of machines by patterns of SITE/MACHINE: for fault lines on the page",
    )
    options.add_argument("--once", action="store_true", help="score what is there, and end")
    options.add_argument(
        "--http", type=PortOrFree | None, default=None, help="serve the page at this port; 0: at a free one"
    )
    options.add_argument("--http_host", type=str, default="127.0.0.1", help="address to serve it at")
    options.add_argument(
        "--http_names",
        type=list[str],
        default=[],
        help="names by which browsers ask for it, as of a proxy, besides this computer's own",
    )
    options.add_argument(
        "--http_token_file", type=str | None, default=None, help="file of the token that the page asks for"
    )
    settings = settings_of(options, arguments)
    if not settings["spools"]:
        options.error("the following arguments are required: spools")
    for group, names in (("alarm", ("mean", "on_delay", "off_delay", "stale")), ("drift", ("baseline",))):
        for name in names:
            settings[group][name] = told_duration(settings[group][name], f"{group}.{name}")
    for name in TIMING:
        settings[name] = None if settings[name] is None else told_duration(settings[name], name)
    return settings


def _topics(settings: dict[str, Any]) -> Topics | None:
    """Where health is published; None if it is not."""
    from fml_lightning.live.messages import Topics

    publish = settings["publish"]
    if settings["connection"] is None and publish["topic"] is None and not publish["home_assistant"]:
        return None
    settings["connection"] = settings["connection"] or Connection()
    topics = Topics(publish["topic"] or Topics().template, publish["status"], publish["home_assistant"])
    if len(settings["spools"]) > 1 and "{site}" not in topics.template:
        raise UserError(
            f"publish.topic: expected a topic with {{site}}, as machines of several sites may have one name, got"
            f" {topics.template!r}"
        )
    return topics


def _opened(spools: dict[str, str | LiveSpool], stack: ExitStack, once: bool) -> dict[str, Path]:
    """The folders of spools; those that are connectors record from now on."""
    folders = {}
    for site, spool in spools.items():
        stack.enter_context(nullcontext() if isinstance(spool, str) else spool)
        folders[site] = Path(spool) if isinstance(spool, str) else spool.folder
        if once and not has_topics(folders[site]):
            raise UserError(
                f"spools.{site}: there is no spool in {folders[site]}; start fml record, or mend the path"
            )
    return folders


def _token(path: str | None) -> str | None:
    """The first line of a file."""
    if path is None:
        return None
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"http_token_file: cannot read {path}: {error}") from error
    if not lines or not lines[0].strip():
        raise UserError(f"http_token_file: {path} is empty")
    return lines[0].strip()
