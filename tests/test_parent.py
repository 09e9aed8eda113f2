"""NVFlare's process: kept alive, ended with ours, and why it is not connected."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from flare import Processes, kit_folder, wait_for

from fml_lightning.commands.demo_federation import DemoFederation
from fml_lightning.errors import UserError
from fml_lightning.executors.nvflare import parent as parent_module
from fml_lightning.executors.nvflare.handshake import refusal
from fml_lightning.executors.nvflare.kit import Kit
from fml_lightning.executors.nvflare.namesakes import HOLD, in_use_twice
from fml_lightning.executors.nvflare.parent import Heard, NVFlareParent, is_taken, refuse_other_versions

pytestmark = pytest.mark.long

DAY = timedelta(days=1)
REGISTERED = "FederatedClient - INFO - Successfully registered client:plant1 for project fml."
UP = "conn_manager - INFO - Connection [CN00006 N/A => localhost:18102] is created: PID: 6104"
DOWN = "conn_manager - INFO - Connection [CN00006 Not Connected] is closed PID: 6104"
LOST = "CoreCell - ERROR - [ME=plant1 O=plant1 D=server CH=task TP=heart_beat SEQ=?] cannot send to 'server': x"


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(parent_module, "time", made)
    return made


def test_a_site_is_connected_once_it_is_registered_and_its_line_is_up(clock: Clock) -> None:
    heard = Heard(is_server=False)
    heard.line(UP)
    clock.now += 5
    assert not heard.connected
    heard.line(REGISTERED)
    assert heard.connected
    heard.line(DOWN)
    assert not heard.connected
    heard.line(UP)
    assert not heard.connected  # where nobody listens, NVFlare logs this too, and closes it at once
    clock.now += 2
    assert heard.connected  # NVFlare registers again without a word


def test_a_heartbeat_that_fails_counts_for_a_while(clock: Clock) -> None:
    heard = Heard(is_server=False)
    heard.line(UP)
    heard.line(REGISTERED)
    clock.now += 5
    heard.line(
        "Communicator - INFO - Failed to send heartbeat. Will try again. Exception: FLCommunicationError: x"
    )
    assert not heard.connected
    assert heard.refused
    clock.now += 16
    assert heard.connected
    heard.line(LOST)
    assert not heard.connected
    heard.line("Authenticator - ERROR - registration rejected: Client 'plant1' is disabled")
    clock.now += 100
    assert heard.disabled
    assert not heard.connected
    heard.begin()
    assert not heard.disabled


def test_a_kit_in_use_twice_is_not_connected_until_the_server_says_so_or_is_quiet(clock: Clock) -> None:
    heard = Heard(is_server=False)
    for line in (UP, REGISTERED):
        heard.line(line)
    clock.now += 5
    assert heard.connected
    heard.line(f"SiteHub - WARNING - {in_use_twice('plant1')}")
    assert heard.twice
    clock.now += 5
    for line in (DOWN, UP):  # the other host's line replaces this one's, and it dials again
        heard.line(line)
    clock.now += 5
    assert not heard.connected
    heard.line("SiteHub - INFO - the server lets this host take part again")
    assert not heard.twice
    assert heard.connected
    heard.line(f"SiteHub - WARNING - {in_use_twice('plant1')}")
    clock.now += HOLD
    assert heard.connected


def test_another_line_that_ends_is_not_the_servers(clock: Clock) -> None:
    heard = Heard(is_server=False)
    heard.line(UP)
    heard.line(REGISTERED)
    heard.line(DOWN.replace("CN00006", "CN00002"))
    clock.now += 2
    assert heard.connected


@pytest.mark.parametrize(
    ("found", "fits"), [("2.8.2", False), ("2.8.3", True), ("2.9.0", True), ("2.10.0", False)]
)
def test_other_versions_of_nvflare_are_refused(monkeypatch: pytest.MonkeyPatch, found: str, fits: bool) -> None:
    monkeypatch.setattr(parent_module, "version", lambda name: found)
    if fits:
        refuse_other_versions()
    else:
        with pytest.raises(UserError, match=rf"expected nvflare >= 2\.8\.3, < 2\.10, got {found}"):
            refuse_other_versions()


def issued_anew(demo: DemoFederation, kit: Path, start: datetime, end: datetime) -> Kit:
    """A kit whose certificate the authority has issued for another time."""
    file = next((kit / "startup").glob("*.crt"))
    old = x509.load_pem_x509_certificate(file.read_bytes())
    key = serialization.load_pem_private_key(next(demo.folder.glob("ca/**/rootCA.key")).read_bytes(), None)
    builder = x509.CertificateBuilder(
        old.issuer, old.subject, old.public_key(), x509.random_serial_number(), start, end
    )
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    made = builder.sign(key, hashes.SHA256())  # type: ignore[arg-type]
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return Kit(kit)


@contextmanager
def grpc_server(kit: Path) -> Iterator[int]:
    """What NVFlare's server listens with: gRPC that asks for certificates; its port."""
    files = [(kit / "startup" / name).read_bytes() for name in ("server.key", "server.crt", "rootCA.pem")]
    server = grpc.server(ThreadPoolExecutor(2))
    credentials = grpc.ssl_server_credentials([(files[0], files[1])], files[2], require_client_auth=True)
    port = server.add_secure_port("localhost:0", credentials)
    server.start()
    try:
        yield port
    finally:
        server.stop(0).wait()


def test_a_refused_certificate_is_named(kits: DemoFederation, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    good = Kit(kits.kit("plant1"))
    expired = issued_anew(kits, kit_folder(kits, "plant1", tmp_path / "a"), now - 3 * DAY, now - DAY)
    future = issued_anew(kits, kit_folder(kits, "plant1", tmp_path / "b"), now + DAY, now + 3 * DAY)
    with grpc_server(kits.kit("server")) as port:
        for kit in (good, expired, future):
            kit.port = port
        assert refusal(good) is None
        end = f"{now - DAY:%Y-%m-%d %H:%M} UTC"
        assert (
            refusal(expired) == f"the server at localhost:{port} refuses our certificate: it has expired on {end}"
        )
        assert "it is not valid before" in str(refusal(future))
    with grpc_server(
        issued_anew(kits, kit_folder(kits, "server", tmp_path), now - 3 * DAY, now - DAY).folder
    ) as port:
        good.port = port
        said = str(refusal(good))
        assert said.startswith(
            f"the certificate of the server at localhost:{port} has expired or is not yet valid"
        )
        assert said.endswith("; renew it, or set the clock here")
    assert refusal(good) == (
        f"nobody listens at localhost:{port}: the server is not running, or has another address"
    )


def test_an_expired_kit_starts_no_process_and_the_server_hears_of_it(
    kits: DemoFederation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, dialled = datetime.now(UTC), []
    monkeypatch.setattr(parent_module, "refusal", dialled.append)
    expired = issued_anew(kits, kit_folder(kits, "plant1", tmp_path), now - 3 * DAY, now - DAY)
    with NVFlareParent(expired, tmp_path / "p", env(tmp_path / "p", "SITE")) as parent:
        wait_for(lambda: parent.status().problem is not None)
        assert "the certificate of the site 'plant1' expired on" in str(parent.status().problem)
        assert parent.pid is None
        assert {kit.name for kit in dialled} == {"plant1"}  # again and again


def test_a_server_of_another_authority_is_named(kits: DemoFederation, tmp_path: Path) -> None:
    other = DemoFederation(1, str(tmp_path / "other"))
    other.make(lambda line: None)
    ours, theirs = Kit(kits.kit("plant1")), Kit(kit_folder(kits, "plant1", tmp_path))
    with grpc_server(other.kit("server")) as port:
        ours.port = theirs.port = port
        assert f"the certificate of the server at localhost:{port} is of another CA" in str(refusal(ours))
        # a site that trusts the server, which does not trust the site
        shutil.copy(other.kit("server") / "startup/rootCA.pem", theirs.startup / "rootCA.pem")
        assert "the server's kit is of another authority" in str(refusal(theirs))


def test_what_speaks_no_tls_is_no_server(kits: DemoFederation) -> None:
    kit = Kit(kits.kit("plant1"))
    with socket.create_server(("localhost", 0)) as listener, ThreadPoolExecutor(1) as pool:
        kit.port = listener.getsockname()[1]

        def greet() -> None:
            line, _ = listener.accept()
            with line:
                line.sendall(b"SSH-2.0-OpenSSH_9.6\r\n" * 10)
                line.recv(4096)

        pool.submit(greet)
        assert "does not speak TLS" in str(refusal(kit))


def test_the_process_is_restarted_reconnects_and_ends(
    kits: DemoFederation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "3")
    with (
        NVFlareParent(
            Kit(kit_folder(kits, "server", tmp_path)), tmp_path / "s", env(tmp_path / "s", "SERVER")
        ) as hub,
        NVFlareParent(
            Kit(kit_folder(kits, "plant1", tmp_path)), tmp_path / "p", env(tmp_path / "p", "SITE")
        ) as site,
    ):
        wait_for(lambda: hub.status().connected and site.status().connected)
        first = site.pid
        assert first is not None
        settings = Path(f"/proc/{first}/environ").read_bytes().split(b"\0")
        assert b"MALLOC_ARENA_MAX=3" in settings  # the user's own
        assert b"MALLOC_MMAP_THRESHOLD_=1048576" in settings
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: site.status().restarts == 1 and site.status().connected)
        second = site.pid
        certificate = site.kit.certificate_file
        shutil.copy(certificate, certificate.with_suffix(".new"))
        certificate.with_suffix(".new").replace(certificate)  # as fml provision renew does
        wait_for(lambda: site.pid not in (None, second) and site.status().connected)
        pids = [hub.pid, site.pid]
    assert not any(map(alive, pids))
    assert "Successfully registered" in site.log_file.read_text()
    assert not is_taken(hub.kit.port)


OWNER = """
import sys, time
from pathlib import Path
from fml_lightning.executors.nvflare.kit import Kit
from fml_lightning.executors.nvflare.parent import NVFlareParent

folder = Path("s")
with NVFlareParent(Kit(sys.argv[1]), folder, {"FML_SERVER": str(folder.absolute())}) as parent:
    said = None
    while True:
        status = parent.status()
        if (now := (parent.pid, status.connected, status.problem)) != said:
            print(*now, flush=True)
            said = now
        time.sleep(0.05)
"""


def test_a_killed_owner_leaves_no_process_and_no_port_behind(kits: DemoFederation, tmp_path: Path) -> None:
    kit = Kit(kit_folder(kits, "server", tmp_path))
    with Processes(tmp_path) as processes:
        with socket.create_server(("", kit.port)):
            processes.start("first", "-c", OWNER, str(kit.folder))
            processes.wait("first", f"None False port {kit.port} is taken: end what listens there")
        processes.wait("first", " True None")
        pid = int(processes.log("first").split(" True None")[0].split()[-1])
        assert alive(pid)
        processes.end("first", signal.SIGKILL)
        processes.start("second", "-c", OWNER, str(kit.folder))
        wait_for(lambda: not alive(pid))
        processes.wait("second", " True None")
        processes.end("second", signal.SIGKILL)
        wait_for(lambda: not is_taken(kit.port))


def env(folder: Path, role: str) -> dict[str, str]:
    """By which the hub finds its folder."""
    folder.mkdir(mode=0o700, exist_ok=True)
    return {f"FML_{role}": str(folder)}


def alive(pid: int | None) -> bool:
    """Whether a process runs, and is not only waited for."""
    try:
        return pid is not None and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
