"""`fml provision` with the real NVFlare: three hosts are three folders, between which only zips travel."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import re
import shutil
import site
import socket
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from flare import kit_folder

from fml_lightning.__main__ import run_command
from fml_lightning.commands.demo_federation import DemoFederation
from fml_lightning.commands.provision import STEPS
from fml_lightning.errors import UserError
from fml_lightning.executors.nvflare.kit import Kit, fingerprint, read_certificate
from fml_lightning.executors.nvflare.provisioning import Authority, normalized_fingerprint

HUB, SITE = "hub.example.com", "plant1"


@dataclass(frozen=True)
class Said:
    status: int
    out: str
    error: str


def provision(folder: Path, *arguments: object) -> Said:
    """`fml provision ...` in this folder."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            status = run_command("provision", [str(each) for each in arguments])
        except SystemExit as end:
            status = int(str(end.code))
    assert "Traceback" not in out.getvalue() + error.getvalue()
    return Said(status, out.getvalue(), error.getvalue())


def refused(folder: Path, *arguments: object) -> str:
    """The one sentence with which `fml provision ...` ends."""
    said = provision(folder, *arguments)
    assert said.status in (1, 2), said
    assert said.error.startswith("fml: error: "), said
    assert len(said.error.splitlines()) == 1, said
    assert "{" not in said.error, "no JSON of NVFlare's"
    return said.error


@dataclass(frozen=True)
class Hosts:
    """An authority, a server and a site; plant1's first certificate is valid for a day."""

    root: Path
    said: dict[str, str]

    def folder(self, name: str) -> Path:
        return self.root / name

    def kit(self, name: str) -> Path:
        return self.root / name / "kits" / (HUB if name == "server" else name)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    root = tmp_path_factory.mktemp("hosts")
    said: dict[str, str] = {}

    def step(host: str, key: str, *arguments: object) -> None:
        answer = provision(root / host, *arguments)
        assert answer.status == 0, answer
        said[key] = answer.out

    for name in ("authority", "server", SITE, "home"):
        (root / name).mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(root / "home"))
        step("authority", "init", "init", "--server", HUB, "--port", 8443)
        printed = said["init"].splitlines()[-1].strip()
        for host, name, role in (("server", HUB, "server"), (SITE, SITE, "site")):
            more = ["--host", "hub", "10.0.0.5"] if role == "server" else []
            step(host, f"request {host}", "request", "--role", role, "--name", name, *more)
            shutil.copy(root / host / "requests" / name / f"{name}.request.zip", root / "authority")
            days = [] if role == "server" else ["--valid-days", "1"]
            step("authority", f"approve {host}", "approve", f"{name}.request.zip", *days)
            shutil.copy(root / "authority" / f"{name}.signed.zip", root / host)
            step(host, f"package {host}", "package", f"{name}.signed.zip", "--fingerprint", printed)
        yield Hosts(root, said)
        assert list((root / "home").iterdir()) == [], "nothing is written into the user's home"


def test_kits_of_four_commands(hosts: Hosts) -> None:
    server, site = Kit(hosts.kit("server")), Kit(hosts.kit(SITE))
    assert (server.role, server.name, server.federation, server.host, server.port) == (
        "server",
        HUB,
        "fml",
        HUB,
        8443,
    )
    assert (site.role, site.name, site.federation, site.host, site.port) == ("site", SITE, "fml", HUB, 8443)
    assert server.authority == site.authority == hosts.said["init"].splitlines()[-1].strip()
    authority = read_certificate(hosts.folder("authority") / "ca" / "rootCA.pem")
    assert site.authority == fingerprint(authority)
    assert (authority.not_valid_after_utc - authority.not_valid_before_utc).days == 3650
    assert (server.ends - server.starts).days == 1095
    assert (site.ends - site.starts).days == 1
    server.check(server.starts + timedelta(days=1094))


def test_sites_dial_one_port(hosts: Hosts) -> None:
    server = json.loads((hosts.kit("server") / "startup" / "fed_server.json").read_text())["servers"][0]
    assert server["service"]["target"] == f"{HUB}:8443"
    assert server["admin_port"] == 8443


def test_private_keys_stay_where_they_were_made(hosts: Hosts) -> None:
    keys = {file for file in hosts.root.rglob("*") if file.is_file() and b"PRIVATE KEY" in file.read_bytes()}
    assert {str(file.relative_to(hosts.root)) for file in keys} == {
        "authority/ca/rootCA.key",
        f"server/requests/{HUB}/{HUB}.key",
        f"server/kits/{HUB}/startup/server.key",
        f"{SITE}/requests/{SITE}/{SITE}.key",
        f"{SITE}/kits/{SITE}/startup/client.key",
    }
    for file in keys:
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.parent.stat().st_mode & 0o777 == 0o700
    for kit in (hosts.kit("server"), hosts.kit(SITE)):
        assert kit.stat().st_mode & 0o777 == 0o700
    for archive in hosts.root.rglob("*.zip"):
        with zipfile.ZipFile(archive) as opened:
            assert all(b"PRIVATE KEY" not in opened.read(name) for name in opened.namelist())


def test_both_sides_read_out_the_same_fingerprints(hosts: Hosts) -> None:
    key = hosts.said[f"request {SITE}"].splitlines()[-1].strip()
    assert key in hosts.said[f"approve {SITE}"]
    public = Kit(hosts.kit(SITE))._certificate.public_key()
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(der)
    assert key == f"SHA256:{digest.finalize().hex(':').upper()}"
    authority = hosts.said["init"].splitlines()[-1].strip()
    assert hosts.said[f"approve {SITE}"].splitlines()[-1].strip() == authority
    assert f"it proves the names {HUB}, hub, 10.0.0.5;" in hosts.said["approve server"]


def test_what_was_made_is_said_in_a_few_lines(hosts: Hosts) -> None:
    assert "who has its rootCA.key can join as anybody" in hosts.said["init"]
    assert (
        f"send to the certificate authority: requests/{SITE}/{SITE}.request.zip" in hosts.said[f"request {SITE}"]
    )
    assert f"start it: fml site --config site.yaml --kit kits/{SITE}" in hosts.said[f"package {SITE}"].replace(
        f"{hosts.folder(SITE)}/", ""
    )
    assert "expires in less than a day" in hosts.said[f"package {SITE}"]
    assert "warning" not in hosts.said["package server"]
    for said in hosts.said.values():
        assert len(said.splitlines()) <= 8
        assert "nvflare" not in said.lower()


def test_the_authority_keeps_a_list(hosts: Hosts) -> None:
    first, second = Authority(hosts.folder("authority") / "ca").issued()[:2]
    assert (first.role, first.name, second.role, second.name) == ("server", HUB, "site", SITE)


def test_a_line_of_the_list_that_a_power_cut_has_cut_locks_nobody_out(hosts: Hosts, tmp_path: Path) -> None:
    shutil.copytree(hosts.folder("authority"), tmp_path / "authority")
    authority = Authority(tmp_path / "authority" / "ca")
    before, file = authority.issued(), authority.folder / "issued.jsonl"
    with file.open("ab") as stream:
        stream.write(file.read_bytes().splitlines()[0][:40])
    assert authority.issued() == before
    request = hosts.folder(SITE) / "requests" / SITE / f"{SITE}.request.zip"
    done = provision(tmp_path / "authority", "renew", request, "--out", tmp_path / f"{SITE}.signed.zip")
    assert done.status == 0, done
    *rest, renewed = authority.issued()
    assert rest == before
    assert renewed.key == next(each.key for each in before if each.name == SITE)
    file.write_bytes(file.read_bytes() + b'{"time": 3}\n')
    with pytest.raises(UserError, match="is damaged"):
        authority.issued()


def test_renewed_with_the_same_key(hosts: Hosts, tmp_path: Path) -> None:
    shutil.copytree(hosts.folder("authority"), tmp_path / "authority")
    shutil.copytree(hosts.folder(SITE), tmp_path / SITE)
    kit = tmp_path / SITE / "kits" / SITE
    Kit(kit).prepare(tmp_path / "nvflare")
    certificate = kit / "startup" / "client.crt"
    certificate.chmod(0o644)
    if os.geteuid() == 0:  # as who administers the host of a service that runs under a name of its own
        os.chown(certificate, 12345, 12346)
    first = certificate.stat()
    before = {file: file.read_bytes() for file in kit.rglob("*") if file.is_file()}
    old = Kit(kit)
    asked = f"{SITE}.request.zip"
    assert "has been approved with this key already" in refused(tmp_path / "authority", "approve", asked)
    shutil.copy(tmp_path / "authority" / f"{SITE}.signed.zip", tmp_path / SITE)
    said = refused(tmp_path / SITE, "renew", f"{SITE}.signed.zip")
    assert "no later than the one in" in said, "the one that is there is not renewed by itself"
    assert provision(tmp_path / "authority", "renew", asked).status == 0
    shutil.copy(tmp_path / "authority" / f"{SITE}.signed.zip", tmp_path / SITE)
    said = provision(tmp_path / SITE, "renew", f"{SITE}.signed.zip").out
    assert "for the same key" in said
    assert "restart fml site" in said
    replaced = certificate.stat()
    assert (replaced.st_mode, replaced.st_uid, replaced.st_gid) == (first.st_mode, first.st_uid, first.st_gid)
    new = Kit(kit)
    assert new.days_left(old.starts) > 1094
    after = {file: file.read_bytes() for file in kit.rglob("*") if file.is_file()}
    assert {file.name for file in after if after[file] != before[file]} == {"client.crt"}
    assert after.keys() == before.keys()
    said = refused(tmp_path / SITE, "renew", f"{SITE}.signed.zip", "--kit", hosts.kit("server"))
    assert f"is the certificate of '{SITE}', but" in said


def test_sites_follow_a_server_with_a_new_name(hosts: Hosts, tmp_path: Path) -> None:
    shutil.copytree(hosts.folder("authority"), tmp_path / "authority")
    profile = tmp_path / "authority" / "ca" / "project_profile.yaml"
    profile.write_text(
        "name: fml\nscheme: grpc\nconnection_security: mtls\n"  # as people write YAML
        "server: {host: moved.example.com, fed_learn_port: 9443, admin_port: 9443}\n"
    )
    printed = Kit(hosts.kit(SITE)).authority
    assert provision(tmp_path, "request", "--role", "server", "--name", "moved.example.com").status == 0
    asked = tmp_path / "requests" / "moved.example.com" / "moved.example.com.request.zip"
    assert provision(tmp_path / "authority", "approve", asked).status == 0
    signed = asked.with_name("moved.example.com.signed.zip")
    assert provision(tmp_path, "package", signed, "--fingerprint", printed).status == 0
    assert provision(tmp_path / "authority", "renew", f"{SITE}.request.zip").status == 0
    signed, request = tmp_path / "authority" / f"{SITE}.signed.zip", hosts.folder(SITE) / "requests" / SITE
    more = ("--fingerprint", printed, "--request", request)
    assert provision(tmp_path, "package", signed, *more).status == 0
    server, site = Kit(tmp_path / "kits" / "moved.example.com"), Kit(tmp_path / "kits" / SITE)
    assert (server.name, server.host, server.port) == ("moved.example.com", "moved.example.com", 9443)
    assert (site.name, site.host, site.port) == (SITE, "moved.example.com", 9443)
    assert site.key_file.read_bytes() == Kit(hosts.kit(SITE)).key_file.read_bytes()


def test_a_name_has_one_key(hosts: Hosts, tmp_path: Path) -> None:
    shutil.copytree(hosts.folder("authority"), tmp_path / "authority")
    assert provision(tmp_path, "request", "--role", "site", "--name", SITE).status == 0
    other = tmp_path / "requests" / SITE / f"{SITE}.request.zip"
    said = refused(tmp_path / "authority", "approve", other)
    assert "for another key" in said
    assert "--another_key true" in said
    assert "for another key" in refused(tmp_path / "authority", "renew", other)
    done = provision(tmp_path / "authority", "approve", other, "--another_key", "true")
    assert done.status == 0, done
    signed = other.with_name(f"{SITE}.signed.zip")
    said = refused(tmp_path, "renew", signed, "--kit", hosts.kit(SITE))
    assert "the private key is not that of the certificate" in said
    request = hosts.folder(SITE) / "requests" / SITE
    printed = hosts.said["init"].splitlines()[-1].strip()
    said = refused(tmp_path, "package", signed, "--fingerprint", printed, "--request", request)
    assert "they come from two requests" in said
    assert not (tmp_path / "kits" / SITE).exists()


def test_the_fingerprint_is_required_and_compared(hosts: Hosts, kits: DemoFederation, tmp_path: Path) -> None:
    signed, request = f"{SITE}.signed.zip", hosts.folder(SITE) / "requests" / SITE
    shutil.copy(hosts.folder(SITE) / signed, tmp_path)
    more = ("--request", request)
    assert "fingerprint" in refused(tmp_path, "package", signed, *more)
    assert "64 hexadecimal digits" in refused(tmp_path, "package", signed, "--fingerprint", "SHA256:1F:A0", *more)
    wrong = Kit(kits.kit(SITE)).authority
    said = refused(tmp_path, "package", signed, "--fingerprint", wrong, *more)
    assert wrong in said
    assert Kit(hosts.kit(SITE)).authority in said
    foreign = kits.folder / "requests" / SITE / signed  # plant1's, too, but of another authority of the same name
    assert "exchanged the file" in refused(
        tmp_path, "package", foreign, "--fingerprint", Kit(hosts.kit(SITE)).authority, *more
    )
    assert list(tmp_path.iterdir()) == [tmp_path / signed]
    said = refused(tmp_path, "renew", foreign, "--kit", hosts.kit(SITE))
    assert "the private key is not that of the certificate" in said


@pytest.mark.parametrize(
    "text",
    [
        "SHA256:" + ":".join(["ab"] * 32),
        "sha256 Fingerprint=" + ":".join(["AB"] * 32),
        " " + "aB " * 32,
        "AB" * 32,
    ],
)
def test_a_fingerprint_however_written(text: str) -> None:
    assert normalized_fingerprint(text) == "SHA256:" + ":".join(["AB"] * 32)


def test_the_authority_is_apart(hosts: Hosts) -> None:
    authority = hosts.folder("authority")
    signed = hosts.folder("server") / f"{HUB}.signed.zip"
    more = ("--fingerprint", Kit(hosts.kit("server")).authority)
    request = hosts.folder("server") / "requests" / HUB
    said = refused(authority, "package", signed, *more, "--request", request, "--kit", "ca/kits/server")
    assert "lives apart from the server" in said
    said = refused(authority, "request", "--role", "site", "--name", "plant2", "--folder", "ca/plant2")
    assert "lives apart from the server" in said
    assert not (authority / "ca" / "plant2").exists()


def test_bad_input_is_one_sentence(hosts: Hosts, tmp_path: Path) -> None:
    shutil.copytree(hosts.folder("authority"), tmp_path / "authority")
    here = tmp_path / "authority"
    assert "one of init, request" in refused(here, "sign")
    assert "role" in refused(here, "request", "--role", "admin", "--name", "x")
    for name in ("plant 1", "plant/1", "-plant", "", "Werk-Köln", "a" * 65, "plant.1", "plant\n1"):
        assert "a site is named with letters" in refused(here, "request", "--role", "site", f"--name={name}")
    for name in ("hub_1", "hub..lan", "https://hub", "hub:8002", "::1", "a" * 65):
        assert "the server is named with" in refused(here, "request", "--role", "server", f"--name={name}")
    assert "which is the server's" in refused(here, "request", "--role", "site", "--name", "server")
    said = refused(here, "request", "--role", "site", "--name", "plant2", "--host", "x")
    assert "further host names are a server's" in said
    assert "is not empty" in refused(hosts.folder(SITE), "request", "--role", "site", "--name", SITE)
    for step in ("approve", "renew"):
        assert "name the file" in refused(here, step)
    assert "name the file" in refused(here, "package", "--fingerprint", "0" * 64)
    assert "is not empty" in refused(here, "init", "--server", HUB)
    assert "a federation is named with" in refused(here, "init", "--server", HUB, "--federation", "our plants")
    assert "port" in refused(here, "init", "--server", HUB, "--port", 0)
    assert "1 to 36500 days" in refused(here, "init", "--server", HUB, "--ca", "new", "--valid_days", 0)
    assert not (here / "new").exists()
    assert "no such file" in refused(here, "approve", "plant9.request.zip")
    assert "named *.request.zip" in refused(here, "approve", f"{SITE}.signed.zip")
    assert "no certificate authority" in refused(here, "renew", f"{SITE}.request.zip", "--ca", "nowhere")
    (here / "cut.request.zip").write_bytes((here / f"{SITE}.request.zip").read_bytes()[:500])
    assert "cut off on its way" in refused(here, "approve", "cut.request.zip")
    assert "is there already" in refused(
        hosts.folder(SITE), "package", f"{SITE}.signed.zip", "--fingerprint=" + "0" * 64
    )
    said = refused(tmp_path, "package", here / f"{SITE}.signed.zip", "--fingerprint", "0" * 64)
    assert "no such folder; name the one that fml provision request made" in said
    (tmp_path / "requests" / SITE).mkdir(parents=True)
    right = Kit(hosts.kit(SITE)).authority
    shutil.copy(here / f"{SITE}.signed.zip", tmp_path / "again (1).signed.zip")
    said = refused(tmp_path, "package", "again (1).signed.zip", "--fingerprint", right)
    assert f"the private key requests/{SITE}/{SITE}.key is missing" in said


def rewritten(file: Path, to: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A copy of a zip, with other members."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(to, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return to


def test_requests_that_lie_are_refused(hosts: Hosts, tmp_path: Path) -> None:
    authority = hosts.folder("authority")
    asked, to = authority / f"{SITE}.request.zip", tmp_path / f"{SITE}.request.zip"

    def saying(**changes: str) -> Path:
        def change(members: dict[str, bytes]) -> None:
            members["request.json"] = json.dumps(json.loads(members["request.json"]) | changes).encode()

        return rewritten(asked, to, change)

    assert "asks to join the federation 'others'" in refused(authority, "approve", saying(project="others"))
    assert "of kind 'user'" in refused(authority, "approve", saying(kind="user"))
    assert "which is the server's name" in refused(
        authority, "approve", saying(name="HUB-example-com"), "--ca", _moved(authority / "ca", tmp_path / "ca")
    )
    assert "but sites of this federation look for" in refused(
        authority, "approve", saying(kind="server", name="evil.example.com")
    )
    for name in ("hub", "HUB"):  # another name of the server's certificate
        assert "which is the server's name" in refused(authority, "approve", saying(name=name))
    assert "no name of a site" in refused(authority, "approve", saying(name="../plant1"))
    assert "not what fml provision request made" in refused(
        authority, "approve", rewritten(asked, to, lambda members: members.update({"request.json": b"[]"}))
    )
    assert "holds no request.json" in refused(
        authority, "approve", rewritten(asked, to, lambda members: members.pop("request.json") and None)
    )
    # What only NVFlare looks at: the name in request.json is not that of the CSR.
    said = refused(authority, "approve", saying(name="plant7"))
    assert "nvflare cert approve refused" in said
    assert not list(tmp_path.glob("*.signed.zip"))


def test_a_server_cannot_be_called_as_a_site(hosts: Hosts, tmp_path: Path) -> None:
    shutil.copytree(hosts.folder("authority"), tmp_path / "authority")
    assert provision(tmp_path, "request", "--role", "server", "--name", HUB, "--host", SITE).status == 0
    asked = tmp_path / "requests" / HUB / f"{HUB}.request.zip"
    said = refused(tmp_path / "authority", "approve", asked, "--another_key", "true")
    assert f"a server cannot be called '{SITE}'" in said
    assert not asked.with_name(f"{HUB}.signed.zip").exists()


def _moved(authority: Path, to: Path) -> Path:
    """The authority, of a server whose name a site could have too."""
    shutil.copytree(authority, to)
    profile = to / "project_profile.yaml"
    profile.write_text(profile.read_text().replace(HUB, "hub-example-com"))
    return to


def test_nvflare_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nvflare" else find(name))
    assert "pip install 'fml-lightning[flare]'" in refused(tmp_path, "init", "--server", HUB)
    monkeypatch.undo()
    assert list((tmp_path / "ca").iterdir()) == [], "the next try finds the folder empty"


def test_nvflare_has_a_home_of_its_own_and_our_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pip install --user` puts packages below the user's home, where Python looks for them by HOME."""
    seen: list[dict[str, str]] = []

    def run(command: list[str], env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        seen.append(env)
        return subprocess.CompletedProcess(command, 1, "", "Traceback ...\nValueError: no")

    monkeypatch.setattr(subprocess, "run", run)
    assert "nvflare cert init refused: ValueError: no" in refused(tmp_path, "init", "--server", HUB)
    assert seen[0]["HOME"] != os.environ.get("HOME")
    assert not Path(seen[0]["HOME"]).exists(), "it is gone with the command"
    assert seen[0]["PYTHONUSERBASE"] == site.getuserbase()


def test_help_follows_the_steps() -> None:
    said = provision(Path.cwd(), "--help").out
    steps = [said.index(f"fml provision {step}") for step in ("init", "request", "approve", "package")]
    assert steps == sorted(steps)
    assert "needs a new request" in " ".join(provision(Path.cwd(), "renew", "--help").out.split())


@pytest.mark.parametrize("step", STEPS)
def test_help_explains_every_option_of_a_step(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    said = provision(Path.cwd(), step, "--help").out
    assert said.startswith(f"usage: fml provision {step}")
    assert f"\n{STEPS[step][1]}\n" in said
    options = re.findall(r"^  (--[a-z_]+)( .*)?\n?((?:       .*\n)*)", said, re.MULTILINE)
    assert len(options) >= 4
    for option, rest, below in options:
        text = re.sub(r"\((required, )?type: .*", "", rest + below)
        assert len(text.split()) >= 3, f"{option} is not explained"


def test_demo(kits: DemoFederation) -> None:
    server = Kit(kits.kit("server"))
    assert (server.role, server.host) == ("server", "localhost")
    for name in kits.names:
        site = Kit(kits.kit(name))
        assert (site.role, site.name, site.port, site.authority) == ("site", name, server.port, server.authority)
        config = msgspec.yaml.decode((kits.folder / f"{name}.yaml").read_bytes())
        assert config["site"] == name
        assert (
            config["learner"]
            == msgspec.yaml.decode((kits.folder / "federation.yaml").read_bytes())["model"]["learner"]
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", server.port))
    assert kits.names == ["plant1", "plant2", "plant3"]
    assert [command.split(" && ")[1].split()[1] for command in kits.commands()] == ["server", *["site"] * 3, "fit"]


def test_demo_into_a_folder_that_is_in_use(kits: DemoFederation) -> None:
    assert "is not empty" in refused(kits.folder, "demo", "--folder", kits.folder)
    assert "expected 1 to 100" in refused(kits.folder, "demo", "--sites", 0)


def test_the_clock_decides(kits: DemoFederation) -> None:
    kit = Kit(kits.kit(SITE))
    assert kit.warning(kit.ends - timedelta(days=60, seconds=1)) is None
    assert kit.warning(kit.starts) is None
    soon = kit.warning(kit.ends - timedelta(days=60))
    assert soon is not None
    assert f"'{SITE}' expires in 60 days, on {kit.ends:%Y-%m-%d %H:%M} UTC" in soon
    assert "fml provision renew" in soon
    assert "in 1 day," in str(kit.warning(kit.ends - timedelta(days=1)))
    assert "in less than a day," in str(kit.warning(kit.ends - timedelta(seconds=1)))
    assert kit.days_left(kit.ends - timedelta(hours=36)) == 1.5
    with pytest.raises(UserError, match=r"expired on .* this host's clock says 2100-01-01 00:00 UTC"):
        kit.check(datetime(2100, 1, 1, tzinfo=UTC))
    with pytest.raises(UserError, match=r"valid from .* on, and this host's clock says 1970-01-01 00:00 UTC"):
        kit.check(datetime(1970, 1, 1, tzinfo=UTC))
    kit.check(kit.ends - timedelta(seconds=1))
    with pytest.raises(UserError, match="expired"):
        kit.check(kit.ends)
    kit.check()


def forge(
    kit: Path, name: str = SITE, kind: str = "client", days: int = 100, authority_days: int = 1000
) -> tuple[datetime, datetime]:
    """Give a kit certificates of an authority of the test's own; when the authority and the certificate end."""
    now = datetime.now(UTC).replace(microsecond=0)
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fml")])

    def sign(subject: x509.Name, public: ec.EllipticCurvePublicKey, days: int) -> bytes:
        made = x509.CertificateBuilder(root, subject, public, x509.random_serial_number())
        made = made.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=days))
        return made.sign(authority_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    subject = [(NameOID.COMMON_NAME, name), (NameOID.UNSTRUCTURED_NAME, kind)]
    (kit / "startup" / "rootCA.pem").write_bytes(sign(root, authority_key.public_key(), authority_days))
    who = x509.Name([x509.NameAttribute(oid, text) for oid, text in subject])
    (kit / "startup" / "client.crt").write_bytes(sign(who, key.public_key(), days))
    format = serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(serialization.Encoding.PEM, format, serialization.NoEncryption())
    (kit / "startup" / "client.key").write_bytes(pem)
    return now + timedelta(days=authority_days), now + timedelta(days=days)


def test_what_ends_first(kits: DemoFederation, tmp_path: Path) -> None:
    folder = kit_folder(kits, SITE, tmp_path)
    _, ends = forge(folder, days=100, authority_days=1000)
    assert Kit(folder).ends == ends
    authority_ends, _ = forge(folder, days=100, authority_days=30)
    kit = Kit(folder)
    assert kit.ends == authority_ends
    assert "the certificate authority of the federation 'fml' expires in " in str(kit.warning())
    assert "fml provision init" in str(kit.warning())


def swap(kit: Path, name: str, other: Path) -> None:
    shutil.copy(other / "startup" / name, kit / "startup" / name)


DAMAGE: dict[str, tuple[Callable[[Path, DemoFederation], object], str]] = {
    "no folder": (lambda kit, kits: shutil.rmtree(kit), "no such folder"),
    "no kit": (lambda kit, kits: shutil.rmtree(kit / "startup"), "expected one of .*, found none"),
    "both": (lambda kit, kits: swap(kit, "fed_server.json", kits.kit("server")), "expected one of .*, found both"),
    "no key": (lambda kit, kits: (kit / "startup/client.key").unlink(), "private key .* is missing"),
    "open key": (lambda kit, kits: (kit / "startup/client.key").chmod(0o640), r"mode 0640\): chmod 600"),
    "torn key": (lambda kit, kits: os.truncate(kit / "startup/client.key", 100), "no private key in PEM"),
    "foreign key": (
        lambda kit, kits: swap(kit, "client.key", kits.kit("plant2")),
        "is not that of the certificate",
    ),
    "no certificate": (lambda kit, kits: (kit / "startup/client.crt").unlink(), "client.crt is missing"),
    "torn certificate": (lambda kit, kits: os.truncate(kit / "startup/client.crt", 99), "no certificate in PEM"),
    "no authority": (lambda kit, kits: (kit / "startup/rootCA.pem").unlink(), "rootCA.pem is missing"),
    "torn settings": (lambda kit, kits: os.truncate(kit / "startup/fed_client.json", 99), "is not JSON"),
    "no address": (lambda kit, kits: (kit / "startup/fed_client.json").write_text("{}"), "where the server is"),
    "other settings": (
        lambda kit, kits: swap(kit, "fed_client.json", kits.kit("plant2")),
        "names 'plant2', but the certificate is that of 'plant1'",
    ),
    "other name": (lambda kit, kits: forge(kit, name="plant9"), "but the certificate is that of 'plant9'"),
    "server's": (
        lambda kit, kits: forge(kit, kind="server"),
        "a site's, but its certificate was issued to a server",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_kit_says_what_is_wrong_with_it(damage: str, kits: DemoFederation, tmp_path: Path) -> None:
    folder = kit_folder(kits, SITE, tmp_path)
    Kit(folder)
    change, expected = DAMAGE[damage]
    change(folder, kits)
    with pytest.raises(UserError, match=expected) as error:
        Kit(folder)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_certificate_of_another_authority(kits: DemoFederation, hosts: Hosts, tmp_path: Path) -> None:
    folder = kit_folder(kits, SITE, tmp_path)
    swap(folder, "rootCA.pem", hosts.kit(SITE))
    with pytest.raises(UserError, match="was not issued by this federation's certificate authority") as error:
        Kit(folder)
    assert Kit(hosts.kit(SITE)).authority in str(error.value)


def test_a_server_moves_under_a_name_of_its_certificate(hosts: Hosts, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(hosts.kit("server"), tmp_path / "server"))
    file = folder / "startup" / "fed_server.json"
    text = file.read_text()
    file.write_text(text.replace(f"{HUB}:8443", "10.0.0.5:9443"))
    assert (Kit(folder).host, Kit(folder).port) == ("10.0.0.5", 9443)
    file.write_text(text.replace(f"{HUB}:8443", "moved.example.com:8443"))
    with pytest.raises(UserError, match=r"names hub\.example\.com, hub, 10\.0\.0\.5; a server with a new name"):
        Kit(folder)


def test_prepared_for_nvflare(kits: DemoFederation, tmp_path: Path) -> None:
    server, site = Kit(kit_folder(kits, "server", tmp_path)), Kit(kit_folder(kits, SITE, tmp_path))
    server.prepare(tmp_path / "work"), site.prepare(tmp_path / "work1")
    written = json.loads((server.folder / "local/resources.json").read_text())
    paths = {each["id"]: each for each in written["components"]}
    assert paths["fml"]["path"] == "fml_lightning.executors.nvflare.server_hub.ServerHub"
    assert written["class_allow_list"] == [paths["fml"]["path"]]
    assert written["servers"][0]["heart_beat_timeout"] == 30
    assert paths["job_manager"]["args"]["uri_root"] == str(tmp_path / "work" / "jobs")
    assert written["snapshot_persistor"]["args"]["storage"]["args"]["root_dir"] == str(
        tmp_path / "work" / "snapshots"
    )
    assert "/tmp/nvflare" not in json.dumps(written)
    written = json.loads((site.folder / "local/resources.json").read_text())
    assert written["class_allow_list"] == ["fml_lightning.executors.nvflare.site_hub.SiteHub"]
    assert written["allow_log_streaming"] is False, "logs of a site name its machines and files"
    for kit in (server, site):
        written = json.loads((kit.folder / "local/resources.json").read_text())
        left = {each["id"] for each in written["components"]}
        assert not left & {"process_launcher", "site_log_streamer", "log_receiver"}, "no jobs, and logs stay"
    limits = json.loads((site.folder / "local/comm_config.json").read_text())
    assert limits == {"max_message_size": 1 << 30, "streaming_max_blob_size": 1 << 30}


def test_prepared_again_it_keeps_what_people_set(kits: DemoFederation, tmp_path: Path) -> None:
    kit = Kit(kit_folder(kits, "server", tmp_path))
    kit.prepare(tmp_path / "work")
    file, disabled = kit.folder / "local/resources.json", kit.folder / "disabled_clients.json"
    once = file.read_text()
    disabled.write_text('{"disabled_clients": ["plant2"]}')
    changed = json.loads(once)
    changed["servers"][0] |= {"max_num_clients": 7, "heart_beat_timeout": 600}
    changed["class_allow_list"].append("os.system")
    file.write_text(json.dumps(changed))
    limits = kit.folder / "local/comm_config.json"
    limits.write_text('{"max_message_size": 5}')
    kit.prepare(tmp_path / "work")
    changed["servers"][0]["heart_beat_timeout"] = 30
    changed["class_allow_list"].pop()
    assert json.loads(file.read_text()) == changed
    assert json.loads(limits.read_text())["max_message_size"] == 5
    assert disabled.read_text() == '{"disabled_clients": ["plant2"]}'
    file.write_text('{"components": 3}')
    with pytest.raises(UserError, match=r"resources\.json lacks a part .* delete resources\.json"):
        kit.prepare(tmp_path / "work")
