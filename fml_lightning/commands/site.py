"""`fml site`: a site of a federation. Its data, and what is personal, stay on this host."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from fml_lightning.commands.live_line import ChangeLine
from fml_lightning.commands.process import log_to_stderr, stopped_by_signal
from fml_lightning.commands.requests import Requests
from fml_lightning.commands.site_config import SiteConfig, read_site_config
from fml_lightning.connectors.mqtt.metrics import serve_collector
from fml_lightning.datamodules import SiteData
from fml_lightning.durable import make_folder
from fml_lightning.errors import NotYetError, UserError
from fml_lightning.executors.nvflare.kit import Kit
from fml_lightning.executors.nvflare.parent import NVFlareParent, ParentStatus
from fml_lightning.executors.site_process import Done, SiteProcess
from fml_lightning.folder_lock import FolderLock
from fml_lightning.names import escaped, shown

LOOK = 0.5
"""Seconds between two looks at how the site is doing."""
HANDING_OVER = 1.0
"""Seconds that NVFlare's process has to send the last answer off, before it is ended."""
TAKEN = ("another fml site runs in this folder", "end it first, or give this one a folder of its own")

log = logging.getLogger(__name__)


def run(arguments: Sequence[str]) -> int:
    """Serve the federation until a signal."""
    config = read_site_config(arguments)
    kit = _kit(config)
    log_to_stderr()
    _quieten()
    make_folder(config.folder)
    stop = threading.Event()
    with ExitStack() as held:
        held.enter_context(FolderLock(config.folder, TAKEN).acquire())
        data = _open(config, held)
        process = SiteProcess(
            config.site,
            config.learner,
            data,
            config.folder,
            config.consent,
            config.data.classes,
            config.accelerator,
            config.precision,
        )
        requests = Requests(config.folder, process.answer)
        with stopped_by_signal(stop.set):
            parent = NVFlareParent(kit, config.folder, {"FML_SITE": str(config.folder)})
            look = _Look(config.site, parent, process)
            held.enter_context(serve_collector(_Collector(look), config.metrics_port, config.metrics_host))
            held.enter_context(parent)
            held.callback(_hand_over, requests)
            requests.start()
            print(f"site {shown(config.site)} is ready: it keeps its own in {config.folder}", flush=True)
            with ChangeLine() as line:
                while not stop.wait(LOOK):
                    if not requests.alive:
                        raise UserError(
                            "the thread that works has ended, which it never should; start fml site anew"
                        )
                    status = look()
                    line.show(describe(status), what=_what_changes(status))
            held.close()
    return 0


@dataclass(frozen=True)
class SiteStatus:
    """How a site is doing."""

    site: str
    kit: Kit
    parent: ParentStatus
    done: Done | None
    """What it did last."""
    updates: int
    """Updates and measurements that have left since it began."""
    failures: int
    """Answers that were none."""
    sent: int
    """Bytes that have left."""


class _Look:
    """Tells how a site is doing now."""

    def __init__(self, site: str, parent: NVFlareParent, process: SiteProcess) -> None:
        self._site = site
        self._parent = parent
        self._process = process

    def __call__(self) -> SiteStatus:
        counts = self._process.counts
        return SiteStatus(
            self._site,
            self._parent.kit,
            self._parent.status(),
            self._process.last,
            counts["updates"],
            counts["failures"],
            counts["bytes"],
        )


def describe(status: SiteStatus) -> str:
    """The status line: whether it is connected, what it did last, and for how long it may."""
    kit, parent, done = status.kit, status.parent, status.done
    server = f"{kit.host}:{kit.port}"
    parts = [f"{shown(status.site)} connected to {server}" if parent.connected else f"not connected to {server}"]
    if parent.problem is not None:
        parts.insert(0, f"PROBLEM: {parent.problem}")
    if (warning := kit.warning()) is not None and warning != parent.problem:
        parts.insert(0, f"WARNING: {warning}")
    if done is None:
        parts.append("no work yet")
    else:
        ago = time.monotonic() - done.ended
        parts.append(f"round {done.round}")
        parts.append(
            f"{done.verb} {'failed' if done.failure else 'done'} {ago:.0f} s ago, in {done.seconds:.1f} s"
        )
        if done.failure:
            parts.append(escaped(done.failure))
    if parent.restarts:
        parts.append(f"{parent.restarts} restarts of NVFlare")
    parts.append(f"certificate {int(kit.days_left())} days left")
    return " | ".join(parts)


def _what_changes(status: SiteStatus) -> object:
    """What makes a new line of a log."""
    parent, done = status.parent, status.done
    work = None if done is None else (done.verb, done.round, done.run, done.failure)
    return (parent.connected, parent.problem, parent.restarts, work, int(status.kit.days_left()))


class _Collector:
    """Tells Prometheus how the site is doing."""

    def __init__(self, look: Callable[[], SiteStatus]) -> None:
        self._look = look

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        status = self._look()
        yield GaugeMetricFamily(
            "fml_site_connected", "1 while the site is registered at its server", status.parent.connected
        )
        if status.done is not None:
            ago = time.monotonic() - status.done.ended
            yield GaugeMetricFamily("fml_site_round", "The last round that was worked on", status.done.round)
            yield GaugeMetricFamily("fml_site_idle", "Since the last work ended", ago, unit="seconds")
            yield GaugeMetricFamily("fml_site_work", "Of the last work", status.done.seconds, unit="seconds")
        yield CounterMetricFamily("fml_site_updates", "Updates and measurements that have left", status.updates)
        yield CounterMetricFamily("fml_site_failures", "Requests that were refused or failed", status.failures)
        yield CounterMetricFamily("fml_site_sent_bytes", "Bytes of answers that have left", status.sent)
        yield CounterMetricFamily("fml_site_restarts", "Restarts of NVFlare's process", status.parent.restarts)
        left = status.kit.days_left() * 86_400
        yield GaugeMetricFamily("fml_site_certificate", "Until the certificate ends", left, unit="seconds")


def _kit(config: SiteConfig) -> Kit:
    """The kit, which must be this site's."""
    if config.kit is None:
        raise UserError("--kit: expected the folder of this site's certificates, got none; see fml provision")
    kit = Kit(config.kit)
    if kit.role != "site":
        raise UserError(f"--kit: {kit.folder} is the server's; give that of the site {config.site!r}")
    if kit.name != config.site:
        raise UserError(
            f"site: expected {kit.name!r}, as the certificate in {kit.folder} has it, got {config.site!r}; set"
            f" site: {kit.name}, or give the kit of {config.site}"
        )
    return kit


def _open(config: SiteConfig, held: ExitStack) -> SiteData:
    """The site's data, recorded for as long as the site lives, with their features computed."""
    fleet = config.data
    held.callback(fleet.teardown, "fit")
    fleet.prepare_site(config.site)
    data = fleet.site(config.site)
    try:
        data.evaluated_machines()
    except NotYetError as error:
        log.warning("%s", escaped(str(error)))
    return data


def _hand_over(requests: Requests) -> None:
    """Let the work in hand end, and NVFlare's process send its answer off."""
    requests.stop()
    if requests.answered_at is not None:
        time.sleep(max(0.0, requests.answered_at + HANDING_OVER - time.monotonic()))


def _quieten() -> None:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
