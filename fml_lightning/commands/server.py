"""`fml server`: the server's host of a federation. It carries messages, and holds no data."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from fml_lightning.commands.live_line import ChangeLine, without_digits
from fml_lightning.commands.process import Port, log_to_stderr, parser, settings_of, stopped_by_signal
from fml_lightning.connectors.mqtt.metrics import serve_collector
from fml_lightning.errors import UserError
from fml_lightning.executors.nvflare.envelope import (
    Carried,
    Connected,
    Disable,
    Done,
    Enable,
    EnvelopeError,
    Who,
    decode,
    encode,
)
from fml_lightning.executors.nvflare.kit import Kit, replace_file
from fml_lightning.executors.nvflare.local_link import SERVER_SOCKET, Link, connect
from fml_lightning.executors.nvflare.parent import NVFlareParent, ParentStatus
from fml_lightning.folder_lock import FolderLock
from fml_lightning.names import shown

LOOK = 1.0
"""Seconds between two looks at the hub."""
PATIENCE = 10.0
"""Seconds that the hub may take to answer."""
COMING_UP = 60.0
"""Seconds that a server that has just been started may take until its hub answers."""
KIT = "kit"
"""The link in the server's folder to the kit with which it ran last."""
TAKEN = ("another fml server runs in this folder", "end it first, or give this one a --folder of its own")
VERBS = {
    "disable": "lock sites out at once, and for ever, by their names: such as one whose kit was stolen",
    "enable": "let sites in again",
    "release": "hand out what a run has learned, so that sites can fetch it (fml fetch)",
}
"""What `fml server` does besides running: name and purpose."""
OF = {"disable": "NAME", "enable": "NAME", "release": "RUN"}
"""What each of `VERBS` is given first."""


def run(arguments: Sequence[str]) -> int:
    """Run the server until a signal, or do one of `VERBS`."""
    if arguments and arguments[0] in VERBS:
        verb, *rest = arguments
        if verb == "release":
            from fml_lightning.commands.release import release  # torch

            return release(rest)
        return _let_in(verb, rest)
    return _serve(arguments)


@dataclass(frozen=True)
class ServerStatus:
    """How the server is doing."""

    kit: Kit
    parent: ParentStatus
    sites: Mapping[str, float] = field(default_factory=dict)
    """The connected sites, and since when, in seconds since 1970, as far as this process has seen."""
    carried: Carried = field(default_factory=Carried)
    """What the hub has carried since NVFlare's process began."""


def _serve(arguments: Sequence[str]) -> int:
    options = parser("server")
    options.add_argument("--kit", type=str, required=True, help="the server's kit, of fml provision package")
    options.add_argument(
        "--folder", type=str, default="server", help="where it keeps its sockets, log and releases"
    )
    options.add_argument("--metrics_port", type=Port | None, default=None, help="serve Prometheus metrics here")
    options.add_argument("--metrics_host", type=str, default="127.0.0.1", help="address to serve them at")
    options.epilog = "also: " + "; ".join(f"fml server {verb} {OF[verb]}: {what}" for verb, what in VERBS.items())
    settings = settings_of(options, arguments)
    kit, folder = Kit(settings["kit"]), Path(settings["folder"]).absolute()
    if kit.role != "server":
        raise UserError(
            f"--kit: {kit.folder} is the kit of the site {kit.name!r}; give the server's, or run fml site"
        )
    log_to_stderr()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    stop = threading.Event()
    with stopped_by_signal(stop.set), ExitStack() as held:
        held.enter_context(FolderLock(folder, TAKEN).acquire())
        _note_kit(folder, kit)
        parent = NVFlareParent(kit, folder, {"FML_SERVER": str(folder)})
        watch = Watch(parent, folder)
        held.enter_context(serve_collector(_Collector(watch), settings["metrics_port"], settings["metrics_host"]))
        held.enter_context(parent)
        held.callback(watch.close)
        line = held.enter_context(ChangeLine())
        while not stop.wait(LOOK):
            status = watch.look()
            for sentence in parent.turned_away.news():
                line.tell(f"REFUSED: {sentence}")
            line.show(describe(status), *_changes(status))
    return 0


class Watch:
    """What is known of the server's process and of the sites that are connected to it.

    Args:
        parent: NVFlare's process.
        folder: the server's, where the hub in that process listens.
    """

    def __init__(self, parent: NVFlareParent, folder: Path) -> None:
        self._parent = parent
        self._folder = folder
        self._link: Link | None = None
        self.status = ServerStatus(parent.kit, parent.status())

    def look(self) -> ServerStatus:
        """How the server is doing now."""
        connected = self._ask()
        now, since = time.time(), self.status.sites
        sites = {member.name: since.get(member.name, now) for member in connected.clients} if connected else {}
        self.status = replace(
            self.status,
            kit=self._parent.kit,
            parent=self._parent.status(),
            sites=sites,
            carried=connected.carried if connected else self.status.carried,
        )
        return self.status

    def close(self) -> None:
        """Let go of the hub."""
        if self._link is not None:
            self._link.close()
        self._link = None

    def _ask(self) -> Connected | None:
        """What the hub says; None while it says nothing."""
        try:
            self._link = self._link or connect(self._folder, SERVER_SOCKET)
            self._link.send(encode(Who()))
            return decode(self._link.receive(PATIENCE), Connected)
        except (OSError, EnvelopeError):
            self.close()
            return None


def describe(status: ServerStatus) -> str:
    """The status line: whether it serves, who is connected, what it carried last, and how long it may."""
    kit, parent, carried = status.kit, status.parent, status.carried
    parts = [f"serving at {kit.host}:{kit.port}" if parent.connected else "not serving"]
    if parent.problem is not None:
        parts.insert(0, f"PROBLEM: {parent.problem}")
    if (warning := kit.warning()) is not None and warning != parent.problem:
        parts.insert(0, f"WARNING: {warning}")
    names = [f"{shown(name)} since {_moment(since)}" for name, since in sorted(status.sites.items())]
    parts.append(f"{len(names)} connected{': ' if names else ''}{', '.join(names)}")
    if carried.askings:
        of_run = f"run {shown(carried.run)} round {carried.round}" if carried.round is not None else "no run"
        parts.append(f"last {of_run}, {(carried.sent + carried.received) / 1e6:.1f} MB")
    if parent.restarts:
        parts.append(f"{parent.restarts} restarts")
    parts.append(f"certificate {int(kit.days_left())} days left")
    return " | ".join(parts)


def _changes(status: ServerStatus) -> tuple[object, object]:
    """The state, each change of which makes a line of a log at once, and the progress."""
    parent, carried = status.parent, status.carried
    days = int(status.kit.days_left()) if status.kit.warning() is not None else None
    problem = without_digits(parent.problem or "")  # which may tell the time
    state = (parent.connected, problem, parent.restarts, sorted(status.sites), carried.run, days)
    return state, (carried.askings, carried.round)


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


class _Collector:
    """Tells Prometheus how the server is doing."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        status = self._watch.status
        yield GaugeMetricFamily(
            "fml_server_up", "1 while NVFlare's server takes connections", status.parent.connected
        )
        yield GaugeMetricFamily("fml_server_connected_sites", "Sites that are connected", len(status.sites))
        of_site = GaugeMetricFamily(
            "fml_server_site_connected", "1 for each site that is connected", labels=["site"]
        )
        for name in sorted(status.sites):
            of_site.add_metric([name], 1)
        yield of_site
        carried = status.carried
        yield CounterMetricFamily("fml_server_askings", "Times that sites were asked", carried.askings)
        yield CounterMetricFamily("fml_server_sent_bytes", "Bytes of messages to sites", carried.sent)
        yield CounterMetricFamily("fml_server_received_bytes", "Bytes of their answers", carried.received)
        if carried.round is not None:
            yield GaugeMetricFamily(
                "fml_server_round", "The last round that sites were asked about", carried.round
            )
        yield CounterMetricFamily("fml_server_restarts", "Restarts of NVFlare's process", status.parent.restarts)
        left = status.kit.days_left() * 86_400
        yield GaugeMetricFamily("fml_server_certificate", "Until the certificate ends", left, unit="seconds")


def _note_kit(folder: Path, kit: Kit) -> None:
    """Link to the kit from the folder, so that `disable` finds it when no server runs."""
    part = folder / f"{KIT}.part"
    part.unlink(missing_ok=True)
    part.symlink_to(kit.folder.resolve())
    part.replace(folder / KIT)


def _let_in(verb: str, arguments: Sequence[str]) -> int:
    """Lock sites out or let them in again: through the hub, or in NVFlare's file where no server runs."""
    options = parser("server")
    options.prog, options.description = f"fml server {verb}", f"{VERBS[verb][0].upper()}{VERBS[verb][1:]}."
    options.add_argument("names", type=str, nargs="+", help="names of sites, as their certificates have them")
    options.add_argument("--folder", type=str, default="server", help="the server's folder, as in fml server")
    settings = settings_of(options, arguments)
    names, folder = list(dict.fromkeys(settings["names"])), Path(settings["folder"]).absolute()
    if not (folder / KIT).exists():
        raise UserError(f"--folder: no fml server has run in {folder}; give the folder that it runs in")
    end = time.monotonic() + COMING_UP
    while (connected := _through_hub(verb, names, folder)) is None:
        lock = FolderLock(folder, TAKEN)
        try:
            lock.acquire()
        except UserError:  # a server holds the folder: its hub is about to come up
            if time.monotonic() > end:
                raise UserError(
                    f"{folder}: fml server runs, but its NVFlare process does not answer; see its nvflare/log.txt"
                ) from None
            time.sleep(0.3)
            continue
        with lock:
            _in_file(verb, names, (folder / KIT).resolve())
        connected = set()
        break
    for name in names:
        state = {"disable": "is locked out", "enable": "may connect"}[verb]
        doubt = "" if name in connected or verb == "enable" else " (it was not connected; check its name)"
        print(f"{shown(name)} {state}, now and after restarts{doubt}")
    return 0


def _through_hub(verb: str, names: list[str], folder: Path) -> set[str] | None:
    """Have the hub do it; which sites were connected before, None where no hub answers."""
    try:
        with connect(folder, SERVER_SOCKET) as link:
            link.send(encode(Who()))
            connected = {member.name for member in decode(link.receive(PATIENCE), Connected).clients}
            link.send(encode(Disable(clients=names) if verb == "disable" else Enable(clients=names)))
            done = decode(link.receive(PATIENCE), Done)
    except (OSError, EnvelopeError):
        return None
    if done.reason:
        raise UserError(f"{verb}: {done.reason}")
    return connected


class _Disabled(msgspec.Struct):
    """NVFlare's file of the sites that are locked out."""

    disabled_clients: list[str]


def _in_file(verb: str, names: list[str], kit: Path) -> None:
    """Do it in the file that NVFlare's server reads when it begins, as NVFlare itself writes it."""
    path = kit / "disabled_clients.json"
    try:
        before = set(
            msgspec.json.decode(path.read_bytes(), type=_Disabled).disabled_clients if path.exists() else ()
        )
    except ValueError as error:
        raise UserError(
            f"{path}: expected a list of disabled_clients, got something else ({error}); nobody was locked out or"
            " let in: restore it from a backup of the kit, or delete it and lock out again whoever was"
        ) from error
    after = before | set(names) if verb == "disable" else before - set(names)
    replace_file(path, json.dumps({"disabled_clients": sorted(after)}, indent=2).encode() + b"\n")
