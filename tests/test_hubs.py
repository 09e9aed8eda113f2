"""The hubs in NVFlare's real processes: three sites on their own give the bits that one process gives."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from flare import PATIENCE, kit_folder, wait_for
from lightning.pytorch import seed_everything

from fml_lightning import MAML, MLP, Executor, Federation, NVFlareExecutor
from fml_lightning.commands.demo_federation import DemoFederation
from fml_lightning.commands.trainer import Trainer
from fml_lightning.datamodules import Fleet, RemoteFleet, SimulatedFleet
from fml_lightning.executors.nvflare.envelope import (
    Answer,
    Ask,
    Connected,
    Disable,
    Done,
    Failure,
    Fetch,
    Fetched,
    FromHub,
    Passed,
    Reply,
    Who,
    decode,
    encode,
)
from fml_lightning.executors.nvflare.kit import Kit
from fml_lightning.executors.nvflare.local_link import HUB_SOCKET, SERVER_SOCKET, connect
from fml_lightning.executors.nvflare.parent import NVFlareParent

pytestmark = pytest.mark.long

NAMES = ["plant1", "plant2", "plant3"]
SITE = """
import sys
from pathlib import Path
import torch
from fml_lightning import MAML, MLP
from fml_lightning.datamodules import SimulatedFleet
from fml_lightning.executors.consent import Consent
from fml_lightning.executors.nvflare.envelope import ToSite, decode
from fml_lightning.executors.nvflare.local_link import SITE_SOCKET, listen
from fml_lightning.executors.site_process import SiteProcess

torch.set_num_threads(1)
name, folder = sys.argv[1], Path(sys.argv[2])
fleet = SimulatedFleet(sites=3, unseen_sites=0, machines=2)
learner = MAML(MLP(128, 4, hidden=(16,)))
data, consent = fleet.site(name), Consent(machines="names")
process = SiteProcess(name, learner, data, folder, consent, classes=fleet.classes)
listener = listen(folder, SITE_SOCKET)
print("ready", flush=True)
while True:
    with listener.accept() as link:
        link.send(process.answer(decode(link.receive(60), ToSite).data))
"""
"""What `fml site` does, at its least."""


@dataclass
class Hosts:
    """A server and three sites, each with its NVFlare process."""

    folder: Path
    parents: dict[str, NVFlareParent] = field(default_factory=dict)
    sites: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    @property
    def server(self) -> Path:
        return self.folder / "server"

    def start_site(self, name: str) -> None:
        command = [sys.executable, "-c", SITE, name, str(self.folder / name)]
        self.sites[name] = process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    def stop_site(self, name: str) -> None:
        process = self.sites[name]
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()

    def connected(self) -> list[str]:
        with connect(self.server, SERVER_SOCKET) as link:
            link.send(encode(Who()))
            return sorted(member.name for member in decode(link.receive(PATIENCE), Connected).clients)

    def are_there(self) -> bool:
        with suppress(OSError):  # the server is not up yet
            return self.connected() == NAMES
        return False

    def ask(self, name: str, data: bytes = b"no message", most_bytes: int = 10_000) -> FromHub:
        with connect(self.server, SERVER_SOCKET) as link:
            ask = Ask(number=1, clients=[name], topic="work", deadline=60.0, most_bytes=most_bytes, data=data)
            link.send(encode(ask))
            said: FromHub = decode(link.receive(PATIENCE), FromHub)
            return said

    def fetch(self, name: str, asked: Fetch) -> Fetched:
        with connect(self.folder / name, HUB_SOCKET) as link:
            link.send(encode(Passed(topic="fetch", data=encode(asked), deadline=PATIENCE)))
            reply = decode(link.receive(PATIENCE), Reply)
            assert reply.data is not None, reply.reason
            return decode(reply.data, Fetched)


@pytest.fixture(scope="module")
def hosts(kits: DemoFederation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    made = Hosts(tmp_path_factory.mktemp("hosts"))
    with ExitStack() as held:
        for name in ("server", *NAMES):
            folder = made.folder / name
            folder.mkdir(mode=0o700)
            variable = "FML_SERVER" if name == "server" else "FML_SITE"
            kit = Kit(kit_folder(kits, name, made.folder / "kits"))
            made.parents[name] = NVFlareParent(kit, folder, {variable: str(folder)})
            held.enter_context(made.parents[name])
        for name in NAMES:
            made.start_site(name)
            held.callback(made.stop_site, name)
        wait_for(made.are_there)
        yield made


def fit(executor: Executor | None, data: Fleet, folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """The parameters after three rounds, and what validation then measures."""
    seed_everything(3, verbose=False)
    federation = Federation(MAML(MLP(128, 4, hidden=(16,))), local_steps=3, executor=executor, quorum=3)
    options = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(
        max_steps=3,
        accelerator="cpu",
        logger=False,
        default_root_dir=folder,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        **options,
    )
    trainer.fit(federation, datamodule=data)
    measuring = Trainer(accelerator="cpu", logger=False, default_root_dir=folder, **options)
    measuring.validate(federation, datamodule=data, verbose=False)
    params = {name: p.detach().clone() for name, p in federation.learner.shared.items()}
    return params, {name: float(value) for name, value in measuring.callback_metrics.items()}


def test_three_hosts_give_the_bits_of_one_process(hosts: Hosts, tmp_path: Path) -> None:
    here, measured_here = fit(None, SimulatedFleet(sites=3, unseen_sites=0, machines=2), tmp_path / "serial")
    executor = NVFlareExecutor(str(hosts.server), deadline=PATIENCE)
    names = RemoteFleet(NAMES, SimulatedFleet.classes)
    there, measured_there = fit(executor, names, tmp_path / "remote")
    executor.close()
    assert here.keys() == there.keys()
    assert all(torch.equal(here[name], there[name]) for name in here)
    assert measured_here == measured_there
    assert measured_there["val/sites"] == 3


def test_a_hub_holds_no_torch(hosts: Hosts) -> None:
    """Which would take hundreds of MiB in each of NVFlare's processes."""
    for parent in hosts.parents.values():
        assert "libtorch" not in Path(f"/proc/{parent.pid}/maps").read_text()


def test_an_answer_that_is_too_long_is_no_answer(hosts: Hosts) -> None:
    failure = hosts.ask("plant1", most_bytes=10)
    assert isinstance(failure, Failure)
    assert not failure.silent
    assert failure.reason.endswith("bytes, of at most 10")
    assert isinstance(hosts.ask("plant1"), Answer)  # of a message that it cannot read


def test_a_site_s_process_that_is_gone_is_told_from_a_host_that_is(hosts: Hosts) -> None:
    hosts.stop_site("plant2")
    failure = hosts.ask("plant2")
    assert isinstance(failure, Failure)
    assert (failure.reason, failure.silent) == ("its process is not running", False)
    failure = hosts.ask("plant9")
    assert isinstance(failure, Failure)
    assert failure.silent
    hosts.start_site("plant2")
    assert isinstance(hosts.ask("plant2"), Answer)


def test_sites_fetch_what_was_released_and_nothing_else(hosts: Hosts) -> None:
    released = hosts.server / "released"
    released.mkdir()
    content = bytes(range(256)) * 20_000  # more than one piece
    (released / "0123abcd.ckpt").write_bytes(content)
    (released / "secret.txt").write_text("x")
    (released / "link.ckpt").symlink_to(hosts.server / "link.key")
    listed = hosts.fetch("plant1", Fetch()).released
    assert [(each.run, each.bytes) for each in listed] == [("0123abcd", len(content))]
    came = b""
    while piece := hosts.fetch("plant1", Fetch(run="0123abcd", at=len(came))).piece:
        came += piece
    assert came == content
    for run in ("link", "secret", "../link", "../released/0123abcd", "/etc/passwd", "0123abcd.ckpt"):
        refused = hosts.fetch("plant1", Fetch(run=run))
        assert (refused.reason, refused.piece) == ("the server has released no such run", b"")


def test_a_site_that_is_disabled_is_gone_at_once(hosts: Hosts) -> None:
    with connect(hosts.server, SERVER_SOCKET) as link:
        link.send(encode(Disable(clients=["plant3"])))
        assert decode(link.receive(PATIENCE), Done).reason == ""
    assert hosts.connected() == ["plant1", "plant2"]
    assert isinstance(hosts.ask("plant3"), Failure)
