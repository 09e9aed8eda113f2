"""Certificates and kits of a federation, made so that no private key ever leaves the host that it is for.

An authority signs, hosts ask: `Authority.create` makes the authority, `request` a host's key and what asks for its
certificate, `Authority.approve` issues the certificate, and `package` makes the kit of both. NVFlare's commands do
the work, each in a process of its own with a home of its own, so that nothing of the user's is read or changed:
https://nvflare.readthedocs.io/en/main/programming_guide/provisioning_system.html
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import site
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509

from fml_lightning.durable import add_lines
from fml_lightning.errors import UserError
from fml_lightning.executors.nvflare.kit import (
    Kit,
    Role,
    check_certificate,
    check_host,
    fingerprint,
    host_names,
    read_certificate,
    read_key,
    replace_file,
)
from fml_lightning.names import escaped

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 1095
ORGANIZATION = "fml"
"""NVFlare's word for who runs a host; it authorizes jobs, and there are none."""

_SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_HOST = re.compile(
    r"(?=.{1,64}$)([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
)
_FEDERATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LONGEST_MEMBER = 1 << 20
_ENDS: dict[str, str] = {"request": ".request.zip", "signed": ".signed.zip"}


@dataclass(frozen=True)
class Request:
    """What a host asks for; the file travels to the certificate authority."""

    file: Path
    federation: str
    role: Role
    name: str
    key: str
    """SHA-256 of the public key, which both sides read and compare: `SHA256:AA:BB:...`."""


@dataclass(frozen=True)
class Approval:
    """A certificate that the authority has issued; the file travels back to the host."""

    file: Path
    role: Role
    name: str
    key: str
    """SHA-256 of the public key."""
    ends: datetime
    """When the certificate ceases to be valid."""
    hosts: tuple[str, ...]
    """The names and addresses that a server's certificate proves."""


@dataclass(frozen=True)
class Issued:
    """A line of the authority's list of what it has issued."""

    time: str
    role: Role
    name: str
    key: str
    ends: str
    hosts: tuple[str, ...] = ()
    """The names and addresses that a server's certificate proves."""


@dataclass(frozen=True)
class Authority:
    """The certificate authority of one federation: a folder that lives apart from the server.

    It holds `rootCA.key`, with which anybody could join as anybody; `project_profile.yaml`, which says where the
    server is; and `issued.jsonl`, a line for each certificate.
    """

    folder: Path

    @classmethod
    def create(
        cls, folder: Path, federation: str, server: str, port: int, valid_days: int = AUTHORITY_DAYS
    ) -> Authority:
        """Make an authority where there is none.

        Args:
            folder: made for it.
            federation: what the federation is called.
            server: the server's host name or address, at which sites find it.
            port: where the server listens; sites dial out to this one port.
            valid_days: after which the authority, and all that it has issued, ends.
        """
        _check_name(_FEDERATION, federation, "a federation", "letters, digits, '.', '_' and '-', at most 64")
        _check_host_name(server)
        _check_days(valid_days)
        if folder.exists() and any(folder.iterdir()):
            raise UserError(
                f"{folder} is not empty: a certificate authority gets a folder of its own, and one that is there"
                " is never made anew, since nothing that it has issued would be accepted any more"
            )
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        profile = {
            "name": federation,
            "scheme": "grpc",
            "connection_security": "mtls",
            # One port for all: NVFlare's second one is for administrators, of whom there are none.
            "server": {"host": server, "fed_learn_port": port, "admin_port": port},
        }
        made = cls(folder)
        made.profile.write_text(json.dumps(profile, indent=2) + "\n")  # JSON is YAML
        try:
            where = ("--profile", made.profile.absolute(), "-o", folder.absolute())
            _nvflare("cert", "init", *where, "--valid-days", valid_days)
        except BaseException:
            made.profile.unlink()  # so that the folder is empty again for the next try
            raise
        return made

    @property
    def profile(self) -> Path:
        """Where the server is; what an approval tells each host."""
        return self.folder / "project_profile.yaml"

    @property
    def certificate(self) -> x509.Certificate:
        """The authority's own certificate, which every kit holds."""
        if not (self.folder / "rootCA.key").is_file() or not self.profile.is_file():
            raise UserError(
                f"{self.folder} holds no certificate authority; name the folder that fml provision init made"
            )
        return read_certificate(self.folder / "rootCA.pem")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the authority's certificate; hosts are told it on another way than the one of the files."""
        return fingerprint(self.certificate)

    @property
    def ends(self) -> datetime:
        """When the authority ends, and all that it has issued."""
        return self.certificate.not_valid_after_utc

    def issued(self) -> list[Issued]:
        """What the authority has issued, the oldest first."""
        file = self.folder / "issued.jsonl"
        if not file.exists():
            return []
        # A power cut may cut a line short: what it would have listed has not gone out to anybody.
        lines = [line for line in file.read_bytes().splitlines() if line.rstrip().endswith(b"}")]
        try:
            return [msgspec.json.decode(line, type=Issued) for line in lines]
        except ValueError as error:
            raise UserError(f"{file} is damaged ({error}); restore it from a backup of the authority") from error

    def approve(
        self,
        request: Path,
        out: Path | None = None,
        valid_days: int = CERTIFICATE_DAYS,
        renew: bool = False,
        another_key: bool = False,
    ) -> Approval:
        """Issue the certificate that a request asks for.

        Args:
            request: NAME.request.zip, as it came from the host.
            out: what is sent back; None: NAME.signed.zip beside the request.
            valid_days: after which the certificate ends.
            renew: issue another one for the same name and key.
            another_key: let the name have another key than before.
        """
        _check_days(valid_days)
        authority = self.certificate
        asked = read_request(request)
        self._check_identity(asked)
        out = out or request.with_name(f"{asked.name}{_ENDS['signed']}")
        if not out.name.endswith(_ENDS["signed"]):
            raise UserError(f"expected a file named *{_ENDS['signed']} for what goes back, got {out}")
        before = next((each for each in reversed(self.issued()) if each.name == asked.name), None)
        if renew and before is None:
            raise UserError(
                f"{self.folder} has issued nothing to {asked.name!r} yet: fml provision approve {request}"
            )
        if before is not None and before.role != asked.role:
            raise UserError(f"{asked.name!r} is a {before.role}, and {request} is the request of a {asked.role}")
        if before is not None and before.key != asked.key and not another_key:
            raise UserError(
                f"{asked.name!r} has a certificate until {before.ends[:10]}, for another key ({before.key}) than"
                f" the one in {request} ({asked.key}): if the host lost its key, say so with --another_key true;"
                " if it was stolen, lock the name out at the server and give the host a new name"
            )
        if before is not None and before.key == asked.key and not renew:
            raise UserError(
                f"{asked.name!r} has been approved with this key already, until {before.ends[:10]}; a later end"
                f" is made by fml provision renew {request}"
            )
        if out.exists() and not renew:
            raise UserError(f"{out} is there already; move it away, or name another file with --out")
        _nvflare(
            *("cert", "approve", request.absolute(), "-c", self.folder.absolute(), "--out", out.absolute()),
            *("--profile", self.profile.absolute(), "--valid-days", valid_days, "--force"),
            about=str(request),
        )
        certificate = _certificate_in(out, asked.name)
        check_certificate(certificate, out, certificate.public_key(), authority)
        hosts = tuple(host_names(certificate))
        if taken := {name.lower() for name in hosts} & self._names("site") - {asked.name.lower()}:
            out.unlink()
            raise UserError(f"{request}: a server cannot be called {taken.pop()!r}, which is a site's name")
        done = Approval(out, asked.role, asked.name, asked.key, certificate.not_valid_after_utc, hosts)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        line = Issued(now, done.role, done.name, done.key, done.ends.isoformat(), hosts)
        add_lines(self.folder / "issued.jsonl", [msgspec.json.encode(line)])
        return done

    def _names(self, role: Role) -> set[str]:
        """All names in small letters that certificates of a role prove: whoever has one can pass for its name."""
        issued = [each for each in self.issued() if each.role == role]
        return {name.lower() for each in issued for name in (each.name, *each.hosts)}

    def _check_identity(self, asked: Request) -> None:
        """Refuse a request of another federation, and a name that would pass for the server's or is not."""
        try:
            profile = msgspec.yaml.decode(self.profile.read_bytes())
            federation, server = str(profile["name"]), str(profile["server"]["host"])
        except (msgspec.DecodeError, KeyError, TypeError) as error:
            raise UserError(f"{self.profile} does not say the federation's name and server ({error!r})") from error
        if asked.federation != federation:
            raise UserError(
                f"{asked.file} asks to join the federation {escaped(asked.federation)!r}, but this authority is"
                f" that of {federation!r}; ask the host for fml provision request --federation {federation}"
            )
        if asked.role == "server" and asked.name != server:
            raise UserError(
                f"{asked.file} is the request of a server {asked.name!r}, but sites of this federation look for"
                f" {server!r}: ask for fml provision request --role server --name {server}, or, if the server"
                f" has moved, write its new name into {self.profile}"
            )
        if asked.role == "site" and asked.name.lower() in {server.lower(), *self._names("server")}:
            raise UserError(f"{asked.file}: a site cannot be called {asked.name!r}, which is the server's name")


def request(folder: Path, federation: str, role: Role, name: str, hosts: Sequence[str] = ()) -> Request:
    """Make a host's private key, and the file that asks for its certificate.

    Args:
        folder: where the key stays until the kit is packaged; made for it.
        federation: the federation's name.
        role: what the host will be.
        name: the site's name in the federation; the server's is the host name at which sites find it.
        hosts: further names and addresses of the server.
    """
    _check_name(_FEDERATION, federation, "a federation", "letters, digits, '.', '_' and '-', at most 64")
    if role == "server":
        for host in (name, *hosts):
            _check_host_name(host)
    else:
        _check_name(_SITE, name, "a site", "letters, digits, '_' and '-', at most 64, the first no sign")
        if name.lower() in ("server", "localhost"):
            raise UserError(f"a site cannot be called {name!r}, which is the server's; name it after its plant")
        if hosts:
            raise UserError("further host names are a server's; a site is not dialled")
    if folder.exists() and any(folder.iterdir()):
        raise UserError(
            f"{folder} is not empty: a request gets a folder of its own, and a key that is there is never made"
            " anew; name another --folder"
        )
    _apart_from_authority(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    participant: dict[str, Any] = {"name": name, "type": "client", "org": ORGANIZATION}
    if role == "server":
        participant |= {"type": "server", "host_names": list(hosts)}
    with tempfile.TemporaryDirectory() as home:
        file = Path(home) / "participant.yaml"
        file.write_text(json.dumps({"name": federation, "participants": [participant]}))
        _nvflare("cert", "request", "-p", file, "--out", folder.absolute(), "--force")
    made = folder / f"{name}{_ENDS['request']}"
    return read_request(made)


def package(signed: Path, request_folder: Path, expected: str, kit: Path) -> Kit:
    """Make the kit, of the host's own key and what the authority sent back.

    Args:
        signed: NAME.signed.zip.
        request_folder: what `request` made on this host; the key is in it.
        expected: the authority's fingerprint, as it was read out, not as it came with the file.
        kit: the folder to make.
    """
    expected = normalized_fingerprint(expected)
    name = signed_name(signed)
    if kit.exists():
        raise UserError(
            f"{kit} is there already; a certificate is renewed by fml provision renew, and another kit needs"
            " another --kit"
        )
    _apart_from_authority(kit)
    _apart_from_authority(request_folder)
    if not request_folder.is_dir():
        raise UserError(
            f"{request_folder}: no such folder; name the one that fml provision request made on this host, with"
            " the private key, by --request"
        )
    authority = _member_certificate(signed, "rootCA.pem")
    if (came := fingerprint(authority)) != expected:
        raise UserError(
            f"{signed} comes from a certificate authority with the fingerprint {came}, not {expected}: either"
            " the fingerprint was mistyped, or somebody exchanged the file; do not use it before who runs the"
            " authority has read the fingerprint out to you again"
        )
    check_certificate(_certificate_in(signed, name), signed, read_key(request_folder / f"{name}.key"), authority)
    kit.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kit.parent, prefix=".kit-") as workspace:
        made = _nvflare(
            *("package", signed.absolute(), "--request-dir", request_folder.absolute()),
            *("--fingerprint", expected, "-w", Path(workspace).absolute()),
            about=str(signed),
        )
        folder = Path(str(made["output_dir"]))
        folder.chmod(0o700)
        Kit(folder)  # whole, before it is where it will be used
        shutil.move(folder, kit)
    return Kit(kit)


def renew(kit: Kit, signed: Path) -> Kit:
    """Replace a kit's certificate alone, by a newer one for the same key.

    Args:
        kit: the host's.
        signed: NAME.signed.zip, which the authority made of the old request.
    """
    if (name := signed_name(signed)) != kit.name:
        raise UserError(f"{signed} is the certificate of {name!r}, but {kit.folder} is the kit of {kit.name!r}")
    certificate = _certificate_in(signed, name)
    authority = read_certificate(kit.startup / "rootCA.pem")
    check_certificate(certificate, signed, read_key(kit.key_file), authority)
    if kit.role == "server":
        check_host(certificate, kit.host, signed)
    ends = certificate.not_valid_after_utc
    if ends <= read_certificate(kit.certificate_file).not_valid_after_utc:
        raise UserError(
            f"{signed} holds a certificate that ends on {ends:%Y-%m-%d %H:%M} UTC, no later than the one in"
            f" {kit.folder} ({kit.ends:%Y-%m-%d %H:%M} UTC); ask for a newer one"
        )
    content = _member(signed, f"{kit.name}.crt")
    replace_file(kit.certificate_file, content)
    return Kit(kit.folder)


def read_request(file: Path) -> Request:
    """What a request asks for. NVFlare checks the rest when it approves."""
    _check_zip(file, "request")
    try:
        content = json.loads(_member(file, "request.json"))
        kind, federation = content["kind"], content["project"]
        name, key = content["name"], content["public_key_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not what fml provision request made ({error!r})") from error
    if kind not in ("server", "site") or not all(isinstance(each, str) for each in (name, key, federation)):
        raise UserError(
            f"{file} asks for a certificate of kind {kind!r}; there are but the server's and the sites'"
        )
    role: Role = "server" if kind == "server" else "site"
    if not (_HOST if role == "server" else _SITE).fullmatch(name):
        raise UserError(f"{file} asks for a certificate for {escaped(name)!r}, which is no name of a {role}")
    return Request(file, federation, role, name, f"SHA256:{_pairs(key)}")


def signed_name(file: Path) -> str:
    """Whose certificate the authority's answer holds, whatever the file has been called since."""
    _check_zip(file, "signed")
    try:
        name = json.loads(_member(file, "signed.json"))["name"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not what fml provision approve made ({error!r})") from error
    if not isinstance(name, str) or not (_SITE.fullmatch(name) or _HOST.fullmatch(name)):
        raise UserError(f"{file} is not what fml provision approve made (its name is {escaped(str(name))!r})")
    return name


def normalized_fingerprint(text: str) -> str:
    """A fingerprint however it was written, as `SHA256:AA:BB:...`.

    >>> normalized_fingerprint("sha256 Fingerprint=" + "ab:" * 31 + "AB")[:15]
    'SHA256:AB:AB:AB'
    """
    digits = re.sub(r"^\s*sha-?256(\s*fingerprint)?\s*[:=]?", "", text, flags=re.IGNORECASE)
    digits = re.sub(r"[\s:-]", "", digits)
    if not re.fullmatch(r"[0-9A-Fa-f]{64}", digits):
        raise UserError(
            "fingerprint: expected 64 hexadecimal digits, such as SHA256:1F:A0:..., as fml provision init"
            f" printed them, got {escaped(text)!r}"
        )
    return f"SHA256:{_pairs(digits)}"


def _pairs(digits: str) -> str:
    return ":".join(digits[i : i + 2] for i in range(0, len(digits), 2)).upper()


def _check_name(pattern: re.Pattern[str], name: str, whose: str, allowed: str) -> None:
    if not pattern.fullmatch(name):
        raise UserError(f"{whose} is named with {allowed}, got {escaped(name)!r}")


def _check_host_name(name: str) -> None:
    allowed = "letters, digits, '-' and '.', as a host name or an IPv4 address, at most 64"
    _check_name(_HOST, name, "the server", allowed)


def _check_days(valid_days: int) -> None:
    if not 1 <= valid_days <= 36500:
        raise UserError(f"valid_days: expected 1 to 36500 days, got {valid_days}")


def _apart_from_authority(folder: Path) -> None:
    """Refuse to put a host's key where the authority's is: who breaks into that host could sign anybody in."""
    folder = folder.resolve()
    for above in (folder, *folder.parents):
        if (above / "rootCA.key").exists():
            raise UserError(
                f"{folder} lies in the folder of the certificate authority ({above}); the authority lives apart"
                " from the server and the sites, best on a computer that is off the network: name another"
                " folder"
            )


def _check_zip(file: Path, kind: str) -> None:
    if not file.name.endswith(_ENDS[kind]):
        raise UserError(f"expected a file named *{_ENDS[kind]}, got {file}")
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    if not zipfile.is_zipfile(file):
        raise UserError(f"{file} is no zip file, or was cut off on its way; have it sent again")


def _member(file: Path, name: str) -> bytes:
    try:
        with zipfile.ZipFile(file) as archive:
            if archive.getinfo(name).file_size > _LONGEST_MEMBER:
                raise UserError(f"{file}: {name} in it is longer than any that we make; have it sent again")
            return archive.read(name)
    except KeyError:
        with zipfile.ZipFile(file) as archive:
            found = ", ".join(escaped(each) for each in archive.namelist()[:8]) or "nothing"
        raise UserError(f"{file} holds no {name}, but {found}; it is that of another host or not ours") from None
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError, zlib.error) as error:
        raise UserError(f"{file} is damaged ({error}); have it sent again") from error


def _member_certificate(file: Path, name: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_member(file, name))
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{file}: {name} in it is no certificate ({error}); have it sent again") from error


def _certificate_in(file: Path, name: str) -> x509.Certificate:
    return _member_certificate(file, f"{name}.crt")


def _nvflare(*arguments: object, about: str = "") -> dict[str, Any]:
    """Run one of NVFlare's commands, and give what it says it has made; `about` is the file that it is about."""
    if importlib.util.find_spec("nvflare") is None:
        raise UserError("certificates and kits are made by NVFlare: pip install 'fml-lightning[flare]'")
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            # -P: what lies in the working folder is not taken for a module of Python's or NVFlare's.
            [sys.executable, "-P", "-m", "nvflare.cli", *map(str, arguments), "--format", "json"],
            cwd=home,
            # Packages of `pip install --user` are found below the user's home otherwise.
            env=os.environ | {"HOME": home, "PYTHONUSERBASE": site.getuserbase()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            umask=0o077,
            check=False,
        )
    said = next((line for line in reversed(done.stdout.splitlines()) if line.startswith("{")), "")
    try:
        answer = json.loads(said)
    except ValueError:
        answer = {}
    if done.returncode == 0 and answer.get("status") == "ok":
        return dict(answer["data"])
    why = " ".join(str(answer[each]) for each in ("message", "detail") if answer.get(each))
    last = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
    where = f"{about}: " if about else ""
    command = " ".join(map(str, arguments[:2] if arguments[0] == "cert" else arguments[:1]))
    raise UserError(f"{where}nvflare {command} refused: {escaped(why or last)}")
